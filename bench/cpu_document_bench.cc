// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Long rows on the CPU: what a token costs as its row grows, what running in steps costs, and the memory it takes.
//
//   build/release/bin/cpu_document_bench --model=demo/model --dtype=float32 --lengths=8192,262144,1048576
//
// One row of each length by turns, in one piece and with a control to be asked between its steps; figures are medians
// over the rounds. Tokens a second by the clock, and by the processor time of all threads (which other programs on the
// machine do not add to) times their number. Memory: the process's peak over what it had before the row, beside the
// formula (Encoder::RowBytes). Checked: steps change no bit; the peak is at most a tenth above the formula, where the
// row takes 64 MiB and more (below, the allocator's moods weigh more). Exits 1 otherwise.

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "model/compute_pool.h"
#include "model/encoder.h"
#include "model/model.h"
#include "nlohmann/json.hpp"

ABSL_FLAG(std::string, model, "demo/model", "a model directory");
ABSL_FLAG(std::string, dtype, "float32", "float32, bfloat16 or int8");
ABSL_FLAG(std::string, mode, "chunked", "chunked or recurrent");
ABSL_FLAG(std::vector<std::string>, lengths, std::vector<std::string>({"8192", "262144"}), "tokens a row");
ABSL_FLAG(int, rounds, 3, "each row in one piece and in steps");
ABSL_FLAG(int, threads, 0, "compute threads; 0 = one a core");
ABSL_FLAG(std::string, json, "", "a file for every figure");
ABSL_FLAG(bool, short, false, "one round of short rows: to see that it runs");

namespace {

using Time = std::chrono::steady_clock;

constexpr double kJudgedBytes = 64 << 20;

double Seconds(Time::duration d) { return std::chrono::duration<double>(d).count(); }

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// "VmRSS", or "VmHWM", the most since ResetPeak, in bytes.
double ProcessBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!absl::StartsWith(line, field + ":")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t kilobytes = 0;
    if (absl::SimpleAtoi(words[1], &kilobytes)) return 1024.0 * static_cast<double>(kilobytes);
  }
  return 0;
}
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5" << std::flush; }

class Listener : public lion::EncodeControl {
 public:
  absl::Status BetweenSteps(int64_t, int64_t) override {
    const Time::time_point now = Time::now();
    steps.push_back(Seconds(now - last));
    last = now;
    return absl::OkStatus();
  }

  Time::time_point last = Time::now();
  std::vector<double> steps;
};

// What was measured of one length.
struct Length {
  std::vector<uint32_t> ids;
  std::vector<float> expected;
  std::vector<double> seconds[2];  // in one piece, in steps
  std::vector<double> processor_seconds;
  std::vector<double> steps;
  double peak_bytes = 0;
  double formula_bytes = 0;
};

int Complain(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  return 1;
}

int Run() {
  const bool is_short = absl::GetFlag(FLAGS_short);
  lion::ComputePool pool({.num_threads = absl::GetFlag(FLAGS_threads)});
  lion::ModelOptions options;
  options.directory = absl::GetFlag(FLAGS_model);
  const std::string dtype = absl::GetFlag(FLAGS_dtype);
  for (lion::DType d : lion::DTypesOf(lion::DeviceKind::kCpu)) {
    if (lion::Name(d) == dtype) options.dtype = d;
  }
  const lion::ComputeMode mode =
      absl::GetFlag(FLAGS_mode) == "recurrent" ? lion::ComputeMode::kRecurrent : lion::ComputeMode::kChunked;
  const auto model = lion::Model::Load(options, &pool);
  if (!model.ok()) return Complain(std::string(model.status().message()));
  lion::Encoder& encoder = *(*model)->encoder();
  std::mt19937 random(1);
  std::vector<Length> lengths;
  for (const std::string& flag : is_short ? std::vector<std::string>{"5000", "20000"} : absl::GetFlag(FLAGS_lengths)) {
    int64_t L = 0;
    if (!absl::SimpleAtoi(flag, &L) || L < 1) return Complain("--lengths: " + flag + " is no number of tokens");
    Length& length = lengths.emplace_back();
    length.ids.resize(L);
    for (uint32_t& id : length.ids) {
      id = static_cast<uint32_t>(random() % static_cast<uint64_t>((*model)->info().vocab_size));
    }
  }
  const int rounds = is_short ? 1 : absl::GetFlag(FLAGS_rounds);
  bool good = true;
  for (int round = 0; round <= rounds; ++round) {  // the first one warms up
    for (Length& length : lengths) {
      const lion::Row row{length.ids, {}, mode};
      for (int with_steps : {0, 1}) {
        Listener control;
        lion::RowResult result;
        malloc_trim(0);
        ResetPeak();
        const double before_bytes = ProcessBytes("VmRSS");
        const double before = ProcessorSeconds();
        const Time::time_point start = Time::now();
        control.last = start;
        const absl::Status status = encoder.Encode({&row, 1}, {&result, 1}, with_steps == 1 ? &control : nullptr);
        const double took = Seconds(Time::now() - start);
        const double processor = ProcessorSeconds() - before;
        if (!status.ok()) return Complain(std::string(status.message()));
        if (length.expected.empty()) length.expected = result.values;
        if (result.values != length.expected) return Complain("steps change the row's bits");
        if (round == 0) continue;
        length.seconds[with_steps].push_back(took);
        if (with_steps == 0) length.processor_seconds.push_back(processor);
        length.steps.insert(length.steps.end(), control.steps.begin(), control.steps.end());
        length.peak_bytes = std::max(length.peak_bytes, ProcessBytes("VmHWM") - before_bytes);
        length.formula_bytes = static_cast<double>(encoder.RowBytes(row));
      }
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  std::printf(
      "   tokens   tokens/s  by processor time  of the first   in steps   lost  steps' p50   p99 ms   peak MB  "
      "formula\n");
  double first_rate = 0;
  for (const Length& length : lengths) {
    const auto L = static_cast<double>(length.ids.size());
    const double whole = L / Quantile(length.seconds[0], 0.5);
    const double stepped = L / Quantile(length.seconds[1], 0.5);
    const double processor = L * pool.num_threads() / Quantile(length.processor_seconds, 0.5);
    const double p50 = length.steps.empty() ? 0 : 1e3 * Quantile(length.steps, 0.5);
    const double p99 = length.steps.empty() ? 0 : 1e3 * Quantile(length.steps, 0.99);
    if (first_rate == 0) first_rate = processor;
    const bool fits = length.formula_bytes < kJudgedBytes || length.peak_bytes <= 1.1 * length.formula_bytes;
    std::printf("%9zu %10.0f %18.0f %13.3f %10.0f %5.1f%% %11.1f %8.1f %9.1f %8.1f%s\n", length.ids.size(), whole,
                processor, processor / first_rate, stepped, 100 * (1 - stepped / whole), p50, p99,
                length.peak_bytes / 1e6, length.formula_bytes / 1e6, fits ? "" : "  TOO MUCH");
    good = good && fits;
    rows.push_back({{"tokens", length.ids.size()},
                    {"tokens_per_second", whole},
                    {"tokens_per_processor_second", processor},
                    {"of_the_first", processor / first_rate},
                    {"tokens_per_second_in_steps", stepped},
                    {"step_p50_ms", p50},
                    {"step_p99_ms", p99},
                    {"peak_bytes", length.peak_bytes},
                    {"formula_bytes", length.formula_bytes}});
  }
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream(path) << nlohmann::json{{"dtype", dtype},
                                          {"mode", absl::GetFlag(FLAGS_mode)},
                                          {"threads", pool.num_threads()},
                                          {"rows", rows}}
                               .dump(1)
                        << "\n";
  }
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return Run();
}
