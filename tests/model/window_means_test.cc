// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/window_means.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "model/encoder.h"
#include "model/kernels/cpu/rows.h"

namespace lion {
namespace {

constexpr int64_t kE = 5;

std::vector<float> RandomRows(int64_t L) {
  std::mt19937 random(static_cast<uint32_t>(L));
  std::normal_distribution<float> normal(1, 1);
  std::vector<float> x(L * kE);
  for (float& value : x) value = normal(random);
  return x;
}

std::vector<float> Means(const std::vector<float>& x, int64_t size, int64_t stride, int64_t first, int64_t last) {
  const auto L = static_cast<int64_t>(x.size()) / kE;
  std::vector<float> scratch(WindowMeansScratch(L, kE, size, stride));
  std::vector<float> means((last - first) * kE);
  WindowMeans(x.data(), L, kE, size, stride, first, last, scratch.data(), means.data());
  return means;
}

TEST(WindowMeansTest, CountsWindows) {
  EXPECT_EQ(NumWindows(1, 1, 1), 1);
  EXPECT_EQ(NumWindows(10, 10, 3), 1);
  EXPECT_EQ(NumWindows(10, 100, 1), 1);
  EXPECT_EQ(NumWindows(11, 10, 3), 2);
  EXPECT_EQ(NumWindows(10, 4, 4), 3);  // 0-4, 4-8, 8-10
  EXPECT_EQ(NumWindows(10, 4, 2), 4);  // 0-4, 2-6, 4-8, 6-10: the first to reach the end is the last
  EXPECT_EQ(NumWindows(10, 1, 1), 10);
  EXPECT_EQ(NumWindows(int64_t{1} << 40, 2, 1), (int64_t{1} << 40) - 1);
}

// {L, size, stride}: disjoint, overlapping, without a common divisor, longer than the row, shorter at the end.
class WindowMeansTest : public testing::TestWithParam<std::tuple<int64_t, int64_t, int64_t>> {};

TEST_P(WindowMeansTest, AreTheMeansOfTheirRows) {
  const auto [L, size, stride] = GetParam();
  const std::vector<float> x = RandomRows(L);
  const int64_t n = NumWindows(L, size, stride);
  const std::vector<float> means = Means(x, size, stride, 0, n);
  for (int64_t w = 0; w < n; ++w) {
    const int64_t first = w * stride;
    const int64_t last = std::min(first + size, L);
    EXPECT_EQ(last == L, w == n - 1);
    for (int64_t e = 0; e < kE; ++e) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t t = first; t < last; ++t) {
        sum += x[t * kE + e];
        magnitude += std::fabs(x[t * kE + e]);
      }
      const auto count = static_cast<double>(last - first);
      // Each addition rounds once, and sums of random signs of error grow as their root: eight deviations.
      const double tolerance = 8 * std::sqrt(count) * 6e-8 * magnitude / count;
      EXPECT_LE(std::fabs(means[w * kE + e] - sum / count), tolerance) << w;
    }
  }
}

TEST_P(WindowMeansTest, KeepTheirBitsWhateverPartIsTaken) {
  const auto [L, size, stride] = GetParam();
  const std::vector<float> x = RandomRows(L);
  const int64_t n = NumWindows(L, size, stride);
  const std::vector<float> whole = Means(x, size, stride, 0, n);
  for (int64_t step : {1, 3, 7}) {
    std::vector<float> parts;
    for (int64_t w = 0; w < n; w += step) {
      const std::vector<float> part = Means(x, size, stride, w, std::min(n, w + step));
      parts.insert(parts.end(), part.begin(), part.end());
    }
    EXPECT_EQ(parts, whole) << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WindowMeansTest,
                         testing::Values(std::make_tuple(1, 1, 1), std::make_tuple(10, 10, 10),
                                         std::make_tuple(10, 100, 7), std::make_tuple(300, 128, 64),
                                         std::make_tuple(1000, 256, 128), std::make_tuple(1000, 64, 64),
                                         std::make_tuple(999, 100, 99), std::make_tuple(700, 97, 13),
                                         std::make_tuple(500, 400, 1), std::make_tuple(501, 500, 250),
                                         std::make_tuple(130, 2, 1)));

TEST(WindowMeansTest, AWindowAsLongAsTheRowIsItsMean) {
  for (int64_t L : {1, 63, 64, 65, 1000}) {
    const std::vector<float> x = RandomRows(L);
    std::vector<float> mean(kE);
    MeanRows(x.data(), L, kE, mean.data());
    EXPECT_EQ(Means(x, L, L, 0, 1), mean);
    EXPECT_EQ(Means(x, L, 1, 0, 1), mean);
    EXPECT_EQ(Means(x, 2 * L, 3, 0, 1), mean);
  }
}

// What differences of one long sum would lose: 200,000 rows about 1, windows of two.
TEST(WindowMeansTest, LateWindowsAreAsExactAsEarlyOnes) {
  const int64_t L = 200000;
  const std::vector<float> x = RandomRows(L);
  const std::vector<float> means = Means(x, 2, 1, L - 100, L - 1);
  for (int64_t w = 0; w < 99; ++w) {
    for (int64_t e = 0; e < kE; ++e) {
      const double a = x[(L - 100 + w) * kE + e];
      const double b = x[(L - 99 + w) * kE + e];
      EXPECT_LE(std::fabs(means[w * kE + e] - (a + b) / 2), 6e-8 * (std::fabs(a) + std::fabs(b)));
    }
  }
}

}  // namespace
}  // namespace lion
