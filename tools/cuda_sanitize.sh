#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# compute-sanitizer over the kernels' tests, on a machine with a GPU: memcheck (bad accesses), initcheck (reads of what nothing wrote),
# racecheck (shared memory without a barrier), synccheck (barriers that not every thread reaches).
#
#   tools/cuda_sanitize.sh [BIN_DIR]     build/release-cuda/bin unless named; about two minutes
#
# The cases are those that reach each kernel at its odd sizes without being long: the sanitizer makes a kernel 10 to 100 times slower.
# Exits 1 if one of the tools finds something, naming tool and program.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly BIN=${1:-build/release-cuda/bin} LIMIT_SECONDS=60
# TOOLS PROGRAM FILTER. cuBLASLt's own kernels need one look, not four.
readonly CASES=(
  "all cuda_rows_test *"
  "all cuda_gemm_gelu_test *"
  "all cuda_attention_test *EveryOffset*:*ARowOfNaN*:*Float32Answers*"
  "memcheck cuda_linear_test *"
  "memcheck cuda_document_runner_test *ProgressRises*:*WindowsDoNotDepend*"
  "all cuda_encoder_test *FormsAgree*/SAfterD64:*BFloat16Errs*/SAfterD64:*BFloat16Errs*/LitPlainD16"
)

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2> /dev/null | head -n 1)
[[ -n $sanitizer ]] || { echo "cuda_sanitize.sh: compute-sanitizer is not here; it comes with CUDA's toolkit" >&2; exit 2; }

failed=0
for tool in memcheck initcheck synccheck racecheck; do
  for entry in "${CASES[@]}"; do
    read -r tools program filter <<< "$entry"
    [[ -x $BIN/$program && ($tools == all || $tools == "$tool") ]] || continue
    start=$SECONDS
    log=$(timeout "$LIMIT_SECONDS" "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 5 "$BIN/$program" --gtest_brief=1 --gtest_filter="$filter" 2>&1)
    status=$?
    if [[ $status == 0 ]]; then result=clean; else result="FAILED ($status)"; failed=1; fi
    printf '%-10s %-24s %s, %d s\n' "$tool" "$program" "$result" $((SECONDS - start))
    [[ $status == 0 ]] || tail -n 40 <<< "$log"
  done
done
exit $failed
