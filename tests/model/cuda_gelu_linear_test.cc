// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_gelu_linear.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "model/kernels/cpu/rows_reference.h"
#include "tests/model/cuda_test.h"

namespace lion {
namespace {

using cuda::ElementType;

TEST(GeluScaleTest, NoRowOfALayerNormPassesIt) {
  const int64_t N = 8;
  const int64_t K = 64;
  for (float size : {0.01f, 1.f, 30.f}) {
    const std::vector<float> weight = NormalValues(N * K, 1, size);
    const std::vector<float> bias = NormalValues(N, 2, size);
    const std::vector<float> gamma = NormalValues(K, 3);
    const std::vector<float> beta = NormalValues(K, 4);
    const float scale = GeluScale(weight.data(), bias.data(), gamma.data(), beta.data(), N, K);
    int exponent = 0;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5f) << "a power of two";
    double most = 0;
    for (int64_t n = 0; n < N; ++n) {
      // The row that is turned to w * gamma as far as a LayerNorm's row can be.
      double squares = 0;
      for (int64_t k = 0; k < K; ++k) squares += std::pow(weight[n * K + k] * gamma[k], 2);
      double z = bias[n];
      for (int64_t k = 0; k < K; ++k) {
        const double w = weight[n * K + k];
        const double x = w * gamma[k] / std::sqrt(squares / K);
        z += w * (x * gamma[k] + beta[k]);
      }
      most = std::fmax(most, GeluErfReference(z));
    }
    EXPECT_LE(most, 448 * scale);
    EXPECT_GT(most, 448 * scale / 16) << "the bound wastes e4m3's range";
  }
  const std::vector<float> zeros(N * K, 0.f);
  EXPECT_GT(GeluScale(zeros.data(), zeros.data(), zeros.data(), zeros.data(), N, K), 0);
}

struct Form {
  ElementType type = ElementType::kFloat32;
  bool fp8 = false;
};

class CudaGeluLinearTest : public OnCudaDevice<testing::TestWithParam<Form>> {};

TEST_P(CudaGeluLinearTest, IsTheProductsGelu) {
  const auto& [type, fp8] = GetParam();
  const int64_t N = 96;
  const int64_t K = 64;
  const int64_t M = 33;
  absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
  ASSERT_TRUE(lt.ok()) << lt.status();
  const std::vector<float> weight = NormalValues(N * K, 1, 0.2f);
  const std::vector<float> bias = NormalValues(N, 2);
  CudaGeluLinearOptions options;
  options.N = N;
  options.K = K;
  options.type = type;
  options.fp8 = fp8;
  options.y_scale = fp8 ? 0.0625f : 1;
  const absl::StatusOr<std::unique_ptr<CudaGeluLinear>> linear =
      CudaGeluLinear::Create(lt->get(), options, weight.data(), bias.data());
  ASSERT_TRUE(linear.ok()) << linear.status();

  const int64_t rows = CudaLinear::RoundRows(M);
  std::vector<float> x = NormalValues(rows * K, 3);
  CudaGeluLinear::Rows run;
  run.M = M;
  std::vector<float> y;
  if (fp8) {
    std::vector<uint8_t> bits(x.size());
    for (size_t i = 0; i < x.size(); ++i) bits[i] = ToFp8(x[i] * 64);
    for (size_t i = 0; i < x.size(); ++i) x[i] = FromFp8(bits[i]) / 64;
    const DeviceBuffer device_x = OnDevice(bits);
    const DeviceBuffer scales = OnDevice(std::vector<float>(rows, 1.f / 64));
    const DeviceBuffer device_y = OnDevice(std::vector<uint8_t>(rows * N, 0x7F));
    run.x = device_x.data();
    run.x_scales = scales.At<float>(0);
    run.y = device_y.data();
    ASSERT_TRUE((*linear)->Run(run, nullptr).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (uint8_t v : FromDevice<uint8_t>(device_y, M * N)) y.push_back(FromFp8(v) * options.y_scale);
  } else {
    x = Rounded(x, type);
    const DeviceValues device_x(x, type);
    const DeviceValues device_y = DeviceValues::Poisoned(rows * N, type);
    run.x = device_x.data();
    run.y = device_y.data();
    ASSERT_TRUE((*linear)->Run(run, nullptr).ok());
    y = device_y.Read();
  }
  for (int64_t i = 0; i < M * N; ++i) {
    double z = bias[i % N];
    double squares = 0;
    for (int64_t k = 0; k < K; ++k) {
      const double product = static_cast<double>(x[i / N * K + k]) * weight[i % N * K + k];
      z += product;
      squares += product * product;
    }
    // W's rounding, term by term, as a random walk of four standard deviations; then y's. kernels/cuda_gemm_gelu_test
    // has the sharp bounds, on weights that need no rounding.
    const double rounding = fp8 ? 1.0 / 16 : Rounding(type, 1);
    const double expected = GeluErfReference(z);
    const double tolerance = 4 * rounding * std::sqrt(squares) + rounding * std::fabs(expected) + 1e-4;
    ASSERT_LE(std::fabs(y[i] - expected), tolerance) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaGeluLinearTest,
                         testing::Values(Form{ElementType::kFloat32}, Form{ElementType::kBFloat16},
                                         Form{ElementType::kFloat16}, Form{ElementType::kBFloat16, true}),
                         [](const auto& test) { return test.param.fp8 ? "fp8" : TypeName(test.param.type); });

}  // namespace
}  // namespace lion
