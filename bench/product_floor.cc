// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "bench/product_floor.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion::bench {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;
constexpr int kMaxCandidates = 16;
constexpr int kTries = 4;  // of each candidate; the first does not count
constexpr std::chrono::milliseconds kRest(5);

absl::Status LtStatus(cublasStatus_t status, absl::string_view call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(call, ": ", cublasLtGetStatusString(status)));
}

struct Type {
  cudaDataType_t in;
  cudaDataType_t out;
  int64_t in_bytes;
  int64_t out_bytes;
};

absl::StatusOr<Type> TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return Type{CUDA_R_32F, CUDA_R_32F, 4, 4};
    case DType::kBFloat16:
      return Type{CUDA_R_16BF, CUDA_R_16BF, 2, 2};
    case DType::kFloat16:
      return Type{CUDA_R_16F, CUDA_R_16F, 2, 2};
    case DType::kFp8:
      return Type{CUDA_R_8F_E4M3, CUDA_R_16BF, 1, 2};
    case DType::kInt8:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no floor for ", Name(dtype)));
}

// y^T (N, M) = W (N, K) x^T (K, M) in the library's column-major order, W transposed as it lies.
struct Layouts {
  cublasLtMatrixLayoutOpaque_t weight;
  cublasLtMatrixLayoutOpaque_t x;
  cublasLtMatrixLayoutOpaque_t y;

  absl::Status Init(int64_t N, int64_t K, int64_t M, const Type& type) {
    cublasStatus_t status = cublasLtMatrixLayoutInit(&weight, type.in, K, N, K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&x, type.in, K, M, K);
    if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatrixLayoutInit(&y, type.out, N, M, N);
    return LtStatus(status, "cublasLtMatrixLayoutInit");
  }
};

double Gelu(double x) { return 0.5 * x * (1 + std::erf(x * M_SQRT1_2)); }

// Fills a buffer with values of the type: one block from the host, copied until the buffer is full. The power that a
// product draws, and so its clock, depends on the values: zeros would be too fast.
template <class Value>
absl::Status Fill(DType dtype, int64_t element_bytes, const Value& value, DeviceBuffer* buffer) {
  const int64_t block_bytes = std::min<int64_t>(buffer->bytes(), int64_t{8} << 20);
  std::vector<char> block(block_bytes);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int64_t at = 0; at < block_bytes; at += element_bytes) {
    const auto v = static_cast<float>(value(normal(random)));
    const auto put = [&](auto x) { std::copy_n(reinterpret_cast<const char*>(&x), sizeof(x), block.data() + at); };
    if (dtype == DType::kFloat32) put(v);
    if (dtype == DType::kBFloat16) put(__float2bfloat16(v));
    if (dtype == DType::kFloat16) put(__float2half(v));
    if (dtype == DType::kFp8) put(__nv_fp8_e4m3(v));
  }
  for (int64_t at = 0; at < buffer->bytes(); at += block_bytes) {
    const int64_t bytes = std::min(block_bytes, buffer->bytes() - at);
    LION_RETURN_IF_ERROR(
        cuda::CudaStatus(cudaMemcpy(buffer->At<char>(at), block.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy"));
  }
  return absl::OkStatus();
}

}  // namespace

struct ProductFloor::Product {
  const char* name;
  int64_t N;
  int64_t K;
  double FloorTimes::*time;
};

ProductFloor::ProductFloor(const Options& options) : options_(options) {}

ProductFloor::~ProductFloor() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
  if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::StatusOr<std::unique_ptr<ProductFloor>> ProductFloor::Create(const Options& options) {
  const absl::StatusOr<Type> type = TypeOf(options.dtype);
  if (!type.ok()) return type.status();
  std::unique_ptr<ProductFloor> floor(new ProductFloor(options));
  const int64_t widest = std::max(3 * options.E, options.FF);
  const std::pair<DeviceBuffer*, int64_t> buffers[] = {{&floor->workspace_, kWorkspaceBytes},
                                                       {&floor->x_, kMaxRows * options.E * type->in_bytes},
                                                       {&floor->hidden_, kMaxRows * options.FF * type->in_bytes},
                                                       {&floor->y_, kMaxRows * widest * type->out_bytes},
                                                       {&floor->weight_, options.E * widest * type->in_bytes}};
  for (const auto& [buffer, bytes] : buffers) {
    absl::StatusOr<DeviceBuffer> allocated = DeviceBuffer::Allocate(bytes);
    if (!allocated.ok()) return allocated.status();
    *buffer = *std::move(allocated);
  }
  // fp8 has a scale a column of weights, which brings them to the size of the type's normal numbers.
  const double weight_scale = options.dtype == DType::kFp8 ? 1 : 0.02;
  LION_RETURN_IF_ERROR(Fill(
      options.dtype, type->in_bytes, [](double v) { return v; }, &floor->x_));
  LION_RETURN_IF_ERROR(Fill(options.dtype, type->in_bytes, Gelu, &floor->hidden_));
  LION_RETURN_IF_ERROR(Fill(
      options.dtype, type->in_bytes, [&](double v) { return weight_scale * v; }, &floor->weight_));
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaStreamCreateWithFlags(&floor->stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  LION_RETURN_IF_ERROR(LtStatus(cublasLtCreate(&floor->handle_), "cublasLtCreate"));
  cublasStatus_t status = cublasLtMatmulDescCreate(&floor->operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(floor->operation_, attribute, &value, sizeof(value));
    }
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (options.dtype == DType::kFp8) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});  // the fastest there is
  LION_RETURN_IF_ERROR(LtStatus(status, "cublasLtMatmulDescSetAttribute"));
  return floor;
}

absl::Status ProductFloor::Run(const Product& product, int64_t T, const cublasLtMatmulAlgo_t& algorithm) const {
  Layouts layouts;
  LION_RETURN_IF_ERROR(layouts.Init(product.N, product.K, T, *TypeOf(options_.dtype)));
  const float one = 1;
  const float zero = 0;
  const void* x = product.K == options_.E ? x_.data() : hidden_.data();
  return LtStatus(
      cublasLtMatmul(handle_, operation_, &one, weight_.data(), &layouts.weight, x, &layouts.x, &zero, y_.data(),
                     &layouts.y, y_.data(), &layouts.y, &algorithm, workspace_.data(), kWorkspaceBytes, stream_),
      "cublasLtMatmul");
}

namespace {

// In the order of a layer.
template <class Product>
std::array<Product, 4> Products(int64_t E, int64_t FF) {
  return {{{"qkv", 3 * E, E, &FloorTimes::qkv},
           {"out", E, E, &FloorTimes::out},
           {"up", FF, E, &FloorTimes::up},
           {"down", E, FF, &FloorTimes::down}}};
}

}  // namespace

absl::StatusOr<std::array<cublasLtMatmulAlgo_t, 4>> ProductFloor::Choose(int64_t T) {
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasStatus_t lt_status = cublasLtMatmulPreferenceInit(&preference);
  if (lt_status == CUBLAS_STATUS_SUCCESS) {
    lt_status = cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                     &kWorkspaceBytes, sizeof(kWorkspaceBytes));
  }
  LION_RETURN_IF_ERROR(LtStatus(lt_status, "cublasLtMatmulPreferenceInit"));
  std::array<cublasLtMatmulAlgo_t, 4> chosen;
  const auto products = Products<Product>(options_.E, options_.FF);
  for (size_t i = 0; i < products.size(); ++i) {
    Layouts layouts;
    LION_RETURN_IF_ERROR(layouts.Init(products[i].N, products[i].K, T, *TypeOf(options_.dtype)));
    cublasLtMatmulHeuristicResult_t candidates[kMaxCandidates];
    int found = 0;
    LION_RETURN_IF_ERROR(
        LtStatus(cublasLtMatmulAlgoGetHeuristic(handle_, operation_, &layouts.weight, &layouts.x, &layouts.y,
                                                &layouts.y, &preference, kMaxCandidates, candidates, &found),
                 "cublasLtMatmulAlgoGetHeuristic"));
    double fastest = std::numeric_limits<double>::infinity();
    for (int c = 0; c < found; ++c) {
      double shortest = std::numeric_limits<double>::infinity();
      for (int t = 0; t < kTries; ++t) {
        const absl::StatusOr<double> taken = Time(products[i], T, candidates[c].algo);
        if (!taken.ok()) return taken.status();
        if (t > 0) shortest = std::min(shortest, *taken);
      }
      if (shortest >= fastest) continue;
      fastest = shortest;
      chosen[i] = candidates[c].algo;
    }
    if (found == 0) return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm for ", products[i].name));
  }
  return chosen;
}

absl::StatusOr<double> ProductFloor::Time(const Product& product, int64_t T, const cublasLtMatmulAlgo_t& algorithm) {
  timer_.Record("product", stream_);
  LION_RETURN_IF_ERROR(Run(product, T, algorithm));
  timer_.Record("", stream_);
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
  return timer_.Take()["product"];
}

absl::StatusOr<Floors> ProductFloor::Measure(int64_t T, int repeats) {
  const double scale = static_cast<double>(T) / static_cast<double>(std::min(T, kMaxRows));
  T = std::min(T, kMaxRows);
  if (choices_.count(T) == 0) {
    absl::StatusOr<std::array<cublasLtMatmulAlgo_t, 4>> chosen = Choose(T);
    if (!chosen.ok()) return chosen.status();
    choices_[T] = *chosen;
  }
  absl::StatusOr<FloorTimes> rested = MeasureRested(T, repeats);
  if (!rested.ok()) return rested.status();
  absl::StatusOr<FloorTimes> sustained = MeasureSustained(T, repeats);
  if (!sustained.ok()) return sustained.status();
  for (FloorTimes* times : {&*rested, &*sustained}) {
    for (double FloorTimes::*time :
         {&FloorTimes::qkv, &FloorTimes::out, &FloorTimes::up, &FloorTimes::down, &FloorTimes::sum}) {
      times->*time *= scale;
    }
  }
  return Floors{*sustained, *rested};
}

absl::StatusOr<FloorTimes> ProductFloor::MeasureSustained(int64_t T, int repeats) {
  const std::array<cublasLtMatmulAlgo_t, 4>& algorithms = choices_[T];
  const auto products = Products<Product>(options_.E, options_.FF);
  std::map<std::string, std::vector<double>> times;
  for (int repeat = 0; repeat < repeats + 1; ++repeat) {  // the first warms up
    for (int64_t n = 0; n < options_.num_layers; ++n) {
      for (size_t i = 0; i < products.size(); ++i) {
        timer_.Record(products[i].name, stream_);
        LION_RETURN_IF_ERROR(Run(products[i], T, algorithms[i]));
      }
    }
    timer_.Record("", stream_);
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
    for (const auto& [name, taken] : timer_.Take()) {
      if (repeat > 0) times[name].push_back(taken / static_cast<double>(options_.num_layers));
    }
  }
  FloorTimes medians;
  for (const Product& product : products) medians.*product.time = Median(times[product.name]);
  medians.sum = Median(times[""]);
  return medians;
}

absl::StatusOr<FloorTimes> ProductFloor::MeasureRested(int64_t T, int repeats) {
  const std::array<cublasLtMatmulAlgo_t, 4>& algorithms = choices_[T];
  const auto products = Products<Product>(options_.E, options_.FF);
  FloorTimes medians;
  for (size_t i = 0; i < products.size(); ++i) {
    std::vector<double> times;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      std::this_thread::sleep_for(kRest);
      const absl::StatusOr<double> taken = Time(products[i], T, algorithms[i]);
      if (!taken.ok()) return taken.status();
      times.push_back(*taken);
    }
    medians.*products[i].time = Median(times);
    medians.sum += medians.*products[i].time;
  }
  return medians;
}

}  // namespace lion::bench
