// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_LINEAR_H_
#define LION_MODEL_CUDA_LINEAR_H_

// y = x W^T + b by cuBLASLt, on a CUDA device.
//
// One algorithm serves an (N, K, type) at every number of rows, and it never splits K: every element of y is one sum
// over K in one order, so a row's bits do not depend on how many rows run beside it. It is the library's first choice
// for kChoiceRows rows (of those that take any number), so the same library on the same kind of device always takes the
// same one. fp32 is fp32: no TF32. Sums are fp32 in every type; the bias is of the type.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion {

// cuBLASLt's handle, its workspace and the algorithms chosen so far: one a device and stream. Not thread-safe.
class CublasLt {
 public:
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

 private:
  friend class CudaLinear;
  CublasLt() = default;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<std::tuple<int64_t, int64_t, cuda::ElementType, bool>, cublasLtMatmulAlgo_t> algorithms_;
};

class CudaLinear {
 public:
  // Products run at a multiple of this many rows.
  static constexpr int64_t kRowStep = 16;
  // The number of rows that the algorithm is chosen for.
  static constexpr int64_t kChoiceRows = 65536;

  // weight: (N, K) row-major fp32; bias: (N) or null = none. Copied to the current device. N and K are multiples of 16:
  // the caller pads with zeros. lt outlives the object. INTERNAL naming cuBLASLt's call, RESOURCE_EXHAUSTED without
  // memory.
  static absl::StatusOr<std::unique_ptr<CudaLinear>> Create(CublasLt* lt, const float* weight, const float* bias,
                                                            int64_t N, int64_t K, cuda::ElementType type);

  ~CudaLinear();
  CudaLinear(const CudaLinear&) = delete;
  CudaLinear& operator=(const CudaLinear&) = delete;

  // Enqueues y (M, N) = x (M, K) W^T + b. x and y: device memory of the type, 256-byte aligned, with room for
  // RoundRows(M) rows; what stands in the rows past M is read and written, and means nothing. M >= 1.
  absl::Status Run(const void* x, int64_t M, void* y, cudaStream_t stream) const;

  static int64_t RoundRows(int64_t M) { return (M + kRowStep - 1) / kRowStep * kRowStep; }

  // The weights (N, K) and the bias (N) on the device, in the type: for a kernel that fuses the product with what
  // follows.
  const void* weight() const { return weight_.data(); }
  const void* bias() const { return bias_.data(); }

  int64_t out_width() const { return N_; }
  int64_t in_width() const { return K_; }

 private:
  CudaLinear() = default;
  absl::Status Choose(bool has_bias);

  CublasLt* lt_ = nullptr;
  int64_t N_ = 0;
  int64_t K_ = 0;
  cuda::ElementType type_ = cuda::ElementType::kFloat32;
  DeviceBuffer weight_;
  DeviceBuffer bias_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_ = {};
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_LINEAR_H_
