// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_kernel.cuh"

namespace lion::cuda {

cudaError_t EnqueueGemmGeluBFloat16(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
  return gemm_gelu::Enqueue<gemm_gelu::SixteenBits<cutlass::bfloat16_t, gemm_gelu::AddBiasGelu>, cute::_64>(p, stream,
                                                                                                            call);
}

}  // namespace lion::cuda
