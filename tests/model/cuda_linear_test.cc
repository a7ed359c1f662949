// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_linear.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/cuda_test.h"

namespace lion {
namespace {

using cuda::ElementType;

class CudaLinearTest : public OnCudaDevice<testing::TestWithParam<ElementType>> {
 protected:
  void SetUp() override {
    OnCudaDevice::SetUp();
    if (IsSkipped()) return;
    absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
    ASSERT_TRUE(lt.ok()) << lt.status();
    lt_ = *std::move(lt);
  }

  std::unique_ptr<CudaLinear> Create(const std::vector<float>& weight, const float* bias, int64_t N, int64_t K) {
    absl::StatusOr<std::unique_ptr<CudaLinear>> linear =
        CudaLinear::Create(lt_.get(), weight.data(), bias, N, K, GetParam());
    EXPECT_TRUE(linear.ok()) << linear.status();
    return linear.ok() ? *std::move(linear) : nullptr;
  }

  // The first M rows of x (as many as RoundRows(M) asks for are there) through the product.
  std::vector<float> Run(const CudaLinear& linear, const std::vector<float>& x, int64_t M) {
    const int64_t rounded = CudaLinear::RoundRows(M);
    std::vector<float> in(x.begin(), x.begin() + M * linear.in_width());
    in.resize(rounded * linear.in_width(), std::numeric_limits<float>::quiet_NaN());  // what stands there means nothing
    const DeviceValues device_x(in, GetParam());
    const DeviceValues y = DeviceValues::Poisoned(rounded * linear.out_width(), GetParam());
    const absl::Status status = linear.Run(device_x.data(), M, y.data(), nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> values = y.Read();
    values.resize(M * linear.out_width());
    return values;
  }

  std::unique_ptr<CublasLt> lt_;
};

TEST_P(CudaLinearTest, MatchesItsFormula) {
  const int64_t M = 37;
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{16, 16}, {48, 64}, {768, 768}, {96, 3072}, {2304, 48}}) {
    const std::vector<float> weight = NormalValues(N * K, 1, 1 / std::sqrt(static_cast<float>(K)));
    const std::vector<float> bias = NormalValues(N, 2);
    const std::vector<float> x = NormalValues(M * K, 3);
    const std::vector<float> w = Rounded(weight, GetParam());
    const std::vector<float> b = Rounded(bias, GetParam());
    const std::vector<float> in = Rounded(x, GetParam());
    for (bool has_bias : {true, false}) {
      const std::unique_ptr<CudaLinear> linear = Create(weight, has_bias ? bias.data() : nullptr, N, K);
      ASSERT_NE(linear, nullptr);
      const std::vector<float> y = Run(*linear, x, M);
      for (int64_t m = 0; m < M; m += 4) {
        for (int64_t n = 0; n < N; ++n) {
          double expected = has_bias ? b[n] : 0;
          double size = std::fabs(expected);
          for (int64_t k = 0; k < K; ++k) {
            const double term = static_cast<double>(in[m * K + k]) * w[n * K + k];
            expected += term;
            size += std::fabs(term);
          }
          // An fp32 sum of K terms in any order, far from its worst case; then the type's own rounding. TF32 would err
          // by 1e-3.
          const double tolerance =
              8 * std::numeric_limits<float>::epsilon() * size + HalfUlp(GetParam()) * (std::fabs(expected) + 1e-6);
          ASSERT_LE(std::fabs(y[m * N + n] - expected), tolerance)
              << N << " x " << K << " row " << m << " column " << n;
        }
      }
    }
  }
}

TEST_P(CudaLinearTest, ARowsBitsDoNotDependOnTheNumberOfRows) {
  const int64_t kMax = 3100;
  const int64_t kShift = 37;
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{768, 768},
                             {2304, 768},
                             {3072, 768},
                             {768, 3072},
                             {256, 256},
                             {768, 256},
                             {1024, 256},
                             {256, 1024},
                             {384, 256},
                             {1024, 4096},
                             {16, 768}}) {
    const std::vector<float> bias = NormalValues(N, 2);
    const std::unique_ptr<CudaLinear> linear =
        Create(NormalValues(N * K, 1, 1 / std::sqrt(static_cast<float>(K))), bias.data(), N, K);
    ASSERT_NE(linear, nullptr);
    const std::vector<float> x = NormalValues(kMax * K, 3);
    const std::vector<float> shifted(x.begin() + kShift * K, x.end());
    const std::vector<float> all = Run(*linear, x, kMax);
    for (int64_t M : {1, 16, 17, 40, 64, 100, 129, 500, 1024, 3000}) {
      const std::vector<float> some = Run(*linear, x, M);
      ASSERT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0) << N << " x " << K << " M " << M;
      const std::vector<float> elsewhere = Run(*linear, shifted, M);
      ASSERT_EQ(std::memcmp(elsewhere.data(), all.data() + kShift * N, elsewhere.size() * sizeof(float)), 0)
          << N << " x " << K << " M " << M << " from row " << kShift;
    }
  }
}

TEST_P(CudaLinearTest, RefusesWhatIsNotPadded) {
  const std::vector<float> weight(17 * 16, 0.f);
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{17, 16}, {16, 17}, {0, 16}, {16, 0}}) {
    EXPECT_EQ(CudaLinear::Create(lt_.get(), weight.data(), nullptr, N, K, GetParam()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaLinearTest, testing::Values(ElementType::kFloat32, ElementType::kBFloat16),
                         [](const auto& test) { return TypeName(test.param); });

}  // namespace
}  // namespace lion
