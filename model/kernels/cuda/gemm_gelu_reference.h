// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_GEMM_GELU_REFERENCE_H_
#define LION_MODEL_KERNELS_CUDA_GEMM_GELU_REFERENCE_H_

// The formula of gemm_gelu_launch.h in fp64, one element at a time: what its kernel is tested against.

#include <cmath>
#include <cstdint>

#include "model/kernels/cpu/rows_reference.h"

namespace lion::cuda {

struct GemmGeluElement {
  double y = 0;
  // |x| . |W row| + |b|: what the rounding errors of the fp32 sum are in proportion to.
  double magnitude = 0;
};

// x and weight: K values each, of a row of x and a row of W.
inline GemmGeluElement GemmGeluReference(const float* x, const float* weight, float bias, int64_t K) {
  double sum = bias;
  double magnitude = std::fabs(sum);
  for (int64_t k = 0; k < K; ++k) {
    const double product = static_cast<double>(x[k]) * static_cast<double>(weight[k]);
    sum += product;
    magnitude += std::fabs(product);
  }
  return {GeluErfReference(sum), magnitude};
}

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_REFERENCE_H_
