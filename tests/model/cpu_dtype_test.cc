// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_dtype.h"

#include "gtest/gtest.h"
#include "model/kernels/cpu/cpu_features.h"

namespace lion {
namespace {

TEST(ChooseCpuDTypeTest, TakesBFloat16OnlyWhereItWasMeasuredFaster) {
  ComputePool pool({.num_threads = 1});
  const absl::StatusOr<CpuDTypeChoice> choice = ChooseCpuDType(&pool);
  ASSERT_TRUE(choice.ok()) << choice.status();
  if (!HasAvx512Bf16() && !HasAmxBf16()) {
    EXPECT_EQ(choice->speedup, 0);
    EXPECT_EQ(choice->dtype, DType::kFloat32);
    return;
  }
  EXPECT_GT(choice->speedup, 0);
  EXPECT_EQ(choice->dtype, choice->speedup >= kMinBFloat16Speedup ? DType::kBFloat16 : DType::kFloat32);
}

}  // namespace
}  // namespace lion
