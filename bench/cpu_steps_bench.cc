// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What running in steps costs a long row on the CPU:
//
//   build/release/bin/cpu_steps_bench --model=demo/model --tokens=100000 --dtype=float32
//
// One row with and without a control to be asked between its steps, by turns; the median of each, the time between two
// questions, and the bytes that the row takes by the formula. Checked: both give the same bits. Exits 1 otherwise.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "model/compute_pool.h"
#include "model/encoder.h"
#include "model/model.h"

ABSL_FLAG(std::string, model, "demo/model", "a model directory");
ABSL_FLAG(std::string, dtype, "float32", "float32, bfloat16 or int8");
ABSL_FLAG(int64_t, tokens, 100000, "of the row");
ABSL_FLAG(int, rounds, 5, "each with and without steps");
ABSL_FLAG(bool, short, false, "one round of a short row: to see that it runs");

namespace {

using Time = std::chrono::steady_clock;

double Seconds(Time::duration d) { return std::chrono::duration<double>(d).count(); }

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

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

int Run() {
  const bool is_short = absl::GetFlag(FLAGS_short);
  const int64_t tokens = is_short ? 20000 : absl::GetFlag(FLAGS_tokens);
  lion::ComputePool pool({});
  lion::ModelOptions options;
  options.directory = absl::GetFlag(FLAGS_model);
  const std::string dtype = absl::GetFlag(FLAGS_dtype);
  for (lion::DType d : lion::DTypesOf(lion::DeviceKind::kCpu)) {
    if (lion::Name(d) == dtype) options.dtype = d;
  }
  const auto model = lion::Model::Load(options, &pool);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  std::mt19937 random(1);
  std::vector<uint32_t> ids(tokens);
  for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % static_cast<uint64_t>((*model)->info().vocab_size));
  const lion::Row row{ids, {}, lion::ComputeMode::kChunked};
  lion::Encoder& encoder = *(*model)->encoder();
  std::vector<double> seconds[2];
  std::vector<double> steps;
  std::vector<float> expected;
  for (int round = 0; round <= (is_short ? 1 : absl::GetFlag(FLAGS_rounds)); ++round) {
    for (int with_steps : {0, 1}) {
      Listener control;
      lion::RowResult result;
      const Time::time_point start = Time::now();
      const absl::Status status = encoder.Encode({&row, 1}, {&result, 1}, with_steps == 1 ? &control : nullptr);
      const double took = Seconds(Time::now() - start);
      if (expected.empty()) expected = result.values;
      if (!status.ok() || result.values != expected) {
        std::fprintf(stderr, "%s\n",
                     status.ok() ? "steps change the row's bits" : std::string(status.message()).c_str());
        return 1;
      }
      if (round == 0) continue;  // warms up
      seconds[with_steps].push_back(took);
      steps.insert(steps.end(), control.steps.begin(), control.steps.end());
    }
  }
  const double whole = Quantile(seconds[0], 0.5);
  const double stepped = Quantile(seconds[1], 0.5);
  std::printf("%lld tokens, %s: %.0f tokens/s in one piece, %.0f in steps: %.1f %% lost\n",
              static_cast<long long>(tokens), dtype.c_str(), static_cast<double>(tokens) / whole,
              static_cast<double>(tokens) / stepped, 100 * (1 - whole / stepped));
  std::printf("%zu steps a row: median %.1f ms, p99 %.1f ms; %.1f MB by the formula\n",
              steps.size() / seconds[1].size(), 1e3 * Quantile(steps, 0.5), 1e3 * Quantile(steps, 0.99),
              static_cast<double>(encoder.RowBytes(row)) / 1e6);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return Run();
}
