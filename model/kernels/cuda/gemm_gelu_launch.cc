// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_launch.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion::cuda {
namespace {

constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();  // the kernel counts rows and columns in 32 bits
constexpr uintptr_t kAlignment = 16;                                 // TMA: from 16-byte borders

}  // namespace

absl::Status LaunchGemmGelu(const GemmGeluParams& p, cudaStream_t stream) {
  int exponent = 0;
  if (!p.fp8 && p.type != ElementType::kBFloat16 && p.type != ElementType::kFloat16) {
    return absl::InvalidArgumentError("gemm_gelu: the type is neither bfloat16 nor float16");
  }
  if (p.M < 0 || p.M > kMaxExtent) {
    return absl::InvalidArgumentError(absl::StrCat("gemm_gelu: M ", p.M, " is not in 0 to ", kMaxExtent));
  }
  const int64_t step = p.fp8 ? 16 : 8;  // TMA: rows of 16-byte units
  for (const int64_t extent : {p.N, p.K}) {
    if (extent < step || extent > kMaxExtent || extent % step != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("gemm_gelu: N ", p.N, ", K ", p.K, ": multiples of ", step, " up to ", kMaxExtent));
    }
  }
  if (p.fp8 && !(p.y_scale > 0 && std::frexp(p.y_scale, &exponent) == 0.5f)) {
    return absl::InvalidArgumentError(absl::StrCat("gemm_gelu: y_scale ", p.y_scale, " is not a power of two"));
  }
  if (p.M == 0) return absl::OkStatus();
  for (const void* pointer : {p.x, p.weight, static_cast<const void*>(p.bias), static_cast<const void*>(p.y)}) {
    if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % kAlignment != 0) {
      return absl::InvalidArgumentError("gemm_gelu: x, weight, bias or y is null or not 16-byte aligned");
    }
  }
  if (p.fp8 && (p.x_scales == nullptr || p.weight_scales == nullptr)) {
    return absl::InvalidArgumentError("gemm_gelu: fp8 without scales");
  }
  const char* call = "";
  if (p.fp8) return CudaStatus(EnqueueGemmGeluFp8(p, stream, &call), call);
  if (p.type == ElementType::kFloat16) return CudaStatus(EnqueueGemmGeluFloat16(p, stream, &call), call);
  return CudaStatus(EnqueueGemmGeluBFloat16(p, stream, &call), call);
}

}  // namespace lion::cuda
