#!/usr/bin/env bash
# Runs the tests of ops, codes and stages on a GPU, as many files at a time as there are cores, and prints seconds, passed, failed
# and skipped a file, what was skipped and what failed; from a build, or from a bundle made with --tests on a machine without Node:
#
#   scripts/test-gpu.sh [PART…]        PART: of the paths of test files; several must all be in one
#   PIPE_TEST_DEVICE=cuda:1 TEST_SECONDS=300 scripts/test-gpu.sh native
#
# Fails where a test does, where a file takes more than 120 s, or all take more than TEST_SECONDS (150).
set -euo pipefail
cd "$(dirname "$0")/.."

export PIPE_TEST_DEVICE=${PIPE_TEST_DEVICE:-cuda:0} NO_COLOR=1
node=bin/node
[ -x $node ] || node=node
commit=$(cat COMMIT 2> /dev/null || git describe --always --abbrev=12 --exclude='*' --dirty=+ 2> /dev/null || echo unknown)
card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -1 || true)
echo "$PIPE_TEST_DEVICE, ${card:-no nvidia-smi}, $(nproc) cores, commit $commit"

code=0
timeout -k 5 "${TEST_SECONDS:-150}" "$node" dist/test/run.js "$@" || code=$?
case $code in 124 | 137) echo "not done after ${TEST_SECONDS:-150} s" ;; esac
echo "$SECONDS s"
exit $code
