// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_launch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/cpu/rows_reference.h"
#include "model/kernels/cuda/gemm_gelu_reference.h"
#include "tests/model/cuda_test.h"

namespace lion::cuda {
namespace {

using testing::HasSubstr;

constexpr ElementType kType = ElementType::kBFloat16;
constexpr GemmGeluTile kTiles[] = {GemmGeluTile::kAuto, GemmGeluTile::kWide, GemmGeluTile::kNarrow};

class CudaGemmGeluTest : public OnCudaDevice<> {};

// W and b of a layer, and x for it.
struct Layer {
  Layer(int64_t columns, int64_t inner, int64_t max_rows, float x_scale = 1)
      : N(columns),
        K(inner),
        weight(Rounded(NormalValues(columns * inner, 1, 1 / std::sqrt(static_cast<float>(inner))), kType)),
        bias(Rounded(NormalValues(columns, 2), kType)),
        x(Rounded(NormalValues(max_rows * inner, 3, x_scale), kType)),
        device_weight(weight, kType),
        device_bias(bias, kType) {}

  std::vector<float> Run(const std::vector<float>& rows, GemmGeluTile tile) const {
    const int64_t M = static_cast<int64_t>(rows.size()) / K;
    const DeviceValues device_x(rows, kType);
    // One row more: the kernel is not to touch what lies past M.
    const DeviceValues device_y = DeviceValues::Poisoned((M + 1) * N, kType);
    GemmGeluParams params;
    params.type = kType;
    params.M = M;
    params.N = N;
    params.K = K;
    params.x = device_x.data();
    params.weight = device_weight.data();
    params.bias = device_bias.data();
    params.y = device_y.data();
    params.tile = tile;
    const absl::Status status = LaunchGemmGelu(params, nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> y = device_y.Read();
    for (int64_t n = 0; n < N; ++n) EXPECT_TRUE(std::isnan(y[M * N + n])) << "written past M " << M;
    y.resize(M * N);
    return y;
  }

  std::vector<float> Rows(int64_t first, int64_t count) const {
    return std::vector<float>(x.begin() + first * K, x.begin() + (first + count) * K);
  }

  int64_t N;
  int64_t K;
  std::vector<float> weight;
  std::vector<float> bias;
  std::vector<float> x;
  DeviceValues device_weight;
  DeviceValues device_bias;
};

// Tiles that are full, that end early in N and in K, and a K shorter than one.
constexpr int64_t kShapes[][2] = {{3072, 768}, {1536, 384}, {264, 136}, {8, 8}, {520, 72}};

TEST_F(CudaGemmGeluTest, MatchesItsFormula) {
  for (const auto& [N, K] : kShapes) {
    const Layer layer(N, K, 200, 2);
    for (GemmGeluTile tile : kTiles) {
      for (int64_t M : {1, 63, 64, 65, 129, 200}) {
        const std::vector<float> y = layer.Run(layer.Rows(0, M), tile);
        // Every element of small shapes; of large ones a scatter that meets all columns modulo the tiles' 64 and 256.
        const int64_t step = M * N * K > (1 << 22) ? 37 : 1;
        for (int64_t i = 0; i < M * N; i += step) {
          const int64_t m = i / N;
          const int64_t n = i % N;
          const GemmGeluElement expected =
              GemmGeluReference(layer.x.data() + m * K, layer.weight.data() + n * K, layer.bias[n], K);
          // The tensor cores add 16 products at a time, each sum off by at most 2 epsilon of all that it holds; GELU
          // passes on at most 1.13 times of that. Then its own error, and the type's rounding.
          const double epsilon = std::numeric_limits<float>::epsilon();
          const double num_sums = static_cast<double>(K) / 16 + 1;
          const double tolerance =
              1.13 * 2 * epsilon * num_sums * expected.magnitude + 4 * epsilon + Rounding(kType, expected.y);
          ASSERT_TRUE(std::isfinite(y[i]));
          ASSERT_LE(std::fabs(y[i] - expected.y), tolerance)
              << "N " << N << " K " << K << " M " << M << " row " << m << " column " << n;
        }
      }
    }
  }
}

// GELU alone, on values from -8 to 8 that the product hands through unrounded: b and W pick two bfloat16 numbers.
TEST_F(CudaGemmGeluTest, GeluIsTheErfForm) {
  constexpr int64_t kWidth = 64;
  Layer layer(kWidth, kWidth, 1);
  std::fill(layer.weight.begin(), layer.weight.end(), 0.f);
  std::fill(layer.bias.begin(), layer.bias.end(), 0.f);
  for (int64_t n = 0; n < kWidth; ++n) layer.weight[n * kWidth + n] = 1;
  layer.device_weight = DeviceValues(layer.weight, kType);
  layer.device_bias = DeviceValues(layer.bias, kType);
  std::vector<float> x;
  for (int i = -8 * 256; i < 8 * 256; ++i) x.push_back(static_cast<float>(i) / 256);
  x = Rounded(std::move(x), kType);
  const std::vector<float> y = layer.Run(x, GemmGeluTile::kAuto);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = GeluErfReference(x[i]);
    const double tolerance =
        Rounding(kType, expected) + 2 * std::numeric_limits<float>::epsilon() * std::fmin(1.0, std::fabs(x[i]));
    ASSERT_LE(std::fabs(y[i] - expected), tolerance) << "x " << x[i];
  }
}

TEST_F(CudaGemmGeluTest, ARowsBitsDependOnTheRowAlone) {
  for (const auto& [N, K] : kShapes) {
    const int64_t max_rows = 5000;  // many wide tiles for every block
    const Layer layer(N, K, max_rows);
    const std::vector<float> all = layer.Run(layer.Rows(0, max_rows), GemmGeluTile::kWide);
    EXPECT_EQ(all, layer.Run(layer.Rows(0, max_rows), GemmGeluTile::kNarrow));
    for (int64_t first : {0, 1, 63, 64, 1000, 4871}) {
      for (int64_t count : {1, 7, 64, 129}) {
        const std::vector<float> expected(all.begin() + first * N, all.begin() + (first + count) * N);
        EXPECT_EQ(layer.Run(layer.Rows(first, count), GemmGeluTile::kAuto), expected)
            << "N " << N << " K " << K << " rows " << first << " + " << count;
      }
    }
  }
}

TEST_F(CudaGemmGeluTest, RowsDoNotTouch) {
  const Layer layer(264, 136, 130);
  for (GemmGeluTile tile : kTiles) {
    const std::vector<float> good = layer.Run(layer.x, tile);
    std::vector<float> x = layer.x;
    for (int64_t k = 0; k < layer.K; ++k) {
      x[70 * layer.K + k] =
          k % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    std::vector<float> y = layer.Run(x, tile);
    for (int64_t n = 0; n < layer.N; ++n) {
      EXPECT_TRUE(std::isnan(y[70 * layer.N + n]));
      y[70 * layer.N + n] = good[70 * layer.N + n];
    }
    EXPECT_EQ(y, good);
  }
}

TEST_F(CudaGemmGeluTest, AGraphRepeatsIt) {
  const Layer layer(264, 136, 100);
  const std::vector<float> expected = layer.Run(layer.x, GemmGeluTile::kAuto);
  const DeviceValues x(layer.x, kType);
  const DeviceValues y = DeviceValues::Poisoned(100 * layer.N, kType);
  GemmGeluParams params;
  params.M = 100;
  params.N = layer.N;
  params.K = layer.K;
  params.x = x.data();
  params.weight = layer.device_weight.data();
  params.bias = layer.device_bias.data();
  params.y = y.data();
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_TRUE(LaunchGemmGelu(params, stream).ok());
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_EQ(y.Read(), expected);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

// What is refused before any CUDA call: no device is needed.
TEST(GemmGeluParamsTest, RefusesWhatTheKernelDoesNotTake) {
  alignas(16) char memory[32] = {};
  GemmGeluParams good;
  good.N = 8;
  good.K = 8;
  good.x = good.weight = good.bias = good.y = memory;
  EXPECT_TRUE(LaunchGemmGelu(good, nullptr).ok()) << "no rows, nothing to do";

  GemmGeluParams params = good;
  params.type = ElementType::kFloat32;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("neither bfloat16 nor float16"));
  params = good;
  params.M = -1;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("M -1"));
  params = good;
  params.M = int64_t{1} << 31;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("M 2147483648"));
  for (int64_t extent : {int64_t{0}, int64_t{12}, int64_t{1} << 31}) {
    params = good;
    params.N = extent;
    EXPECT_EQ(LaunchGemmGelu(params, nullptr).code(), absl::StatusCode::kInvalidArgument) << extent;
    params = good;
    params.K = extent;
    EXPECT_EQ(LaunchGemmGelu(params, nullptr).code(), absl::StatusCode::kInvalidArgument) << extent;
  }
  params = good;
  params.M = 1;
  params.x = memory + 2;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("16-byte aligned"));
  params = good;
  params.M = 1;
  params.y = nullptr;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("null"));
}

}  // namespace
}  // namespace lion::cuda
