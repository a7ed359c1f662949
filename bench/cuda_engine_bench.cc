// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The CUDA engine on random models of BERT base's size, against the floor that their matrix products alone set in the
// same run:
//
//   build/release-cuda/bin/cuda_engine_bench                                       LION-S, bfloat16, every length
//   build/release-cuda/bin/cuda_engine_bench --variants=lion-d,lion-lit --dtypes=bfloat16,fp8 --json=engine.json
//   build/release-cuda/bin/cuda_engine_bench --devices=cuda:0,cuda:1 --lengths=512     how two GPUs do beside one
//   build/release-cuda/bin/cuda_engine_bench --short                               a small model, to see that it runs
//
// Published settings: LION-S and LION-D without layer_norm_after, LION-LIT with it; but LION-LIT without positions, of
// which it has 512. A batch has --batch_tokens tokens in rows of one length; a longer row is a batch by itself.
//
// "engine" is tokens a second as the server drives it: as many threads in Encode as the encoder allows, copies and the
// host's work in it. "floor" is product_floor.h's, sustained and rested, measured beside it; share is engine over
// floor. The table of stages comes from a second encoder with events between its stages, one batch at a time. Checked:
// each batch is answered with the same bits every time; its first row has the bits that it has alone; a sample row errs
// at most twice as much as torch's plain form in the same type does, against fp64 (fp8 has no plain form: its error is
// printed). Exits 1 if a check fails.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/cuda_events.h"
#include "bench/engine_measure.h"
#include "bench/product_floor.h"
#include "model/config.h"
#include "model/cuda_encoder.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"

ABSL_FLAG(std::vector<std::string>, variants, {"lion-s"}, "of lion-s, lion-d, lion-lit");
ABSL_FLAG(std::vector<std::string>, dtypes, {"bfloat16"}, "of bfloat16, float16, fp8, float32");
ABSL_FLAG(std::vector<std::string>, lengths,
          std::vector<std::string>({"128", "512", "2048", "8192", "32768", "131072", "1048576"}), "tokens a row");
ABSL_FLAG(int64_t, batch_tokens, 65536, "tokens a batch");
ABSL_FLAG(std::vector<std::string>, devices, {"cuda:0"}, "several: all of them together beside the first alone");
ABSL_FLAG(int, rounds, 5, "of each measurement");
ABSL_FLAG(std::string, json, "", "a file for every figure");
ABSL_FLAG(bool, short, false, "two layers, small batches, two rounds");

namespace lion::bench {
namespace {

using nlohmann::ordered_json;

struct Settings {
  std::vector<Variant> variants;
  std::vector<DType> dtypes;
  std::vector<int64_t> lengths;
  std::vector<std::string> devices;
  int64_t batch_tokens = 0;
  int rounds = 0;
  double round_seconds = 0.2;
  int latency_repeats = 500;
  bool whole_size = true;
};

absl::StatusOr<Settings> ReadFlags() {
  Settings settings;
  for (const std::string& name : absl::GetFlag(FLAGS_variants)) {
    std::optional<Variant> found;
    for (Variant variant : {Variant::kS, Variant::kD, Variant::kLit}) {
      if (Name(variant) == name) found = variant;
    }
    if (!found.has_value()) return absl::InvalidArgumentError(absl::StrCat("--variants: no variant ", name));
    settings.variants.push_back(*found);
  }
  for (const std::string& name : absl::GetFlag(FLAGS_dtypes)) {
    const std::optional<DType> dtype = ParseDType(name);
    if (!dtype.has_value()) return absl::InvalidArgumentError(absl::StrCat("--dtypes: no precision ", name));
    settings.dtypes.push_back(*dtype);
  }
  settings.batch_tokens = absl::GetFlag(FLAGS_batch_tokens);
  settings.rounds = absl::GetFlag(FLAGS_rounds);
  settings.devices = absl::GetFlag(FLAGS_devices);
  std::vector<std::string> lengths = absl::GetFlag(FLAGS_lengths);
  if (absl::GetFlag(FLAGS_short)) {
    settings.whole_size = false;
    settings.batch_tokens = 2048;
    settings.rounds = 2;
    settings.round_seconds = 0;
    settings.latency_repeats = 20;
    lengths = {"128", "1024", "4096"};
  }
  for (const std::string& text : lengths) {
    int64_t L = 0;
    if (!absl::SimpleAtoi(text, &L) || L < 1) {
      return absl::InvalidArgumentError(absl::StrCat("--lengths: ", text, " is not a number of tokens"));
    }
    settings.lengths.push_back(L);
  }
  if (settings.batch_tokens < 1 || settings.rounds < 1 || settings.devices.empty()) {
    return absl::InvalidArgumentError("--batch_tokens and --rounds are at least 1, --devices names one");
  }
  return settings;
}

RandomModelOptions ModelOf(Variant variant, const Settings& settings) {
  RandomModelOptions model;
  model.variant = variant;
  model.layer_norm_after = variant == Variant::kLit;
  model.vocab_size = settings.whole_size ? 30522 : 500;
  model.hidden_width = 768;
  model.num_layers = settings.whole_size ? 12 : 2;
  model.num_heads = 12;
  model.feed_forward_width = 3072;
  model.num_labels = 0;
  model.gate_bias = -4;
  return model;
}

// Brings the layers' weights to a quarter of what RandomModel draws. At its size, and at BERT's 0.02 too, twelve random
// layers without layer_norm_after amplify a rounding until nothing is left to compare with.
void Calm(RandomModel* directory) {
  for (auto& [name, tensor] : directory->tensors()) {
    const bool gate = name.find("Wa_i") != std::string::npos;
    if (name.find("encoder.layer") == std::string::npos || tensor.shape.size() != 2 || gate) continue;
    for (float& v : tensor.values) v *= 0.25f;
  }
  directory->WriteWeights();
}

// One variant in one precision: its encoders, its floors, and what was found. A failed check is printed and counted.
class EngineCase {
 public:
  EngineCase(const Settings& settings, const RandomModelOptions& options, const RandomModel& directory, DType dtype)
      : settings_(settings), options_(options), directory_(directory), dtype_(dtype) {}

  // truth: the sample's last hidden states in fp64.
  absl::StatusOr<ordered_json> Run(const std::vector<uint32_t>& sample, const std::vector<double>& truth) {
    if (absl::Status status = Load(); !status.ok()) return status;
    std::printf("\n%s %s, %lld layers x %lld, %lld heads; crossover %d; %d batches at a time\n",
                std::string(Name(options_.variant)).c_str(), std::string(Name(dtype_)).c_str(),
                static_cast<long long>(options_.num_layers), static_cast<long long>(options_.hidden_width),
                static_cast<long long>(options_.num_heads), model_->info().parallel_max_tokens,
                model_->encoder()->max_concurrent_batches());
    std::printf("  tokens a row      engine Mtok/s (min ... max)     floor Mtok/s, share;  rested floor, share\n");
    ordered_json lengths = ordered_json::array();
    for (int64_t L : settings_.lengths) {
      absl::StatusOr<ordered_json> found = MeasureLength(L);
      if (!found.ok()) return found.status();
      lengths.push_back(*std::move(found));
    }
    absl::StatusOr<Latency> latency =
        MeasureLatency(model_->encoder(), 128, options_.vocab_size, ModeOf(128), settings_.latency_repeats);
    if (!latency.ok()) return latency.status();
    std::printf("  one text of 128 tokens: p50 %.3f ms, p99 %.3f ms\n", latency->p50_ms, latency->p99_ms);
    absl::StatusOr<ordered_json> errors = CompareErrors(sample, truth);
    if (!errors.ok()) return errors.status();
    return ordered_json{{"variant", std::string(Name(options_.variant))},
                        {"dtype", std::string(Name(dtype_))},
                        {"layers", options_.num_layers},
                        {"crossover", model_->info().parallel_max_tokens},
                        {"concurrent_batches", model_->encoder()->max_concurrent_batches()},
                        {"lengths", std::move(lengths)},
                        {"latency_128", {{"p50_ms", latency->p50_ms}, {"p99_ms", latency->p99_ms}}},
                        {"sample_tokens", sample.size()},
                        {"errors", *std::move(errors)}};
  }

  int num_failures() const { return num_failures_; }

 private:
  absl::Status Load() {
    ModelOptions load;
    load.directory = directory_.directory();
    load.devices = settings_.devices;
    load.dtype = dtype_;
    load.max_batch_tokens = settings_.batch_tokens;
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(load, nullptr);
    if (!model.ok()) return model.status();
    model_ = *std::move(model);

    absl::StatusOr<std::string> text = ReadTextFile(directory_.directory() + "/config.json", 1 << 20);
    if (!text.ok()) return text.status();
    absl::StatusOr<TextConfig> config = ParseTextConfig(*text, "config.json");
    if (!config.ok()) return config.status();
    absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(directory_.directory());
    if (!weights.ok()) return weights.status();
    CudaEncoder::Options staged;
    staged.config = *config;
    staged.weights = *std::move(weights);
    staged.dtype = dtype_;
    staged.max_batch_tokens = settings_.batch_tokens;
    staged.graphs = false;  // stages are those of single kernels
    staged.on_stage = [this](const char* stage, cudaStream_t stream) { timer_.Record(stage, stream); };
    absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(staged));
    if (!encoder.ok()) return encoder.status();
    staged_ = *std::move(encoder);

    for (DType floor_type : {DType::kBFloat16, dtype_}) {
      ProductFloor::Options floor;
      floor.E = options_.hidden_width;
      floor.FF = options_.feed_forward_width;
      floor.num_layers = options_.num_layers;
      floor.dtype = floor_type;
      absl::StatusOr<std::unique_ptr<ProductFloor>> created = ProductFloor::Create(floor);
      if (!created.ok()) return created.status();
      (floor_type == dtype_ ? floor_ : bfloat16_floor_) = *std::move(created);
      if (dtype_ == DType::kBFloat16) break;
    }
    return absl::OkStatus();
  }

  ComputeMode ModeOf(int64_t L) const { return ResolveMode(std::nullopt, L, model_->info().parallel_max_tokens); }

  absl::StatusOr<ordered_json> MeasureLength(int64_t L) {
    const int64_t num_rows = std::max<int64_t>(1, settings_.batch_tokens / L);
    const int64_t T = num_rows * L;
    const ComputeMode mode = ModeOf(L);
    const RandomRows batch(num_rows, L, options_.vocab_size, mode);
    const absl::Span<Encoder* const> encoders = model_->encoders();
    ordered_json found = {{"length", L}, {"rows", num_rows}, {"mode", std::string(Name(mode))}};

    absl::StatusOr<Throughput> engine =
        MeasureThroughput(encoders.subspan(0, 1), batch, settings_.rounds, settings_.round_seconds);
    if (absl::IsInvalidArgument(engine.status())) {  // a length that this precision refuses
      std::printf("  %12lld      refused: %s\n", static_cast<long long>(L),
                  std::string(engine.status().message()).c_str());
      found["refused"] = std::string(engine.status().message());
      return found;
    }
    if (!engine.ok()) return engine.status();
    absl::StatusOr<Floors> floor = floor_->Measure(T, 2 * settings_.rounds);
    if (!floor.ok()) return floor.status();
    const double sustained = RateOf(floor->sustained, T);
    const double rested = RateOf(floor->rested, T);
    std::printf("  %12lld %9s  %8.3f (%.3f ... %.3f)  %10.3f %5.1f %%  %10.3f %5.1f %%", static_cast<long long>(L),
                std::string(Name(mode)).c_str(), engine->median / 1e6, engine->min / 1e6, engine->max / 1e6,
                sustained / 1e6, 100 * engine->median / sustained, rested / 1e6, 100 * engine->median / rested);
    found["tokens_per_second"] = engine->median;
    found["tokens_per_second_min"] = engine->min;
    found["tokens_per_second_max"] = engine->max;
    found["floor_tokens_per_second"] = sustained;
    found["share_of_floor"] = engine->median / sustained;
    found["rested_floor_tokens_per_second"] = rested;
    found["share_of_rested_floor"] = engine->median / rested;
    if (bfloat16_floor_ != nullptr) {
      absl::StatusOr<Floors> other = bfloat16_floor_->Measure(T, 2 * settings_.rounds);
      if (!other.ok()) return other.status();
      const double bfloat16 = RateOf(other->sustained, T);
      found["bfloat16_floor_tokens_per_second"] = bfloat16;
      found["share_of_bfloat16_floor"] = engine->median / bfloat16;
      std::printf(";  %.1f %% of bfloat16's", 100 * engine->median / bfloat16);
    }
    if (encoders.size() > 1) {
      absl::StatusOr<Throughput> all = MeasureThroughput(encoders, batch, settings_.rounds, settings_.round_seconds);
      if (!all.ok()) return all.status();
      found["all_devices_tokens_per_second"] = all->median;
      std::printf(", %zu GPUs %.3f Mtok/s: %.2f x one", encoders.size(), all->median / 1e6,
                  all->median / engine->median);
    }
    absl::StatusOr<bool> same = SameBits(model_->encoder(), batch, options_.vocab_size);
    if (!same.ok()) return same.status();
    found["same_bits"] = *same;
    std::printf("%s\n", *same ? "" : "; BITS DIFFER ALONE");
    if (!*same) ++num_failures_;

    absl::StatusOr<std::map<std::string, double>> stages =
        MeasureStages(staged_.get(), &timer_, batch, settings_.rounds);
    if (!stages.ok()) return stages.status();
    PrintStages(*stages, floor->rested);
    found["stages_ms"] = *stages;
    found["floor_ms_per_layer"] = ToJson(floor->sustained);
    found["rested_floor_ms_per_layer"] = ToJson(floor->rested);
    return found;
  }

  // Tokens a second of T tokens through all layers.
  double RateOf(const FloorTimes& times, int64_t T) const {
    return static_cast<double>(T) / (times.sum * static_cast<double>(options_.num_layers)) * 1e3;
  }

  static ordered_json ToJson(const FloorTimes& times) {
    return {{"qkv", times.qkv}, {"out", times.out}, {"up", times.up}, {"down", times.down}, {"sum", times.sum}};
  }

  // What a layer takes beside its rested floor, and what a batch takes beside its layers.
  void PrintStages(const std::map<std::string, double>& stages, const FloorTimes& floor) const {
    static constexpr const char* kOnceABatch[] = {"upload", "embed", "heads", "download", ""};
    std::string a_layer;
    std::string a_batch;
    for (const auto& [name, taken] : stages) {
      const bool once = std::find(std::begin(kOnceABatch), std::end(kOnceABatch), name) != std::end(kOnceABatch);
      char text[64];
      std::snprintf(text, sizeof(text), "  %s %.3f", name.empty() ? "all" : name.c_str(),
                    once ? taken : taken / static_cast<double>(options_.num_layers));
      (once ? a_batch : a_layer) += text;
    }
    std::printf("      ms a layer:%s; a batch:%s; rested floor a layer: qkv %.3f out %.3f up %.3f down %.3f, %.3f\n",
                a_layer.c_str(), a_batch.c_str(), floor.qkv, floor.out, floor.up, floor.down, floor.sum);
  }

  absl::StatusOr<ordered_json> CompareErrors(const std::vector<uint32_t>& sample, const std::vector<double>& truth) {
    std::optional<PlainType> plain_type;
    double ulp = 0;  // at the scale of a LayerNorm's output
    if (dtype_ == DType::kBFloat16) {
      plain_type = PlainType::kBFloat16;
      ulp = 1.0 / 256;
    }
    if (dtype_ == DType::kFloat32) {
      plain_type = PlainType::kFloat32;
      ulp = 16 * 2.4e-7;
    }
    ordered_json found;
    Errors limit;
    if (plain_type.has_value()) {
      const std::vector<double> plain = PlainForm(options_, directory_.tensors(), sample, *plain_type);
      const Errors errors = Difference(std::vector<float>(plain.begin(), plain.end()), truth);
      limit = {2 * errors.rms + ulp, 2 * errors.max + ulp};
      found["plain"] = {{"rms", errors.rms}, {"max", errors.max}};
      std::printf("  errors over %zu tokens against fp64: plain form rms %.3g max %.3g", sample.size(), errors.rms,
                  errors.max);
    } else {
      std::printf("  errors over %zu tokens against fp64:", sample.size());
    }
    for (ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
      const Row row{sample, {}, mode, 0, RowOutput::kTokens};
      RowResult result;
      const absl::Status status = model_->encoder()->Encode({&row, 1}, {&result, 1});
      const std::string name(Name(mode));
      if (absl::IsInvalidArgument(status)) {  // a length that this precision refuses
        std::printf(", %s refused: %s", name.c_str(), std::string(status.message()).c_str());
        found[name] = {{"refused", std::string(status.message())}};
        continue;
      }
      if (!status.ok()) return status;
      const Errors errors = Difference(result.values, truth);
      found[name] = {{"rms", errors.rms}, {"max", errors.max}};
      const bool good = !plain_type.has_value() || (errors.rms <= limit.rms && errors.max <= limit.max);
      if (!good) ++num_failures_;
      std::printf(", %s rms %.3g max %.3g%s", name.c_str(), errors.rms, errors.max, good ? "" : " TOO MUCH");
    }
    std::printf("\n");
    return found;
  }

  const Settings& settings_;
  const RandomModelOptions& options_;
  const RandomModel& directory_;
  const DType dtype_;
  std::unique_ptr<Model> model_;  // as a server has it
  StageTimer timer_;
  std::unique_ptr<CudaEncoder> staged_;  // records its stages into timer_
  std::unique_ptr<ProductFloor> floor_;
  std::unique_ptr<ProductFloor> bfloat16_floor_;  // null if floor_ is it
  int num_failures_ = 0;
};

int Main(const Settings& settings) {
  cudaDeviceProp properties;
  Require(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s; batches of %lld tokens\n", properties.name, static_cast<long long>(settings.batch_tokens));
  ordered_json runs = ordered_json::array();
  int failures = 0;
  for (Variant variant : settings.variants) {
    const RandomModelOptions options = ModelOf(variant, settings);
    RandomModel directory(options);
    Calm(&directory);
    // Several of the kernel's segments, the last one short.
    const std::vector<uint32_t> sample = RandomIds(settings.whole_size ? 700 : 300, options.vocab_size, 7);
    const std::vector<double> truth = PlainForm(options, directory.tensors(), sample, PlainType::kFloat64);
    for (DType dtype : settings.dtypes) {
      EngineCase engine(settings, options, directory, dtype);
      absl::StatusOr<ordered_json> run = engine.Run(sample, truth);
      failures += engine.num_failures();
      if (run.ok()) {
        runs.push_back(*std::move(run));
      } else {  // the other cases go on
        std::printf("  FAILED: %s\n", run.status().ToString().c_str());
        ++failures;
      }
      std::fflush(stdout);
    }
  }
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    const ordered_json all = {{"gpu", properties.name}, {"batch_tokens", settings.batch_tokens}, {"runs", runs}};
    std::ofstream(path) << all.dump(1) << "\n";
  }
  if (failures > 0) std::printf("%d checks FAILED\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lion::bench

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("measures the CUDA engine against its floor; the file's head says how");
  absl::ParseCommandLine(argc, argv);
  absl::StatusOr<lion::bench::Settings> settings = lion::bench::ReadFlags();
  lion::bench::Require(settings.status());
  return lion::bench::Main(*settings);
}
