// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_GEMM_GELU_PARAMS_H_
#define LION_MODEL_KERNELS_CUDA_GEMM_GELU_PARAMS_H_

// What the fused product and GELU reads: a plain struct, no library of the host's.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/kernels/cuda/attention_params.h"

namespace lion::cuda {

// Rows x columns of y that one block makes at a time. Both add up K in the same order: a row's bits are the same in
// either.
enum class GemmGeluTile : int32_t {
  kAuto,    // by the number of tiles that a batch has
  kWide,    // for many rows
  kNarrow,  // spreads few rows over more multiprocessors
};

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)), all of one type and row-major without gaps.
struct GemmGeluParams {
  ElementType type = ElementType::kBFloat16;  // kBFloat16 or kFloat16
  int64_t M = 0;                              // 0 = nothing to do
  int64_t N = 0;                              // multiple of 8
  int64_t K = 0;                              // multiple of 8
  const void* x = nullptr;                    // (M, K)
  const void* weight = nullptr;               // (N, K)
  const void* bias = nullptr;                 // (N)
  void* y = nullptr;                          // (M, N), apart from x
  GemmGeluTile tile = GemmGeluTile::kAuto;    // others: for tests and benchmarks
};

// Enqueues the kernel; needs no scratch memory and synchronises nothing, and a CUDA graph may capture it. M is at
// least 1. The first CUDA error, and in *call the name of what gave it.
cudaError_t EnqueueGemmGelu(const GemmGeluParams& params, cudaStream_t stream, const char** call);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_PARAMS_H_
