// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_linear.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/cuda_test.h"

namespace lion {
namespace {

using cuda::ElementType;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// What a product takes and gives.
struct Form {
  ElementType type = ElementType::kFloat32;
  bool fp8 = false;
};

// Rows in e4m3 and their scales, as cuda::Fp8Rows has them.
struct Fp8Values {
  Fp8Values(const std::vector<float>& x, int64_t K) : bits(x.size()), scales(x.size() / K) {
    for (size_t m = 0; m < scales.size(); ++m) {
      float largest = 1e-30f;
      for (int64_t k = 0; k < K; ++k) largest = std::fmax(largest, std::fabs(x[m * K + k]));
      scales[m] = largest / 448;
      for (int64_t k = 0; k < K; ++k) bits[m * K + k] = ToFp8(x[m * K + k] / scales[m]);
    }
  }
  std::vector<float> Values() const {
    std::vector<float> values(bits.size());
    const size_t K = bits.size() / scales.size();
    for (size_t i = 0; i < values.size(); ++i) values[i] = FromFp8(bits[i]) * scales[i / K];
    return values;
  }
  std::vector<uint8_t> bits;
  std::vector<float> scales;
};

class CudaLinearTest : public OnCudaDevice<testing::TestWithParam<Form>> {
 protected:
  void SetUp() override {
    OnCudaDevice::SetUp();
    if (IsSkipped()) return;
    absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
    ASSERT_TRUE(lt.ok()) << lt.status();
    lt_ = *std::move(lt);
  }

  std::unique_ptr<CudaLinear> Create(const std::vector<float>& weight, const float* bias, int64_t N, int64_t K,
                                     bool residual = false) {
    absl::StatusOr<std::unique_ptr<CudaLinear>> linear =
        CudaLinear::Create(lt_.get(), Options(N, K, residual), weight.data(), bias);
    EXPECT_TRUE(linear.ok()) << linear.status();
    return linear.ok() ? *std::move(linear) : nullptr;
  }

  CudaLinearOptions Options(int64_t N, int64_t K, bool residual = false) const {
    CudaLinearOptions options;
    options.N = N;
    options.K = K;
    options.type = GetParam().type;
    options.fp8 = GetParam().fp8;
    options.residual = residual;
    return options;
  }

  // The first M rows of x and residual (empty = none) through the product. Rows past M are NaN, and mean nothing.
  std::vector<float> Run(const CudaLinear& linear, const std::vector<float>& x, int64_t M,
                         const std::vector<float>& residual = {}) {
    const int64_t rounded = CudaLinear::RoundRows(M);
    auto rows = [&](const std::vector<float>& from, int64_t width) {
      std::vector<float> some(from.begin(), from.begin() + M * width);
      some.resize(rounded * width, kNaN);
      return some;
    };
    const std::vector<float> in = rows(x, linear.in_width());
    const DeviceValues y = DeviceValues::Poisoned(rounded * linear.out_width(), GetParam().type);
    CudaLinear::Rows run;
    run.M = M;
    run.y = y.data();
    DeviceBuffer device_residual;
    const DeviceValues added(residual.empty() ? std::vector<float>(1) : rows(residual, linear.out_width()),
                             GetParam().type);
    if (!residual.empty()) run.residual = added.data();
    absl::Status status;
    if (GetParam().fp8) {
      const Fp8Values fp8(in, linear.in_width());
      const DeviceBuffer bits = OnDevice(fp8.bits);
      const DeviceBuffer scales = OnDevice(fp8.scales);
      run.x = bits.data();
      run.x_scales = scales.At<float>(0);
      status = linear.Run(run, nullptr);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    } else {
      const DeviceValues device_x(in, GetParam().type);
      run.x = device_x.data();
      status = linear.Run(run, nullptr);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> values = y.Read();
    values.resize(M * linear.out_width());
    return values;
  }

  // What the device makes of a matrix (rows, K).
  std::vector<float> Rounded(const std::vector<float>& values, int64_t K) const {
    return GetParam().fp8 ? Fp8Values(values, K).Values() : lion::Rounded(values, GetParam().type);
  }

  std::unique_ptr<CublasLt> lt_;
};

TEST_P(CudaLinearTest, MatchesItsFormula) {
  const int64_t M = 37;
  const ElementType type = GetParam().type;
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{16, 16}, {48, 64}, {768, 768}, {96, 3072}, {2304, 48}}) {
    const std::vector<float> weight = NormalValues(N * K, 1, 1 / std::sqrt(static_cast<float>(K)));
    const std::vector<float> bias = NormalValues(N, 2);
    const std::vector<float> x = NormalValues(M * K, 3);
    const std::vector<float> residual = NormalValues(M * N, 4, 3);
    const std::vector<float> w = Rounded(weight, K);
    const std::vector<float> b = lion::Rounded(bias, type);
    const std::vector<float> in = Rounded(x, K);
    const std::vector<float> added = lion::Rounded(residual, type);
    for (const auto& [has_bias, has_residual] :
         {std::pair<bool, bool>{true, false}, {false, false}, {true, true}, {false, true}}) {
      const std::unique_ptr<CudaLinear> linear = Create(weight, has_bias ? bias.data() : nullptr, N, K, has_residual);
      ASSERT_NE(linear, nullptr);
      const std::vector<float> y = Run(*linear, x, M, has_residual ? residual : std::vector<float>());
      for (int64_t m = 0; m < M; m += 4) {
        for (int64_t n = 0; n < N; ++n) {
          double expected = (has_bias ? b[n] : 0.0) + (has_residual ? added[m * N + n] : 0.0);
          double size = std::fabs(has_bias ? b[n] : 0.0) + std::fabs(expected);
          for (int64_t k = 0; k < K; ++k) {
            const double term = static_cast<double>(in[m * K + k]) * w[n * K + k];
            expected += term;
            size += std::fabs(term);
          }
          // An fp32 sum of K terms in any order, far from its worst case; then the type's own rounding. TF32 would err
          // by 1e-3. The tensor cores add up 128 products of e4m3 with 13 bits behind the point of the largest.
          const double sum = GetParam().fp8 ? std::ldexp(1.0, -13) : 8 * std::numeric_limits<float>::epsilon();
          const double tolerance = sum * size + Rounding(type, expected) + 1e-9;
          ASSERT_TRUE(std::isfinite(y[m * N + n]));
          ASSERT_LE(std::fabs(y[m * N + n] - expected), tolerance)
              << N << " x " << K << " row " << m << " column " << n << (has_bias ? ", bias" : "")
              << (has_residual ? ", residual" : "");
        }
      }
    }
  }
}

TEST_P(CudaLinearTest, ARowsBitsDoNotDependOnTheNumberOfRows) {
  const int64_t kMax = 3100;
  const int64_t kShift = 37;
  struct Product {
    int64_t N;
    int64_t K;
    bool residual;
  };
  for (const auto& [N, K, has_residual] :
       {Product{768, 768, true}, Product{2304, 768, false}, Product{3072, 768, false}, Product{768, 3072, true},
        Product{256, 256, true}, Product{768, 256, false}, Product{1024, 256, false}, Product{256, 1024, true},
        Product{384, 256, false}, Product{1024, 4096, true}, Product{16, 768, false}}) {
    const std::vector<float> bias = NormalValues(N, 2);
    const std::unique_ptr<CudaLinear> linear =
        Create(NormalValues(N * K, 1, 1 / std::sqrt(static_cast<float>(K))), bias.data(), N, K, has_residual);
    ASSERT_NE(linear, nullptr);
    auto from = [](const std::vector<float>& rows, int64_t first) {
      return std::vector<float>(rows.begin() + first, rows.end());
    };
    const std::vector<float> x = NormalValues(kMax * K, 3);
    const std::vector<float> residual = has_residual ? NormalValues(kMax * N, 4) : std::vector<float>();
    const std::vector<float> shifted = from(x, kShift * K);
    const std::vector<float> shifted_residual = has_residual ? from(residual, kShift * N) : residual;
    const std::vector<float> all = Run(*linear, x, kMax, residual);
    for (int64_t M : {1, 16, 17, 40, 64, 100, 129, 500, 1024, 3000}) {
      const std::vector<float> some = Run(*linear, x, M, residual);
      ASSERT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << N << " x " << K << " M " << M;
      const std::vector<float> elsewhere = Run(*linear, shifted, M, shifted_residual);
      ASSERT_EQ(std::memcmp(elsewhere.data(), all.data() + kShift * N, elsewhere.size() * sizeof(float)), 0)
          << N << " x " << K << " M " << M << " from row " << kShift;
    }
  }
}

TEST_P(CudaLinearTest, RowsDoNotTouch) {
  const int64_t N = 256;
  const int64_t K = 256;
  const int64_t M = 100;
  const std::unique_ptr<CudaLinear> linear = Create(NormalValues(N * K, 1), nullptr, N, K, true);
  ASSERT_NE(linear, nullptr);
  std::vector<float> x = NormalValues(M * K, 2);
  const std::vector<float> residual = NormalValues(M * N, 3);
  const std::vector<float> good = Run(*linear, x, M, residual);
  for (int64_t k = 0; k < K; ++k) x[40 * K + k] = k % 2 == 0 ? kNaN : std::numeric_limits<float>::infinity();
  std::vector<float> y = Run(*linear, x, M, residual);
  for (int64_t n = 0; n < N; ++n) {
    EXPECT_FALSE(std::isfinite(y[40 * N + n]));
    y[40 * N + n] = good[40 * N + n];
  }
  EXPECT_EQ(y, good);
}

TEST_P(CudaLinearTest, RefusesWhatItWasNotMadeFor) {
  const std::vector<float> weight(16 * 16, 0.f);
  const std::unique_ptr<CudaLinear> linear = Create(weight, nullptr, 16, 16, true);
  ASSERT_NE(linear, nullptr);
  const DeviceValues memory(std::vector<float>(16 * 16), ElementType::kFloat32);
  CudaLinear::Rows rows;
  rows.M = 1;
  rows.x = rows.y = memory.data();
  if (GetParam().fp8) rows.x_scales = memory.floats();
  EXPECT_EQ(linear->Run(rows, nullptr).code(), absl::StatusCode::kInvalidArgument) << "no residual";
  rows.residual = memory.data();
  rows.x_scales = GetParam().fp8 ? nullptr : memory.floats();
  EXPECT_EQ(linear->Run(rows, nullptr).code(), absl::StatusCode::kInvalidArgument) << "other scales";
  rows.M = 0;
  EXPECT_EQ(linear->Run(rows, nullptr).code(), absl::StatusCode::kInvalidArgument) << "no rows";
}

TEST_P(CudaLinearTest, RefusesWhatIsNotPadded) {
  const std::vector<float> weight(17 * 16, 0.f);
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{17, 16}, {16, 17}, {0, 16}, {16, 0}}) {
    EXPECT_EQ(CudaLinear::Create(lt_.get(), Options(N, K), weight.data(), nullptr).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaLinearTest,
                         testing::Values(Form{ElementType::kFloat32}, Form{ElementType::kBFloat16},
                                         Form{ElementType::kFloat16}, Form{ElementType::kBFloat16, true}),
                         [](const auto& test) { return test.param.fp8 ? "fp8" : TypeName(test.param.type); });

class Fp8ScaleTest : public OnCudaDevice<> {};

// One scale for all of x is folded into those of W; from row 131,072 on a second product runs.
TEST_F(Fp8ScaleTest, MayBeOneForAllRows) {
  constexpr int64_t kWidth = 16;
  constexpr int64_t M = 131072 + 40;
  absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
  ASSERT_TRUE(lt.ok()) << lt.status();
  std::vector<float> weight(kWidth * kWidth, 0.f);
  for (int64_t n = 0; n < kWidth; ++n) weight[n * kWidth + n] = static_cast<float>(n + 1);
  CudaLinearOptions options;
  options.N = options.K = kWidth;
  options.type = ElementType::kBFloat16;
  options.fp8 = true;
  options.x_scale = 0.25f;
  const absl::StatusOr<std::unique_ptr<CudaLinear>> linear =
      CudaLinear::Create(lt->get(), options, weight.data(), nullptr);
  ASSERT_TRUE(linear.ok()) << linear.status();
  const int64_t rounded = CudaLinear::RoundRows(M);
  std::vector<uint8_t> bits(rounded * kWidth);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = ToFp8(static_cast<float>(i / kWidth % 16));
  const DeviceBuffer x = OnDevice(bits);
  const DeviceValues y = DeviceValues::Poisoned(rounded * kWidth, ElementType::kBFloat16);
  CudaLinear::Rows rows;
  rows.M = M;
  rows.x = x.data();
  rows.y = y.data();
  ASSERT_TRUE((*linear)->Run(rows, nullptr).ok());
  const std::vector<float> values = y.Read();
  for (int64_t i = 0; i < M * kWidth; ++i) {
    // Each row of W has one value, which e4m3 holds as 448.
    const float expected = static_cast<float>(i / kWidth % 16) * 0.25f * static_cast<float>(i % kWidth + 1);
    ASSERT_NEAR(values[i], expected, expected / 128) << i;
  }
}

class Float16WeightsTest : public OnCudaDevice<> {};

TEST_F(Float16WeightsTest, RefuseWhatTheTypeDoesNotHold) {
  absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
  ASSERT_TRUE(lt.ok()) << lt.status();
  std::vector<float> weight(16 * 16, 65504.f);
  CudaLinearOptions options;
  options.N = options.K = 16;
  options.type = ElementType::kFloat16;
  EXPECT_TRUE(CudaLinear::Create(lt->get(), options, weight.data(), nullptr).ok());
  weight[7] = -65520.f;
  const absl::Status status = CudaLinear::Create(lt->get(), options, weight.data(), nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), testing::HasSubstr("-65520"));
  EXPECT_THAT(status.message(), testing::HasSubstr("65504"));
}

}  // namespace
}  // namespace lion
