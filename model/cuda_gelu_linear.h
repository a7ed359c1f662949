// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_GELU_LINEAR_H_
#define LION_MODEL_CUDA_GELU_LINEAR_H_

// y = gelu(x W^T + b) on a CUDA device: the first product of a feed-forward layer, with its GELU (erf form). In the
// 16-bit types and fp8 one kernel of our own (kernels/cuda/gemm_gelu_launch.h), in fp32 cuBLASLt's product and a pass
// over y. The bias is fp32. A row's bits depend on the row alone.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/cuda_linear.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion {

struct CudaGeluLinearOptions {
  int64_t N = 0;                                         // width of y, a multiple of 16
  int64_t K = 0;                                         // width of x, likewise: the caller pads with zeros
  cuda::ElementType type = cuda::ElementType::kFloat32;  // of x, W and y unless fp8
  bool fp8 = false;                                      // x, W and y are e4m3
  float y_scale = 1;                                     // fp8: what 1 of y stands for, a power of two
};

class CudaGeluLinear {
 public:
  // One call's rows: as CudaLinear::Rows.
  struct Rows {
    int64_t M = 0;                    // at least 1
    const void* x = nullptr;          // (M, K)
    const float* x_scales = nullptr;  // (M): fp8
    void* y = nullptr;                // (M, N)
  };

  // weight: (N, K) row-major fp32; bias: (N). Copied to the current device. lt outlives the object. Errors as
  // CudaLinear::Create's.
  static absl::StatusOr<std::unique_ptr<CudaGeluLinear>> Create(CublasLt* lt, const CudaGeluLinearOptions& options,
                                                                const float* weight, const float* bias);

  // Enqueues the product and GELU.
  absl::Status Run(const Rows& rows, cudaStream_t stream) const;

  float y_scale() const { return options_.y_scale; }

 private:
  CudaGeluLinear() = default;

  CudaGeluLinearOptions options_;
  std::unique_ptr<CudaLinear> product_;  // fp32
  DeviceBuffer weight_;                  // the others
  DeviceBuffer weight_scales_;
  DeviceBuffer bias_;
};

// The least power of two s for which gelu(x W^T + b) / s cannot pass e4m3's 448, whatever x = LayerNorm(...) is: a
// normalised row has a norm of at most sqrt(K), so |w . x + b| <= sqrt(K) |w * gamma| + |w| . |beta| + |b|, and a
// sixteenth more for each of the two roundings to e4m3. e4m3 keeps its digits down to 2^-15 of its largest value, far
// below what such a bound has to spare.
float GeluScale(const float* weight, const float* bias, const float* gamma, const float* beta, int64_t N, int64_t K);

}  // namespace lion

#endif  // LION_MODEL_CUDA_GELU_LINEAR_H_
