// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_LINEAR_H_
#define LION_MODEL_CUDA_LINEAR_H_

// y = x W^T + b (+ residual) by cuBLASLt, on a CUDA device.
//
// K is never split: every element of y is one sum in one order, the residual added before the one rounding, so that a
// row's bits do not depend on how many rows run beside it. Algorithms are chosen without timing anything, so the same
// library on the same kind of device always takes the same ones. One serves a product of one shape and type at every
// number of rows: of the library's choices for kChoiceRows rows that take any number, the first with tiles of 256 x 128
// in clusters along the rows (2 to 4 % faster than its first choice for base in bfloat16 on an H100), else the first.
// Its tiles leave most multiprocessors idle where rows are few (base, 128 rows: 13, 12 and 35 us; 5, 4 and 8 with
// narrow ones). So for each of kRowClasses there is another: the library's first choice for that many rows that is of
// the same family and gives the bits of the first algorithm on random operands; none, and the first serves there too.
// Sums are fp32 in every type, the bias is of y's type. fp32 is fp32: no TF32.
//
// fp8: W is rounded to e4m3 with one scale an output channel (its largest weight becomes 448), x comes as e4m3 with one
// scale a row (kernels/cuda/rows_launch.h, Fp8Rows), never one for a batch; y is of the 16-bit type. Products of
// 128 values are added up in fp32 (no "fast accumulation").

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion {

struct CudaLinearOptions {
  int64_t N = 0;                                         // width of y, a multiple of 16
  int64_t K = 0;                                         // width of x, likewise: the caller pads with zeros
  cuda::ElementType type = cuda::ElementType::kFloat32;  // of y, residual and bias, and of x and W unless fp8
  bool fp8 = false;                                      // x and W are e4m3; type is kBFloat16 or kFloat16
  bool residual = false;                                 // Run adds one
  float x_scale = 0;                                     // fp8: of every row of x; 0 = each row has its own

  auto Key() const { return std::make_tuple(N, K, type, fp8, residual); }
};

// What serves a product of one shape and type.
struct CudaLinearAlgorithms {
  cublasLtMatmulAlgo_t any = {};
  // (the largest number of rows, algorithm), in rising order.
  std::vector<std::pair<int64_t, cublasLtMatmulAlgo_t>> few;
};

// cuBLASLt's handle, its workspaces and the algorithms chosen so far: one a device. Products on one stream, or one
// behind the other, share a workspace; a stream that runs beside others is to be added. Not thread-safe.
class CublasLt {
 public:
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Gives products on this stream a workspace of their own. RESOURCE_EXHAUSTED without memory.
  absl::Status AddStream(cudaStream_t stream);

 private:
  friend class CudaLinear;
  CublasLt() = default;
  void* WorkspaceOf(cudaStream_t stream) const;

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;  // of all streams but
  std::vector<std::pair<cudaStream_t, DeviceBuffer>> workspaces_;
  DeviceBuffer ones_;  // fp32, as many as a product has rows
  std::map<std::pair<decltype(CudaLinearOptions().Key()), bool>, CudaLinearAlgorithms> algorithms_;  // bool: has a bias
};

class CudaLinear {
 public:
  // Products run at a multiple of this many rows.
  static constexpr int64_t kRowStep = 16;
  // The number of rows that the algorithm is chosen for, and those up to which there may be others.
  static constexpr int64_t kChoiceRows = 65536;
  static constexpr int64_t kRowClasses[] = {128, 256, 512, 1024, 2048, 4096, 8192};

  // One call's rows: device memory, 256-byte aligned (x_scales: 16), with room for RoundRows(M) rows; what stands in
  // the rows past M is read and written, and means nothing.
  struct Rows {
    int64_t M = 0;                    // at least 1
    const void* x = nullptr;          // (M, K)
    const float* x_scales = nullptr;  // (M): fp8 where the rows have their own
    const void* residual = nullptr;   // (M, N): if the options say so; apart from y
    void* y = nullptr;                // (M, N)
  };

  // weight: (N, K) row-major fp32; bias: (N) or null = none. Copied to the current device. lt outlives the object.
  // INVALID_ARGUMENT for what the options do not allow or the type does not hold (float16: above 65,504); INTERNAL
  // naming cuBLASLt's call, RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::unique_ptr<CudaLinear>> Create(CublasLt* lt, const CudaLinearOptions& options,
                                                            const float* weight, const float* bias);

  ~CudaLinear();
  CudaLinear(const CudaLinear&) = delete;
  CudaLinear& operator=(const CudaLinear&) = delete;

  // Enqueues y = x W^T + b (+ residual).
  absl::Status Run(const Rows& rows, cudaStream_t stream) const;

  static int64_t RoundRows(int64_t M) { return (M + kRowStep - 1) / kRowStep * kRowStep; }

  int64_t out_width() const { return options_.N; }
  int64_t in_width() const { return options_.K; }

 private:
  CudaLinear() = default;
  absl::Status UploadWeights(const float* weight, const float* bias);
  absl::Status Describe();
  absl::Status Choose();
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> Candidates(int64_t M, absl::Span<const int64_t> rows) const;
  absl::Status ChooseForFewRows(CudaLinearAlgorithms* algorithms) const;
  absl::Status Multiply(const cublasLtMatmulAlgo_t& algorithm, const void* weight, const Rows& rows,
                        cudaStream_t stream) const;

  CublasLt* lt_ = nullptr;
  CudaLinearOptions options_;
  DeviceBuffer weight_;
  DeviceBuffer weight_scales_;
  DeviceBuffer bias_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  const CudaLinearAlgorithms* algorithms_ = nullptr;  // lt_'s
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_LINEAR_H_
