// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The attention of one layer on the GPU, kernel by kernel, against the time that its operands take to be read and its
// answers to be written once:
//
//   build/release-cuda/bin/cuda_attention_bench            LION-LIT, D and S at lengths 128 ... 1,048,576; bfloat16
//   build/release-cuda/bin/cuda_attention_bench 2048       that length alone
//   build/release-cuda/bin/cuda_attention_bench --short    few tokens, for a test that it runs
//
// The floor is q, k, v and y (and LION-S's gates) at the speed at which this device copies memory in the same run.
// Answers are checked against the formula in fp64 on samples of tokens: decays are such that what lies further off
// than the sample's window weighs less than 1e-12. Fails where an answer is wrong.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/cuda_events.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_kernels.h"
#include "model/kernels/cuda/attention_launch.h"

namespace lion {
namespace {

using bench::Median;
using bench::Require;

constexpr int kHeads = 12;
constexpr int kWidth = 64;
constexpr int64_t kTokenValues = 3 * kHeads * kWidth;
// Tokens of random values; longer batches repeat them.
constexpr int64_t kPeriod = 8192;
constexpr int64_t kWindow = 1024;

struct BenchOptions {
  int64_t batch_tokens = 65536;
  std::vector<int64_t> lengths = {128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576};
  int repeats = 15;
};

DeviceBuffer Allocate(int64_t bytes) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(bytes);
  Require(buffer.status());
  return *std::move(buffer);
}

template <class T>
DeviceBuffer Send(const std::vector<T>& values) {
  absl::StatusOr<DeviceBuffer> buffer = Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  Require(buffer.status());
  return *std::move(buffer);
}

// The median milliseconds of what work enqueues.
double Time(int repeats, const std::function<void()>& work) {
  cudaEvent_t start;
  cudaEvent_t end;
  Require(cudaEventCreate(&start));
  Require(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    Require(cudaEventRecord(start, nullptr));
    work();
    Require(cudaEventRecord(end, nullptr));
    Require(cudaEventSynchronize(end));
    float ms = 0;
    Require(cudaEventElapsedTime(&ms, start, end));
    if (i >= 2) times.push_back(ms);  // the first ones warm up
  }
  Require(cudaEventDestroy(start));
  Require(cudaEventDestroy(end));
  return Median(std::move(times));
}

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// The operands of all lengths: kPeriod tokens over and over.
struct Operands {
  explicit Operands(int64_t max_tokens) : qkv(Allocate(max_tokens * kTokenValues * 2)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 1);
    values.resize(kPeriod * kTokenValues);
    for (uint16_t& v : values) v = static_cast<__nv_bfloat16_raw>(__float2bfloat16(normal(random))).x;
    log_a.resize(kPeriod * kHeads);
    std::uniform_real_distribution<float> uniform(0.02f, 0.12f);
    for (float& a : log_a) a = -uniform(random);
    head_log_a.resize(kHeads);
    for (int h = 0; h < kHeads; ++h) head_log_a[h] = -0.03f * static_cast<float>(1 + h % 4);
    std::vector<float> all_log_a(max_tokens * kHeads);
    for (size_t i = 0; i < all_log_a.size(); ++i) all_log_a[i] = log_a[i % log_a.size()];
    device_log_a = Send(all_log_a);
    device_head_log_a = Send(head_log_a);
    const DeviceBuffer period = Send(values);
    for (int64_t t = 0; t < max_tokens; t += kPeriod) {
      Require(cudaMemcpy(qkv.At<char>(t * kTokenValues * 2), period.data(),
                         std::min(kPeriod, max_tokens - t) * kTokenValues * 2, cudaMemcpyDeviceToDevice));
    }
  }

  double At(int part, int64_t token, int head, int column) const {
    return Widen(values[(token % kPeriod) * kTokenValues + (part * kHeads + head) * kWidth + column]);
  }
  double LogA(Variant variant, int64_t token, int head) const {
    if (variant == Variant::kLit) return 0;
    return variant == Variant::kD ? head_log_a[head] : log_a[(token % kPeriod) * kHeads + head];
  }

  std::vector<uint16_t> values;  // (kPeriod, 3, H, D)
  std::vector<float> log_a;      // (kPeriod, H)
  std::vector<float> head_log_a;
  DeviceBuffer qkv;
  DeviceBuffer device_log_a;
  DeviceBuffer device_head_log_a;
};

// y of one token and head in fp64.
std::vector<double> Expected(const Operands& x, Variant variant, int64_t row_start, int64_t L, int64_t i, int head) {
  std::vector<double> y(kWidth, 0.0);
  auto add = [&](int64_t j, double weight) {
    double score = 0;
    for (int d = 0; d < kWidth; ++d) score += x.At(0, row_start + i, head, d) * x.At(1, row_start + j, head, d);
    for (int d = 0; d < kWidth; ++d) y[d] += weight * score / 8 * x.At(2, row_start + j, head, d);
  };
  if (variant == Variant::kLit) {
    // Rows start at whole periods or lie within one: every token that repeats counts as often.
    const int64_t whole = L / kPeriod;
    for (int64_t j = 0; j < std::min(L, kPeriod); ++j) {
      add(j, static_cast<double>(std::max<int64_t>(whole, 1) + (whole > 0 && j < L % kPeriod ? 1 : 0)));
    }
    return y;
  }
  add(i, 1);
  double log_m = 0;
  for (int64_t j = i - 1; j >= std::max<int64_t>(0, i - kWindow); --j) {
    add(j, std::exp(log_m += x.LogA(variant, row_start + j, head)));
  }
  log_m = 0;
  for (int64_t j = i + 1; j < std::min(L, i + kWindow); ++j) {
    add(j, std::exp(log_m += x.LogA(variant, row_start + j, head)));
  }
  return y;
}

// The largest error on samples of tokens, over the answers' rms. bfloat16's own rounding is 1/512.
double CheckedError(const Operands& x, Variant variant, int64_t L, int64_t T, const DeviceBuffer& y) {
  std::mt19937_64 random(3);
  double error = 0;
  double squares = 0;
  int64_t count = 0;
  for (int sample = 0; sample < 48; ++sample) {
    const int64_t row = static_cast<int64_t>(random() % static_cast<uint64_t>(T / L));
    const int head = static_cast<int>(random() % kHeads);
    // Ends and the borders of tiles among them.
    int64_t i = static_cast<int64_t>(random() % static_cast<uint64_t>(L));
    if (sample % 4 == 0) i = i / 64 * 64;
    if (sample == 1) i = L - 1;
    const std::vector<double> expected = Expected(x, variant, row * L, L, i, head);
    std::vector<uint16_t> got(kWidth);
    Require(cudaMemcpy(got.data(), y.At<uint16_t>(((row * L + i) * kHeads + head) * kWidth * 2), kWidth * 2,
                       cudaMemcpyDeviceToHost));
    for (int d = 0; d < kWidth; ++d) {
      const double difference = std::fabs(Widen(got[d]) - expected[d]);
      error = difference <= error ? error : difference;  // NaN is the largest
      squares += expected[d] * expected[d];
      ++count;
    }
  }
  return error / std::sqrt(squares / static_cast<double>(count));
}

// Bytes a millisecond that a copy within the device moves, both ways counted.
double CopySpeed() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const DeviceBuffer from = Allocate(kBytes);
  const DeviceBuffer to = Allocate(kBytes);
  const double ms =
      Time(5, [&] { Require(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, nullptr)); });
  return 2.0 * kBytes / ms;
}

int Main(const BenchOptions& options) {
  cudaDeviceProp properties;
  Require(cudaGetDeviceProperties(&properties, 0));
  const double speed = CopySpeed();
  std::printf(
      "%s; one layer's attention, %d heads of %d, bfloat16, batches of %lld tokens or one longer row; copies %.2f "
      "TB/s\n",
      properties.name, kHeads, kWidth, static_cast<long long>(options.batch_tokens), speed / 1e9);
  const int64_t max_tokens =
      std::max(options.batch_tokens, *std::max_element(options.lengths.begin(), options.lengths.end()));
  const Operands x(max_tokens);
  const DeviceBuffer y = Allocate(max_tokens * kHeads * kWidth * 2);
  std::printf("%-9s %-8s %9s %8s %8s %8s %8s %8s %7s %6s %s\n", "variant", "form", "length", "ms", "sums", "scan",
              "outputs", "ms/65536", "GB/s", "share", "error");
  int failures = 0;
  for (const Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
    for (const int64_t L : options.lengths) {
      const int64_t num_rows = std::max<int64_t>(1, options.batch_tokens / L);
      const int64_t T = num_rows * L;
      for (const ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
        if (mode == ComputeMode::kParallel && (variant == Variant::kLit || L > 512)) continue;
        const cuda::AttentionPlan plan = cuda::PlanAttention(
            std::vector<cuda::PlanRow>(num_rows, cuda::PlanRow{L, mode, 0}), variant != Variant::kLit);
        const DeviceBuffer segments = Send(plan.segments);
        const DeviceBuffer runs = Send(plan.runs);
        const DeviceBuffer counts = Send(
            std::vector<int32_t>{static_cast<int32_t>(plan.segments.size()), static_cast<int32_t>(plan.runs.size())});
        const DeviceBuffer states =
            Allocate(std::max<int64_t>(4, cuda::AttentionStateBytes(plan.num_states, kHeads, kWidth)));
        cuda::AttentionParams p;
        p.type = cuda::ElementType::kBFloat16;
        p.H = kHeads;
        p.D = kWidth;
        p.scale = 0.125f;
        p.T = T;
        p.qkv = x.qkv.data();
        if (variant == Variant::kD) p.log_a = x.device_head_log_a.At<float>(0);
        if (variant == Variant::kS) p.log_a = x.device_log_a.At<float>(0), p.log_a_token_stride = kHeads;
        p.y = y.data();
        p.segments = segments.At<cuda::Segment>(0);
        p.runs = runs.At<cuda::StateRun>(0);
        p.counts = counts.At<int32_t>(0);
        p.max_segments = static_cast<int>(plan.segments.size());
        p.max_runs = static_cast<int>(plan.runs.size());
        p.max_states = plan.num_states;
        p.plain = false;
        p.states = states.data();

        auto one = [&](cuda::TensorKernel kernel) {
          if (kernel != cuda::TensorKernel::kOutputs && p.max_runs == 0) return 0.0;
          return Time(options.repeats, [&] {
            cuda::LaunchFailure failure;
            cuda::EnqueueTensorKernel(kernel, p, nullptr, &failure);
            Require(failure.error);
          });
        };
        const double sums = one(cuda::TensorKernel::kSums);
        const double scan = one(cuda::TensorKernel::kScan);
        const double outputs = one(cuda::TensorKernel::kOutputs);
        Require(cudaMemset(y.data(), 0xFF, T * kHeads * kWidth * 2));  // NaN
        const double ms = Time(options.repeats, [&] { Require(cuda::LaunchAttention(p, nullptr)); });
        const double error = CheckedError(x, variant, L, T, y);
        // Twice bfloat16's rounding of y at 6 times its rms, which samples of this size reach.
        const bool right = error <= 2.0 * 6 / 256;
        if (!right) ++failures;
        const double bytes = static_cast<double>(T) * (kTokenValues * 2 + kHeads * kWidth * 2) +
                             (variant == Variant::kS ? static_cast<double>(T) * kHeads * 4 : 0);
        std::printf("%-9s %-8s %9lld %8.4f %8.4f %8.4f %8.4f %8.4f %7.0f %5.1f%% %.4f%s\n",
                    variant == Variant::kLit ? "lion-lit"
                    : variant == Variant::kD ? "lion-d"
                                             : "lion-s",
                    mode == ComputeMode::kParallel ? "parallel" : "chunked", static_cast<long long>(L), ms, sums, scan,
                    outputs, ms * 65536 / static_cast<double>(T), bytes / ms / 1e6, 100 * bytes / speed / ms, error,
                    right ? "" : "  WRONG");
        std::fflush(stdout);
      }
    }
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  lion::BenchOptions options;
  const int64_t length = argc == 2 ? std::atoll(argv[1]) : 0;
  if (argc == 2 && std::strcmp(argv[1], "--short") == 0) {
    options.batch_tokens = 4096;
    options.lengths = {128, 1024, 8192, 16384};
    options.repeats = 2;
  } else if (length > 0) {
    options.lengths = {length};
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: %s [--short | LENGTH]\n", argv[0]);
    return 2;
  }
  return lion::Main(options);
}
