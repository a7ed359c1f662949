// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The CUDA engine on a random LION-S of BERT base's size (12 layers x 768, 12 heads), against the floor that its matrix
// products alone set in the same run:
//
//   build/release-cuda/bin/cuda_engine_bench            lengths 128 ... 131,072, batches of 65,536 tokens, bfloat16
//   build/release-cuda/bin/cuda_engine_bench --short    one small batch, for a test that it runs
//
// "wall" is the time of Encode (copies and host work in it), "device" that from the first kernel to the last copy.
// Share is the floor's time over the device's. Each batch's first row must have the bits that it has alone.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/cuda_encoder.h"
#include "model/cuda_linear.h"
#include "model/cuda_memory.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

struct BenchOptions {
  int64_t batch_tokens = 65536;
  std::vector<int64_t> lengths = {128, 512, 2048, 8192, 32768, 131072};
  int repeats = 12;
  RandomModelOptions model;
};

BenchOptions Base() {
  BenchOptions options;
  options.model.layer_norm_after = true;
  options.model.vocab_size = 30522;
  options.model.hidden_width = 768;
  options.model.num_layers = 12;
  options.model.num_heads = 12;
  options.model.feed_forward_width = 3072;
  options.model.num_labels = 0;
  options.model.gate_bias = -4;
  return options;
}

BenchOptions Short() {
  BenchOptions options = Base();
  options.batch_tokens = 2048;
  options.lengths = {128, 1024};
  options.repeats = 2;
  options.model.vocab_size = 500;
  options.model.num_layers = 2;
  return options;
}

// Ends the program: a benchmark has nothing to say after a failure.
void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "cuda_engine_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}
void Require(cudaError_t error) {
  if (error != cudaSuccess) Require(absl::InternalError(cudaGetErrorString(error)));
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The stages of one batch, timed by events between them.
class StageTimer {
 public:
  void Record(const char* stage, cudaStream_t stream) {
    if (used_ == marks_.size()) {
      marks_.emplace_back();
      Require(cudaEventCreate(&marks_.back().event));
    }
    marks_[used_].stage = stage;
    Require(cudaEventRecord(marks_[used_].event, stream));
    ++used_;
  }

  // Milliseconds a stage, summed over the batch; "end" is all of it. Starts again.
  std::map<std::string, double> Take() {
    std::map<std::string, double> times;
    float taken = 0;
    for (size_t i = 0; i + 1 < used_; ++i) {
      Require(cudaEventElapsedTime(&taken, marks_[i].event, marks_[i + 1].event));
      times[marks_[i].stage] += taken;
    }
    Require(cudaEventElapsedTime(&taken, marks_.front().event, marks_[used_ - 1].event));
    times["end"] = taken;
    used_ = 0;
    return times;
  }

 private:
  struct Mark {
    const char* stage = "";
    cudaEvent_t event = nullptr;
  };
  std::vector<Mark> marks_;
  size_t used_ = 0;
};

// Milliseconds of all layers' products of T tokens and nothing else, on random values.
double ProductFloor(const RandomModelOptions& model, int64_t T, int repeats) {
  const int64_t E = model.hidden_width;
  const int64_t FF = model.feed_forward_width;
  absl::StatusOr<std::unique_ptr<CublasLt>> lt = CublasLt::Create();
  Require(lt.status());
  const std::pair<int64_t, int64_t> shapes[] = {{3 * E, E}, {E, E}, {FF, E}, {E, FF}};
  std::mt19937 random(1);
  std::vector<uint16_t> values(T * std::max(3 * E, FF));
  for (uint16_t& v : values) v = static_cast<uint16_t>(0x3F00 + (random() & 0x80FF));  // bfloat16 of size 0.5 to 2
  absl::StatusOr<DeviceBuffer> x = Upload(values.data(), static_cast<int64_t>(values.size()) * 2);
  absl::StatusOr<DeviceBuffer> y = DeviceBuffer::Allocate(static_cast<int64_t>(values.size()) * 2);
  Require(x.status());
  Require(y.status());
  std::vector<std::unique_ptr<CudaLinear>> products;
  for (const auto& [N, K] : shapes) {
    std::vector<float> weight(N * K);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(K)));
    for (float& w : weight) w = normal(random);
    const std::vector<float> bias(N, 0.1f);
    absl::StatusOr<std::unique_ptr<CudaLinear>> linear =
        CudaLinear::Create(lt->get(), weight.data(), bias.data(), N, K, cuda::ElementType::kBFloat16);
    Require(linear.status());
    products.push_back(*std::move(linear));
  }
  StageTimer timer;
  const char* names[] = {"qkv", "out", "up", "down"};
  std::vector<double> totals;
  std::map<std::string, std::vector<double>> parts;
  for (int repeat = 0; repeat < repeats + 1; ++repeat) {
    for (int64_t n = 0; n < model.num_layers; ++n) {
      for (size_t i = 0; i < products.size(); ++i) {
        timer.Record(names[i], nullptr);
        Require(products[i]->Run(x->data(), T, y->data(), nullptr));
      }
    }
    timer.Record("end", nullptr);
    Require(cudaDeviceSynchronize());
    for (const auto& [name, time] : timer.Take()) {
      if (repeat > 0) parts[name].push_back(time);
    }
  }
  std::printf("floor, %lld tokens, ms a layer:", static_cast<long long>(T));
  for (const char* name : names) {
    std::printf("  %s %.3f", name, Median(parts[name]) / static_cast<double>(model.num_layers));
  }
  const double total = Median(parts["end"]);
  std::printf("  sum %.3f; %.2f M tok/s\n", total / static_cast<double>(model.num_layers),
              static_cast<double>(T) / total / 1e3);
  return total;
}

int Main(const BenchOptions& options) {
  cudaDeviceProp properties;
  Require(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s; LION-S %lld x %lld, %lld heads, bfloat16, batches of %lld tokens\n", properties.name,
              static_cast<long long>(options.model.num_layers), static_cast<long long>(options.model.hidden_width),
              static_cast<long long>(options.model.num_heads), static_cast<long long>(options.batch_tokens));

  const RandomModel directory(options.model);
  StageTimer timer;
  std::unique_ptr<CudaEncoder> encoder;
  {
    absl::StatusOr<std::string> text = ReadTextFile(directory.directory() + "/config.json", 1 << 20);
    Require(text.status());
    absl::StatusOr<TextConfig> config = ParseTextConfig(*text, "config.json");
    Require(config.status());
    absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(directory.directory());
    Require(weights.status());
    CudaEncoder::Options encoder_options;
    encoder_options.config = *config;
    encoder_options.weights = *std::move(weights);
    encoder_options.max_batch_tokens = options.batch_tokens;
    encoder_options.on_stage = [&timer](const char* stage, cudaStream_t stream) { timer.Record(stage, stream); };
    absl::StatusOr<std::unique_ptr<CudaEncoder>> created = CudaEncoder::Create(std::move(encoder_options));
    Require(created.status());
    encoder = *std::move(created);
  }
  const absl::StatusOr<int> crossover = encoder->MeasureCrossover();
  Require(crossover.status());
  std::printf("crossover %d\n", *crossover);

  int failures = 0;
  std::map<int64_t, double> floors;
  for (int64_t L : options.lengths) {
    const int64_t num_rows = std::max<int64_t>(1, options.batch_tokens / L);
    const int64_t T = num_rows * L;
    if (floors.count(T) == 0) floors[T] = ProductFloor(options.model, T, options.repeats);
    const ComputeMode mode = L <= *crossover ? ComputeMode::kParallel : ComputeMode::kChunked;
    std::vector<std::vector<uint32_t>> ids;
    std::vector<Row> rows;
    for (int64_t b = 0; b < num_rows; ++b) {
      ids.push_back(RandomIds(L, options.model.vocab_size, static_cast<uint32_t>(b + 1)));
      rows.push_back({ids.back(), {}, mode, 0, RowOutput::kPooledMean});
    }
    std::vector<RowResult> results(rows.size());
    std::vector<double> walls;
    std::map<std::string, std::vector<double>> stages;
    for (int repeat = 0; repeat < options.repeats + 2; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
      Require(encoder->Encode(rows, absl::MakeSpan(results)));
      const double wall = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      std::map<std::string, double> times = timer.Take();
      if (repeat < 2) continue;  // warms up
      walls.push_back(wall);
      for (const auto& [name, time] : times) stages[name].push_back(time);
    }
    RowResult alone;
    Require(encoder->Encode({rows.data(), 1}, {&alone, 1}));
    timer.Take();
    const bool same = alone.values == results.front().values;
    if (!same) ++failures;

    const double device = Median(stages["end"]);
    const double wall = Median(walls);
    std::printf(
        "L %lld %s: wall %.2f ms (%.2f to %.2f) %.2f M tok/s; device %.2f ms %.2f M tok/s; share of the floor %.1f "
        "%%%s\n",
        static_cast<long long>(L), std::string(Name(mode)).c_str(), wall, *std::min_element(walls.begin(), walls.end()),
        *std::max_element(walls.begin(), walls.end()), static_cast<double>(T) / wall / 1e3, device,
        static_cast<double>(T) / device / 1e3, 100 * floors[T] / device, same ? "" : "; BITS DIFFER ALONE");
    std::printf("   ms a layer:");
    for (const char* name : {"qkv", "attention", "norm after", "out", "add norm", "up", "down"}) {
      if (stages[name].empty()) continue;  // a model without layer_norm_after has no such stage
      std::printf("  %s %.3f", name, Median(stages[name]) / static_cast<double>(options.model.num_layers));
    }
    std::printf("; ms a batch:");
    for (const char* name : {"upload", "embed", "heads", "download"})
      std::printf("  %s %.3f", name, Median(stages[name]));
    std::printf("\n");
  }

  // The latency of one short text.
  const std::vector<uint32_t> ids = RandomIds(128, options.model.vocab_size, 9);
  const Row row{ids, {}, ComputeMode::kParallel, 0, RowOutput::kPooledMean};
  RowResult result;
  std::vector<double> walls;
  for (int repeat = 0; repeat < 100; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    Require(encoder->Encode({&row, 1}, {&result, 1}));
    walls.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    timer.Take();
  }
  std::printf("one text of 128 tokens: p50 %.3f ms (events between the stages included)\n", Median(walls));
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  return lion::Main(argc > 1 && std::strcmp(argv[1], "--short") == 0 ? lion::Short() : lion::Base());
}
