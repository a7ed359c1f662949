// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_linear.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/kernels/cpu/rows.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS itself takes on a Hopper device
constexpr uint32_t kAlignment = 256;
constexpr int kMaxCandidates = 32;
constexpr int64_t kMaxRows = 131072;  // of one product: no index of its matrices leaves 32 bits

absl::Status LtStatus(cublasStatus_t status, absl::string_view call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(call, ": ", cublasLtGetStatusString(status), " (", static_cast<int>(status), ")"));
}

cudaDataType_t CudaType(cuda::ElementType type) {
  return type == cuda::ElementType::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The row-major product as the library's column-major one: y^T (N, M) = W (N, K) x^T (K, M), W transposed as it lies.
struct Layouts {
  cublasLtMatrixLayoutOpaque_t weight;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t y;

  absl::Status Init(int64_t N, int64_t K, int64_t M, cudaDataType_t type) {
    cublasStatus_t status = cublasLtMatrixLayoutInit(&weight, type, K, N, K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&x, type, K, M, K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&y, type, N, M, N);
    return LtStatus(status, "cublasLtMatrixLayoutInit");
  }
};

// Whether every element is one sum over all of K.
bool KeepsKWhole(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t split_k = 1;
  uint32_t scheme = 0;
  size_t written = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split_k, sizeof(split_k),
                                              &written) == CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                              sizeof(scheme), &written) == CUBLAS_STATUS_SUCCESS &&
         split_k <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create() {
  std::unique_ptr<CublasLt> lt(new CublasLt);
  const absl::Status status = LtStatus(cublasLtCreate(&lt->handle_), "cublasLtCreate");
  if (!status.ok()) return status;
  absl::StatusOr<DeviceBuffer> workspace = DeviceBuffer::Allocate(kWorkspaceBytes);
  if (!workspace.ok()) return workspace.status();
  lt->workspace_ = *std::move(workspace);
  return lt;
}

CublasLt::~CublasLt() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

CudaLinear::~CudaLinear() {
  if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
}

absl::StatusOr<std::unique_ptr<CudaLinear>> CudaLinear::Create(CublasLt* lt, const float* weight, const float* bias,
                                                               int64_t N, int64_t K, cuda::ElementType type) {
  if (N < 16 || N % 16 != 0 || K < 16 || K % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a product of ", N, " x ", K, " is not padded to multiples of 16"));
  }
  std::unique_ptr<CudaLinear> linear(new CudaLinear);
  linear->lt_ = lt;
  linear->N_ = N;
  linear->K_ = K;
  linear->type_ = type;
  auto upload = [type](const float* values, int64_t n) -> absl::StatusOr<DeviceBuffer> {
    if (type == cuda::ElementType::kFloat32) return Upload(values, n * 4);
    std::vector<uint16_t> rounded(n);
    ToBFloat16(values, rounded.data(), n);
    return Upload(rounded.data(), n * 2);
  };
  absl::StatusOr<DeviceBuffer> on_device = upload(weight, N * K);
  if (!on_device.ok()) return on_device.status();
  linear->weight_ = *std::move(on_device);
  if (bias != nullptr) {
    on_device = upload(bias, N);
    if (!on_device.ok()) return on_device.status();
    linear->bias_ = *std::move(on_device);
  }

  cublasStatus_t status = cublasLtMatmulDescCreate(&linear->operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(linear->operation_, attribute, &value, sizeof(value));
    }
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (bias != nullptr) {
    const void* bias_pointer = linear->bias_.data();
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_pointer);
  }
  absl::Status chosen = LtStatus(status, "cublasLtMatmulDescSetAttribute");
  if (chosen.ok()) chosen = linear->Choose(bias != nullptr);
  if (!chosen.ok()) return chosen;
  return linear;
}

absl::Status CudaLinear::Choose(bool has_bias) {
  const auto key = std::make_tuple(N_, K_, type_, has_bias);
  const auto found = lt_->algorithms_.find(key);
  if (found != lt_->algorithms_.end()) {
    algorithm_ = found->second;
    return absl::OkStatus();
  }
  Layouts layouts;
  absl::Status status = layouts.Init(N_, K_, kChoiceRows, CudaType(type_));
  if (!status.ok()) return status;

  cublasLtMatmulPreferenceOpaque_t preference;
  cublasStatus_t lt_status = cublasLtMatmulPreferenceInit(&preference);
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    if (lt_status == CUBLAS_STATUS_SUCCESS) {
      lt_status = cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value));
    }
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                         CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, kAlignment);
  }
  status = LtStatus(lt_status, "cublasLtMatmulPreferenceSetAttribute");
  if (!status.ok()) return status;

  cublasLtMatmulHeuristicResult_t candidates[kMaxCandidates];
  int num_candidates = 0;
  status =
      LtStatus(cublasLtMatmulAlgoGetHeuristic(lt_->handle_, operation_, &layouts.weight, &layouts.x, &layouts.y,
                                              &layouts.y, &preference, kMaxCandidates, candidates, &num_candidates),
               absl::StrCat("cublasLtMatmulAlgoGetHeuristic for ", N_, " x ", K_));
  if (!status.ok()) return status;
  for (int i = 0; i < num_candidates; ++i) {
    bool fits = candidates[i].state == CUBLAS_STATUS_SUCCESS && KeepsKWhole(candidates[i].algo);
    for (int64_t M : {int64_t{16}, int64_t{48}, int64_t{128}, int64_t{1008}, kMaxRows}) {
      if (!fits) break;
      status = layouts.Init(N_, K_, M, CudaType(type_));
      if (!status.ok()) return status;
      cublasLtMatmulHeuristicResult_t checked;
      fits = cublasLtMatmulAlgoCheck(lt_->handle_, operation_, &layouts.weight, &layouts.x, &layouts.y, &layouts.y,
                                     &candidates[i].algo, &checked) == CUBLAS_STATUS_SUCCESS &&
             checked.workspaceSize <= kWorkspaceBytes;
    }
    if (!fits) continue;
    algorithm_ = candidates[i].algo;
    lt_->algorithms_[key] = algorithm_;
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm for ", N_, " x ", K_,
                                          " that takes any number of rows and keeps K whole"));
}

absl::Status CudaLinear::Run(const void* x, int64_t M, void* y, cudaStream_t stream) const {
  if (M < 1) return absl::InvalidArgumentError(absl::StrCat("M ", M, " is not positive"));
  const int64_t element = type_ == cuda::ElementType::kFloat32 ? 4 : 2;
  const float one = 1;
  const float zero = 0;
  for (int64_t first = 0; first < M; first += kMaxRows) {
    const auto* in = static_cast<const char*>(x) + first * K_ * element;
    auto* out = static_cast<char*>(y) + first * N_ * element;
    Layouts layouts;
    absl::Status status = layouts.Init(N_, K_, RoundRows(std::min(kMaxRows, M - first)), CudaType(type_));
    if (!status.ok()) return status;
    status = LtStatus(
        cublasLtMatmul(lt_->handle_, operation_, &one, weight_.data(), &layouts.weight, in, &layouts.x, &zero, out,
                       &layouts.y, out, &layouts.y, &algorithm_, lt_->workspace_.data(), kWorkspaceBytes, stream),
        "cublasLtMatmul");
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace lion
