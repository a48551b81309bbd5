#!/usr/bin/env bash
# Runs the tests of ops and codes on a GPU under compute-sanitizer's memcheck and racecheck, many at a time, and fails where a
# tool finds something, a test fails, or one takes more than its time:
#
#   scripts/sanitize.sh [PART…]     PART: of the paths of test files; without any, all of test/native
#   SANITIZE_TOOLS=racecheck SANITIZE_SECONDS=300 SANITIZE_JOBS=4 PIPE_TEST_DEVICE=cuda:1 scripts/sanitize.sh kernels
#
# Needs a build with its tests (npm run build, or a bundle made with --tests) and compute-sanitizer of the CUDA toolkit. memcheck
# runs a file, racecheck, which is far slower, each test of a file by itself; both with small cases alone (PIPE_TEST_SMALL). Left
# out are parity.test.ts and trellis.test.ts, whose sizes take hours so (kernels.test.ts has each kernel of the search once), and
# driver.test.ts, which runs no kernel.
set -euo pipefail
cd "$(dirname "$0")/.."

export PIPE_TEST_DEVICE=${PIPE_TEST_DEVICE:-cuda:0} PIPE_TEST_SMALL=1 NO_COLOR=1
seconds=${SANITIZE_SECONDS:-110}
jobs=${SANITIZE_JOBS:-$(nproc)}
export TAP_TIMEOUT=$seconds
tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
[ -x "$tool" ] || { echo "sanitize: compute-sanitizer was not found on the path nor in ${CUDA_HOME:-/usr/local/cuda}/bin" >&2; exit 1; }
node=bin/node
[ -x $node ] || node=node

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# One run: a line of the table, and below it what was found.
check() {
  local check=$1 file=$2 title=$3 start=$EPOCHSECONDS code=0 log state
  log=$(mktemp "$logs/log-XXXXXX")
  # Calls that report an error are the backend's to judge: it asks whether an event is over, and hears "not ready".
  local options=(--tool "$check" --error-exitcode 86)
  [ "$check" = racecheck ] || options+=(--report-api-errors no)
  if [ -n "$title" ]; then
    export TAP_GREP
    TAP_GREP="^$(sed 's/[][\\.*^$(){}+?|/]/\\&/g' <<< "$title")\$"
  fi
  timeout -k 5 "$seconds" "$tool" "${options[@]}" "$node" "$file" > "$log" 2>&1 || code=$?
  case $code in 0) state=clean ;; 124 | 137) state="not done" ;; 86) state=FINDINGS ;; *) state="FAILED ($code)" ;; esac
  # A filter that matched nothing, or a tool that saw no process, must not look clean.
  if grep -q 'before first instrumented API call' "$log" && ! grep -q '^not ok' "$log"; then state='no GPU call' code=0; fi
  if [ $code = 0 ] && ! grep -v '# SKIP' "$log" | grep -qE '^ *ok [0-9]'; then
    if grep '# SKIP' "$log" | grep -qv '# SKIP filter'; then state=skipped; else state='NOTHING RAN' code=1; fi
  fi
  grep -q '^=========' "$log" || state='TOOL DID NOT RUN' code=1
  {
    printf '%-10s %4d s  %-14s %s%s\n' "$check" $((EPOCHSECONDS - start)) "$state" "${file#dist/test/native/}" "${title:+ > $title}"
    [ $code = 0 ] || grep -E '^=========|not ok' "$log" | head -30 || true
  } > "$log.line"
  cat "$log.line"
  rm "$log"
}
export -f check
export logs seconds tool node

# The tests of a file that this device does not skip: with a filter that no title passes, a file tells them all.
titles() { TAP_GREP='^$' "$node" "$1" 2> /dev/null | sed -n 's/^ok [0-9]* - \(.*\) # SKIP filter: .*/\1/p'; }

for file in $(find dist/test/native -name '*.test.js' ! -name parity.test.js ! -name trellis.test.js ! -name driver.test.js | sort); do
  for part in "$@"; do case $file in *"$part"*) ;; *) continue 2 ;; esac; done
  for check in ${SANITIZE_TOOLS:-racecheck memcheck}; do
    if [ "$check" = racecheck ]; then
      titles "$file" | while IFS= read -r title; do printf '%s\0%s\0%s\0' "$check" "$file" "$title"; done
    else
      printf '%s\0%s\0\0' "$check" "$file"
    fi
  done
done | xargs -0 -r -n 3 -P "$jobs" bash -c 'check "$@"' check | tee "$logs/table"

ran=$(grep -cE '^(racecheck|memcheck|initcheck|synccheck) ' "$logs/table" || true)
clean=$(grep -cE ' s  clean ' "$logs/table" || true)
idle=$(grep -cE ' s  (skipped|no GPU call) ' "$logs/table" || true)
echo "$ran runs: $clean clean, $idle skipped or without a kernel, $((ran - clean - idle)) with findings, failures or no end; $SECONDS s"
[ "$clean" -gt 0 ] && [ "$ran" = $((clean + idle)) ]
