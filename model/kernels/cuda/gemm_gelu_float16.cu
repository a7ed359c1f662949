// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_kernel.cuh"

namespace lion::cuda {

cudaError_t EnqueueGemmGeluFloat16(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
  return gemm_gelu::Enqueue<gemm_gelu::SixteenBits<cutlass::half_t, gemm_gelu::AddBiasGeluFine>, cute::_64>(p, stream,
                                                                                                            call);
}

}  // namespace lion::cuda
