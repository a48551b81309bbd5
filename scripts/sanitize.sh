#!/usr/bin/env bash
# Runs the tests of ops and codes on a GPU under compute-sanitizer's memcheck and racecheck, and fails where a tool finds
# something, a test fails, or a file takes more than its time:
#
#   scripts/sanitize.sh [PART…]     PART: of the paths of test files; without any, all of test/native
#   PIPE_TEST_DEVICE=cuda:1 SANITIZE_TOOLS=racecheck SANITIZE_SECONDS=300 scripts/sanitize.sh kernels
#
# Needs a build with its tests (npm run build, or a bundle made with --tests) and compute-sanitizer of the CUDA toolkit. Left
# out are parity.test.ts and trellis.test.ts, whose sizes take hours so: kernels.test.ts has each kernel of the search once.
set -euo pipefail
cd "$(dirname "$0")/.."

export PIPE_TEST_DEVICE=${PIPE_TEST_DEVICE:-cuda:0} NO_COLOR=1
seconds=${SANITIZE_SECONDS:-100}
export TAP_TIMEOUT=$seconds
tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
[ -x "$tool" ] || { echo "sanitize: compute-sanitizer was not found on the path nor in ${CUDA_HOME:-/usr/local/cuda}/bin" >&2; exit 1; }
node=bin/node
[ -x $node ] || node=node

log=$(mktemp)
trap 'rm -f "$log"' EXIT
ran=0 failed=0
for file in $(find dist/test/native -name '*.test.js' ! -name parity.test.js ! -name trellis.test.js | sort); do
  for part in "$@"; do case $file in *"$part"*) ;; *) continue 2 ;; esac; done
  for check in ${SANITIZE_TOOLS:-memcheck racecheck}; do
    start=$SECONDS
    code=0
    # Calls that report an error are the backend's to judge: it asks whether an event is over, and hears "not ready".
    api=
    [ "$check" = memcheck ] && api='--report-api-errors no'
    # shellcheck disable=SC2086
    timeout -k 5 "$seconds" "$tool" --tool "$check" $api --error-exitcode 86 "$node" "$file" > "$log" 2>&1 || code=$?
    ran=$((ran + 1))
    if [ $code = 0 ]; then
      echo "$check $file: clean, $((SECONDS - start)) s"
    else
      failed=$((failed + 1))
      case $code in 124 | 137) why="not done after $seconds s" ;; 86) why='findings' ;; *) why="failed ($code)" ;; esac
      echo "$check $file: $why"
      grep -E '^=========|not ok' "$log" | head -40 || true
    fi
  done
done
echo "$ran runs, $failed with findings or failures"
[ $ran -gt 0 ] && [ $failed = 0 ]
