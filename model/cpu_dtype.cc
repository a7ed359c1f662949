// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_dtype.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "model/kernels/cpu/cpu_features.h"
#include "model/linear.h"

namespace lion {
namespace {

// A feed-forward product of a small model. Zeros: its time does not depend on the values.
constexpr int64_t kRows = Linear::kMaxTileRows;
constexpr int64_t kIn = 384;
constexpr int64_t kOut = 1536;
constexpr int kRepeats = 6;  // the fastest counts: what else runs on the machine only adds

double ProductSeconds(const Linear& linear) {
  const std::vector<float> x(2 * kRows * kIn);
  double fastest = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    linear.Run(x.data(), kRows, [](int64_t, int64_t, const void*) {});
    fastest = std::min(fastest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return fastest;
}

}  // namespace

absl::StatusOr<CpuDTypeChoice> ChooseCpuDType(ComputePool* pool) {
  CpuDTypeChoice choice;
  if (!HasAvx512Bf16() && !HasAmxBf16()) return choice;
  const absl::Status status = pool->Run(1, [&choice](int, int) {
    const std::vector<float> weight(kOut * kIn);
    const auto wide = Linear::Pack(weight.data(), nullptr, kOut, kIn, DType::kFloat32);
    const auto narrow = Linear::Pack(weight.data(), nullptr, kOut, kIn, DType::kBFloat16);
    choice.speedup = ProductSeconds(*wide) / ProductSeconds(*narrow);
  });
  if (!status.ok()) return status;
  if (choice.speedup >= kMinBFloat16Speedup) choice.dtype = DType::kBFloat16;
  return choice;
}

}  // namespace lion
