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

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)), row-major without gaps; x, W and y of one type, b and sums in fp32.
// fp8: they are e4m3, y stands for its values times y_scale, a power of two, and is cut off at 448 of those; x's row m
// and W's row n stand for their values times x_scales[m] and weight_scales[n] * y_scale.
struct GemmGeluParams {
  ElementType type = ElementType::kBFloat16;  // kBFloat16 or kFloat16, unless fp8
  bool fp8 = false;
  int64_t M = 0;                            // 0 = nothing to do
  int64_t N = 0;                            // multiple of 8; fp8: of 16
  int64_t K = 0;                            // likewise
  const void* x = nullptr;                  // (M, K)
  const void* weight = nullptr;             // (N, K)
  const float* bias = nullptr;              // (N); fp8: in units of y_scale
  void* y = nullptr;                        // (M, N), apart from x
  const float* x_scales = nullptr;          // (M): fp8
  const float* weight_scales = nullptr;     // (N): fp8, in units of y_scale
  float y_scale = 1;                        // fp8
  GemmGeluTile tile = GemmGeluTile::kAuto;  // others: for tests and benchmarks
};

// Enqueue the kernel; they need no scratch memory and synchronise nothing, and a CUDA graph may capture them. M is at
// least 1. The first CUDA error, and in *call the name of what gave it.
cudaError_t EnqueueGemmGeluBFloat16(const GemmGeluParams& params, cudaStream_t stream, const char** call);
cudaError_t EnqueueGemmGeluFloat16(const GemmGeluParams& params, cudaStream_t stream, const char** call);
cudaError_t EnqueueGemmGeluFp8(const GemmGeluParams& params, cudaStream_t stream, const char** call);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_PARAMS_H_
