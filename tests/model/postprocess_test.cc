// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/postprocess.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kEps = std::numeric_limits<float>::epsilon();

TEST(AnyZeroVectorTest, LooksAtEachVectorsFirstValues) {
  const std::vector<float> vectors = {1, 0, 0, 0, 0, 2};
  EXPECT_FALSE(AnyZeroVector(vectors, 3, 3));
  EXPECT_TRUE(AnyZeroVector(vectors, 3, 2));
  EXPECT_TRUE(AnyZeroVector(vectors, 2, 2));
  EXPECT_TRUE(AnyZeroVector({-0.0f, 0.0f}, 2, 2));
  EXPECT_FALSE(AnyZeroVector({}, 2, 2));
}

TEST(AllFiniteTest, SeesOneBadValueAnywhere) {
  EXPECT_TRUE(AllFinite({}));
  EXPECT_TRUE(AllFinite({kMax, -kMax, 0.0f, -0.0f, std::numeric_limits<float>::denorm_min()}));
  for (size_t size : {1, 3, 4095, 4096, 4097, 10000}) {
    std::vector<float> values(size, kMax);
    EXPECT_TRUE(AllFinite(values)) << size;
    for (size_t at : {size_t{0}, size / 2, size - 1}) {
      for (float bad : {kNan, kInf, -kInf}) {
        values[at] = bad;
        EXPECT_FALSE(AllFinite(values)) << size << " " << at << " " << bad;
        values[at] = kMax;
      }
    }
  }
}

TEST(NormalizeL2Test, ScalesToLengthOne) {
  std::vector<float> v = {3, -4};
  NormalizeL2(absl::MakeSpan(v));
  EXPECT_FLOAT_EQ(v[0], 0.6f);
  EXPECT_FLOAT_EQ(v[1], -0.8f);
  // Squares that overflow or vanish in fp32.
  for (float x : {1e30f, 1e-30f}) {
    std::vector<float> w(4, x);
    NormalizeL2(absl::MakeSpan(w));
    for (float y : w) EXPECT_FLOAT_EQ(y, 0.5f) << x;
  }
}

TEST(NormalizeL2Test, LeavesZeroAlone) {
  std::vector<float> v = {0, 0};
  NormalizeL2(absl::MakeSpan(v));
  EXPECT_THAT(v, ElementsAre(0, 0));
  NormalizeL2({});
}

TEST(SoftmaxTest, MatchesTheDefinition) {
  std::vector<float> v = {1, 2, 3};
  Softmax(absl::MakeSpan(v));
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  // Each value is one exp and one division of numbers below 1: a few roundings.
  for (int i = 0; i < 3; ++i) EXPECT_LE(std::abs(v[i] - std::exp(i + 1.0) / sum), 4 * kEps) << i;
  EXPECT_LE(std::abs(std::accumulate(v.begin(), v.end(), 0.0) - 1), 4 * kEps);
}

TEST(SoftmaxTest, LargeLogitsDoNotOverflow) {
  std::vector<float> v = {1000, 1000, -1000};
  Softmax(absl::MakeSpan(v));
  EXPECT_THAT(v, ElementsAre(0.5f, 0.5f, 0));
  Softmax({});
}

TEST(SigmoidTest, MatchesTheDefinition) {
  std::vector<float> v = {0, 2, -2, 1000, -1000};
  Sigmoid(absl::MakeSpan(v));
  EXPECT_EQ(v[0], 0.5f);
  EXPECT_LE(std::abs(v[1] - 1 / (1 + std::exp(-2.0))), 4 * kEps);
  EXPECT_LE(std::abs(v[2] - 1 / (1 + std::exp(2.0))), 4 * kEps);
  EXPECT_EQ(v[3], 1);
  EXPECT_EQ(v[4], 0);
}

TEST(TopKTest, HighestFirstEqualOnesByIndex) {
  const std::vector<float> scores = {0.1f, 0.7f, 0.1f, 0.9f, 0.7f};
  EXPECT_THAT(TopK(scores, 3), ElementsAre(3, 1, 4));
  EXPECT_THAT(TopK(scores, 1), ElementsAre(3));
  EXPECT_THAT(TopK(scores, 0), ElementsAre(3, 1, 4, 0, 2));
  EXPECT_THAT(TopK(scores, 99), ElementsAre(3, 1, 4, 0, 2));
  EXPECT_THAT(TopK({}, 2), IsEmpty());
}

}  // namespace
}  // namespace lion
