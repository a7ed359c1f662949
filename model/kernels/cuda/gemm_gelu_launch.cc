// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_launch.h"

#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion::cuda {
namespace {

constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();  // the kernel counts rows and columns in 32 bits
constexpr int64_t kElementStep = 8;                                  // TMA: rows of 16-byte units
constexpr uintptr_t kAlignment = 16;                                 // TMA: from 16-byte borders

}  // namespace

absl::Status LaunchGemmGelu(const GemmGeluParams& p, cudaStream_t stream) {
  if (p.type != ElementType::kBFloat16 && p.type != ElementType::kFloat16) {
    return absl::InvalidArgumentError("gemm_gelu: the type is neither bfloat16 nor float16");
  }
  if (p.M < 0 || p.M > kMaxExtent) {
    return absl::InvalidArgumentError(absl::StrCat("gemm_gelu: M ", p.M, " is not in 0 to ", kMaxExtent));
  }
  for (const int64_t extent : {p.N, p.K}) {
    if (extent < kElementStep || extent > kMaxExtent || extent % kElementStep != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("gemm_gelu: N ", p.N, ", K ", p.K, ": multiples of ", kElementStep, " up to ", kMaxExtent));
    }
  }
  if (p.M == 0) return absl::OkStatus();
  for (const void* pointer : {p.x, p.weight, p.bias, static_cast<const void*>(p.y)}) {
    if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % kAlignment != 0) {
      return absl::InvalidArgumentError("gemm_gelu: x, weight, bias or y is null or not 16-byte aligned");
    }
  }
  const char* call = "";
  return CudaStatus(EnqueueGemmGelu(p, stream, &call), call);
}

}  // namespace lion::cuda
