// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Long documents on one GPU: LION-S of BERT base's size, random weights, bfloat16.
//
//   build/release-cuda/bin/cuda_document_bench --json=documents.json     up to ten million tokens in one row
//   build/release-cuda/bin/cuda_document_bench --short                   a small model, to see that it runs
//
// "row": one row of each length, from Encode's start to its answer: the median of some rounds, device memory that it
// took beside weights and standing buffers, and what EstimateBytes had said. "throughput": batches of 65,536 tokens in
// rows of 8,192 beside rows of 1,048,576, as the server drives the engine. "steps": what a row loses because it runs in
// steps, by an encoder that takes the same row in one piece. "beside": one text of 128 tokens every two milliseconds,
// alone and while documents of 1,048,576 tokens run one after the other, and what the document loses by it. Checked: a
// row in steps has the bits that it has in one piece; documents beside texts and texts beside documents have the bits
// that they have alone; all is finite. Exits 1 if a check fails.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/cuda_events.h"
#include "bench/engine_measure.h"
#include "model/config.h"
#include "model/cuda_encoder.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "tests/model/random_model.h"

ABSL_FLAG(std::vector<std::string>, lengths,
          std::vector<std::string>({"1024", "8192", "65536", "131072", "262144", "1048576", "4194304", "10000000"}),
          "tokens of a row");
ABSL_FLAG(int, texts, 1000, "of 128 tokens, for their latency");
ABSL_FLAG(std::string, json, "", "a file for every figure");
ABSL_FLAG(bool, short, false, "two layers, short rows");

namespace lion::bench {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct Settings {
  std::vector<int64_t> lengths;
  int64_t batch_tokens = 65536;  // of an encoder whose longer rows run in steps
  int64_t long_tokens = 1048576;
  int64_t piece_tokens = 262144;  // of a row that is taken in one piece too
  int64_t once_tokens = 2000000;  // rows from here on run once
  int texts = 0;
  bool whole_size = true;
};

Settings ReadFlags() {
  Settings settings;
  settings.texts = absl::GetFlag(FLAGS_texts);
  if (absl::GetFlag(FLAGS_short)) {
    settings.lengths = {512, 4096, 65536};
    settings.batch_tokens = 2048;
    settings.long_tokens = 65536;
    settings.piece_tokens = 32768;
    settings.texts = 50;
    settings.whole_size = false;
    return settings;
  }
  for (const std::string& text : absl::GetFlag(FLAGS_lengths)) {
    int64_t L = 0;
    if (!absl::SimpleAtoi(text, &L) || L < 1) {
      Require(absl::InvalidArgumentError(absl::StrCat("--lengths: ", text, " is no number of tokens")));
    }
    settings.lengths.push_back(L);
  }
  return settings;
}

RandomModelOptions ModelOf(const Settings& settings) {
  RandomModelOptions model;
  model.variant = Variant::kS;
  model.layer_norm_after = false;
  model.vocab_size = settings.whole_size ? 30522 : 500;
  model.hidden_width = 768;
  model.num_layers = settings.whole_size ? 12 : 2;
  model.num_heads = 12;
  model.feed_forward_width = 3072;
  model.num_labels = 0;
  model.gate_bias = -4;
  return model;
}

std::unique_ptr<CudaEncoder> Load(const RandomModel& model, int64_t batch_tokens, double memory_share = 1) {
  CudaEncoder::Options options;
  absl::StatusOr<std::string> text = ReadTextFile(model.directory() + "/config.json", 1 << 20);
  Require(text.status());
  absl::StatusOr<TextConfig> config = ParseTextConfig(*text, "config.json");
  Require(config.status());
  absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(model.directory());
  Require(weights.status());
  options.config = *config;
  options.weights = *std::move(weights);
  options.max_batch_tokens = batch_tokens;
  options.memory_share = memory_share;
  absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(options));
  Require(encoder.status());
  return *std::move(encoder);
}

class Bench {
 public:
  Bench(const Settings& settings, const RandomModel& model, int64_t vocab_size)
      : settings_(settings), model_(model), vocab_size_(vocab_size) {}

  ordered_json Run() {
    encoder_ = Load(model_, settings_.batch_tokens);
    ordered_json found;
    found["rows"] = MeasureRows();
    found["again"] = MeasureAgain();
    found["throughput"] = MeasureRates();
    found["beside"] = MeasureBeside();
    found["steps"] = MeasureSteps();
    return found;
  }

  int num_failures() const { return num_failures_; }

 private:
  void Check(bool good, const char* what) {
    if (good) return;
    ++num_failures_;
    std::printf("  FAILED: %s\n", what);
  }

  static int64_t FreeBytes() {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    Require(cudaMemGetInfo(&free_bytes, &total_bytes));
    return static_cast<int64_t>(free_bytes);
  }

  // Reads the free memory between steps.
  class MemoryControl : public EncodeControl {
   public:
    absl::Status BetweenSteps(int64_t, int64_t) override {
      if (calls_++ % 64 == 0) least_ = std::min(least_, FreeBytes());
      return absl::OkStatus();
    }
    int64_t least() const { return least_; }

   private:
    int calls_ = 0;
    int64_t least_ = std::numeric_limits<int64_t>::max();
  };

  // Milliseconds of each round.
  std::vector<double> Time(CudaEncoder& encoder, const Row& row, int rounds, RowResult* result,
                           EncodeControl* control = nullptr) {
    std::vector<double> times;
    for (int round = 0; round < rounds; ++round) {
      const Clock::time_point start = Clock::now();
      Require(encoder.Encode({&row, 1}, {result, 1}, control));
      times.push_back(MillisecondsSince(start));
    }
    const bool finite =
        std::all_of(result->values.begin(), result->values.end(), [](float v) { return std::isfinite(v); });
    Check(finite, "an answer is not finite");
    return times;
  }

  ordered_json MeasureRows() {
    std::printf("  tokens in one row        ms      Mtok/s   GB of the row, of the formula\n");
    ordered_json rows = ordered_json::array();
    {  // kernels are loaded when they are first used, and that takes memory
      const std::vector<uint32_t> ids = RandomIds(settings_.batch_tokens + 1, vocab_size_, 1);
      RowResult unused;
      Time(*encoder_, {ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}, 1, &unused);
      ReturnBuffers();
    }
    const int64_t free_before = FreeBytes();
    for (int64_t L : settings_.lengths) {
      const std::vector<uint32_t> ids = RandomIds(L, vocab_size_, static_cast<uint32_t>(L));
      const Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean};
      RowResult result;
      MemoryControl memory;
      const bool once = L >= settings_.once_tokens;
      // The first round takes the buffers.
      std::vector<double> times = Time(*encoder_, row, once ? 1 : L > 500000 ? 4 : 8, &result, &memory);
      const double first = times.front();
      if (!once) times.erase(times.begin());
      const double taken = Median(times);
      ordered_json found = {{"length", L}, {"ms", taken}, {"first_ms", first}, {"tokens_per_second", L / taken * 1e3}};
      std::printf("  %17lld %9.2f %11.3f", static_cast<long long>(L), taken, static_cast<double>(L) / taken / 1e3);
      if (L > encoder_->max_batch_tokens()) {
        const auto bytes = static_cast<double>(free_before - memory.least());
        const auto formula = static_cast<double>(encoder_->RowBytes(row));
        found["device_bytes"] = bytes;
        found["formula_bytes"] = formula;
        std::printf(" %15.3f %10.3f", bytes / 1e9, formula / 1e9);
        Check(std::fabs(bytes - formula) <= 0.1 * formula, "memory is not within a tenth of the formula");
      } else {
        found["device_bytes"] = static_cast<double>(encoder_->EstimateBytes({&row, 1}));
      }
      std::printf("\n");
      std::fflush(stdout);
      longest_ = std::move(result);
      rows.push_back(std::move(found));
      ReturnBuffers();
    }
    return rows;
  }

  // The longest row where its memory is to be small, so that q, k and v are made twice.
  ordered_json MeasureAgain() {
    const int64_t L = settings_.lengths.back();
    const std::vector<uint32_t> ids = RandomIds(L, vocab_size_, static_cast<uint32_t>(L));
    const Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean};
    const int64_t kept = encoder_->RowBytes(row);
    const std::unique_ptr<CudaEncoder> small =
        Load(model_, settings_.batch_tokens, 0.5 * static_cast<double>(kept) / static_cast<double>(FreeBytes()));
    const int64_t standing = small->usage().buffer_bytes;
    RowResult unused;  // kernels are loaded; what a short document left counts as free
    Time(*small, {absl::MakeConstSpan(ids).subspan(0, settings_.batch_tokens + 1), {}, ComputeMode::kChunked}, 1,
         &unused);
    const int64_t free_before = FreeBytes() + small->usage().buffer_bytes - standing;
    MemoryControl memory;
    RowResult result;
    const double taken = Median(Time(*small, row, 1, &result, &memory));
    const auto bytes = static_cast<double>(free_before - memory.least());
    const auto formula = static_cast<double>(small->RowBytes(row));
    Check(longest_.values == result.values, "a row whose q, k and v are made twice has other bits");
    Check(std::fabs(bytes - formula) <= 0.1 * formula, "memory is not within a tenth of the formula");
    std::printf("  %17lld %9.2f %11.3f %15.3f %10.3f  in the small form\n", static_cast<long long>(L), taken,
                static_cast<double>(L) / taken / 1e3, bytes / 1e9, formula / 1e9);
    return {{"length", L},
            {"ms", taken},
            {"tokens_per_second", static_cast<double>(L) / taken * 1e3},
            {"device_bytes", bytes},
            {"formula_bytes", formula}};
  }

  // Until the encoder gives a document's buffers back.
  void ReturnBuffers() {
    const std::vector<uint32_t> ids = RandomIds(16, vocab_size_, 1);
    const Row row{ids, {}, ComputeMode::kParallel, 0, RowOutput::kPooledMean};
    RowResult result;
    for (int i = 0; i < 64; ++i) Require(encoder_->Encode({&row, 1}, {&result, 1}));
  }

  ordered_json MeasureRates() {
    ordered_json rates;
    double rate[2] = {};
    const int64_t lengths[2] = {std::min<int64_t>(8192, settings_.batch_tokens), settings_.long_tokens};
    for (int i = 0; i < 2; ++i) {
      const RandomRows batch(std::max<int64_t>(1, settings_.batch_tokens / lengths[i]), lengths[i], vocab_size_,
                             ComputeMode::kChunked);
      Encoder* const encoders[] = {encoder_.get()};
      absl::StatusOr<Throughput> found = MeasureThroughput(encoders, batch, 3, settings_.whole_size ? 0.3 : 0);
      Require(found.status());
      rate[i] = found->median;
      rates[absl::StrCat(lengths[i])] = found->median;
    }
    rates["ratio"] = rate[1] / rate[0];
    std::printf("  throughput: rows of %lld %.3f Mtok/s, of %lld %.3f: %.3f of it\n",
                static_cast<long long>(lengths[0]), rate[0] / 1e6, static_cast<long long>(lengths[1]), rate[1] / 1e6,
                rate[1] / rate[0]);
    return rates;
  }

  // One row in steps and in one piece.
  ordered_json MeasureSteps() {
    const std::vector<uint32_t> ids = RandomIds(settings_.piece_tokens, vocab_size_, 5);
    const Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean};
    RowResult in_steps;
    RowResult in_one;
    double steps = Median(Time(*encoder_, row, 7, &in_steps));
    encoder_.reset();
    const std::unique_ptr<CudaEncoder> whole = Load(model_, settings_.piece_tokens);
    const double piece = Median(Time(*whole, row, 7, &in_one));
    Check(in_steps.values == in_one.values, "a row in steps has other bits than in one piece");
    std::printf("  %lld tokens: in steps %.2f ms, in one piece %.2f: %.1f %% more\n",
                static_cast<long long>(settings_.piece_tokens), steps, piece, 100 * (steps / piece - 1));
    return {
        {"length", settings_.piece_tokens}, {"steps_ms", steps}, {"one_piece_ms", piece}, {"loss", steps / piece - 1}};
  }

  struct Percentiles {
    double p50 = 0;
    double p99 = 0;
    double most = 0;
  };

  Percentiles TimeTexts(const Row& row, const std::vector<float>& expected) {
    std::vector<double> times;
    RowResult result;
    Clock::time_point next = Clock::now();
    bool same = true;
    for (int i = 0; i < settings_.texts; ++i) {
      next += std::chrono::milliseconds(2);
      std::this_thread::sleep_until(next);
      const Clock::time_point start = Clock::now();
      Require(encoder_->Encode({&row, 1}, {&result, 1}));
      times.push_back(MillisecondsSince(start));
      same = same && result.values == expected;
    }
    Check(same, "a text has other bits beside a document");
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2], times[times.size() * 99 / 100], times.back()};
  }

  ordered_json MeasureBeside() {
    const std::vector<uint32_t> text_ids = RandomIds(128, vocab_size_, 9);
    const Row text{text_ids, {}, ComputeMode::kParallel, 0, RowOutput::kPooledMean};
    const std::vector<uint32_t> ids = RandomIds(settings_.long_tokens, vocab_size_, 5);
    const Row document{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean};
    RowResult expected_text;
    RowResult expected_document;
    Time(*encoder_, text, 50, &expected_text);
    Time(*encoder_, document, 1, &expected_document);
    const double alone_ms = Median(Time(*encoder_, document, 3, &expected_document));
    const Percentiles alone = TimeTexts(text, expected_text.values);

    std::atomic<bool> stop{false};
    std::vector<double> documents;
    bool same = true;
    RowResult result;
    Require(encoder_->Encode({&document, 1}, {&result, 1}));
    std::thread other([&] {
      while (!stop) {
        const Clock::time_point start = Clock::now();
        Require(encoder_->Encode({&document, 1}, {&result, 1}));
        if (!stop) documents.push_back(MillisecondsSince(start));
        same = same && result.values == expected_document.values;
      }
    });
    const Percentiles beside = TimeTexts(text, expected_text.values);
    stop = true;
    other.join();
    Check(same, "a document has other bits beside texts");
    const double beside_ms = documents.empty() ? 0 : Median(documents);
    std::printf(
        "  one text of 128 every 2 ms: alone p50 %.3f p99 %.3f most %.3f ms; beside documents of %lld tokens "
        "p50 %.3f p99 %.3f (%.2f x) most %.3f ms\n",
        alone.p50, alone.p99, alone.most, static_cast<long long>(settings_.long_tokens), beside.p50, beside.p99,
        beside.p99 / alone.p99, beside.most);
    std::printf("  a document: alone %.1f ms, beside texts %.1f ms (%zu of them)\n", alone_ms, beside_ms,
                documents.size());
    return {{"text_every_ms", 2},
            {"texts", settings_.texts},
            {"alone", {{"p50_ms", alone.p50}, {"p99_ms", alone.p99}, {"most_ms", alone.most}}},
            {"beside", {{"p50_ms", beside.p50}, {"p99_ms", beside.p99}, {"most_ms", beside.most}}},
            {"p99_ratio", beside.p99 / alone.p99},
            {"document_tokens", settings_.long_tokens},
            {"document_alone_ms", alone_ms},
            {"document_beside_ms", beside_ms}};
  }

  const Settings& settings_;
  const RandomModel& model_;
  const int64_t vocab_size_;
  std::unique_ptr<CudaEncoder> encoder_;
  RowResult longest_;  // of the longest row
  int num_failures_ = 0;
};

int Main() {
  const Settings settings = ReadFlags();
  cudaDeviceProp properties;
  Require(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %.1f GB; rows above %lld tokens run in steps\n", properties.name,
              static_cast<double>(properties.totalGlobalMem) / 1e9, static_cast<long long>(settings.batch_tokens));
  const RandomModelOptions options = ModelOf(settings);
  const RandomModel model(options);
  Bench bench(settings, model, options.vocab_size);
  ordered_json found = bench.Run();
  found["gpu"] = properties.name;
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream(path) << found.dump(1) << "\n";
  }
  if (bench.num_failures() > 0) std::printf("%d checks FAILED\n", bench.num_failures());
  return bench.num_failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lion::bench

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("measures long documents on the CUDA engine; the file's head says how");
  absl::ParseCommandLine(argc, argv);
  return lion::bench::Main();
}
