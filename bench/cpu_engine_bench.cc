// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The CPU engine on random models, against the floor that its matrix products alone set in the same run with the same
// threads (bench/cpu_floor.h):
//
//   build/release/bin/cpu_engine_bench                          384 x 6 and 768 x 12, LION-S, lengths 16 ... 32,768
//   build/release/bin/cpu_engine_bench --variants=lion-s,lion-d,lion-lit --lengths=8,133,65536 --dtypes=int8
//   build/release/bin/cpu_engine_bench --short                  one small batch of each kind, for a test that it runs
//
// A length's batch is filled to --batch_tokens; a longer row is a batch of its own. Engine and floor take turns, and
// the share is the median over --repeats pairs: by the wall clock, and by processor time, which another program on the
// machine does not add to. Answers: a row has the bits in its batch that it has alone, and every form agrees with plain
// torch operations at 64 and 700 tokens.

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "bench/cpu_floor.h"
#include "model/compute_pool.h"
#include "model/config.h"
#include "model/cpu_encoder.h"
#include "model/cpu_layers.h"
#include "model/kernels/cpu/cpu_features.h"
#include "nlohmann/json.hpp"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"

ABSL_FLAG(bool, short, false, "one small batch of each kind: that it runs, not how fast");
ABSL_FLAG(std::vector<std::string>, sizes, (std::vector<std::string>{"384x6", "768x12"}), "E x layers; 12 heads");
ABSL_FLAG(std::vector<std::string>, variants, std::vector<std::string>{"lion-s"}, "lion-s, lion-d, lion-lit");
ABSL_FLAG(std::vector<std::string>, dtypes, (std::vector<std::string>{"float32", "bfloat16", "int8"}), "");
ABSL_FLAG(std::vector<std::string>, lengths,
          (std::vector<std::string>{"16", "21", "64", "133", "512", "2048", "8192", "32768"}), "tokens a row");
ABSL_FLAG(std::vector<std::string>, modes, std::vector<std::string>{"auto"}, "auto, parallel, chunked, recurrent");
ABSL_FLAG(int, alone, 21, "tokens of the row that is run alone, for its latency; 0 = none");
ABSL_FLAG(int, batch_tokens, 4096, "tokens a batch is filled to");
ABSL_FLAG(int, repeats, 5, "pairs of engine and floor");
ABSL_FLAG(int, threads, 0, "0 = one a core");
ABSL_FLAG(std::string, json, "", "where to write the figures as JSON; empty = nowhere");

namespace lion {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "cpu_engine_bench: %s\n", what.c_str());
  std::exit(1);
}

void Require(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}

int64_t Number(const std::string& text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < 1) Die("'" + text + "' is not a whole number above 0");
  return value;
}

struct Seconds {
  double wall = 0;
  double cpu = 0;  // of all threads of this process
};

template <class Function>
Seconds Time(const Function& fn) {
  auto cpu_now = [] {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const auto start = std::chrono::steady_clock::now();
  const double cpu = cpu_now();
  fn();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), cpu_now() - cpu};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Variant ParseVariant(const std::string& name) {
  for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
    if (Name(variant) == name) return variant;
  }
  Die("--variants: '" + name + "' is none of lion-lit, lion-d, lion-s");
}

// As published: LION-LIT normalises after its attention, the others do not. No positions, so that any length runs.
RandomModelOptions ModelOptionsFor(const ModelSize& size, Variant variant) {
  RandomModelOptions options;
  options.variant = variant;
  options.layer_norm_after = variant == Variant::kLit;
  options.vocab_size = 2000;
  options.hidden_width = size.width;
  options.num_layers = size.num_layers;
  options.num_heads = 12;
  options.feed_forward_width = 4 * size.width;
  options.num_labels = 0;
  options.gate_bias = -4;
  return options;
}

std::unique_ptr<CpuEncoder> Open(const RandomModel& directory, DType dtype, ComputePool* pool, CpuStageTimes* times) {
  absl::StatusOr<std::string> text = ReadTextFile(directory.directory() + "/config.json", 1 << 20);
  Require(text.status());
  absl::StatusOr<TextConfig> config = ParseTextConfig(*text, "config.json");
  Require(config.status());
  absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(directory.directory());
  Require(weights.status());
  CpuEncoder::Options options;
  options.config = *config;
  options.weights = *std::move(weights);
  options.dtype = dtype;
  options.pool = pool;
  options.stage_times = times;
  absl::StatusOr<std::unique_ptr<CpuEncoder>> encoder = CpuEncoder::Create(std::move(options));
  Require(encoder.status());
  return *std::move(encoder);
}

std::vector<float> EncodeOne(CpuEncoder& encoder, const Row& row) {
  RowResult result;
  Require(encoder.Encode({&row, 1}, {&result, 1}));
  return std::move(result.values);
}

// Root of the mean square of the difference, over that of b; infinite where a value is not finite.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  const double error = std::sqrt(difference / size);
  return std::isfinite(error) ? error : INFINITY;
}

PlainType PlainTypeOf(DType dtype) {
  return dtype == DType::kInt8       ? PlainType::kInt8
         : dtype == DType::kBFloat16 ? PlainType::kBFloat16
                                     : PlainType::kFloat32;
}

std::vector<float> Plain(const RandomModelOptions& options, const RandomModel& directory,
                         const std::vector<uint32_t>& ids, PlainType type) {
  const std::vector<double> values = PlainForm(options, directory.tensors(), ids, type);
  return {values.begin(), values.end()};
}

class Bench {
 public:
  Bench() : pool_(ComputePool::Options{.num_threads = absl::GetFlag(FLAGS_threads)}) {}

  int Main() {
    std::printf("%s, %d threads; batches of %d tokens\n", CpuName(), pool_.num_threads(),
                absl::GetFlag(FLAGS_batch_tokens));
    for (const std::string& text : absl::GetFlag(FLAGS_sizes)) {
      const size_t cross = text.find('x');
      if (cross == std::string::npos) Die("--sizes: '" + text + "' is not E x layers, as in 384x6");
      const ModelSize size{Number(text.substr(0, cross)), Number(text.substr(cross + 1))};
      for (const std::string& dtype_name : absl::GetFlag(FLAGS_dtypes)) {
        const std::optional<DType> dtype = ParseDType(dtype_name);
        if (!dtype.has_value()) Die("--dtypes: '" + dtype_name + "' is no precision");
        CpuFloor floor(size, *dtype, &pool_);
        for (const std::string& variant : absl::GetFlag(FLAGS_variants)) {
          RunModel(size, text, ParseVariant(variant), *dtype, floor);
        }
      }
    }
    const std::string path = absl::GetFlag(FLAGS_json);
    if (!path.empty()) {
      std::ofstream file(path);
      const nlohmann::json found = {
          {"cpu", CpuName()}, {"threads", pool_.num_threads()}, {"rows", rows_}, {"alone", alone_}};
      file << found.dump(1) << "\n";
      if (!file.flush()) Die("cannot write " + path);
    }
    return failures_ == 0 ? 0 : 1;
  }

 private:
  void Check(bool good, const std::string& what) {
    if (good) return;
    ++failures_;
    std::printf("   WRONG: %s\n", what.c_str());
  }

  // Every form against plain torch operations in fp64, within twice what the same operations lose in the dtype (eight
  // times in fp32, where the recurrent form rounds its state at every token).
  void CheckAnswers(const RandomModelOptions& options, const RandomModel& directory, CpuEncoder& encoder, DType dtype) {
    for (int64_t L : {int64_t{64}, int64_t{700}}) {
      const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, 11);
      const std::vector<float> expected = Plain(options, directory, ids, PlainType::kFloat64);
      const double plain = RelativeError(Plain(options, directory, ids, PlainTypeOf(dtype)), expected);
      const double tolerance = (dtype == DType::kFloat32 ? 8 : 2) * plain + 1e-6;
      for (ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent}) {
        const double error = RelativeError(EncodeOne(encoder, {ids, {}, mode, 0, RowOutput::kTokens}), expected);
        Check(error <= tolerance, std::string(Name(mode)) + " form errs by " + std::to_string(error) + " at " +
                                      std::to_string(L) + " tokens, plain torch by " + std::to_string(plain));
      }
    }
  }

  void RunModel(const ModelSize& size, const std::string& size_name, Variant variant, DType dtype, CpuFloor& floor) {
    const RandomModelOptions options = ModelOptionsFor(size, variant);
    const RandomModel directory(options);
    CpuStageTimes times;
    const std::unique_ptr<CpuEncoder> encoder = Open(directory, dtype, &pool_, &times);
    const int crossover = encoder->MeasureCrossover();
    std::printf("%s %s %s: crossover %d; floor by %s\n", size_name.c_str(), std::string(Name(variant)).c_str(),
                std::string(Name(dtype)).c_str(), crossover, floor.route().c_str());
    CheckAnswers(options, directory, *encoder, dtype);
    for (const std::string& mode_name : absl::GetFlag(FLAGS_modes)) {
      const std::optional<ComputeMode> asked = ParseComputeMode(mode_name);
      if (!asked.has_value() && mode_name != "auto") Die("--modes: '" + mode_name + "' is no form");
      for (const std::string& length : absl::GetFlag(FLAGS_lengths)) {
        const int64_t L = Number(length);
        const ComputeMode mode = asked.value_or(L <= crossover ? ComputeMode::kParallel : ComputeMode::kChunked);
        if (mode == ComputeMode::kParallel && L > 16384) continue;  // the service refuses it too
        RunLength(options, *encoder, times, floor, {size_name, variant, dtype, L, mode});
      }
    }
    if (absl::GetFlag(FLAGS_alone) > 0) RunAlone(options, *encoder, size_name, variant, dtype, crossover);
  }

  // One row at a time: the engine's part of a lone request's latency.
  void RunAlone(const RandomModelOptions& options, CpuEncoder& encoder, const std::string& size_name, Variant variant,
                DType dtype, int crossover) {
    const int64_t L = absl::GetFlag(FLAGS_alone);
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, 5);
    const ComputeMode mode = L <= crossover ? ComputeMode::kParallel : ComputeMode::kChunked;
    std::vector<double> ms;
    for (int i = 0; i < 40 * absl::GetFlag(FLAGS_repeats); ++i) {
      ms.push_back(1e3 * Time([&] { EncodeOne(encoder, {ids, {}, mode, 0, RowOutput::kPooledMean}); }).wall);
    }
    std::sort(ms.begin(), ms.end());
    const double p99 = ms[ms.size() * 99 / 100];
    std::printf("  one row of %lld tokens alone: p50 %.3f ms, p99 %.3f ms\n", static_cast<long long>(L), Median(ms),
                p99);
    alone_.push_back({{"size", size_name},
                      {"variant", std::string(Name(variant))},
                      {"dtype", std::string(Name(dtype))},
                      {"tokens", L},
                      {"p50_ms", Median(ms)},
                      {"p99_ms", p99}});
  }

  struct Case {
    std::string size;
    Variant variant;
    DType dtype;
    int64_t L;
    ComputeMode mode;
  };

  void RunLength(const RandomModelOptions& options, CpuEncoder& encoder, CpuStageTimes& times, CpuFloor& floor,
                 const Case& c) {
    const int64_t num_rows = std::max<int64_t>(1, absl::GetFlag(FLAGS_batch_tokens) / c.L);
    const int64_t T = num_rows * c.L;
    std::vector<std::vector<uint32_t>> ids;
    std::vector<Row> rows;
    for (int64_t b = 0; b < num_rows; ++b) {
      ids.push_back(RandomIds(c.L, options.vocab_size, static_cast<uint32_t>(b + 1)));
    }
    for (const std::vector<uint32_t>& row : ids) rows.push_back({row, {}, c.mode, 0, RowOutput::kPooledMean});
    std::vector<RowResult> results(rows.size());
    auto encode = [&] { Require(encoder.Encode(rows, absl::MakeSpan(results))); };

    encode();
    const int64_t floor_tokens = std::min<int64_t>(T, 8192);
    floor.Run(floor_tokens);
    times = CpuStageTimes();
    std::vector<double> engine_wall;
    std::vector<double> wall_shares;
    std::vector<double> cpu_shares;
    const int repeats = absl::GetFlag(FLAGS_repeats);
    for (int repeat = 0; repeat < repeats; ++repeat) {
      int64_t ran = 0;
      const Seconds before = Time([&] { ran += floor.Run(floor_tokens); });
      const Seconds engine = Time(encode);
      const Seconds after = Time([&] { ran += floor.Run(floor_tokens); });
      const double scale = static_cast<double>(T) / static_cast<double>(ran);
      wall_shares.push_back((before.wall + after.wall) * scale / engine.wall);
      cpu_shares.push_back((before.cpu + after.cpu) * scale / engine.cpu);
      engine_wall.push_back(engine.wall);
    }
    const CpuStageTimes taken = times;
    const size_t place = rows.size() / 2;
    const bool same = EncodeOne(encoder, rows[place]) == results[place].values;

    const double tokens_per_second = static_cast<double>(T) / Median(engine_wall);
    const double share = Median(wall_shares);
    const double cpu_share = Median(cpu_shares);
    const auto [low, high] = std::minmax_element(cpu_shares.begin(), cpu_shares.end());
    std::printf(
        "  L %6lld x %4lld %-9s %8.0f tok/s; share of the floor %5.1f %%, by processor time %5.1f %% (%.1f to %.1f)",
        static_cast<long long>(c.L), static_cast<long long>(num_rows), std::string(Name(c.mode)).c_str(),
        tokens_per_second, 100 * share, 100 * cpu_share, 100 * *low, 100 * *high);
    // Microseconds a token and layer, over one thread.
    const double per_token = 1e6 / static_cast<double>(T * (repeats)*options.num_layers);
    nlohmann::json stages;
    std::printf("  us:");
    for (const auto& [name, seconds] : taken.Named()) {
      std::printf(" %s %.2f", name, seconds * per_token);
      stages[name] = seconds * per_token;
    }
    std::printf("\n");
    std::fflush(stdout);
    Check(same, "a row has other bits alone than in its batch");
    rows_.push_back({{"size", c.size},
                     {"variant", std::string(Name(c.variant))},
                     {"dtype", std::string(Name(c.dtype))},
                     {"tokens", c.L},
                     {"rows", num_rows},
                     {"mode", std::string(Name(c.mode))},
                     {"tokens_per_second", tokens_per_second},
                     {"gops", tokens_per_second * floor.operations_per_token() * 1e-9},
                     {"floor", floor.route()},
                     {"share", share},
                     {"cpu_share", cpu_share},
                     {"stage_us_per_token_and_layer", stages}});
  }

  ComputePool pool_;
  nlohmann::json rows_ = nlohmann::json::array();
  nlohmann::json alone_ = nlohmann::json::array();
  int failures_ = 0;
};

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("the CPU engine against the floor of its matrix products");
  absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_short)) {
    absl::SetFlag(&FLAGS_sizes, {"96x2"});
    absl::SetFlag(&FLAGS_variants, {"lion-s", "lion-d", "lion-lit"});
    absl::SetFlag(&FLAGS_lengths, {"8", "133", "1500"});
    absl::SetFlag(&FLAGS_batch_tokens, 512);
    absl::SetFlag(&FLAGS_repeats, 1);
  }
  return lion::Bench().Main();
}
