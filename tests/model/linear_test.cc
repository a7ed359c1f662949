// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "model/kernels/cpu/rows.h"

namespace lion {
namespace {

struct Shape {
  int64_t N;
  int64_t K;
};

class LinearTest : public testing::TestWithParam<DType> {};

// y of rows of x, as fp32, through a pool's worker.
std::vector<float> Multiply(ComputePool& pool, const Linear& linear, const std::vector<float>& x, int64_t rows) {
  const int64_t K = linear.in_width();
  const int64_t N = linear.out_width();
  const bool bf16 = linear.dtype() == DType::kBFloat16;
  std::vector<float> in(x);
  in.resize((rows + Linear::kMaxTileRows) * K, 0.f);
  std::vector<uint16_t> narrow(in.size());
  ToBFloat16(in.data(), narrow.data(), static_cast<int64_t>(in.size()));
  std::vector<float> y(rows * N);
  const absl::Status status = pool.Run(1, [&](int, int) {
    linear.Run(bf16 ? static_cast<const void*>(narrow.data()) : in.data(), rows,
               [&](int64_t row, int64_t n, const void* out) {
                 if (bf16) {
                   FromBFloat16(static_cast<const uint16_t*>(out), y.data() + row * N, n * N);
                 } else {
                   std::memcpy(y.data() + row * N, out, n * N * sizeof(float));
                 }
               });
  });
  EXPECT_TRUE(status.ok()) << status;
  return y;
}

TEST_P(LinearTest, MultipliesAndIsTheSameForAnyNumberOfRows) {
  ComputePool pool({.num_threads = 1});
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  // Odd widths, and the shapes where AMX was seen to sum in other orders by the number of rows.
  for (const Shape& shape : {Shape{1, 1}, Shape{35, 50}, Shape{35, 64}, Shape{144, 48}, Shape{256, 1024},
                             Shape{2304, 768}, Shape{768, 3072}}) {
    std::vector<float> weight(shape.N * shape.K);
    for (float& w : weight) w = normal(random) / std::sqrt(static_cast<float>(shape.K));
    std::vector<float> bias(shape.N);
    for (float& b : bias) b = normal(random);
    std::unique_ptr<Linear> linear;
    ASSERT_TRUE(
        pool.Run(1, [&](int, int) { linear = Linear::Pack(weight.data(), bias.data(), shape.N, shape.K, GetParam()); })
            .ok());
    ASSERT_FALSE(linear->tile_rows().empty());
    const int64_t rows = 300;
    std::vector<float> x(rows * shape.K);
    for (float& v : x) v = normal(random);
    const std::vector<float> y = Multiply(pool, *linear, x, rows);

    const double epsilon = GetParam() == DType::kBFloat16 ? 1.0 / 256 : 1.2e-7;
    for (int64_t r : {int64_t{0}, int64_t{17}, rows - 1}) {
      for (int64_t n = 0; n < shape.N; ++n) {
        double expected = bias[n];
        double size = std::fabs(bias[n]);
        for (int64_t k = 0; k < shape.K; ++k) {
          const double term = static_cast<double>(x[r * shape.K + k]) * weight[n * shape.K + k];
          expected += term;
          size += std::fabs(term);
        }
        ASSERT_LE(std::fabs(y[r * shape.N + n] - expected), 4 * epsilon * size) << shape.N << "x" << shape.K;
      }
    }
    for (int64_t first : {0, 1, 40, 290}) {
      for (int64_t count : {1, 2, 9, 10, 16, 33, 64, 100, 200}) {
        if (first + count > rows) continue;
        const std::vector<float> part(x.begin() + first * shape.K, x.begin() + (first + count) * shape.K);
        const std::vector<float> alone = Multiply(pool, *linear, part, count);
        const std::vector<float> expected(y.begin() + first * shape.N, y.begin() + (first + count) * shape.N);
        ASSERT_EQ(alone, expected) << shape.N << "x" << shape.K << " rows " << first << "+" << count;
      }
    }
  }
}

TEST_P(LinearTest, WorksWithoutABias) {
  ComputePool pool({.num_threads = 1});
  const std::vector<float> weight = {1, 2, 3, 4};
  std::unique_ptr<Linear> linear;
  ASSERT_TRUE(pool.Run(1, [&](int, int) { linear = Linear::Pack(weight.data(), nullptr, 2, 2, GetParam()); }).ok());
  EXPECT_EQ(Multiply(pool, *linear, {1, 1, 2, 0}, 2), (std::vector<float>{3, 7, 2, 6}));
}

TEST(LinearTilesTest, GeluInTheProductsShadowIsThatOfItsSums) {
  ComputePool pool({.num_threads = 1});
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const Shape& shape : {Shape{35, 64}, Shape{1536, 384}, Shape{96, 1056}}) {
    std::vector<float> weight(shape.N * shape.K);
    for (float& w : weight) w = 2 * normal(random) / std::sqrt(static_cast<float>(shape.K));
    const std::vector<float> bias(shape.N, 0.25f);
    std::unique_ptr<Linear> linear;
    ASSERT_TRUE(
        pool.Run(1, [&](int,
                        int) { linear = Linear::Pack(weight.data(), bias.data(), shape.N, shape.K, DType::kBFloat16); })
            .ok());
    if (!linear->on_tiles()) return;  // a CPU without them: nothing will call it
    const int64_t rows = 77;
    std::vector<float> x((rows + Linear::kTileSlackRows) * shape.K);
    for (float& v : x) v = normal(random);
    std::vector<uint16_t> narrow(x.size());
    ToBFloat16(x.data(), narrow.data(), static_cast<int64_t>(x.size()));
    auto run = [&](int64_t first, int64_t count, bool gelu) {
      std::vector<uint16_t> y;
      auto use = [&](int64_t, int64_t n, const void* out) {
        const auto* values = static_cast<const uint16_t*>(out);
        y.insert(y.end(), values, values + n * shape.N);
      };
      const void* in = narrow.data() + first * shape.K;
      EXPECT_TRUE(pool.Run(1,
                           [&](int, int) {
                             gelu ? linear->RunWhole(in, nullptr, count, Linear::After::kGelu, use)
                                  : linear->Run(in, count, use);
                           })
                      .ok());
      return y;
    };
    const std::vector<uint16_t> plain = run(0, rows, false);
    const std::vector<uint16_t> gelu = run(0, rows, true);
    std::vector<float> sums(plain.size());
    std::vector<float> values(plain.size());
    FromBFloat16(plain.data(), sums.data(), static_cast<int64_t>(sums.size()));
    FromBFloat16(gelu.data(), values.data(), static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) {
      const double z = sums[i];  // rounded; GELU's slope is below 1.13
      const double expected = z / 2 * (1 + std::erf(z / std::sqrt(2.0)));
      ASSERT_LE(std::fabs(values[i] - expected), (std::fabs(expected) + 1.13 * std::fabs(z)) / 256 + 1e-4) << i;
    }
    for (int64_t first : {0, 5}) {
      for (int64_t count : {1, 16, 17, 33}) {
        const std::vector<uint16_t> expected(gelu.begin() + first * shape.N, gelu.begin() + (first + count) * shape.N);
        ASSERT_EQ(run(first, count, true), expected) << first << "+" << count;
      }
    }
  }
}

// An int8 operand's bytes, as this CPU wants them.
std::vector<uint8_t> Bytes(const std::vector<int>& values) {
  std::vector<uint8_t> bytes(values.size());
  for (size_t i = 0; i < values.size(); ++i) bytes[i] = static_cast<uint8_t>(values[i] + Linear::Int8Offset());
  return bytes;
}

TEST(LinearInt8Test, SumsExactlyInEveryTile) {
  ComputePool pool({.num_threads = 1});
  std::mt19937 random(1);
  absl::Status exact;
  ASSERT_TRUE(pool.Run(1, [&](int, int) { exact = Linear::CheckInt8(); }).ok());
  if (!exact.ok()) {  // this CPU's are not: nothing will run on them
    EXPECT_EQ(exact.code(), absl::StatusCode::kUnimplemented);
    return;
  }
  for (const Shape& shape :
       {Shape{1, 1}, Shape{35, 50}, Shape{35, 64}, Shape{144, 48}, Shape{256, 1024}, Shape{768, 3072}}) {
    // Whole numbers up to 127 in every row of W: they are kept as they are, with a scale of 1.
    std::vector<float> weight(shape.N * shape.K);
    for (float& w : weight) w = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (int64_t n = 0; n < shape.N; ++n) weight[n * shape.K] = 127;
    std::vector<float> bias(shape.N, 0.5f);
    std::unique_ptr<Linear> linear;
    ASSERT_TRUE(
        pool.Run(1,
                 [&](int, int) { linear = Linear::Pack(weight.data(), bias.data(), shape.N, shape.K, DType::kInt8); })
            .ok());
    EXPECT_EQ(linear->bias()[0], 0.5f);
    const int64_t rows = 700;
    std::vector<int> x(rows * shape.K);
    for (int& v : x) v = static_cast<int>(random() % 255) - 127;
    for (int64_t k = 0; k < shape.K; ++k) x[k] = 127;
    std::vector<uint8_t> bytes = Bytes(x);
    bytes.resize(bytes.size() + Linear::kMaxTileRows * shape.K);
    for (int64_t first : {0, 1, 40}) {
      for (int64_t count : {1, 9, 16, 33, 64, 100, 300, 512, 600}) {
        ASSERT_TRUE(pool.Run(1,
                             [&](int, int) {
                               linear->Run(bytes.data() + first * shape.K, count,
                                           [&](int64_t row, int64_t n, const void* y) {
                                             for (int64_t r : {int64_t{0}, n / 2, n - 1}) {
                                               const int* in = x.data() + (first + row + r) * shape.K;
                                               for (int64_t c = 0; c < shape.N; ++c) {
                                                 int sum = 0;
                                                 for (int64_t k = 0; k < shape.K; ++k) {
                                                   sum += in[k] * static_cast<int>(weight[c * shape.K + k]);
                                                 }
                                                 uint16_t expected;
                                                 const auto wide = static_cast<float>(sum);
                                                 ToBFloat16(&wide, &expected, 1);
                                                 ASSERT_EQ(static_cast<const uint16_t*>(y)[r * shape.N + c], expected);
                                               }
                                             }
                                           });
                             })
                        .ok());
      }
    }
  }
}

// The rows' scales, the bias and GELU in the product's shadow, row by row and in groups of columns.
TEST(LinearInt8Test, WholeRowsAreTheFormula) {
  ComputePool pool({.num_threads = 1});
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const Shape& shape : {Shape{35, 64}, Shape{192, 128}, Shape{1536, 384}}) {
    std::vector<float> weight(shape.N * shape.K);
    for (float& w : weight) w = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (int64_t n = 0; n < shape.N; ++n) weight[n * shape.K] = 127;  // kept as they are, with a scale of 1
    std::vector<float> bias(shape.N);
    for (float& b : bias) b = normal(random);
    std::unique_ptr<Linear> linear;
    ASSERT_TRUE(
        pool.Run(1,
                 [&](int, int) { linear = Linear::Pack(weight.data(), bias.data(), shape.N, shape.K, DType::kInt8); })
            .ok());
    if (!linear->on_tiles()) return;  // a CPU without them: nothing will call it
    const int64_t rows = 600;
    std::vector<int> x(rows * shape.K);
    for (int& v : x) v = static_cast<int>(random() % 255) - 127;
    std::vector<uint8_t> bytes = Bytes(x);
    bytes.resize(bytes.size() + Linear::kTileSlackRows * shape.K);
    std::vector<float> scales(rows);
    for (float& s : scales) s = 1e-5f * (1 + std::fabs(normal(random)));
    auto run = [&](int64_t first, int64_t count, Linear::After after) {
      std::vector<uint16_t> y;
      auto use = [&](int64_t, int64_t n, const void* out) {
        const auto* values = static_cast<const uint16_t*>(out);
        y.insert(y.end(), values, values + n * shape.N);
      };
      const void* in = bytes.data() + first * shape.K;
      EXPECT_TRUE(pool.Run(1, [&](int, int) { linear->RunWhole(in, &scales[first], count, after, use); }).ok());
      return y;
    };
    const std::vector<uint16_t> plain = run(0, rows, Linear::After::kNothing);
    const std::vector<uint16_t> gelu = run(0, rows, Linear::After::kGelu);
    ASSERT_EQ(plain.size(), rows * shape.N);
    ASSERT_EQ(gelu.size(), rows * shape.N);
    std::vector<float> plain_values(plain.size());
    std::vector<float> gelu_values(gelu.size());
    FromBFloat16(plain.data(), plain_values.data(), static_cast<int64_t>(plain.size()));
    FromBFloat16(gelu.data(), gelu_values.data(), static_cast<int64_t>(gelu.size()));
    for (int64_t r : {int64_t{0}, int64_t{31}, int64_t{33}, int64_t{511}, int64_t{512}, rows - 1}) {
      for (int64_t n = 0; n < shape.N; ++n) {
        int sum = 0;
        for (int64_t k = 0; k < shape.K; ++k) sum += x[r * shape.K + k] * static_cast<int>(weight[n * shape.K + k]);
        const double product = sum * static_cast<double>(scales[r]);
        const double z = product + bias[n];
        const double slack = 1e-6 * (std::fabs(product) + std::fabs(bias[n]));  // of its fp32 arithmetic
        EXPECT_LE(std::fabs(plain_values[r * shape.N + n] - z), std::fabs(z) / 256 + slack) << r << ", " << n;
        const double after = z / 2 * (1 + std::erf(z / std::sqrt(2.0)));
        EXPECT_LE(std::fabs(gelu_values[r * shape.N + n] - after),
                  std::fabs(after) / 256 + 1.13 * slack + 2e-5 * std::max(1.0, std::fabs(z)))
            << r << ", " << n;
      }
    }
    for (int64_t first : {0, 5, 500}) {
      for (int64_t count : {1, 16, 17, 33, 100}) {
        const std::vector<uint16_t> expected(gelu.begin() + first * shape.N, gelu.begin() + (first + count) * shape.N);
        EXPECT_EQ(run(first, count, Linear::After::kGelu), expected) << first << "+" << count;
      }
    }
    if (shape.N % 64 != 0) continue;
    const int64_t stride = 64 * (rows + 3);
    std::vector<uint16_t> groups(shape.N / 64 * stride, 7);
    ASSERT_TRUE(
        pool.Run(1,
                 [&](int, int) { linear->RunToGroups(bytes.data(), scales.data(), rows, 64, stride, groups.data()); })
            .ok());
    for (int64_t n = 0; n < shape.N; ++n) {
      for (int64_t r = 0; r < rows + 3; ++r) {
        const uint16_t expected = r < rows ? plain[r * shape.N + n] : uint16_t{7};
        ASSERT_EQ(groups[n / 64 * stride + r * 64 + n % 64], expected) << r << ", " << n;
      }
    }
  }
}

TEST(LinearInt8Test, AChannelThatIsNotFiniteShows) {
  ComputePool pool({.num_threads = 1});
  const std::vector<float> weight = {1, std::numeric_limits<float>::quiet_NaN(), 3, 4, 0, 0};
  std::unique_ptr<Linear> linear;
  ASSERT_TRUE(pool.Run(1, [&](int, int) { linear = Linear::Pack(weight.data(), nullptr, 3, 2, DType::kInt8); }).ok());
  std::vector<uint8_t> x = Bytes({1, 1});
  x.resize(2 + 2 * Linear::kMaxTileRows);
  ASSERT_TRUE(pool.Run(1,
                       [&](int, int) {
                         linear->Run(x.data(), 1, [&](int64_t, int64_t, const void* y) {
                           float values[3];
                           FromBFloat16(static_cast<const uint16_t*>(y), values, 3);
                           EXPECT_TRUE(std::isnan(values[0]));
                           EXPECT_NEAR(values[1], 7, 0.05);
                           EXPECT_EQ(values[2], 0);
                         });
                       })
                  .ok());
}

INSTANTIATE_TEST_SUITE_P(DTypes, LinearTest, testing::Values(DType::kFloat32, DType::kBFloat16),
                         [](const auto& test) { return std::string(Name(test.param)); });

}  // namespace
}  // namespace lion
