// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_
#define LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)) in one kernel on a CUDA device of compute capability 9.0.
//
// bfloat16, float16 or e4m3 in and out, sums, bias and GELU (its erf form) in fp32, one rounding at the end. A row's
// bits depend on the row alone: not on M, nor on its place among the rows. M may be any number: rows past M are neither
// read nor written. Reference: gemm_gelu_reference.h.
//
// GELU's own error is below 1.6e-6 (float16: 9e-8), and down to -3 below a sixth of bfloat16's rounding. In fp8 the
// tensor cores keep a sum over K with about 13 bits behind its point ("fast accumulation"): for K = 768 that adds 0.05
// % of y's root mean square to the 3.6 % that rounding x and W to e4m3 costs, and adding up 128 products at a time in
// fp32 instead takes a quarter longer.

#include "absl/status/status.h"
#include "model/kernels/cuda/gemm_gelu_params.h"

namespace lion::cuda {

// Enqueues the kernel on the current device and does not synchronise; a CUDA graph may capture it. Pointers are device
// memory, 16-byte aligned. M 0 does nothing. INVALID_ARGUMENT for what the struct does not allow; INTERNAL with the
// CUDA call's name. Thread-safe.
absl::Status LaunchGemmGelu(const GemmGeluParams& params, cudaStream_t stream);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_
