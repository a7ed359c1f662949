// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_linear.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/cuda_rounding.h"
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
  switch (type) {
    case cuda::ElementType::kBFloat16:
      return CUDA_R_16BF;
    case cuda::ElementType::kFloat16:
      return CUDA_R_16F;
    case cuda::ElementType::kFloat32:
      break;
  }
  return CUDA_R_32F;
}

int64_t ElementBytes(cuda::ElementType type) { return type == cuda::ElementType::kFloat32 ? 4 : 2; }

// The row-major product as the library's column-major one: y^T (N, M) = W (N, K) x^T (K, M), W transposed as it lies.
struct Layouts {
  cublasLtMatrixLayoutOpaque_t weight;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t y;  // and of the residual

  absl::Status Init(const CudaLinearOptions& options, int64_t M) {
    const cudaDataType_t out = CudaType(options.type);
    const cudaDataType_t in = options.fp8 ? CUDA_R_8F_E4M3 : out;
    cublasStatus_t status = cublasLtMatrixLayoutInit(&weight, in, options.K, options.N, options.K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&x, in, options.K, M, options.K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&y, out, options.N, M, options.N);
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

// Whether it is of the kind that measured fastest: see the header.
bool IsPreferred(const cublasLtMatmulAlgo_t& algorithm) {
  uint32_t tile = 0;
  uint16_t cluster = 0;
  size_t written = 0;
  return cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof(tile),
                                              &written) == CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster,
                                              sizeof(cluster), &written) == CUBLAS_STATUS_SUCCESS &&
         tile == CUBLASLT_MATMUL_TILE_256x128 && cluster == CUBLASLT_CLUSTER_SHAPE_1x2x1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create() {
  std::unique_ptr<CublasLt> lt(new CublasLt);
  const absl::Status status = LtStatus(cublasLtCreate(&lt->handle_), "cublasLtCreate");
  if (!status.ok()) return status;
  absl::StatusOr<DeviceBuffer> workspace = DeviceBuffer::Allocate(kWorkspaceBytes);
  if (!workspace.ok()) return workspace.status();
  lt->workspace_ = *std::move(workspace);
  const std::vector<float> ones(kMaxRows, 1.f);
  LION_RETURN_IF_ERROR(cuda::Assign(Upload(ones.data(), kMaxRows * 4), &lt->ones_));
  return lt;
}

absl::Status CublasLt::AddStream(cudaStream_t stream) {
  DeviceBuffer workspace;
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(kWorkspaceBytes), &workspace));
  workspaces_.emplace_back(stream, std::move(workspace));
  return absl::OkStatus();
}

void* CublasLt::WorkspaceOf(cudaStream_t stream) const {
  for (const auto& [owner, workspace] : workspaces_) {
    if (owner == stream) return workspace.data();
  }
  return workspace_.data();
}

CublasLt::~CublasLt() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

CudaLinear::~CudaLinear() {
  if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
}

absl::StatusOr<std::unique_ptr<CudaLinear>> CudaLinear::Create(CublasLt* lt, const CudaLinearOptions& options,
                                                               const float* weight, const float* bias) {
  const auto& [N, K, type, fp8, residual] = options.Key();
  if (N < 16 || N % 16 != 0 || K < 16 || K % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a product of ", N, " x ", K, " is not padded to multiples of 16"));
  }
  if (fp8 && type == cuda::ElementType::kFloat32) {
    return absl::InvalidArgumentError("a product in fp8 gives bfloat16 or float16");
  }
  std::unique_ptr<CudaLinear> linear(new CudaLinear);
  linear->lt_ = lt;
  linear->options_ = options;
  LION_RETURN_IF_ERROR(linear->UploadWeights(weight, bias));
  LION_RETURN_IF_ERROR(linear->Describe());
  LION_RETURN_IF_ERROR(linear->Choose());
  return linear;
}

absl::Status CudaLinear::UploadWeights(const float* weight, const float* bias) {
  const auto& [N, K, type, fp8, residual] = options_.Key();
  if (bias != nullptr) LION_RETURN_IF_ERROR(UploadAs(type, bias, N, &bias_));
  if (!fp8) return UploadAs(type, weight, N * K, &weight_);
  // A scale that all of x has goes into those of W.
  const float unit = options_.x_scale > 0 ? 1 / options_.x_scale : 1;
  return UploadFp8(weight, N, K, unit, &weight_, &weight_scales_);
}

absl::Status CudaLinear::Describe() {
  LION_RETURN_IF_ERROR(
      LtStatus(cublasLtMatmulDescCreate(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof(value));
    }
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (bias_.bytes() > 0) {
    const void* bias = bias_.data();
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  if (options_.fp8) {
    const void* scales = weight_scales_.data();
    set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{0});
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, int32_t{CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F});
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales);  // until Run puts the rows' own here
  }
  return LtStatus(status, "cublasLtMatmulDescSetAttribute");
}

// The library's choices for M rows, best first, of those that keep K whole and take each of rows.
absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> CudaLinear::Candidates(int64_t M,
                                                                         absl::Span<const int64_t> rows) const {
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
  LION_RETURN_IF_ERROR(LtStatus(lt_status, "cublasLtMatmulPreferenceSetAttribute"));

  Layouts layouts;
  LION_RETURN_IF_ERROR(layouts.Init(options_, M));
  cublasLtMatmulHeuristicResult_t found[kMaxCandidates];
  int num_found = 0;
  lt_status = cublasLtMatmulAlgoGetHeuristic(lt_->handle_, operation_, &layouts.weight, &layouts.x, &layouts.y,
                                             &layouts.y, &preference, kMaxCandidates, found, &num_found);
  if (lt_status == CUBLAS_STATUS_NOT_SUPPORTED) num_found = 0;
  if (lt_status != CUBLAS_STATUS_NOT_SUPPORTED) {
    LION_RETURN_IF_ERROR(
        LtStatus(lt_status, absl::StrCat("cublasLtMatmulAlgoGetHeuristic for ", options_.N, " x ", options_.K)));
  }
  std::vector<cublasLtMatmulAlgo_t> candidates;
  for (int i = 0; i < num_found; ++i) {
    bool fits = found[i].state == CUBLAS_STATUS_SUCCESS && KeepsKWhole(found[i].algo);
    for (int64_t m : rows) {
      if (!fits) break;
      LION_RETURN_IF_ERROR(layouts.Init(options_, m));
      cublasLtMatmulHeuristicResult_t checked;
      fits = cublasLtMatmulAlgoCheck(lt_->handle_, operation_, &layouts.weight, &layouts.x, &layouts.y, &layouts.y,
                                     &found[i].algo, &checked) == CUBLAS_STATUS_SUCCESS &&
             checked.workspaceSize <= kWorkspaceBytes;
    }
    if (fits) candidates.push_back(found[i].algo);
  }
  return candidates;
}

absl::Status CudaLinear::Choose() {
  const auto key = std::make_pair(options_.Key(), bias_.bytes() > 0);
  const auto known = lt_->algorithms_.find(key);
  if (known != lt_->algorithms_.end()) {
    algorithms_ = &known->second;
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> candidates = Candidates(kChoiceRows, {16, 48, 128, 1008, kMaxRows});
  if (!candidates.ok()) return candidates.status();
  if (candidates->empty()) {
    return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm for ", options_.N, " x ", options_.K,
                                            " that takes any number of rows and keeps K whole"));
  }
  const auto preferred = std::find_if(candidates->begin(), candidates->end(), IsPreferred);
  CudaLinearAlgorithms algorithms;
  algorithms.any = preferred != candidates->end() ? *preferred : candidates->front();
  LION_RETURN_IF_ERROR(ChooseForFewRows(&algorithms));
  algorithms_ = &lt_->algorithms_.emplace(key, std::move(algorithms)).first->second;
  return absl::OkStatus();
}

namespace {

// n elements of a type on the device, random ones between -2 and 2 that repeat after a prime number: the same ones for
// the same seed, and no two rows alike.
absl::StatusOr<DeviceBuffer> RandomElements(int64_t n, cuda::ElementType type, bool fp8, uint32_t seed) {
  constexpr int64_t kPeriod = 65537;
  std::vector<float> values(kPeriod);
  std::vector<uint8_t> bytes(kPeriod);
  uint64_t state = seed;
  for (int64_t i = 0; i < kPeriod; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const auto random = static_cast<uint32_t>(state >> 32);
    values[i] = static_cast<float>(random) / static_cast<float>(uint32_t{1} << 30) - 2;
    bytes[i] = static_cast<uint8_t>(random >> 24) & 0xBF;  // e4m3 with an exponent below 2, no NaN
  }
  DeviceBuffer period;
  if (fp8) {
    LION_RETURN_IF_ERROR(cuda::Assign(Upload(bytes.data(), kPeriod), &period));
  } else {
    LION_RETURN_IF_ERROR(UploadAs(type, values.data(), kPeriod, &period));
  }
  DeviceBuffer buffer;
  const int64_t size = fp8 ? n : n * ElementBytes(type);
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(size), &buffer));
  for (int64_t at = 0; at < size; at += period.bytes()) {
    LION_RETURN_IF_ERROR(
        cuda::CudaStatus(cudaMemcpyAsync(buffer.At<char>(at), period.data(), std::min(period.bytes(), size - at),
                                         cudaMemcpyDeviceToDevice, nullptr),
                         "cudaMemcpyAsync on the device"));
  }
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize"));
  return buffer;
}

int32_t Family(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t family = -1;
  size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_ID, &family, sizeof(family), &written);
  return family;
}

}  // namespace

// Sums in another order would show: of 100,000 elements some ten are rounded otherwise in bfloat16, most in fp32.
absl::Status CudaLinear::ChooseForFewRows(CudaLinearAlgorithms* algorithms) const {
  constexpr int64_t kMost = *std::rbegin(kRowClasses);
  constexpr int64_t kCompared = 128;  // rows, spread over all
  const int64_t out_row = options_.N * ElementBytes(options_.type);
  DeviceBuffer x;
  DeviceBuffer weight;
  DeviceBuffer scales;
  DeviceBuffer residual;
  DeviceBuffer y;
  LION_RETURN_IF_ERROR(cuda::Assign(RandomElements(kMost * options_.K, options_.type, options_.fp8, 1), &x));
  LION_RETURN_IF_ERROR(cuda::Assign(RandomElements(options_.N * options_.K, options_.type, options_.fp8, 2), &weight));
  if (options_.residual) {
    LION_RETURN_IF_ERROR(cuda::Assign(RandomElements(kMost * options_.N, options_.type, false, 3), &residual));
  }
  if (options_.fp8) {
    LION_RETURN_IF_ERROR(cuda::Assign(RandomElements(kMost, cuda::ElementType::kFloat32, false, 4), &scales));
  }
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(kMost * out_row), &y));
  Rows rows;
  rows.x = x.data();
  rows.x_scales = options_.fp8 ? scales.At<float>(0) : nullptr;
  rows.residual = residual.data();
  rows.y = y.data();

  auto run = [&](const cublasLtMatmulAlgo_t& algorithm, int64_t M, std::vector<char>* out) -> absl::Status {
    out->assign(kCompared * out_row, 0);
    rows.M = M;
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemset(y.data(), 0xFF, M * out_row), "cudaMemset"));
    LION_RETURN_IF_ERROR(Multiply(algorithm, weight.data(), rows, nullptr));
    return cuda::CudaStatus(cudaMemcpy2D(out->data(), out_row, y.data(), M / kCompared * out_row, out_row, kCompared,
                                         cudaMemcpyDeviceToHost),
                            "cudaMemcpy2D");
  };
  for (const int64_t M : kRowClasses) {
    const absl::StatusOr<std::vector<cublasLtMatmulAlgo_t>> candidates = Candidates(M, {16, 48, M});
    if (!candidates.ok()) return candidates.status();
    std::vector<char> expected;
    LION_RETURN_IF_ERROR(run(algorithms->any, M, &expected));
    for (const cublasLtMatmulAlgo_t& candidate : *candidates) {
      if (Family(candidate) != Family(algorithms->any)) continue;  // others are slow, if they agree at all
      std::vector<char> actual;
      LION_RETURN_IF_ERROR(run(candidate, M, &actual));
      if (actual != expected) continue;
      algorithms->few.emplace_back(M, candidate);
      break;
    }
  }
  return absl::OkStatus();
}

absl::Status CudaLinear::Run(const Rows& rows, cudaStream_t stream) const {
  if (rows.M < 1) return absl::InvalidArgumentError(absl::StrCat("M ", rows.M, " is not positive"));
  if (options_.residual != (rows.residual != nullptr) ||
      (options_.fp8 && options_.x_scale == 0) != (rows.x_scales != nullptr)) {
    return absl::InvalidArgumentError("a product was given another residual or other scales than it was made for");
  }
  const auto few = std::find_if(algorithms_->few.begin(), algorithms_->few.end(),
                                [&rows](const auto& entry) { return rows.M <= entry.first; });
  return Multiply(few != algorithms_->few.end() ? few->second : algorithms_->any, weight_.data(), rows, stream);
}

absl::Status CudaLinear::Multiply(const cublasLtMatmulAlgo_t& algorithm, const void* weight, const Rows& rows,
                                  cudaStream_t stream) const {
  const int64_t out_row = options_.N * ElementBytes(options_.type);
  const int64_t in_row = options_.fp8 ? options_.K : options_.K * ElementBytes(options_.type);
  const float one = 1;
  const float beta = options_.residual ? 1 : 0;
  for (int64_t first = 0; first < rows.M; first += kMaxRows) {
    const auto* in = static_cast<const char*>(rows.x) + first * in_row;
    auto* out = static_cast<char*>(rows.y) + first * out_row;
    const auto* residual = options_.residual ? static_cast<const char*>(rows.residual) + first * out_row : out;
    Layouts layouts;
    LION_RETURN_IF_ERROR(layouts.Init(options_, RoundRows(std::min(kMaxRows, rows.M - first))));
    if (options_.fp8) {
      const void* scales = rows.x_scales != nullptr ? rows.x_scales + first : lt_->ones_.At<float>(0);
      LION_RETURN_IF_ERROR(LtStatus(
          cublasLtMatmulDescSetAttribute(operation_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales, sizeof(scales)),
          "cublasLtMatmulDescSetAttribute"));
    }
    LION_RETURN_IF_ERROR(LtStatus(
        cublasLtMatmul(lt_->handle_, operation_, &one, weight, &layouts.weight, in, &layouts.x, &beta, residual,
                       &layouts.y, out, &layouts.y, &algorithm, lt_->WorkspaceOf(stream), kWorkspaceBytes, stream),
        "cublasLtMatmul"));
  }
  return absl::OkStatus();
}

}  // namespace lion
