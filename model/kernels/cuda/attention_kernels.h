// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_KERNELS_H_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_KERNELS_H_

// What attention_launch.cc puts together, and the benchmark times one by one: the kernels of attention_tensor.cu and
// attention_plain.cu.

#include <cuda_runtime_api.h>

#include "model/kernels/cuda/attention_params.h"

namespace lion::cuda {

// The first CUDA error and the name of what gave it.
struct LaunchFailure {
  cudaError_t error = cudaSuccess;
  const char* call = "";

  // False once there is an error.
  bool Check(cudaError_t result, const char* name) {
    if (error == cudaSuccess && result != cudaSuccess) {
      error = result;
      call = name;
    }
    return error == cudaSuccess;
  }
};

// The kernels for rows of the parallel and the chunked form in 16-bit types, in the order of their launch. The first
// two are for rows of more than one segment (max_runs > 0).
enum class TensorKernel { kSums, kScan, kOutputs };
void EnqueueTensorKernel(TensorKernel kernel, const AttentionParams& params, cudaStream_t stream,
                         LaunchFailure* failure);

// Rows in fp32, and recurrent ones in any type.
void EnqueuePlainAttention(const AttentionParams& params, cudaStream_t stream, LaunchFailure* failure);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_KERNELS_H_
