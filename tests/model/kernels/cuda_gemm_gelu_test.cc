// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/gemm_gelu_launch.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/cpu/rows_reference.h"
#include "tests/model/cuda_test.h"

namespace lion::cuda {
namespace {

using testing::HasSubstr;

constexpr GemmGeluTile kTiles[] = {GemmGeluTile::kAuto, GemmGeluTile::kWide, GemmGeluTile::kNarrow};
constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

// What x, W and y are.
struct Form {
  ElementType type = ElementType::kBFloat16;
  bool fp8 = false;
  float y_scale = 1;

  // What rounding a result of this size costs at most.
  double Rounding(double size) const {
    if (!fp8) return lion::Rounding(type, size);
    // Three bits behind the point, and steps of 2^-9 below 2^-6, in units of y_scale.
    return std::fmax(std::fabs(size) / 16, std::ldexp(1.0, -10) * y_scale);
  }
  // The error of GELU itself, for a result of this size. The device's 2^P adds two units.
  double Gelu(double z, double size) const {
    const double absolute = !fp8 && type == ElementType::kFloat16 ? 9e-8 : 1.6e-6;
    return absolute + 4 * kEpsilon * std::fmin(1.0, std::fabs(z)) + 2 * kEpsilon * std::fabs(size);
  }
};

class CudaGemmGeluTest : public OnCudaDevice<testing::TestWithParam<Form>> {};

// An array of x, W or y on the device: of a 16-bit type, or e4m3.
class Operand {
 public:
  Operand(const std::vector<float>& values, const Form& form) : form_(form), n_(values.size()) {
    if (form.fp8) {
      std::vector<uint8_t> bits(values.size());
      for (size_t i = 0; i < values.size(); ++i) bits[i] = ToFp8(values[i]);
      bytes_ = OnDevice(bits);
    } else {
      values_.emplace(values, form.type);
    }
  }
  static Operand Poisoned(int64_t n, const Form& form) {
    return Operand(std::vector<float>(n, std::numeric_limits<float>::quiet_NaN()), form);
  }
  void* data() const { return values_.has_value() ? values_->data() : bytes_.data(); }
  std::vector<float> Read() const {
    if (values_.has_value()) return values_->Read();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<float> values;
    for (uint8_t bits : FromDevice<uint8_t>(bytes_, static_cast<int64_t>(n_))) values.push_back(FromFp8(bits));
    return values;
  }

 private:
  Form form_;
  size_t n_;
  std::optional<DeviceValues> values_;
  DeviceBuffer bytes_;
};

std::vector<float> RoundedTo(const Form& form, std::vector<float> values) {
  if (!form.fp8) return Rounded(std::move(values), form.type);
  for (float& v : values) v = FromFp8(ToFp8(v));
  return values;
}

// W and b of a layer, and x for it. In fp8 every row of x and W has a scale of its own.
struct Layer {
  Layer(const Form& layer_form, int64_t columns, int64_t inner, int64_t max_rows, float x_scale = 1)
      : form(layer_form),
        N(columns),
        K(inner),
        weight(RoundedTo(form, NormalValues(columns * inner, 1, WeightSize()))),
        bias(NormalValues(columns, 2)),
        x(RoundedTo(form, NormalValues(max_rows * inner, 3, form.fp8 ? 20 * x_scale : x_scale))),
        x_scales(max_rows, 1),
        weight_scales(columns, 1),
        device_weight(weight, form) {
    if (form.fp8) {
      for (int64_t m = 0; m < max_rows; ++m) x_scales[m] = static_cast<float>(20 + m % 13) / 400 * 0.6f;
      for (int64_t n = 0; n < N; ++n) weight_scales[n] = static_cast<float>(20 + n % 11) / 25 * 0.0625f;
    }
    Upload();
  }

  float WeightSize() const { return (form.fp8 ? 16 : 1) / std::sqrt(static_cast<float>(K)); }

  void Upload() {
    std::vector<float> scaled_bias = bias;
    std::vector<float> scaled = weight_scales;
    for (float& b : scaled_bias) b /= form.y_scale;
    for (float& s : scaled) s /= form.y_scale;
    device_weight = Operand(weight, form);
    device_bias = OnDevice(scaled_bias);
    device_weight_scales = OnDevice(scaled);
  }

  GemmGeluParams Params(int64_t M, const Operand& rows, const DeviceBuffer& scales, const Operand& y) const {
    GemmGeluParams params;
    params.type = form.type;
    params.fp8 = form.fp8;
    params.M = M;
    params.N = N;
    params.K = K;
    params.x = rows.data();
    params.weight = device_weight.data();
    params.bias = device_bias.At<float>(0);
    params.y = y.data();
    params.x_scales = scales.At<float>(0);
    params.weight_scales = device_weight_scales.At<float>(0);
    params.y_scale = form.y_scale;
    return params;
  }

  // Rows of x from first on.
  std::vector<float> Run(const std::vector<float>& rows, int64_t first, GemmGeluTile tile) const {
    const int64_t M = static_cast<int64_t>(rows.size()) / K;
    const Operand device_x(rows, form);
    std::vector<float> some_scales(x_scales.begin() + first, x_scales.begin() + first + M);
    some_scales.resize(M + 8, std::numeric_limits<float>::quiet_NaN());  // nobody reads them
    const DeviceBuffer scales = OnDevice(some_scales);
    // One row more: the kernel is not to touch what lies past M.
    const Operand device_y = Operand::Poisoned((M + 1) * N, form);
    GemmGeluParams params = Params(M, device_x, scales, device_y);
    params.tile = tile;
    const absl::Status status = LaunchGemmGelu(params, nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> y = device_y.Read();
    for (int64_t n = 0; n < N; ++n) EXPECT_TRUE(std::isnan(y[M * N + n])) << "written past M " << M;
    y.resize(M * N);
    for (float& v : y) v *= form.y_scale;
    return y;
  }
  std::vector<float> Run(int64_t first, int64_t count, GemmGeluTile tile) const {
    return Run({x.begin() + first * K, x.begin() + (first + count) * K}, first, tile);
  }

  Form form;
  int64_t N;
  int64_t K;
  std::vector<float> weight;
  std::vector<float> bias;
  std::vector<float> x;
  std::vector<float> x_scales;
  std::vector<float> weight_scales;
  Operand device_weight;
  DeviceBuffer device_bias;
  DeviceBuffer device_weight_scales;
};

// Tiles that are full, that end early in N and in K, and a K shorter than one.
constexpr int64_t kShapes[][2] = {{3072, 768}, {1536, 384}, {272, 144}, {16, 16}, {528, 80}};

TEST_P(CudaGemmGeluTest, MatchesItsFormula) {
  const Form form = GetParam();
  for (const auto& [N, K] : kShapes) {
    const Layer layer(form, N, K, 200, 2);
    for (GemmGeluTile tile : kTiles) {
      for (int64_t M : {1, 63, 64, 65, 129, 200}) {
        const std::vector<float> y = layer.Run(0, M, tile);
        // Every element of small shapes; of large ones a scatter that meets all columns modulo the tiles' 64 and 128.
        const int64_t step = M * N * K > (1 << 22) ? 37 : 1;
        for (int64_t i = 0; i < M * N; i += step) {
          const int64_t m = i / N;
          const int64_t n = i % N;
          const double scale = static_cast<double>(layer.x_scales[m]) * layer.weight_scales[n];
          double z = layer.bias[n];
          double magnitude = std::fabs(z);
          double squares = 0;
          for (int64_t k = 0; k < K; ++k) {
            const double product = scale * layer.x[m * K + k] * layer.weight[n * K + k];
            z += product;
            magnitude += std::fabs(product);
            squares += product * product;
          }
          const double expected = GeluErfReference(z);
          // The tensor cores add 16 products at a time, each sum off by at most 2 epsilon of all that it holds; those
          // of e4m3, 32 at a time, drop what lies 13 bits below the largest number at hand, once a step: a partial sum,
          // which seldom passes four times its standard deviation, or the largest product. GELU passes on at most 1.13
          // times of that.
          const double sums = form.fp8
                                  ? std::ldexp(1.0, -13) * (static_cast<double>(K) / 32 + 1) * 4 * std::sqrt(squares)
                                  : 2 * kEpsilon * (static_cast<double>(K) / 16 + 1) * magnitude;
          const double tolerance =
              1.13 * (sums + 4 * kEpsilon * magnitude) + form.Gelu(z, expected) + form.Rounding(expected);
          ASSERT_TRUE(std::isfinite(y[i]));
          ASSERT_LE(std::fabs(y[i] - expected), tolerance)
              << "N " << N << " K " << K << " M " << M << " row " << m << " column " << n << " z " << z;
        }
      }
    }
  }
}

// GELU alone, on values from -8 to 8 that the product hands through unrounded: b and W pick x's numbers.
TEST_P(CudaGemmGeluTest, GeluIsTheErfForm) {
  constexpr int64_t kWidth = 64;
  const Form form = GetParam();
  std::vector<float> x;
  for (int i = -8 * 256; i < 8 * 256; ++i) x.push_back(static_cast<float>(i) / 256);
  x = RoundedTo(form, std::move(x));
  Layer layer(form, kWidth, kWidth, static_cast<int64_t>(x.size()) / kWidth);
  std::fill(layer.weight.begin(), layer.weight.end(), 0.f);
  std::fill(layer.bias.begin(), layer.bias.end(), 0.f);
  std::fill(layer.x_scales.begin(), layer.x_scales.end(), 1.f);
  std::fill(layer.weight_scales.begin(), layer.weight_scales.end(), 1.f);
  for (int64_t n = 0; n < kWidth; ++n) layer.weight[n * kWidth + n] = 1;
  layer.Upload();
  const std::vector<float> y = layer.Run(x, 0, GemmGeluTile::kAuto);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = GeluErfReference(x[i]);
    ASSERT_LE(std::fabs(y[i] - expected), form.Rounding(expected) + form.Gelu(x[i], expected)) << "x " << x[i];
  }
}

TEST_P(CudaGemmGeluTest, ARowsBitsDependOnTheRowAlone) {
  for (const auto& [N, K] : kShapes) {
    const int64_t max_rows = 5000;  // many wide tiles for every block
    const Layer layer(GetParam(), N, K, max_rows);
    const std::vector<float> all = layer.Run(0, max_rows, GemmGeluTile::kWide);
    EXPECT_EQ(all, layer.Run(0, max_rows, GemmGeluTile::kNarrow));
    for (int64_t first : {0, 1, 63, 64, 1000, 4871}) {
      for (int64_t count : {1, 7, 64, 129}) {
        const std::vector<float> expected(all.begin() + first * N, all.begin() + (first + count) * N);
        EXPECT_EQ(layer.Run(first, count, GemmGeluTile::kAuto), expected)
            << "N " << N << " K " << K << " rows " << first << " + " << count;
      }
    }
  }
}

TEST_P(CudaGemmGeluTest, RowsDoNotTouch) {
  const Layer layer(GetParam(), 272, 144, 130);
  for (GemmGeluTile tile : kTiles) {
    const std::vector<float> good = layer.Run(0, 130, tile);
    std::vector<float> x = layer.x;
    for (int64_t k = 0; k < layer.K; ++k) {
      x[70 * layer.K + k] =
          k % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    std::vector<float> y = layer.Run(x, 0, tile);
    for (int64_t n = 0; n < layer.N; ++n) {
      EXPECT_TRUE(std::isnan(y[70 * layer.N + n]));
      y[70 * layer.N + n] = good[70 * layer.N + n];
    }
    EXPECT_EQ(y, good);
  }
}

TEST_P(CudaGemmGeluTest, AGraphRepeatsIt) {
  const Form form = GetParam();
  const Layer layer(form, 272, 144, 100);
  const std::vector<float> expected = layer.Run(0, 100, GemmGeluTile::kAuto);
  const Operand x(layer.x, form);
  const DeviceBuffer scales = OnDevice(layer.x_scales);
  const Operand y = Operand::Poisoned(100 * layer.N, form);
  const GemmGeluParams params = layer.Params(100, x, scales, y);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  EXPECT_TRUE(LaunchGemmGelu(params, stream).ok());
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  std::vector<float> actual = y.Read();
  for (float& v : actual) v *= form.y_scale;
  EXPECT_EQ(actual, expected);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaGemmGeluTest,
                         testing::Values(Form{ElementType::kBFloat16}, Form{ElementType::kFloat16},
                                         Form{ElementType::kBFloat16, true, 0.125f}),
                         [](const auto& test) { return test.param.fp8 ? "fp8" : TypeName(test.param.type); });

class Fp8GemmGeluTest : public OnCudaDevice<> {};

// A sum that e4m3 does not hold is cut off, never turned into no number.
TEST_F(Fp8GemmGeluTest, IsCutOffAtItsLargestValue) {
  Layer layer(Form{ElementType::kBFloat16, true, 0.25f}, 64, 64, 64);
  std::fill(layer.bias.begin(), layer.bias.end(), 1e6f);
  layer.Upload();
  for (float y : layer.Run(0, 64, GemmGeluTile::kAuto)) EXPECT_EQ(y, 448 * 0.25f);
}

// What is refused before any CUDA call: no device is needed.
TEST(GemmGeluParamsTest, RefusesWhatTheKernelDoesNotTake) {
  alignas(16) char memory[32] = {};
  GemmGeluParams good;
  good.N = 8;
  good.K = 8;
  good.x = good.weight = good.y = memory;
  good.bias = reinterpret_cast<const float*>(memory);
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
  params = good;
  params.fp8 = true;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("multiples of 16"));
  params.N = params.K = 16;
  for (float scale : {0.f, 3.f, -1.f, std::numeric_limits<float>::quiet_NaN()}) {
    params.y_scale = scale;
    EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("not a power of two"));
  }
  params.y_scale = 0.5f;
  params.M = 1;
  EXPECT_THAT(LaunchGemmGelu(params, nullptr).message(), HasSubstr("without scales"));
}

}  // namespace
}  // namespace lion::cuda
