// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/image_rows.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "model/kernels/cpu/image_rows_reference.h"

namespace lion {
namespace {

constexpr double kEps = 1.2e-7;  // of fp32

// Runs every case once on each instruction set this CPU has.
class ImageRowsTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(0);
    if ((hwy::SupportedTargets() & GetParam()) == 0) return;  // this CPU lacks it: the default runs again
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
};

std::vector<float> Values(int64_t n, float scale) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

TEST_P(ImageRowsTest, EluPlusOneIsWithinAFewUlps) {
  for (int64_t n : {1, 3, 15, 16, 17, 64, 257}) {
    const std::vector<float> x = Values(n, 4);
    std::vector<float> y = x;
    FeatureMapElu(y.data(), n);
    for (int64_t i = 0; i < n; ++i) {
      const double expected = FeatureEluReference(x[i]);
      EXPECT_LE(std::fabs(y[i] - expected), 4 * kEps * expected) << x[i];
    }
  }
  float special[] = {-1000.f,
                     1000.f,
                     std::numeric_limits<float>::quiet_NaN(),
                     0.f,
                     std::numeric_limits<float>::infinity(),
                     -std::numeric_limits<float>::infinity()};
  FeatureMapElu(special, 6);
  EXPECT_EQ(special[0], 0);
  EXPECT_EQ(special[1], 1001);
  EXPECT_TRUE(std::isnan(special[2]));
  EXPECT_EQ(special[3], 1);
  EXPECT_TRUE(std::isinf(special[4]));
  EXPECT_EQ(special[5], 0);
}

TEST_P(ImageRowsTest, UnitRowsHaveLengthOneAndEqualBitsAnywhere) {
  for (int64_t D : {1, 5, 16, 24, 64, 100}) {
    for (int64_t heads : {1, 3, 8}) {
      const std::vector<float> x = Values(heads * D, 3);
      std::vector<float> y = x;
      FeatureMapUnit(y.data(), heads, D);
      for (int64_t h = 0; h < heads; ++h) {
        const std::vector<double> expected =
            FeatureUnitReference(std::vector<double>(x.begin() + h * D, x.begin() + (h + 1) * D));
        for (int64_t d = 0; d < D; ++d) EXPECT_LE(std::fabs(y[h * D + d] - expected[d]), 16 * kEps) << D;
        std::vector<float> alone(x.begin() + h * D, x.begin() + (h + 1) * D);
        FeatureMapUnit(alone.data(), 1, D);
        EXPECT_EQ(alone, std::vector<float>(y.begin() + h * D, y.begin() + (h + 1) * D)) << D;
      }
    }
  }
  float bad[] = {std::numeric_limits<float>::quiet_NaN(), 1};
  FeatureMapUnit(bad, 1, 2);
  EXPECT_TRUE(std::isnan(bad[0]));
  float far[] = {-1000, 1000};  // silu is 0 and 1000
  FeatureMapUnit(far, 1, 2);
  EXPECT_NEAR(far[0], 0.5 / 1000.5, 1e-7);
  EXPECT_NEAR(far[1], 1, 1e-6);
}

TEST_P(ImageRowsTest, LogDecaysKeepTheirDigitsFromOpenToClosed) {
  // E = 1 and W = 1, so that z is x itself; gates on both sides of a multiple of 16.
  for (int64_t gates : {1, 16, 24}) {
    const int64_t padded = (gates + 15) / 16 * 16;
    std::vector<float> weight(padded, 0.f);
    for (int64_t g = 0; g < gates; ++g) weight[g] = 1;
    const std::vector<float> bias(padded, 0.f);
    std::vector<float> z = {-80, -20, -10, -1, -1e-3f, 0, 1e-3f, 1, 10, 29, 31, 1000};
    z.push_back(std::numeric_limits<float>::quiet_NaN());
    const auto T = static_cast<int64_t>(z.size());
    const int64_t stride = T + 3;
    std::vector<float> log_a(gates * stride, 7.f);
    ImageLogDecays(z.data(), T, 1, weight.data(), bias.data(), gates, log_a.data(), stride);
    for (int64_t g = 0; g < gates; ++g) {
      for (int64_t t = 0; t + 1 < T; ++t) {
        const double expected = ImageLogDecayReference(z[t]);
        EXPECT_LE(std::fabs(log_a[g * stride + t] - expected), 4 * kEps * std::fabs(expected) + 1e-38) << z[t];
      }
      EXPECT_TRUE(std::isnan(log_a[g * stride + T - 1]));
      for (int64_t t = T; t < stride; ++t) EXPECT_EQ(log_a[g * stride + t], 7);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, ImageRowsTest, testing::Values(HWY_SSE4, HWY_AVX2, HWY_AVX3),
                         [](const auto& test) { return std::string(hwy::TargetName(test.param)); });

}  // namespace
}  // namespace lion
