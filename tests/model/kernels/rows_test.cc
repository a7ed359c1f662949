// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/rows.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "model/kernels/cpu/rows_reference.h"

namespace lion {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> Normal(int64_t n, uint32_t seed, float scale = 1, float offset = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(offset, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

float FromBits(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Runs every case once on each instruction set this CPU has.
class RowsTest : public testing::TestWithParam<int64_t> {
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

TEST_P(RowsTest, LayerNormMatchesItsFormula) {
  for (int64_t n : {1, 2, 15, 16, 17, 48, 50, 256, 768, 1000}) {
    for (float offset : {0.f, 100.f}) {  // a mean far above the spread: centred values keep the digits
      std::vector<float> x = Normal(n, 1, 1, offset);
      const std::vector<float> residual = Normal(n, 2);
      const std::vector<float> gamma = Normal(n, 3);
      const std::vector<float> beta = Normal(n, 4);
      std::vector<double> sum(n);
      for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<double>(x[i] + residual[i]);
      const std::vector<double> expected =
          LayerNormReference(sum, {gamma.begin(), gamma.end()}, {beta.begin(), beta.end()}, 1e-5);
      AddLayerNorm(x.data(), residual.data(), gamma.data(), beta.data(), 1e-5f, n);
      for (int64_t i = 0; i < n; ++i) {
        // n roundings of values as large as the offset, over a spread of 1.4; n = 1 has no spread at all.
        const double tolerance = (n == 1 ? 400 : 16) * kEpsilon * (4 + offset) * std::fabs(gamma[i]) + kEpsilon;
        EXPECT_LE(std::fabs(x[i] - expected[i]), tolerance) << n << " " << offset;
      }
    }
  }
}

TEST_P(RowsTest, LayerNormOfABFloat16Residual) {
  const int64_t n = 50;
  std::vector<float> x = Normal(n, 1);
  std::vector<float> plain = x;
  std::vector<uint16_t> residual(n);
  ToBFloat16(Normal(n, 2).data(), residual.data(), n);
  std::vector<float> wide(n);
  FromBFloat16(residual.data(), wide.data(), n);
  const std::vector<float> gamma = Normal(n, 3);
  const std::vector<float> beta = Normal(n, 4);
  AddLayerNorm(x.data(), residual.data(), gamma.data(), beta.data(), 1e-12f, n);
  AddLayerNorm(plain.data(), wide.data(), gamma.data(), beta.data(), 1e-12f, n);
  EXPECT_EQ(x, plain);
}

TEST_P(RowsTest, GeluIsTheErfForm) {
  std::vector<float> x;
  for (float v = -12; v <= 12; v += 0.01f) x.push_back(v);
  x.push_back(kInfinity);
  std::vector<float> y(x.size());
  GeluErf(x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i + 1 < x.size(); ++i) {
    EXPECT_LE(std::fabs(y[i] - GeluErfReference(x[i])), 3e-7 * std::max(1.f, std::fabs(x[i]))) << x[i];
  }
  EXPECT_EQ(y.back(), kInfinity);
  float nan = kNaN;
  GeluErf(&nan, &nan, 1);
  EXPECT_TRUE(std::isnan(nan));
}

// y of an int8 product's row, and what it stands for.
struct Scaled {
  std::vector<uint16_t> y;
  std::vector<float> bias;
  float scale = 0.037f;
  ScaledRow row() const { return {y.data(), scale, bias.data()}; }
  std::vector<float> values() const {
    std::vector<float> out(y.size());
    for (size_t i = 0; i < y.size(); ++i) out[i] = std::fma(FromBits(y[i]), scale, bias[i]);
    return out;
  }
};

Scaled RandomScaled(int64_t n, uint32_t seed) {
  Scaled scaled;
  scaled.y.resize(n);
  ToBFloat16(Normal(n, seed, 30).data(), scaled.y.data(), n);
  scaled.bias = Normal(n, seed + 1);
  return scaled;
}

TEST_P(RowsTest, QuantizesByTheLargestOfARow) {
  for (int64_t n : {1, 2, 15, 16, 17, 50, 768}) {
    for (uint8_t offset : {uint8_t{0}, uint8_t{128}}) {
      const std::vector<float> x = Normal(n, 1, 3);
      std::vector<uint8_t> q(n);
      float scale = 0;
      Quantize(x.data(), n, {q.data(), offset, &scale});
      float largest = 0;
      for (float v : x) largest = std::max(largest, std::fabs(v));
      EXPECT_EQ(scale, largest / 127);
      for (int64_t i = 0; i < n; ++i) {
        const int value = (offset == 0 ? q[i] ^ 128 : q[i]) - 128;  // without an offset q is a signed byte
        EXPECT_LE(std::abs(value), 127);
        EXPECT_LE(std::fabs(static_cast<float>(value) * scale - x[i]), 0.5001f * scale);
      }
      // Of bfloat16 values: as of the same values in fp32.
      std::vector<uint16_t> narrow(n);
      std::vector<float> wide(n);
      ToBFloat16(x.data(), narrow.data(), n);
      FromBFloat16(narrow.data(), wide.data(), n);
      std::vector<uint8_t> expected(n);
      float expected_scale = 0;
      Quantize(wide.data(), n, {expected.data(), offset, &expected_scale});
      Quantize(narrow.data(), n, {q.data(), offset, &scale});
      EXPECT_EQ(q, expected);
      EXPECT_EQ(scale, expected_scale);
    }
  }
  // Nothing to scale by, and what cannot be scaled.
  const struct {
    float value;
    float scale;
  } cases[] = {{0, 0}, {kNaN, kNaN}, {kInfinity, kNaN}, {-kInfinity, kNaN}};
  for (const auto& c : cases) {
    std::vector<float> x(20, 0.f);
    x[18] = c.value;
    std::vector<uint8_t> q(20, 9);
    float scale = 7;
    Quantize(x.data(), 20, {q.data(), 128, &scale});
    EXPECT_TRUE(scale == c.scale || (std::isnan(scale) && std::isnan(c.scale)));
    EXPECT_EQ(q, std::vector<uint8_t>(20, 128));
    std::vector<uint16_t> narrow(20);
    ToBFloat16(x.data(), narrow.data(), 20);
    q.assign(20, 9);
    scale = 7;
    Quantize(narrow.data(), 20, {q.data(), 128, &scale});
    EXPECT_TRUE(scale == c.scale || (std::isnan(scale) && std::isnan(c.scale)));
    EXPECT_EQ(q, std::vector<uint8_t>(20, 128));
  }
}

TEST_P(RowsTest, Int8RowsGoThroughTheSameFormulas) {
  for (int64_t n : {1, 16, 50, 384, 1000}) {
    const Scaled scaled = RandomScaled(n, 5);
    const std::vector<float> values = scaled.values();
    // FMA or not: SSE4 rounds twice.
    const float ulps = 4 * kEpsilon;
    std::vector<float> wide(n);
    Dequantize(scaled.row(), wide.data(), n);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(wide[i], values[i], ulps * (1 + std::fabs(values[i])));
    std::vector<uint16_t> narrow(n);
    std::vector<uint16_t> rounded(n);
    Dequantize(scaled.row(), narrow.data(), n);
    ToBFloat16(wide.data(), rounded.data(), n);
    EXPECT_EQ(narrow, rounded);

    std::vector<float> x = Normal(n, 6);
    std::vector<float> plain = x;
    const std::vector<float> gamma = Normal(n, 7);
    const std::vector<float> beta = Normal(n, 8);
    AddLayerNorm(x.data(), scaled.row(), gamma.data(), beta.data(), 1e-5f, n);
    AddLayerNorm(plain.data(), wide.data(), gamma.data(), beta.data(), 1e-5f, n);
    EXPECT_EQ(x, plain);

    std::vector<float> hidden(n);
    std::vector<uint8_t> q(n);
    std::vector<uint8_t> q_plain(n);
    float scale = 0;
    float scale_plain = 0;
    GeluErfQuantize(scaled.row(), n, hidden.data(), {q.data(), 128, &scale});
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_LE(std::fabs(hidden[i] - GeluErfReference(wide[i])), 2e-5 * std::max(1.f, std::fabs(wide[i])));
    }
    Quantize(hidden.data(), n, {q_plain.data(), 128, &scale_plain});
    EXPECT_EQ(q, q_plain);
    EXPECT_EQ(scale, scale_plain);
  }
}

TEST_P(RowsTest, ElementsHaveTheSameBitsWhereverTheyStand) {
  const std::vector<float> x = Normal(67, 1, 3);
  std::vector<float> whole(x.size());
  GeluErf(x.data(), whole.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    float alone;
    GeluErf(&x[i], &alone, 1);
    EXPECT_EQ(alone, whole[i]);
  }
}

TEST_P(RowsTest, BFloat16RoundsToNearestEven) {
  const std::vector<std::pair<float, uint16_t>> cases = {
      {1.f, 0x3F80}, {1.00390625f, 0x3F80}, {1.01171875f, 0x3F82}, {1.0039064f, 0x3F81}, {-2.5f, 0xC020},
      {0.f, 0},      {kInfinity, 0x7F80},   {3.4e38f, 0x7F80}};
  for (const auto& [value, bits] : cases) {
    uint16_t out;
    ToBFloat16(&value, &out, 1);
    EXPECT_EQ(out, bits) << value;
  }
  const float nan = kNaN;
  uint16_t out;
  ToBFloat16(&nan, &out, 1);
  EXPECT_TRUE(std::isnan(FromBits(out)));
  for (uint32_t bits = 0x80; bits < 0x7F80; ++bits) {  // what is already bfloat16 stays; the subnormal may go
    const float value = FromBits(static_cast<uint16_t>(bits));
    ToBFloat16(&value, &out, 1);
    ASSERT_EQ(out, bits);
  }
}

TEST_P(RowsTest, Float16IsReadExactly) {
  const std::vector<std::pair<uint16_t, float>> cases = {{0x3C00, 1.f},           {0xC000, -2.f},
                                                         {0x7BFF, 65504.f},       {0x0400, 6.1035e-5f},
                                                         {0x0001, 5.9604645e-8f}, {0x7C00, kInfinity}};
  for (const auto& [bits, value] : cases) {
    float out;
    FromFloat16(&bits, &out, 1);
    if (std::isinf(value)) {
      EXPECT_EQ(out, value);
    } else {
      EXPECT_NEAR(out, value, std::fabs(value) * 1e-5f);
    }
  }
  const uint16_t nan = 0x7E00;
  float out;
  FromFloat16(&nan, &out, 1);
  EXPECT_TRUE(std::isnan(out));
}

TEST_P(RowsTest, GatesKeepTheirDigits) {
  // E = 1 and a weight of 1 hand z straight to the formula.
  const int64_t Hp = 16;
  std::vector<float> weight(Hp, 0.f);
  weight[0] = 1;
  const std::vector<float> bias(Hp, 0.f);
  for (float z = -40; z <= 40; z += 0.25f) {
    std::vector<float> log_a(Hp);
    TextLogDecays(&z, 1, 1, weight.data(), bias.data(), 1, log_a.data(), 1);
    const double expected = TextLogDecayReference(z);
    // Near z = -16 the 1e-7 and sigmoid(z) cancel: the rest is below 1e-7 and errs by fp32's rounding of 1e-7.
    EXPECT_LE(std::fabs(log_a[0] - expected), 4 * kEpsilon * std::fabs(expected) + 1e-13) << z;
    EXPECT_LE(log_a[0], 0.f);
  }
  float nan = kNaN;
  std::vector<float> log_a(Hp);
  TextLogDecays(&nan, 1, 1, weight.data(), bias.data(), 1, log_a.data(), 1);
  EXPECT_TRUE(std::isnan(log_a[0]));
}

TEST_P(RowsTest, GateProductsDoNotDependOnTheRowsBeside) {
  const int64_t T = 37;
  const int64_t E = 50;
  const int64_t H = 19;
  const int64_t Hp = 32;
  const int64_t stride = 40;
  const std::vector<float> x = Normal(T * E, 1);
  const std::vector<float> weight = Normal(E * Hp, 2, 0.2f);
  const std::vector<float> bias = Normal(Hp, 3);
  std::vector<float> whole(H * stride, 7.f);
  TextLogDecays(x.data(), T, E, weight.data(), bias.data(), H, whole.data(), stride);
  for (int64_t t = 0; t < T; ++t) {
    std::vector<float> alone(H);
    TextLogDecays(x.data() + t * E, 1, E, weight.data(), bias.data(), H, alone.data(), 1);
    for (int64_t h = 0; h < H; ++h) {
      EXPECT_EQ(alone[h], whole[h * stride + t]);
      double z = bias[h];
      for (int64_t e = 0; e < E; ++e) z += static_cast<double>(x[t * E + e]) * weight[e * Hp + h];
      EXPECT_NEAR(alone[h], TextLogDecayReference(z), 1e-5 * (1 + std::fabs(z)));
    }
  }
  EXPECT_EQ(whole[T], 7.f);  // nothing beyond the row
}

TEST_P(RowsTest, MeanSumsInBlocks) {
  for (int64_t L : {1, 63, 64, 65, 1000}) {
    const int64_t E = 520;  // beyond the kernel's own column block
    const std::vector<float> x = Normal(L * E, 1, 1, 10);
    std::vector<float> mean(E);
    MeanRows(x.data(), L, E, mean.data());
    for (int64_t e = 0; e < E; ++e) {
      double expected = 0;
      for (int64_t t = 0; t < L; ++t) expected += x[t * E + e] / static_cast<double>(L);
      EXPECT_NEAR(mean[e], expected, 16 * kEpsilon * 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, RowsTest, testing::Values(HWY_SSE4, HWY_AVX2, HWY_AVX3),
                         [](const auto& test) { return std::string(hwy::TargetName(test.param)); });

}  // namespace
}  // namespace lion
