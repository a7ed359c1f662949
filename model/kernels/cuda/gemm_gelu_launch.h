// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_
#define LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)) in one kernel on a CUDA device of compute capability 9.0.
//
// bfloat16 or float16 in and out, sums, bias and GELU (its erf form) in fp32, one rounding at the end. A row's bits
// depend on the row alone: not on M, nor on its place among the rows. M may be any number: rows past M are neither read
// nor written. Reference: gemm_gelu_reference.h.

#include "absl/status/status.h"
#include "model/kernels/cuda/gemm_gelu_params.h"

namespace lion::cuda {

// Enqueues the kernel on the current device and does not synchronise; a CUDA graph may capture it. Pointers are device
// memory, 16-byte aligned. M 0 does nothing. INVALID_ARGUMENT for what the struct does not allow; INTERNAL with the
// CUDA call's name. Thread-safe.
absl::Status LaunchGemmGelu(const GemmGeluParams& params, cudaStream_t stream);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_LAUNCH_H_
