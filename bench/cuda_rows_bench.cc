// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What a layer of BERT base's size does beside attention, kernel by kernel, against the device's roofs: bytes a second
// of a copy on the device for the rows, operations a second of a large matrix product for the products.
//
//   build/release-cuda/bin/cuda_rows_bench            65,536 tokens
//   build/release-cuda/bin/cuda_rows_bench --short    2,048 tokens, to see that it runs
//
// Each kernel's answer is checked against fp64 on a sample of elements, to a hundredth of its size and what the type
// loses (the tests have the derived bounds); exits 1 if one is off. Times are the median of the repeats (least to
// most).

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/cuda_events.h"
#include "model/cuda_gelu_linear.h"
#include "model/cuda_linear.h"
#include "model/cuda_memory.h"
#include "model/kernels/cpu/rows_reference.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion::bench {
namespace {

using cuda::ElementType;

constexpr int64_t kE = 768;
constexpr int64_t kFF = 3072;
constexpr int kHeads = 12;
constexpr int64_t kVocabulary = 30522;
constexpr int64_t kRoofWidth = 8192;  // of the matrix product that sets the roof
constexpr int64_t kSampleStep = 1009;
constexpr int kBurst = 4;  // launches between two events: one behind the other, as in a layer

template <class T>
T Get(absl::StatusOr<T> value) {
  Require(value.status());
  return *std::move(value);
}

// Where the values of one array stand: on the device in their type, and a period of them on the host as the type has
// them. Element i has the value Host(i).
class Values {
 public:
  Values(int64_t n, ElementType type, uint32_t seed, float scale = 1) : period_(std::min(n, kPeriod)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, scale);
    for (float& v : period_) v = normal(random);
    std::vector<uint16_t> bits(period_.size());
    const int64_t size = type == ElementType::kFloat32 ? 4 : 2;
    for (size_t i = 0; i < period_.size() && size == 2; ++i) {
      const auto rounded = static_cast<__nv_bfloat16_raw>(__float2bfloat16(period_[i]));
      bits[i] = rounded.x;
      period_[i] = __bfloat162float(rounded);
    }
    Fill(n, size, size == 4 ? static_cast<const void*>(period_.data()) : bits.data());
  }

  // e4m3 bits of a normal distribution that fills its range.
  struct Fp8 {};
  Values(int64_t n, Fp8, uint32_t seed) : period_(std::min(n, kPeriod)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 100);
    std::vector<uint8_t> bits(period_.size());
    for (size_t i = 0; i < period_.size(); ++i) {
      bits[i] = __nv_cvt_float_to_fp8(normal(random), __NV_SATFINITE, __NV_E4M3);
      period_[i] = __half2float(__nv_cvt_fp8_to_halfraw(bits[i], __NV_E4M3));
    }
    Fill(n, 1, bits.data());
  }

  double Host(int64_t i) const { return period_[i % static_cast<int64_t>(period_.size())]; }
  const std::vector<float>& host() const { return period_; }
  void* data() const { return buffer_.data(); }
  float* floats() const { return buffer_.At<float>(0); }

 private:
  static constexpr int64_t kPeriod = (int64_t{1} << 22) + 8;

  void Fill(int64_t n, int64_t size, const void* period) {
    buffer_ = Get(DeviceBuffer::Allocate(n * size));
    const auto count = static_cast<int64_t>(period_.size());
    for (int64_t i = 0; i < n; i += count) {
      Require(cudaMemcpy(buffer_.At<char>(i * size), period, std::min(count, n - i) * size, cudaMemcpyHostToDevice));
    }
  }

  std::vector<float> period_;
  DeviceBuffer buffer_;
};

double ReadBFloat16(const DeviceBuffer& buffer, int64_t i) {
  __nv_bfloat16_raw raw;
  Require(cudaMemcpy(&raw, buffer.At<uint16_t>(i * 2), 2, cudaMemcpyDeviceToHost));
  return __bfloat162float(raw);
}

double ReadFp8(const DeviceBuffer& buffer, int64_t i) {
  uint8_t bits = 0;
  Require(cudaMemcpy(&bits, buffer.At<uint8_t>(i), 1, cudaMemcpyDeviceToHost));
  return __half2float(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3));
}

class Bench {
 public:
  Bench(int64_t T, int repeats) : T_(T), repeats_(repeats), lt_(Get(CublasLt::Create())) {}

  // How fast the device copies and multiplies.
  void MeasureRoofs() {
    const int64_t bytes = T_ * kFF * 2;
    const DeviceBuffer from = Get(DeviceBuffer::Allocate(bytes));
    const DeviceBuffer to = Get(DeviceBuffer::Allocate(bytes));
    const double copy =
        Time([&] { Require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr)); })[0];
    bytes_a_ms_ = 2.0 * static_cast<double>(bytes) / copy;
    const Values x(kRoofWidth * kRoofWidth, ElementType::kBFloat16, 1);
    const Values w(kRoofWidth * kRoofWidth, ElementType::kFloat32, 2, 0.01f);
    const DeviceBuffer y = Get(DeviceBuffer::Allocate(kRoofWidth * kRoofWidth * 2));
    std::vector<float> host(kRoofWidth * kRoofWidth);
    for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(w.Host(static_cast<int64_t>(i)));
    const std::unique_ptr<CudaLinear> linear = Get(CudaLinear::Create(
        lt_.get(), {.N = kRoofWidth, .K = kRoofWidth, .type = ElementType::kBFloat16}, host.data(), nullptr));
    const double product =
        Time([&] { Require(linear->Run({.M = kRoofWidth, .x = x.data(), .y = y.data()}, nullptr)); })[0];
    operations_a_ms_ = 2.0 * kRoofWidth * kRoofWidth * kRoofWidth / product;
    std::printf("roofs: copies %.2f TB/s, a bfloat16 product of 8192^3 %.0f TFLOP/s\n\n", bytes_a_ms_ / 1e9,
                operations_a_ms_ / 1e9);
    std::printf("%-44s %8s %19s %8s %9s %6s\n", "kernel", "ms", "", "TB/s", "TFLOP/s", "roof");
  }

  void Norms() {
    const Values x(T_ * kE, ElementType::kBFloat16, 1);
    const Values gamma(kE, ElementType::kFloat32, 2);
    const Values beta(kE, ElementType::kFloat32, 3);
    const Values weight(kHeads * kE, ElementType::kFloat32, 4, 1 / std::sqrt(static_cast<float>(kE)));
    const std::vector<float> packed = cuda::PackGates(weight.host().data(), kHeads, kE);
    const DeviceBuffer device_packed = Get(Upload(packed.data(), static_cast<int64_t>(packed.size()) * 4));
    const Values bias(kHeads, ElementType::kFloat32, 5);
    const DeviceBuffer out = Get(DeviceBuffer::Allocate(T_ * kE * 2));
    const DeviceBuffer log_a = Get(DeviceBuffer::Allocate(T_ * kHeads * 4));
    const DeviceBuffer fp8 = Get(DeviceBuffer::Allocate(T_ * kE));
    const DeviceBuffer scales = Get(DeviceBuffer::Allocate(T_ * 4));
    cuda::NormParams norm;
    norm.gamma = gamma.floats();
    norm.beta = beta.floats();
    norm.eps = 1e-12f;
    norm.true_width = norm.num_true = kE;
    cuda::GateParams gates;
    gates.H = kHeads;
    gates.weight = device_packed.At<float>(0);
    gates.bias = bias.floats();
    gates.log_a = log_a.At<float>(0);
    const double row = static_cast<double>(T_ * kE);
    for (const auto& [name, with_out, with_fp8, with_gates] :
         {std::tuple<const char*, bool, bool, bool>{"LayerNorm", true, false, false},
          {"LayerNorm, gates", true, false, true},
          {"LayerNorm to e4m3", false, true, false},
          {"LayerNorm, e4m3 beside", true, true, false},
          {"LayerNorm, gates, e4m3 beside", true, true, true}}) {
      cuda::LayerNormParams params;
      params.T = T_;
      params.W = kE;
      params.x = x.data();
      params.norm = norm;
      if (with_out) params.out = out.data();
      if (with_fp8) params.fp8 = {fp8.At<uint8_t>(0), scales.At<float>(0)};
      if (with_gates) params.gates = gates;
      Report(name, row * (2 + (with_out ? 2 : 0) + (with_fp8 ? 1 : 0)), with_gates ? 2 * row * kHeads : 0, false,
             [&] { Require(cuda::LaunchLayerNorm(params, nullptr)); });
    }
    for (int64_t t = 0; t < T_; t += kSampleStep) {
      std::vector<double> values(kE);
      for (int64_t e = 0; e < kE; ++e) values[e] = x.Host(t * kE + e);
      const std::vector<double> g(gamma.host().begin(), gamma.host().end());
      const std::vector<double> b(beta.host().begin(), beta.host().end());
      const std::vector<double> expected = LayerNormReference(values, g, b, norm.eps);
      Check("LayerNorm", ReadBFloat16(out, t * kE + t % kE), expected[t % kE], 0.01);
      const int64_t h = t % kHeads;
      double z = bias.Host(h);
      for (int64_t e = 0; e < kE; ++e) z += expected[e] * weight.Host(h * kE + e);
      float gate = 0;
      Require(cudaMemcpy(&gate, log_a.At<float>((t * kHeads + h) * 4), 4, cudaMemcpyDeviceToHost));
      Check("gates", gate, TextLogDecayReference(z), 1e-4);
    }
    cuda::QuantizeParams quantize;
    quantize.T = T_;
    quantize.W = kE;
    quantize.x = x.data();
    quantize.fp8 = {fp8.At<uint8_t>(0), scales.At<float>(0)};
    Report("rows to e4m3", row * 3, 0, false, [&] { Require(cuda::LaunchQuantize(quantize, nullptr)); });

    std::vector<uint32_t> ids(T_);
    for (int64_t t = 0; t < T_; ++t) ids[t] = static_cast<uint32_t>(t * 7919 % kVocabulary);
    const DeviceBuffer device_ids = Get(Upload(ids.data(), T_ * 4));
    const DeviceBuffer type_ids = Get(DeviceBuffer::Allocate(T_ * 4));
    const Values words(kVocabulary * kE, ElementType::kFloat32, 6);
    cuda::EmbedParams embed;
    embed.T = T_;
    embed.W = kE;
    embed.ids = device_ids.At<uint32_t>(0);
    embed.type_ids = type_ids.At<uint32_t>(0);
    embed.words = words.floats();
    embed.types = gamma.floats();
    embed.norm = norm;
    embed.gates = gates;
    embed.x = out.data();
    Report("embedding, LayerNorm, gates", row * 6, 2 * row * kHeads, false,
           [&] { Require(cuda::LaunchEmbed(embed, nullptr)); });
  }

  void Products() {
    struct Product {
      const char* name;
      int64_t N;
      int64_t K;
      bool residual;
    };
    const Product products[] = {{"qkv", 3 * kE, kE, false},
                                {"out, residual", kE, kE, true},
                                {"up", kFF, kE, false},
                                {"down, residual", kE, kFF, true}};
    for (bool fp8 : {false, true}) {
      const Values x = fp8 ? Values(T_ * kFF, Values::Fp8(), 1) : Values(T_ * kFF, ElementType::kBFloat16, 1);
      const Values scales(T_, ElementType::kFloat32, 7, 0.01f);
      const Values residual(T_ * kE, ElementType::kBFloat16, 2);
      const DeviceBuffer y = Get(DeviceBuffer::Allocate(T_ * kFF * 2));
      for (const Product& product : products) {
        const char* name = product.name;
        const int64_t N = product.N;
        const int64_t K = product.K;
        const bool has_residual = product.residual;
        const Values weight(N * K, ElementType::kFloat32, 3, 1 / std::sqrt(static_cast<float>(K)));
        const Values bias(N, ElementType::kFloat32, 4);
        const double elements = static_cast<double>(T_ * K + N * K);
        const double bytes = (fp8 ? 1.0 : 2.0) * elements + static_cast<double>(T_ * N) * (has_residual ? 4 : 2);
        const double operations = 2.0 * static_cast<double>(T_) * static_cast<double>(N * K);
        const std::string full_name = std::string(fp8 ? "fp8 " : "bfloat16 ") + name;
        auto check = [&](const std::function<double(double)>& function, const std::function<double(int64_t)>& read) {
          for (int64_t t = 0; t < T_; t += kSampleStep * 8) {
            const int64_t n = t % N;
            double sum = 0;
            double squares = 0;
            for (int64_t k = 0; k < K; ++k) {
              const double term = x.Host(t * K + k) * weight.Host(n * K + k) * (fp8 ? scales.Host(t) : 1);
              sum += term;
              squares += term * term;
            }
            sum += bias.Host(n) + (has_residual ? residual.Host(t * N + n) : 0);
            // Rounded weights: 2^-4 or 2^-9 of each term, which add up as a random walk; then y's own rounding.
            Check(full_name, read(t * N + n), function(sum), fp8 ? 0.07 : 0.01,
                  (fp8 ? 0.25 : 0.01) * std::sqrt(squares) + 1e-3);
          }
        };
        {
          const std::unique_ptr<CudaLinear> linear = Get(CudaLinear::Create(
              lt_.get(), {.N = N, .K = K, .type = ElementType::kBFloat16, .fp8 = fp8, .residual = has_residual},
              weight.host().data(), bias.host().data()));
          CudaLinear::Rows rows;
          rows.M = T_;
          rows.x = x.data();
          if (fp8) rows.x_scales = scales.floats();
          if (has_residual) rows.residual = residual.data();
          rows.y = y.data();
          Report(full_name, bytes, operations, true, [&] { Require(linear->Run(rows, nullptr)); });
          check([](double z) { return z; }, [&](int64_t i) { return ReadBFloat16(y, i); });
        }
        if (N != kFF) continue;
        CudaGeluLinearOptions options;
        options.N = N;
        options.K = K;
        options.type = ElementType::kBFloat16;
        options.fp8 = fp8;
        options.y_scale = fp8 ? 0.25f : 1;
        const std::unique_ptr<CudaGeluLinear> up =
            Get(CudaGeluLinear::Create(lt_.get(), options, weight.host().data(), bias.host().data()));
        CudaGeluLinear::Rows rows;
        rows.M = T_;
        rows.x = x.data();
        if (fp8) rows.x_scales = scales.floats();
        rows.y = y.data();
        Report(full_name + ", GELU", bytes - (fp8 ? static_cast<double>(T_ * N) : 0), operations, true,
               [&] { Require(up->Run(rows, nullptr)); });
        check(GeluErfReference, [&](int64_t i) { return fp8 ? ReadFp8(y, i) * options.y_scale : ReadBFloat16(y, i); });
      }
    }
  }

  bool ok() const { return failures_ == 0; }

 private:
  // Milliseconds: the median, the least and the most.
  std::vector<double> Time(const std::function<void()>& enqueue) {
    StageTimer timer;
    std::vector<double> times;
    for (int repeat = 0; repeat < repeats_ + 1; ++repeat) {
      timer.Record("", nullptr);
      for (int i = 0; i < kBurst; ++i) enqueue();
      timer.Record("", nullptr);
      Require(cudaDeviceSynchronize());
      const double taken = timer.Take()[""] / kBurst;
      if (repeat > 0) times.push_back(taken);
    }
    return {Median(times), *std::min_element(times.begin(), times.end()),
            *std::max_element(times.begin(), times.end())};
  }

  // by_operations: the roof is the matrix product's, else the copy's.
  void Report(const std::string& name, double bytes, double operations, bool by_operations,
              const std::function<void()>& enqueue) {
    const std::vector<double> ms = Time(enqueue);
    const double share = by_operations ? operations / operations_a_ms_ / ms[0] : bytes / bytes_a_ms_ / ms[0];
    std::printf("%-44s %8.4f (%.4f to %.4f) %8.2f %9.1f %5.0f%%\n", name.c_str(), ms[0], ms[1], ms[2],
                bytes / ms[0] / 1e9, operations / ms[0] / 1e9, 100 * share);
  }

  void Check(const std::string& name, double actual, double expected, double relative, double more = 1e-3) {
    if (std::fabs(actual - expected) <= relative * std::fabs(expected) + more) return;
    std::printf("%s: WRONG: %g, expected %g\n", name.c_str(), actual, expected);
    ++failures_;
  }

  const int64_t T_;
  const int repeats_;
  const std::unique_ptr<CublasLt> lt_;
  double bytes_a_ms_ = 1;
  double operations_a_ms_ = 1;
  int failures_ = 0;
};

int Main(bool is_short) {
  cudaDeviceProp properties;
  Require(cudaGetDeviceProperties(&properties, 0));
  const int64_t T = is_short ? 2048 : 65536;
  std::printf("%s; %lld tokens, E %lld, FF %lld, %d heads\n", properties.name, static_cast<long long>(T),
              static_cast<long long>(kE), static_cast<long long>(kFF), kHeads);
  Bench bench(T, is_short ? 2 : 15);
  bench.MeasureRoofs();
  bench.Norms();
  bench.Products();
  return bench.ok() ? 0 : 1;
}

}  // namespace
}  // namespace lion::bench

int main(int argc, char** argv) { return lion::bench::Main(argc > 1 && std::strcmp(argv[1], "--short") == 0); }
