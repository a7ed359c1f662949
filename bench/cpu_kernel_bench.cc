// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The CPU engine's kernels, one thread, with Google Benchmark:
//
//   build/release/bin/cpu_kernel_bench
//   build/release/bin/cpu_kernel_bench --benchmark_filter=Attention
//   build/release/bin/cpu_kernel_bench --short          each a few times: that it runs
//
// Sizes are those of 384 x 6 and 768 x 12 with 12 heads. "roof" is the share of what bounds a kernel, measured first:
// products and attention by multiply-adds (the fastest product of the dtype here), rows by the bytes they move (memcpy
// over as large a block). Each kernel's answer is checked against its reference before it is timed.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/compute_pool.h"
#include "model/kernels/cpu/attention.h"
#include "model/kernels/cpu/attention_reference.h"
#include "model/kernels/cpu/rows.h"
#include "model/kernels/cpu/rows_reference.h"
#include "model/linear.h"

namespace lion {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "cpu_kernel_bench: %s\n", what.c_str());
  std::exit(1);
}

std::vector<float> Normal(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

std::vector<uint16_t> Narrow(const std::vector<float>& x) {
  std::vector<uint16_t> y(x.size());
  ToBFloat16(x.data(), y.data(), static_cast<int64_t>(x.size()));
  return y;
}

double Seconds(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Fastest(const std::function<void()>& fn) {
  fn();
  double fastest = 1e9;
  for (int repeat = 0; repeat < 20; ++repeat) fastest = std::min(fastest, Seconds(fn));
  return fastest;
}

// Products run on a worker, as in the engine.
ComputePool& Pool() {
  static ComputePool& pool = *new ComputePool(ComputePool::Options{.num_threads = 1});
  return pool;
}

void OnWorker(const std::function<void()>& fn) {
  const absl::Status status = Pool().Run(1, [&](int, int) { fn(); });
  if (!status.ok()) Die(status.ToString());
}

struct ProductCase {
  std::unique_ptr<Linear> linear;
  std::vector<char> x;
};

ProductCase MakeProduct(int64_t N, int64_t K, DType dtype) {
  ProductCase c;
  OnWorker([&] { c.linear = Linear::Pack(Normal(N * K, 1).data(), Normal(N, 2).data(), N, K, dtype); });
  c.x.assign(2 * Linear::kMaxTileRows * K * 4, 0);
  const std::vector<float> values = Normal(Linear::kMaxTileRows * K, 3);
  if (dtype == DType::kFloat32) {
    std::memcpy(c.x.data(), values.data(), values.size() * 4);
  } else if (dtype == DType::kBFloat16) {
    std::memcpy(c.x.data(), Narrow(values).data(), values.size() * 2);
  } else {
    for (size_t i = 0; i < values.size(); ++i) c.x[i] = static_cast<char>(std::clamp(values[i] * 30, -127.f, 127.f));
  }
  return c;
}

// Operations a second of the fastest product of a dtype.
double ProductRoof(DType dtype) {
  static double roofs[8] = {};
  double& roof = roofs[static_cast<int>(dtype)];
  if (roof > 0) return roof;
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{1152, 384}, {384, 1536}, {768, 768}, {2304, 768}}) {
    const ProductCase c = MakeProduct(N, K, dtype);
    const double row_operations = 2.0 * static_cast<double>(N * K);
    OnWorker([&] {
      for (int64_t rows : {int64_t{256}, int64_t{512}}) {
        const double seconds = Fastest([&] { c.linear->Run(c.x.data(), rows, [](int64_t, int64_t, const void*) {}); });
        roof = std::max(roof, static_cast<double>(rows) * row_operations / seconds);
      }
    });
  }
  return roof;
}

// Bytes a second, read and written, of memcpy over blocks of so many bytes.
double CopyRoof(int64_t bytes) {
  std::vector<char> from(bytes, 1);
  std::vector<char> to(bytes);
  const double seconds = Fastest([&] {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::DoNotOptimize(to.data());
  });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

void SetRoof(benchmark::State& state, double work, double roof) {
  state.counters["roof"] = benchmark::Counter(work / roof, benchmark::Counter::kIsIterationInvariantRate);
}

void Product(benchmark::State& state, DType dtype, int64_t N, int64_t K) {
  const double roof = ProductRoof(dtype);
  const ProductCase c = MakeProduct(N, K, dtype);
  const int64_t rows = state.range(0);
  OnWorker([&] {
    for (auto _ : state) c.linear->Run(c.x.data(), rows, [](int64_t, int64_t, const void*) {});
  });
  const double operations = 2.0 * static_cast<double>(rows * N * K);
  state.counters["ops"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
  SetRoof(state, operations, roof);
}

// One head over one row.
void Attention(benchmark::State& state, DType dtype, Variant variant, ComputeMode mode, int C) {
  const double roof = ProductRoof(dtype);
  const int64_t L = state.range(0);
  const int D = static_cast<int>(state.range(1));
  const std::vector<float> qkv = Normal((3 * L + kAttentionBlock) * D, 1);
  const std::vector<uint16_t> narrow = Narrow(qkv);
  std::vector<float> log_a = Normal(L, 2);
  for (float& a : log_a) a = -0.05f * std::fabs(a);
  std::vector<float> y(L * D);
  AttentionParams p;
  p.L = L;
  p.D = D;
  p.bfloat16 = dtype != DType::kFloat32;
  const void* base = p.bfloat16 ? static_cast<const void*>(narrow.data()) : qkv.data();
  const int64_t part = L * D * (p.bfloat16 ? 2 : 4);
  p.q = base;
  p.k = static_cast<const char*>(base) + part;
  p.v = static_cast<const char*>(base) + 2 * part;
  p.stride = D;
  if (variant == Variant::kS) {
    p.log_a = log_a.data();
    p.log_a_stride = 1;
  }
  p.y = y.data();
  p.y_stride = D;
  p.mode = mode;
  p.C = C;
  AttentionScratch scratch;
  AttendHead(p, &scratch);
  std::vector<double> expected(y.size());
  AttendHeadReference(p, expected.data());
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    error += std::pow(y[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  if (!(std::sqrt(error / size) <= (p.bfloat16 ? 1e-2 : 1e-5))) {
    state.SkipWithError("wrong answer");
    return;
  }
  for (auto _ : state) AttendHead(p, &scratch);
  // What the form must multiply: scores and their product with v, and two states in and out.
  const double rows = static_cast<double>(L);
  const double scores = mode == ComputeMode::kParallel ? rows : std::min<double>(rows, C);
  const double operations =
      variant == Variant::kLit && mode != ComputeMode::kParallel
          ? 4.0 * rows * D * D
          : 4.0 * rows * D * scores + (mode == ComputeMode::kParallel || L <= C ? 0 : 8.0 * rows * D * D);
  state.counters["ops"] = benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["tokens"] = benchmark::Counter(rows, benchmark::Counter::kIsIterationInvariantRate);
  SetRoof(state, operations, roof);
}

// fn(row) over many rows of n values, bytes moved each.
void Rows(benchmark::State& state, int64_t bytes, const std::function<void(int64_t row)>& fn) {
  const int64_t rows = 64;
  const double roof = CopyRoof(bytes * rows / 2);
  for (auto _ : state) {
    for (int64_t r = 0; r < rows; ++r) fn(r);
    benchmark::ClobberMemory();
  }
  const auto moved = static_cast<double>(bytes * rows);
  state.counters["bytes"] = benchmark::Counter(moved, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["rows"] = benchmark::Counter(static_cast<double>(rows), benchmark::Counter::kIsIterationInvariantRate);
  SetRoof(state, moved, roof);
}

void GeluFloat32(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> x = Normal(64 * n, 1);
  std::vector<float> y(x.size());
  GeluErf(x.data(), y.data(), n);
  for (int64_t i = 0; i < n; ++i) {
    if (!(std::fabs(y[i] - GeluErfReference(x[i])) < 1e-6)) return state.SkipWithError("wrong answer");
  }
  Rows(state, 8 * n, [&](int64_t r) { GeluErf(&x[r * n], &y[r * n], n); });
}

void GeluBFloat16(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<uint16_t> x = Narrow(Normal(64 * n, 1));
  std::vector<uint16_t> y(x.size());
  std::vector<float> in(n);
  std::vector<float> out(n);
  GeluErf(x.data(), y.data(), n);
  FromBFloat16(x.data(), in.data(), n);
  FromBFloat16(y.data(), out.data(), n);
  for (int64_t i = 0; i < n; ++i) {
    if (!(std::fabs(out[i] - GeluErfReference(in[i])) < 0.02)) return state.SkipWithError("wrong answer");
  }
  Rows(state, 4 * n, [&](int64_t r) { GeluErf(&x[r * n], &y[r * n], n); });
}

void GeluInt8(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<uint16_t> x = Narrow(Normal(64 * n, 1));
  const std::vector<float> bias = Normal(n, 2);
  std::vector<float> values(n);
  std::vector<uint8_t> q(64 * n);
  float scale = 0;
  GeluErfQuantize({x.data(), 0.5f, bias.data()}, n, values.data(), {q.data(), 0, &scale});
  for (int64_t i = 0; i < n; ++i) {
    if (!(std::fabs(static_cast<float>(static_cast<int8_t>(q[i])) * scale - values[i]) <= 0.51f * scale)) {
      return state.SkipWithError("wrong answer");
    }
  }
  Rows(state, 3 * n, [&](int64_t r) {
    GeluErfQuantize({&x[r * n], 0.5f, bias.data()}, n, values.data(), {&q[r * n], 0, &scale});
  });
}

void AddNorm(benchmark::State& state) {
  const int64_t n = state.range(0);
  std::vector<float> x = Normal(64 * n, 1);
  const std::vector<uint16_t> residual = Narrow(Normal(64 * n, 2));
  const std::vector<float> gamma(n, 1.f);
  const std::vector<float> beta(n, 0.f);
  AddLayerNorm(x.data(), residual.data(), gamma.data(), beta.data(), 1e-12f, n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i] / static_cast<double>(n);
  if (!(std::fabs(sum - 1) < 1e-3)) return state.SkipWithError("wrong answer");
  Rows(state, 10 * n,
       [&](int64_t r) { AddLayerNorm(&x[r * n], &residual[r * n], gamma.data(), beta.data(), 1e-12f, n); });
}

void Gates(benchmark::State& state) {
  const int64_t E = state.range(0);
  const int64_t T = 64;
  const std::vector<float> x = Normal(T * E, 1);
  std::vector<float> weight = Normal(E * 16, 2);
  for (float& w : weight) w /= std::sqrt(static_cast<float>(E));
  const std::vector<float> bias(16, -3.f);
  std::vector<float> log_a(12 * T);
  const double roof = ProductRoof(DType::kFloat32);
  TextLogDecays(x.data(), T, E, weight.data(), bias.data(), 12, log_a.data(), T);
  double z = bias[0];
  for (int64_t e = 0; e < E; ++e) z += static_cast<double>(x[e]) * weight[e * 16];
  if (!(std::fabs(log_a[0] - TextLogDecayReference(z)) < 1e-4)) return state.SkipWithError("wrong answer");
  for (auto _ : state) TextLogDecays(x.data(), T, E, weight.data(), bias.data(), 12, log_a.data(), T);
  const double operations = 2.0 * static_cast<double>(T * E * 16);
  state.counters["tokens"] = benchmark::Counter(static_cast<double>(T), benchmark::Counter::kIsIterationInvariantRate);
  SetRoof(state, operations, roof);
}

void Register() {
  const std::pair<const char*, std::pair<int64_t, int64_t>> shapes[] = {
      {"384_qkv", {1152, 384}}, {"384_down", {384, 1536}}, {"768_up", {3072, 768}}, {"768_down", {768, 3072}}};
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8}) {
    const std::string name(Name(dtype));
    for (const auto& [shape, size] : shapes) {
      benchmark::RegisterBenchmark(
          ("Product/" + name + "/" + shape).c_str(),
          [dtype, N = size.first, K = size.second](benchmark::State& state) { Product(state, dtype, N, K); })
          ->Arg(16)
          ->Arg(128)
          ->Arg(512)
          ->UseRealTime();
    }
    if (dtype == DType::kInt8) continue;  // attends in bfloat16
    const struct {
      const char* form;
      Variant variant;
      ComputeMode mode;
      int C;
    } forms[] = {{"parallel", Variant::kS, ComputeMode::kParallel, 0},
                 {"chunked_16", Variant::kS, ComputeMode::kChunked, 16},
                 {"chunked_32", Variant::kS, ComputeMode::kChunked, 32},
                 {"chunked_64", Variant::kS, ComputeMode::kChunked, 64},
                 {"lit_chunked_32", Variant::kLit, ComputeMode::kChunked, 32}};
    for (const auto& form : forms) {
      auto* bench = benchmark::RegisterBenchmark(
          ("Attention/" + name + "/" + form.form).c_str(),
          [dtype, form](benchmark::State& state) { Attention(state, dtype, form.variant, form.mode, form.C); });
      for (int64_t D : {32, 64}) {
        for (int64_t L : {64, 512}) bench->Args({L, D});
      }
    }
  }
  for (int64_t n : {1536, 3072}) {
    benchmark::RegisterBenchmark("Gelu/float32", GeluFloat32)->Arg(n);
    benchmark::RegisterBenchmark("Gelu/bfloat16", GeluBFloat16)->Arg(n);
    benchmark::RegisterBenchmark("Gelu/int8", GeluInt8)->Arg(n);
  }
  for (int64_t n : {384, 768}) {
    benchmark::RegisterBenchmark("AddLayerNorm/bfloat16", AddNorm)->Arg(n);
    benchmark::RegisterBenchmark("Gates", Gates)->Arg(n);
  }
}

// Google Benchmark's own reporter, and whether a kernel was wrong.
class Reporter : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) failed_ |= run.error_occurred;
    ConsoleReporter::ReportRuns(runs);
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  std::vector<char*> args(argv, argv + argc);
  std::string min_time = "--benchmark_min_time=0.001";
  std::string filter = "--benchmark_filter=384|/512/32|Gates|Norm|Gelu.*1536";
  for (char*& arg : args) {
    if (std::strcmp(arg, "--short") != 0) continue;
    arg = min_time.data();
    args.push_back(filter.data());
    break;
  }
  int count = static_cast<int>(args.size());
  benchmark::Initialize(&count, args.data());
  if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 1;
  lion::Register();
  lion::Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return reporter.failed() ? 1 : 0;
}
