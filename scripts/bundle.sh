#!/usr/bin/env bash
# One archive that runs on another x86-64 Linux machine with the glibc of Debian 12 or newer, without Node, npm, a
# compiler or a network:
#
#   scripts/bundle.sh [--tests] [FILE]      FILE: pipe-VERSION-linux-x64.tar.xz
#   tar xf FILE && ./pipe doctor
#
# In it: the Node that runs this, dist, the addons as built here, production dependencies, graphs, schemas and the bundled
# model. --tests adds the tests and what they need: scripts/test-gpu.sh and scripts/sanitize.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=
if [ "${1:-}" = --tests ]; then tests=1; shift; fi
version=$(node -p 'require("./package.json").version')
target=$(realpath -m "${1:-pipe-$version-linux-x64.tar.xz}")
limit=$((60 * 1000 * 1000))

for needed in dist/pipeline/cli.js build/Release/cpu.node node_modules; do
  if [ ! -e "$needed" ]; then echo "bundle: $needed is missing; run: npm ci && npm run build" >&2; exit 1; fi
done
[ -e build/Release/cuda.node ] || echo "bundle: without cuda.node (it is built where nvcc is found)" >&2

stage=$(mktemp -d "${target%/*}/.bundle-XXXXXX")
trap 'rm -rf "$stage"' EXIT

# Copies paths, as they are named here, without what never runs: types, maps.
copy() { tar -c --exclude='*.map' --exclude='*.d.ts' --exclude='*.d.mts' --exclude='*.d.cts' --exclude=.tsbuildinfo "$@" | tar -x -C "$stage"; }

mkdir -p "$stage"/bin "$stage"/build/Release
cp "$(readlink -f "$(node -p process.execPath)")" "$stage"/bin/node
strip "$stage"/bin/node
cp build/Release/*.node "$stage"/build/Release/
strip --strip-unneeded "$stage"/build/Release/*.node
copy package.json graphs schemas fixtures/tiny-llama bench/original
# What benchmarks say they measured: the commit, with a + when files differ from it.
git describe --always --abbrev=12 --exclude='*' --dirty=+ > "$stage"/COMMIT 2> /dev/null || echo unknown > "$stage"/COMMIT
if [ "$tests" ]; then copy dist test fixtures graphs stages pipeline native schemas scripts/sanitize.sh scripts/test-gpu.sh
else copy --exclude=dist/test dist
fi

# Packages by path. cmake-js and its own serve the build alone; of the tests', compilers and linters are left out.
packages() {
  if [ "$tests" ]; then
    npm ls --all --parseable 2> /dev/null | grep -vE '/node_modules/(@biomejs|@duckdb|@typescript|typescript|tshy|es-toolkit|react-dom|@esbuild|esbuild)(/|$)'
  else
    npm ls --omit=dev --all --parseable 2> /dev/null
  fi | sed -n "s|^$PWD/node_modules/||p" | grep -vE '^(cmake-js|node-addon-api)(/|$)' | sed 's|/node_modules/.*||' | sort -u
}
packages | sed 's|^|node_modules/|' > "$stage"/.packages
copy --exclude='*.ts' --exclude='*.md' --exclude='bundles' -T "$stage"/.packages
rm "$stage"/.packages
find "$stage"/node_modules -name '*.node' \( -path '*musl*' -o -path '*darwin*' -o -path '*win32*' -o -path '*arm*' \) -delete
find "$stage"/node_modules -name '*.node' -exec strip --strip-unneeded {} + 2> /dev/null || true

cat > "$stage"/pipe << 'LAUNCHER'
#!/bin/sh
here=$(dirname -- "$(readlink -f -- "$0")")
exec "$here/bin/node" "$here/dist/pipeline/cli.js" "$@"
LAUNCHER
chmod +x "$stage"/pipe

"$stage"/pipe --version > /dev/null
XZ_OPT=${XZ_OPT:--6 -T2} tar -C "$stage" --owner=0 --group=0 -cJf "$target.part" .
size=$(stat -c %s "$target.part")
if [ "$size" -gt "$limit" ]; then
  rm "$target.part"
  echo "bundle: $size bytes are more than $limit" >&2
  exit 1
fi
mv "$target.part" "$target"
echo "$target: $((size / 1000 / 1000)) MB"
