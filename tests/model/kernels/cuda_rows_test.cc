// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "model/kernels/cpu/rows_reference.h"
#include "model/kernels/cuda/rows_launch.h"
#include "tests/model/cuda_test.h"

namespace lion::cuda {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class CudaRowsTest : public OnCudaDevice<testing::TestWithParam<ElementType>> {
 protected:
  ElementType type() const { return GetParam(); }
};

// A row's shape: W stored columns, of which those count whose place in a group of group columns is below width.
struct Shape {
  int W;
  int group;
  int width;

  bool Counts(int column) const { return column % group < width; }
  int NumTrue() const { return W / group * width; }
};

// Padded at the end, padded in every head, and every width of the kernel's dispatch.
constexpr Shape kShapes[] = {{16, 16, 16},       {48, 48, 48},    {64, 64, 50},       {128, 32, 12},
                             {256, 256, 256},    {384, 384, 384}, {512, 512, 512},    {768, 768, 768},
                             {1008, 1008, 1000}, {1024, 128, 65}, {1280, 1280, 1280}, {2048, 2048, 2048},
                             {4096, 4096, 4096}, {8192, 32, 4}};

// n values, zero in columns that do not count.
std::vector<float> Values(const Shape& shape, int64_t rows, uint32_t seed, float scale = 1, float offset = 0) {
  std::vector<float> values = NormalValues(rows * shape.W, seed, scale, offset);
  for (int64_t i = 0; i < rows * shape.W; ++i) {
    if (!shape.Counts(static_cast<int>(i % shape.W))) values[i] = 0;
  }
  return values;
}

struct NormOnDevice {
  NormOnDevice(const Shape& shape, float eps)
      : gamma(Values(shape, 1, 3)),
        beta(Values(shape, 1, 4)),
        device_gamma(gamma, ElementType::kFloat32),
        device_beta(beta, ElementType::kFloat32) {
    params.gamma = device_gamma.floats();
    params.beta = device_beta.floats();
    params.eps = eps;
    params.column_mask = shape.group == shape.W ? -1 : shape.group - 1;
    params.true_width = shape.width;
    params.num_true = shape.NumTrue();
  }

  // The formula in fp64 over the columns that count; 0 elsewhere.
  std::vector<double> Reference(const Shape& shape, const double* row) const {
    std::vector<double> x;
    std::vector<double> g;
    std::vector<double> b;
    for (int c = 0; c < shape.W; ++c) {
      if (!shape.Counts(c)) continue;
      x.push_back(row[c]);
      g.push_back(gamma[c]);
      b.push_back(beta[c]);
    }
    const std::vector<double> y = LayerNormReference(x, g, b, params.eps);
    std::vector<double> out(shape.W, 0.0);
    for (int c = 0, i = 0; c < shape.W; ++c) {
      if (shape.Counts(c)) out[c] = y[i++];
    }
    return out;
  }

  std::vector<float> gamma;
  std::vector<float> beta;
  DeviceValues device_gamma;
  DeviceValues device_beta;
  NormParams params;
};

// Few rows, one a warp; and as many as the kernel that shares a block's gates among its warps starts at, and more.
constexpr int64_t kFewRows[] = {1, 2, 3, 37};
constexpr int64_t kManyRows = 8192 + 37;

// The params of a LayerNorm from x to out, without gates.
LayerNormParams NormParamsOf(const Shape& shape, const NormOnDevice& norm, int64_t T, const DeviceValues& x,
                             const DeviceValues& out, ElementType type) {
  LayerNormParams params;
  params.type = type;
  params.T = T;
  params.W = shape.W;
  params.x = x.data();
  params.norm = norm.params;
  params.out = out.data();
  return params;
}

TEST_P(CudaRowsTest, LayerNormMatchesItsFormula) {
  for (const Shape& shape : kShapes) {
    for (float offset : {0.f, 100.f}) {  // a mean far above the spread: centred values keep the digits
      std::vector<int64_t> counts(std::begin(kFewRows), std::end(kFewRows));
      if (shape.W <= 1024 && offset == 0) counts.push_back(kManyRows);
      for (int64_t T : counts) {
        const std::vector<float> x = Rounded(Values(shape, T, 1, 1, offset), type());
        const NormOnDevice norm(shape, 1e-5f);
        const DeviceValues device_x(x, type());
        const DeviceValues out = DeviceValues::Poisoned((T + 1) * shape.W, type());
        ASSERT_TRUE(LaunchLayerNorm(NormParamsOf(shape, norm, T, device_x, out, type()), nullptr).ok());
        const std::vector<float> actual = out.Read();
        const int64_t step = T == kManyRows ? 61 : 1;  // meets every place among a warp's rows, and the last row
        for (int64_t t = (T - 1) % step; t < T; t += step) {
          const std::vector<double> row(x.begin() + t * shape.W, x.begin() + (t + 1) * shape.W);
          const std::vector<double> expected = norm.Reference(shape, row.data());
          for (int c = 0; c < shape.W; ++c) {
            // As for the CPU: roundings of values as large as the offset over a spread of 1; then the type's own.
            const double tolerance =
                16 * kEpsilon * (4 + offset) * std::fabs(norm.gamma[c]) + kEpsilon + Rounding(type(), expected[c]);
            ASSERT_LE(std::fabs(actual[t * shape.W + c] - expected[c]), tolerance)
                << "W " << shape.W << " offset " << offset << " T " << T << " row " << t << " column " << c;
          }
        }
        EXPECT_TRUE(std::isnan(actual[T * shape.W])) << "written past the last row";
      }
    }
  }
}

TEST_P(CudaRowsTest, LayerNormInPlaceIsTheSame) {
  const Shape shape = {768, 64, 50};
  for (int64_t T : {int64_t{5}, kManyRows}) {
    const std::vector<float> x = Values(shape, T, 1);
    const NormOnDevice norm(shape, 1e-5f);
    const DeviceValues in_place(x, type());
    const DeviceValues apart(x, type());
    const DeviceValues out = DeviceValues::Poisoned(T * shape.W, type());
    ASSERT_TRUE(LaunchLayerNorm(NormParamsOf(shape, norm, T, apart, out, type()), nullptr).ok());
    ASSERT_TRUE(LaunchLayerNorm(NormParamsOf(shape, norm, T, in_place, in_place, type()), nullptr).ok());
    EXPECT_EQ(in_place.Read(), out.Read());
  }
}

class Float16RowsTest : public OnCudaDevice<> {};

TEST_F(Float16RowsTest, AreMadeFromFloat32Ones) {
  constexpr ElementType kType = ElementType::kFloat16;
  for (const Shape& shape : {Shape{768, 64, 50}, Shape{1280, 1280, 1280}}) {
    for (int64_t T : {int64_t{5}, kManyRows}) {
      const std::vector<float> x = Values(shape, T, 1, 1e6f);  // beyond float16
      const NormOnDevice norm(shape, 1e-5f);
      const DeviceValues device_x(x, ElementType::kFloat32);
      const DeviceValues expected = DeviceValues::Poisoned(T * shape.W, ElementType::kFloat32);
      const DeviceValues out = DeviceValues::Poisoned(T * shape.W, kType);
      LayerNormParams params = NormParamsOf(shape, norm, T, device_x, expected, ElementType::kFloat32);
      ASSERT_TRUE(LaunchLayerNorm(params, nullptr).ok());
      params = NormParamsOf(shape, norm, T, device_x, out, kType);
      params.x_float32 = true;
      ASSERT_TRUE(LaunchLayerNorm(params, nullptr).ok());
      EXPECT_EQ(out.Read(), Rounded(expected.Read(), kType));
    }
  }
}

// e4m3 rows beside those of the type, and instead of them.
TEST_P(CudaRowsTest, Fp8RowsAreTheNormalisedOnesRounded) {
  for (const Shape& shape : {Shape{16, 16, 16}, Shape{128, 32, 12}, Shape{768, 768, 768}, Shape{1280, 1280, 1280}}) {
    for (int64_t T : {int64_t{3}, kManyRows}) {
      std::vector<float> x = Rounded(Values(shape, T, 1), type());
      std::fill_n(x.begin() + shape.W, shape.W, 0.f);  // row 1: its LayerNorm is beta
      x[2 * shape.W] = kNaN;
      const NormOnDevice norm(shape, 1e-5f);
      const DeviceValues device_x(x, type());
      const DeviceValues out = DeviceValues::Poisoned(T * shape.W, type());
      const DeviceBuffer bits = OnDevice(std::vector<uint8_t>(T * shape.W, 0x55));
      const DeviceValues scales = DeviceValues::Poisoned(T, ElementType::kFloat32);
      LayerNormParams params = NormParamsOf(shape, norm, T, device_x, out, type());
      params.fp8 = {bits.At<uint8_t>(0), scales.floats()};
      ASSERT_TRUE(LaunchLayerNorm(params, nullptr).ok());
      const std::vector<float> actual_scales = scales.Read();
      const std::vector<uint8_t> actual = FromDevice<uint8_t>(bits, T * shape.W);
      const int64_t step = T == kManyRows ? 61 : 1;
      for (int64_t t = (T - 1) % step; t < T; t += step) {
        if (t == 2) continue;
        const std::vector<double> row(x.begin() + t * shape.W, x.begin() + (t + 1) * shape.W);
        const std::vector<double> expected = norm.Reference(shape, row.data());
        double largest = 0;
        for (double v : expected) largest = std::fmax(largest, std::fabs(v));
        EXPECT_NEAR(actual_scales[t], largest / kFp8Max, 1e-4 * largest / kFp8Max);
        for (int c = 0; c < shape.W; ++c) {
          // Three bits behind the point, down to 2^-6 and in steps of 2^-9 below that; LayerNorm's own error besides.
          const double scaled = std::fabs(expected[c]) / actual_scales[t];
          const double tolerance = actual_scales[t] * (std::fmax(scaled / 16, std::ldexp(1.0, -10)) * 1.001 + 1e-4);
          ASSERT_LE(std::fabs(FromFp8(actual[t * shape.W + c]) * actual_scales[t] - expected[c]), tolerance)
              << "W " << shape.W << " row " << t << " column " << c;
        }
      }
      EXPECT_TRUE(std::isnan(FromFp8(actual[2 * shape.W])));
      EXPECT_TRUE(std::isnan(out.Read()[2 * shape.W]));
      params.out = nullptr;
      const DeviceBuffer alone = OnDevice(std::vector<uint8_t>(T * shape.W, 0x55));
      params.fp8.values = alone.At<uint8_t>(0);
      ASSERT_TRUE(LaunchLayerNorm(params, nullptr).ok());
      EXPECT_EQ(FromDevice<uint8_t>(alone, T * shape.W), actual);
    }
  }
}

TEST_P(CudaRowsTest, EmbedSumsAndNormalises) {
  const Shape shape = {64, 64, 50};
  const int64_t T = 70;
  const std::vector<float> words = Values(shape, 97, 1);
  const std::vector<float> types = Values(shape, 2, 2);
  const std::vector<float> table = Values(shape, T, 5);
  std::vector<uint32_t> ids(T);
  std::vector<uint32_t> type_ids(T);
  std::vector<uint32_t> positions(T);
  for (int64_t t = 0; t < T; ++t) {
    ids[t] = static_cast<uint32_t>(t * 31 % 97);
    type_ids[t] = static_cast<uint32_t>(t % 3 == 0);
    positions[t] = static_cast<uint32_t>(t % 40);
  }
  const DeviceBuffer device_ids = OnDevice(ids);
  const DeviceBuffer device_type_ids = OnDevice(type_ids);
  const DeviceBuffer device_positions = OnDevice(positions);
  const DeviceValues device_words(words, ElementType::kFloat32);
  const DeviceValues device_types(types, ElementType::kFloat32);
  const DeviceValues device_table(table, ElementType::kFloat32);
  const NormOnDevice norm(shape, 1e-12f);
  for (bool absolute : {false, true}) {
    const DeviceValues x = DeviceValues::Poisoned(T * shape.W, type());
    EmbedParams params;
    params.type = type();
    params.T = T;
    params.W = shape.W;
    params.ids = device_ids.At<uint32_t>(0);
    params.type_ids = device_type_ids.At<uint32_t>(0);
    if (absolute) params.positions = device_positions.At<uint32_t>(0);
    params.words = device_words.floats();
    params.types = device_types.floats();
    params.position_table = device_table.floats();
    params.norm = norm.params;
    params.x = x.data();
    ASSERT_TRUE(LaunchEmbed(params, nullptr).ok());
    const std::vector<float> actual = x.Read();
    for (int64_t t = 0; t < T; ++t) {
      std::vector<double> sum(shape.W);
      for (int c = 0; c < shape.W; ++c) {
        sum[c] = static_cast<double>(words[ids[t] * shape.W + c]) + types[type_ids[t] * shape.W + c];
        if (absolute) sum[c] += table[positions[t] * shape.W + c];
      }
      const std::vector<double> expected = norm.Reference(shape, sum.data());
      for (int c = 0; c < shape.W; ++c) {
        const double tolerance = 64 * kEpsilon * std::fabs(norm.gamma[c]) + kEpsilon + Rounding(type(), expected[c]);
        ASSERT_LE(std::fabs(actual[t * shape.W + c] - expected[c]), tolerance) << "token " << t << " column " << c;
      }
    }
  }
}

// Gates of H heads over a shape, with biases from wide open to closed.
struct GatesOnDevice {
  GatesOnDevice(const Shape& shape, int heads, int64_t T)
      : H(heads),
        weight(
            NormalValues(static_cast<int64_t>(heads) * shape.width, 7, 1 / std::sqrt(static_cast<float>(shape.width)))),
        bias(heads),
        device_weight(PackGates(weight.data(), heads, shape.width), ElementType::kFloat32),
        device_bias(Biases(), ElementType::kFloat32),
        log_a(DeviceValues::Poisoned(T * heads, ElementType::kFloat32)) {
    params.H = heads;
    params.weight = device_weight.floats();
    params.bias = device_bias.floats();
    params.log_a = log_a.floats();
  }

  std::vector<float> Biases() {
    for (int h = 0; h < H; ++h) bias[h] = -18 + 36.f * static_cast<float>(h) / static_cast<float>(H);
    return bias;
  }

  int H;
  std::vector<float> weight;  // (H, E)
  std::vector<float> bias;
  DeviceValues device_weight;
  DeviceValues device_bias;
  DeviceValues log_a;
  GateParams params;
};

TEST_P(CudaRowsTest, GatesMatchTheirFormula) {
  struct Case {
    Shape shape;
    int H;
    int64_t T;
  };
  const Case cases[] = {{{64, 64, 50}, 3, 19},
                        {{256, 256, 256}, 4, 19},
                        {{768, 768, 768}, 12, 19},
                        {{1024, 1024, 1024}, 16, 19},
                        {{1024, 1024, 1024}, 64, 19},
                        {{4096, 4096, 4096}, 40, 19},
                        {{64, 64, 50}, 3, kManyRows},
                        {{384, 384, 384}, 6, kManyRows},
                        {{768, 768, 768}, 12, kManyRows},
                        {{1024, 1024, 1024}, 16, kManyRows},
                        {{1024, 1024, 1024}, 64, kManyRows}};  // 64 heads do not fit
  for (const Case& test_case : cases) {
    const auto& [shape, H, rows] = test_case;
    const int64_t T = test_case.T;
    const std::vector<float> x = Rounded(Values(shape, T, 1), type());
    const NormOnDevice norm(shape, 1e-12f);
    const GatesOnDevice gates(shape, H, T);
    const DeviceValues device_x(x, type());
    const DeviceValues out = DeviceValues::Poisoned(T * shape.W, type());
    LayerNormParams params = NormParamsOf(shape, norm, T, device_x, out, type());
    params.gates = gates.params;
    ASSERT_TRUE(LaunchLayerNorm(params, nullptr).ok());
    const std::vector<float> actual = gates.log_a.Read();
    const int64_t step = T == kManyRows ? 61 : 1;
    for (int64_t t = (T - 1) % step; t < T; t += step) {
      const std::vector<double> row(x.begin() + t * shape.W, x.begin() + (t + 1) * shape.W);
      const std::vector<double> y = norm.Reference(shape, row.data());
      for (int h = 0; h < H; ++h) {
        double z = gates.bias[h];
        double size = std::fabs(z);
        double weights = 0;
        for (int e = 0; e < shape.width; ++e) {
          const double w = gates.weight[static_cast<int64_t>(h) * shape.width + e];
          z += w * y[e];
          size += std::fabs(w * y[e]);
          weights += std::fabs(w * norm.gamma[e]);
        }
        const double expected = TextLogDecayReference(z);
        // The dot's roundings, a lane's share and the tree; LayerNorm's; the slope of log a is at most 1. Then log a's
        // own.
        const double tolerance =
            kEpsilon * ((shape.W / 64.0 + 4) * size + 64 * weights) + 8 * kEpsilon * std::fabs(expected) + 2e-13;
        ASSERT_LE(std::fabs(actual[t * H + h] - expected), tolerance) << "W " << shape.W << " head " << h << " z " << z;
      }
    }
  }
}

TEST_P(CudaRowsTest, ARowsBitsDependOnTheRowAlone) {
  for (const Shape& shape : {Shape{64, 64, 50}, Shape{384, 384, 384}, Shape{768, 768, 768}, Shape{1024, 1024, 1024},
                             Shape{1280, 1280, 1280}}) {
    const int H = 6;
    const int64_t T = kManyRows;
    std::vector<float> x = Values(shape, T, 1);
    // Every third row is not a number: its neighbours, which share a warp with it, must not see that.
    for (int64_t t = 0; t < T; t += 3) {
      for (int c = 0; c < shape.W; ++c) x[t * shape.W + c] = c % 2 == 0 ? kNaN : kInfinity;
    }
    const NormOnDevice norm(shape, 1e-12f);
    struct Result {
      std::vector<float> out;
      std::vector<float> log_a;
      std::vector<uint8_t> fp8;
      std::vector<float> scales;
    };
    auto run = [&](int64_t first, int64_t n) {
      const GatesOnDevice gates(shape, H, n);
      const DeviceValues rows({x.begin() + first * shape.W, x.begin() + (first + n) * shape.W}, type());
      const DeviceValues out = DeviceValues::Poisoned(n * shape.W, type());
      const DeviceBuffer fp8 = OnDevice(std::vector<uint8_t>(n * shape.W, 0x55));
      const DeviceValues scales = DeviceValues::Poisoned(n, ElementType::kFloat32);
      LayerNormParams params = NormParamsOf(shape, norm, n, rows, out, type());
      params.gates = gates.params;
      params.fp8 = {fp8.At<uint8_t>(0), scales.floats()};
      EXPECT_TRUE(LaunchLayerNorm(params, nullptr).ok());
      return Result{out.Read(), gates.log_a.Read(), FromDevice<uint8_t>(fp8, n * shape.W), scales.Read()};
    };
    const Result all = run(0, T);
    auto same = [](const auto& a, const auto& b, int64_t offset) {
      return std::memcmp(a.data(), b.data() + offset, a.size() * sizeof(a[0])) == 0;
    };
    for (const auto& [first, n] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {2, 1}, {4, 1}, {5, 1}, {40, 1}, {200, 150}, {8191, 1}, {8192, 37}, {1, 8192}}) {
      const Result some = run(first, n);
      EXPECT_TRUE(same(some.out, all.out, first * shape.W)) << shape.W << " rows " << first << " + " << n;
      EXPECT_TRUE(same(some.log_a, all.log_a, first * H)) << shape.W << " rows " << first << " + " << n;
      EXPECT_TRUE(same(some.fp8, all.fp8, first * shape.W)) << shape.W << " rows " << first << " + " << n;
      EXPECT_TRUE(same(some.scales, all.scales, first)) << shape.W << " rows " << first << " + " << n;
    }
    EXPECT_TRUE(std::isfinite(all.out[shape.W]));
    EXPECT_TRUE(std::isfinite(all.log_a[H]));
    EXPECT_TRUE(std::isnan(all.out[3 * shape.W]));
    EXPECT_TRUE(std::isnan(all.log_a[3 * H]));
  }
}

TEST_P(CudaRowsTest, GeluIsTheErfForm) {
  std::vector<float> x;
  for (float v = -12; v <= 12; v += 0.01f) x.push_back(v);
  while (x.size() % 16 != 14) x.push_back(0.5f);
  x.push_back(kInfinity);
  x.push_back(kNaN);
  x = Rounded(x, type());
  const DeviceValues device(x, type());
  ASSERT_TRUE(LaunchGelu(type(), device.data(), static_cast<int64_t>(x.size()), nullptr).ok());
  const std::vector<float> y = device.Read();
  for (size_t i = 0; i + 2 < x.size(); ++i) {
    // The fit's 3e-7 and the fast division's two units of erf, both times |x| / 2 at most.
    const double expected = GeluErfReference(x[i]);
    const double tolerance = (3e-7 + kEpsilon) * std::max(1.f, std::fabs(x[i])) + Rounding(type(), expected);
    EXPECT_LE(std::fabs(y[i] - expected), tolerance) << x[i];
  }
  EXPECT_EQ(y[x.size() - 2], kInfinity);
  EXPECT_TRUE(std::isnan(y.back()));
}

TEST_P(CudaRowsTest, MeansRunInBlocksFromTheRowsStart) {
  const int W = 80;
  const std::vector<int64_t> lengths = {1, 63, 64, 65, 128, 129, 1000};
  int64_t T = 0;
  for (int64_t L : lengths) T += L;
  const std::vector<float> x = Rounded(NormalValues(T * W, 1, 1, 0.5f), type());
  const DeviceValues device_x(x, type());

  auto pool = [&](const std::vector<std::pair<int64_t, int64_t>>& ranges) {
    std::vector<TokenBlock> blocks;
    std::vector<PooledRow> rows;
    for (const auto& [start, L] : ranges) {
      const auto first = static_cast<int32_t>(blocks.size());
      for (int64_t t = 0; t < L; t += kMeanBlockRows) {
        blocks.push_back(
            {static_cast<int32_t>(start + t), static_cast<int32_t>(std::min<int64_t>(kMeanBlockRows, L - t)), 0});
      }
      rows.push_back({first, static_cast<int32_t>(blocks.size()) - first, static_cast<int32_t>(L)});
    }
    const DeviceBuffer device_blocks = OnDevice(blocks);
    const DeviceBuffer device_rows = OnDevice(rows);
    const DeviceValues sums = DeviceValues::Poisoned(static_cast<int64_t>(blocks.size()) * W, ElementType::kFloat32);
    const DeviceValues pooled = DeviceValues::Poisoned(static_cast<int64_t>(rows.size()) * W, ElementType::kFloat32);
    PoolParams params;
    params.type = type();
    params.W = W;
    params.x = device_x.data();
    params.blocks = device_blocks.At<TokenBlock>(0);
    params.num_blocks = static_cast<int>(blocks.size());
    params.rows = device_rows.At<PooledRow>(0);
    params.num_rows = static_cast<int>(rows.size());
    params.sums = sums.floats();
    params.pooled = pooled.floats();
    EXPECT_TRUE(LaunchPool(params, nullptr).ok());
    return pooled.Read();
  };

  std::vector<std::pair<int64_t, int64_t>> ranges;
  int64_t start = 0;
  for (int64_t L : lengths) {
    ranges.emplace_back(start, L);
    start += L;
  }
  const std::vector<float> means = pool(ranges);
  for (size_t r = 0; r < ranges.size(); ++r) {
    const auto& [first, L] = ranges[r];
    const std::vector<float> alone = pool({ranges[r]});
    for (int c = 0; c < W; ++c) {
      double mean = 0;
      double size = 0;
      for (int64_t t = first; t < first + L; ++t) {
        mean += static_cast<double>(x[t * W + c]) / static_cast<double>(L);
        size += std::fabs(x[t * W + c]) / static_cast<double>(L);
      }
      // 64 roundings within a block, then one a block.
      const double roundings = 64 + static_cast<double>(L) / 64;
      EXPECT_LE(std::fabs(means[r * W + c] - mean), roundings * kEpsilon / 2 * size + kEpsilon * std::fabs(mean)) << L;
      EXPECT_EQ(means[r * W + c], alone[c]);
      if (L == 1) {
        EXPECT_EQ(means[r * W + c], x[first * W + c]);
      }
    }
  }
}

// Windows of n blocks at every block, by the sums from and to the ends of groups of n: reference is the sum in fp64.
TEST_P(CudaRowsTest, MeansByGroups) {
  const int W = 272;  // more than a block of threads
  for (const int n : {1, 2, 5, 64}) {
    const int num_blocks = 3 * n + n / 2;  // the last group is shorter
    std::vector<TokenBlock> blocks;
    std::vector<BlockGroup> groups;
    std::vector<PooledRow> rows;
    for (int b = 0; b < num_blocks; ++b) blocks.push_back({3 * b, 3, 0});
    for (int b = 0; b < num_blocks; b += n) groups.push_back({b, std::min(n, num_blocks - b)});
    for (int b = 0; b < num_blocks; ++b) {
      const int count = std::min(n, num_blocks - b);
      rows.push_back({b, count, 3 * count, std::min((b / n + 1) * n, num_blocks)});
    }
    const int T = 3 * num_blocks;
    const std::vector<float> x = Rounded(NormalValues(static_cast<int64_t>(T) * W, 1), type());
    const DeviceValues device_x(x, type());
    const DeviceBuffer device_blocks = OnDevice(blocks);
    const DeviceBuffer device_groups = OnDevice(groups);
    const DeviceBuffer device_rows = OnDevice(rows);
    const DeviceValues sums = DeviceValues::Poisoned(static_cast<int64_t>(num_blocks) * W, ElementType::kFloat32);
    const DeviceValues prefixes = DeviceValues::Poisoned(static_cast<int64_t>(num_blocks) * W, ElementType::kFloat32);
    const DeviceValues pooled = DeviceValues::Poisoned(static_cast<int64_t>(num_blocks) * W, ElementType::kFloat32);
    PoolParams params;
    params.type = type();
    params.W = W;
    params.x = device_x.data();
    params.blocks = device_blocks.At<TokenBlock>(0);
    params.num_blocks = num_blocks;
    params.rows = device_rows.At<PooledRow>(0);
    params.num_rows = num_blocks;
    params.groups = device_groups.At<BlockGroup>(0);
    params.num_groups = static_cast<int>(groups.size());
    params.sums = sums.floats();
    params.prefixes = prefixes.floats();
    params.pooled = pooled.floats();
    ASSERT_TRUE(LaunchPool(params, nullptr).ok());
    const std::vector<float> means = pooled.Read();
    for (int b = 0; b < num_blocks; ++b) {
      const int count = rows[b].count;
      for (int c = 0; c < W; ++c) {
        double mean = 0;
        double size = 0;
        for (int t = 3 * b; t < 3 * b + count; ++t) {
          mean += static_cast<double>(x[t * W + c]) / count;
          size += std::fabs(x[t * W + c]) / count;
        }
        // 3 roundings within a block, one a block, and two.
        EXPECT_LE(std::fabs(means[b * W + c] - mean), (n + 5) * kEpsilon / 2 * size + kEpsilon * std::fabs(mean)) << b;
      }
    }
  }
}

TEST_P(CudaRowsTest, TokensAreTheFirstColumns) {
  const int W = 64;
  const int E = 50;
  const std::vector<float> x = Rounded(NormalValues(100 * W, 1), type());
  const DeviceValues device_x(x, type());
  const DeviceValues out = DeviceValues::Poisoned(75 * E, ElementType::kFloat32);
  const DeviceBuffer blocks = OnDevice(std::vector<TokenBlock>{{3, 64, 11}, {67, 11, 0}});
  TokensParams params;
  params.type = type();
  params.W = W;
  params.E = E;
  params.x = device_x.data();
  params.blocks = blocks.At<TokenBlock>(0);
  params.num_blocks = 2;
  params.out = out.floats();
  ASSERT_TRUE(LaunchTokens(params, nullptr).ok());
  const std::vector<float> actual = out.Read();
  for (int t = 0; t < 75; ++t) {
    const int from = t < 11 ? 67 + t : 3 + t - 11;
    for (int c = 0; c < E; ++c) EXPECT_EQ(actual[t * E + c], x[from * W + c]) << t << " " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaRowsTest,
                         testing::Values(ElementType::kFloat32, ElementType::kBFloat16, ElementType::kFloat16),
                         [](const auto& test) { return TypeName(test.param); });

class CudaTanhTest : public OnCudaDevice<> {};

TEST_F(CudaTanhTest, IsTanh) {
  const std::vector<float> x = NormalValues(1000, 1, 3);
  const DeviceValues device(x, ElementType::kFloat32);
  ASSERT_TRUE(LaunchTanh(device.floats(), 1000, nullptr).ok());
  const std::vector<float> y = device.Read();
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_LE(std::fabs(y[i] - std::tanh(static_cast<double>(x[i]))), 2 * kEpsilon);  // CUDA's tanhf: 2 units
  }
}

class QuantizeTest : public OnCudaDevice<> {};

TEST_F(QuantizeTest, RoundsEachRowByItsLargestValue) {
  for (int W : {16, 256, 272, 768, 8192}) {
    const int64_t T = 77;
    std::vector<float> x = NormalValues(T * W, 1, 3);
    std::fill_n(x.begin() + W, W, 0.f);
    x[2 * W + 5] = kNaN;
    x[3 * W + 7] = -kInfinity;
    x[4 * W + 9] = 3e38f;
    x = Rounded(x, ElementType::kBFloat16);
    const DeviceValues device(x, ElementType::kBFloat16);
    const DeviceBuffer bits = OnDevice(std::vector<uint8_t>((T + 1) * W, 0x55));
    const DeviceValues scales = DeviceValues::Poisoned(T + 1, ElementType::kFloat32);
    QuantizeParams params;
    params.T = T;
    params.W = W;
    params.x = device.data();
    params.fp8 = {bits.At<uint8_t>(0), scales.floats()};
    ASSERT_TRUE(LaunchQuantize(params, nullptr).ok());
    const std::vector<float> actual_scales = scales.Read();
    const std::vector<uint8_t> actual = FromDevice<uint8_t>(bits, (T + 1) * W);
    for (int64_t t = 0; t < T; ++t) {
      if (t == 2 || t == 3) continue;
      float largest = kMinFp8Largest;
      for (int c = 0; c < W; ++c) largest = std::fmax(largest, std::fabs(x[t * W + c]));
      ASSERT_NEAR(actual_scales[t], largest / kFp8Max, kEpsilon * largest / kFp8Max);
      for (int c = 0; c < W; ++c) {
        // The device's division may be off by a unit: then a value on the border between two may go either way.
        const uint8_t lower = ToFp8(x[t * W + c] * (kFp8Max / largest) * (1 - 4e-7f));
        const uint8_t upper = ToFp8(x[t * W + c] * (kFp8Max / largest) * (1 + 4e-7f));
        ASSERT_TRUE(actual[t * W + c] == lower || actual[t * W + c] == upper) << "W " << W << " row " << t;
      }
    }
    EXPECT_TRUE(std::isnan(FromFp8(actual[2 * W + 5])));
    EXPECT_TRUE(std::isnan(FromFp8(actual[3 * W + 7])));
    EXPECT_EQ(actual[T * W], 0x55) << "written past the last row";
    EXPECT_TRUE(std::isnan(actual_scales[T]));
  }
}

TEST(CudaRowsLaunchTest, RefusesWhatTheStructsDoNotAllow) {
  LayerNormParams params;
  params.W = 768;
  EXPECT_EQ(LaunchLayerNorm(params, nullptr).code(), absl::StatusCode::kInvalidArgument);  // T 0
  params.T = 1;
  for (int W : {0, 8, 100, kMaxNormWidth + 16}) {
    params.W = W;
    EXPECT_EQ(LaunchLayerNorm(params, nullptr).code(), absl::StatusCode::kInvalidArgument) << W;
  }
  params.W = 768;
  EXPECT_EQ(LaunchGelu(ElementType::kFloat32, nullptr, 17, nullptr).code(), absl::StatusCode::kInvalidArgument);
  params.type = ElementType::kBFloat16;
  params.x_float32 = true;
  EXPECT_EQ(LaunchLayerNorm(params, nullptr).code(), absl::StatusCode::kInvalidArgument);
  QuantizeParams quantize;
  quantize.T = 1;
  quantize.W = 768;
  quantize.type = ElementType::kFloat32;
  EXPECT_EQ(LaunchQuantize(quantize, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PackGatesTest, PutsEveryWeightWhereItsLaneReads) {
  const int64_t H = 2;
  const int64_t E = 300;
  std::vector<float> weight(H * E);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i + 1);
  const std::vector<float> packed = PackGates(weight.data(), H, E);
  ASSERT_EQ(packed.size(), H * 512);
  // Head 1, column 256 + 9: chunk 1, lane 1, its second element.
  EXPECT_EQ(packed[512 + 256 + 4 + 1], weight[E + 256 + 9]);
  // Head 0, column 21: lane 2, second half, second element.
  EXPECT_EQ(packed[128 + 2 * 4 + 1], weight[21]);
  double sum = 0;
  for (float v : packed) sum += v;
  EXPECT_EQ(sum, 600.0 * 601 / 2);
}

}  // namespace
}  // namespace lion::cuda
