// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The engine on pictures, with random models, on the CPU or a CUDA device:
//
//   build/release/bin/image_engine_bench                                         768 x 12, LION-S on two paths
//   build/release-cuda/bin/image_engine_bench --device=cuda:0 --dtypes=bfloat16 --pixels=224,448,896,1792 --batch=256
//   build/release/bin/image_engine_bench --short                                 small, for a test that it runs
//
// For each size of picture: pictures and tokens a second, driven as the server drives the engine (as many threads as it
// allows batches at once; copies and the host's work are in it), the median over --repeats rounds and their spread; and
// the memory that one picture takes beside the weights (on the CPU what Encoder::RowBytes says, 0 while the workers'
// own buffers hold it). On a GPU also where a layer's time goes, from a second encoder with events between its kernels.
// Answers: a picture has the bits in its batch that it has alone, every batch those of the first, and every form agrees
// with plain torch operations on small pictures within the tolerance of tests/model.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "model/compute_pool.h"
#include "model/model.h"
#include "nlohmann/json.hpp"
#include "tests/model/difference.h"
#include "tests/model/image_plain_form.h"
#include "tests/model/random_image_model.h"
#ifdef LION_CUDA
#include "bench/cuda_events.h"
#include "model/config.h"
#include "model/cuda_encoder.h"
#include "model/safetensors.h"
#endif

ABSL_FLAG(bool, short, false, "one small batch of each kind: that it runs, not how fast");
ABSL_FLAG(std::string, device, "cpu", "cpu or cuda:N");
ABSL_FLAG(std::vector<std::string>, sizes, std::vector<std::string>{"768x12x12"}, "E x layers x heads");
ABSL_FLAG(std::vector<std::string>, variants, std::vector<std::string>{"lion-s-natural"},
          "lion-lit, lion-d, lion-s; with -natural on two paths");
ABSL_FLAG(std::vector<std::string>, dtypes, (std::vector<std::string>{"float32", "bfloat16"}), "");
ABSL_FLAG(std::vector<std::string>, pixels, (std::vector<std::string>{"224", "448", "896"}), "sides of the pictures");
ABSL_FLAG(std::vector<std::string>, modes, std::vector<std::string>{"auto"}, "auto, parallel, chunked, recurrent");
ABSL_FLAG(int, batch, 8, "pictures of 224 pixels a side in a batch; larger ones as many as have the same tokens");
ABSL_FLAG(int, repeats, 5, "rounds that are timed");
ABSL_FLAG(double, round_seconds, 0.2, "a round has this many seconds' batches, two a thread at least on a GPU");
ABSL_FLAG(int, threads, 0, "of the CPU; 0 = one a core");
ABSL_FLAG(std::string, json, "", "where to write the figures as JSON; empty = nowhere");

namespace lion {
namespace {

constexpr int64_t kUsualSide = 224;
constexpr int64_t kPatch = 16;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "image_engine_bench: %s\n", what.c_str());
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

// E, layers and heads from "768x12x12", the variant from "lion-s-natural".
RandomImageModelOptions ParseModel(const std::string& size, std::string variant) {
  const std::vector<std::string> parts = absl::StrSplit(size, 'x');
  if (parts.size() != 3) Die("--sizes: '" + size + "' is not E x layers x heads, as in 384x12x6");
  RandomImageModelOptions options;
  options.hidden_width = Number(parts[0]);
  options.num_layers = Number(parts[1]);
  options.num_heads = Number(parts[2]);
  options.image_size = kUsualSide;
  options.patch_size = kPatch;
  options.num_labels = 0;
  options.gate_bias = -4;
  options.two_paths = absl::EndsWith(variant, "-natural");
  if (options.two_paths) variant.resize(variant.size() - std::string("-natural").size());
  for (Variant known : {Variant::kLit, Variant::kD, Variant::kS}) {
    if (Name(known) != variant) continue;
    options.variant = known;
    return options;
  }
  Die("--variants: '" + variant + "' is none of lion-lit, lion-d, lion-s");
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<float> EncodeOne(Encoder& encoder, const Row& row) {
  RowResult result;
  Require(encoder.Encode({&row, 1}, {&result, 1}));
  return std::move(result.values);
}

class Bench {
 public:
  Bench() : pool_(ComputePool::Options{.num_threads = absl::GetFlag(FLAGS_threads)}) {}

  int Main() {
    for (const std::string& size : absl::GetFlag(FLAGS_sizes)) {
      for (const std::string& variant : absl::GetFlag(FLAGS_variants)) {
        const RandomImageModel directory(ParseModel(size, variant));
        for (const std::string& dtype : absl::GetFlag(FLAGS_dtypes)) RunModel(directory, size, variant, dtype);
      }
    }
    const std::string path = absl::GetFlag(FLAGS_json);
    if (!path.empty()) {
      std::ofstream file(path);
      file << nlohmann::json({{"device", absl::GetFlag(FLAGS_device)}, {"rows", rows_}}).dump(1) << "\n";
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

  // Every form against plain torch operations in fp64, within twice what the same operations lose in the dtype (four
  // times in fp32) and an ulp of it at 1.
  void CheckAnswers(const RandomImageModel& directory, Encoder& encoder, DType dtype) {
    const PlainType type = dtype == DType::kFloat32    ? PlainType::kFloat32
                           : dtype == DType::kFloat16  ? PlainType::kFloat16
                           : dtype == DType::kBFloat16 ? PlainType::kBFloat16
                           : dtype == DType::kFp8      ? PlainType::kFp8
                                                       : PlainType::kInt8;
    const std::vector<float> pixels = RandomPixels(5 * kPatch, 11);
    const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
    const double plain = Difference(ImagePlainForm(directory, pixels, type), truth).rms;
    const double tolerance = dtype == DType::kFloat32 ? 4 * plain + 1e-6 : 2 * plain + 1.0 / 256;
    for (ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent}) {
      const double error = Difference(EncodeOne(encoder, directory.MakeRow(pixels, mode)), truth).rms;
      Check(error <= tolerance, std::string(Name(mode)) + " form errs by " + std::to_string(error) +
                                    ", plain torch by " + std::to_string(plain));
    }
  }

  void RunModel(const RandomImageModel& directory, const std::string& size, const std::string& variant,
                const std::string& dtype_name) {
    const std::optional<DType> dtype = ParseDType(dtype_name);
    if (!dtype.has_value()) Die("--dtypes: '" + dtype_name + "' is no precision");
    ModelOptions options;
    options.directory = directory.directory();
    options.devices = {absl::GetFlag(FLAGS_device)};
    options.dtype = *dtype;
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, &pool_);
    Require(model.status());
    const int crossover = (*model)->info().parallel_max_tokens;
    std::printf("%s %s %s on %s: crossover %d\n", size.c_str(), variant.c_str(), dtype_name.c_str(),
                options.devices.front().c_str(), crossover);
    CheckAnswers(directory, *(*model)->encoder(), *dtype);
#ifdef LION_CUDA
    LoadStaged(directory, *dtype, (*model)->encoder()->max_batch_tokens());
#endif
    for (const std::string& mode_name : absl::GetFlag(FLAGS_modes)) {
      const std::optional<ComputeMode> asked = ParseComputeMode(mode_name);
      if (!asked.has_value() && mode_name != "auto") Die("--modes: '" + mode_name + "' is no form");
      for (const std::string& side : absl::GetFlag(FLAGS_pixels)) {
        const int64_t S = Number(side);
        if (S % kPatch != 0) Die("--pixels: " + side + " is not a multiple of " + std::to_string(kPatch));
        const int64_t L = ImageTokens(S, kPatch);
        const ComputeMode mode = ResolveMode(asked, L, crossover);
        if (mode == ComputeMode::kParallel && L > kMaxParallelTokens) continue;  // the service refuses it too
        RunSide(directory, *(*model)->encoder(), S, mode,
                {{"size", size}, {"variant", variant}, {"dtype", dtype_name}});
      }
    }
  }

  void RunSide(const RandomImageModel& directory, Encoder& encoder, int64_t S, ComputeMode mode, nlohmann::json found) {
    const int64_t L = ImageTokens(S, kPatch);
    const int64_t num_rows = std::max<int64_t>(1, absl::GetFlag(FLAGS_batch) * ImageTokens(kUsualSide, kPatch) / L);
    std::vector<std::vector<float>> pictures;
    std::vector<Row> rows;
    for (int64_t b = 0; b < num_rows; ++b) pictures.push_back(RandomPixels(S, static_cast<uint32_t>(b + 1)));
    for (const std::vector<float>& pixels : pictures) {
      rows.push_back(directory.MakeRow(pixels, mode, 0, RowOutput::kPooledCls));
    }
    std::vector<RowResult> results(rows.size());
    Require(encoder.Encode(rows, absl::MakeSpan(results)));  // makes the buffers
    const int num_threads = encoder.max_concurrent_batches();
    const double warm = Round(encoder, rows, results, num_threads, num_threads) / num_threads;
    const int num_batches = absl::GetFlag(FLAGS_short)
                                ? num_threads
                                : std::max(num_threads > 1 ? 2 * num_threads : 1,
                                           static_cast<int>(std::ceil(absl::GetFlag(FLAGS_round_seconds) / warm)));
    std::vector<double> seconds;  // a batch
    for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
      seconds.push_back(Round(encoder, rows, results, num_threads, num_batches) / num_batches);
    }
    std::sort(seconds.begin(), seconds.end());
    const size_t place = rows.size() / 2;
    Check(EncodeOne(encoder, rows[place]) == results[place].values, "a picture has other bits alone than in its batch");

    const double median = seconds[seconds.size() / 2];
    const double pictures_per_second = static_cast<double>(num_rows) / median;
    const int64_t row_bytes = RowBytes(encoder, rows.front());
    const DeviceUsage usage = encoder.usage();
    std::printf(
        "  %4lld pixels (%5lld tokens) x %3lld %-9s %9.2f pictures/s (%.2f to %.2f) %9.0f tok/s; a row %.1f MiB",
        static_cast<long long>(S), static_cast<long long>(L), static_cast<long long>(num_rows),
        std::string(Name(mode)).c_str(), pictures_per_second, static_cast<double>(num_rows) / seconds.back(),
        static_cast<double>(num_rows) / seconds.front(), pictures_per_second * static_cast<double>(L),
        static_cast<double>(row_bytes) / (1 << 20));
    if (usage.total_bytes > 0) {
      std::printf(", weights %.0f MiB, buffers %.0f MiB", static_cast<double>(usage.weights_bytes) / (1 << 20),
                  static_cast<double>(usage.buffer_bytes) / (1 << 20));
    }
    std::printf("\n");
    std::fflush(stdout);
    found.update({{"pixels", S},
                  {"tokens", L},
                  {"rows", num_rows},
                  {"mode", std::string(Name(mode))},
                  {"pictures_per_second", pictures_per_second},
                  {"tokens_per_second", pictures_per_second * static_cast<double>(L)},
                  {"row_bytes", row_bytes},
                  {"weights_bytes", usage.weights_bytes},
                  {"buffer_bytes", usage.buffer_bytes}});
    MeasureStages(rows, &found);
    rows_.push_back(std::move(found));
  }

  // Seconds that num_batches take, shared by the threads. Each must have the expected bits.
  double Round(Encoder& encoder, const std::vector<Row>& rows, const std::vector<RowResult>& expected, int num_threads,
               int num_batches) {
    std::atomic<int> left{num_batches};
    std::atomic<bool> same{true};
    auto work = [&] {
      std::vector<RowResult> results(rows.size());
      while (left.fetch_sub(1) > 0) {
        Require(encoder.Encode(rows, absl::MakeSpan(results)));
        for (size_t i = 0; i < rows.size(); ++i) {
          if (results[i].values != expected[i].values) same = false;
        }
      }
    };
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int i = 1; i < num_threads; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    const double taken = SecondsSince(start);
    Check(same, "the same batch was answered with other bits than before");
    return taken;
  }

#ifdef LION_CUDA
  static int64_t RowBytes(const Encoder& encoder, const Row& row) {
    const auto* cuda = dynamic_cast<const CudaEncoder*>(&encoder);
    return cuda != nullptr ? cuda->EstimateBytes({&row, 1}) : encoder.RowBytes(row);
  }

  // A second encoder of the model, whose kernels have events between them.
  void LoadStaged(const RandomImageModel& directory, DType dtype, int64_t max_batch_tokens) {
    staged_ = nullptr;
    const std::string device = absl::GetFlag(FLAGS_device);
    CudaEncoder::Options options;
    if (!absl::StartsWith(device, "cuda:") || !absl::SimpleAtoi(device.substr(5), &options.device)) return;
    absl::StatusOr<std::string> text = ReadTextFile(directory.directory() + "/config.json", 1 << 20);
    Require(text.status());
    absl::StatusOr<ImageConfig> config = ParseImageConfig(*text, "config.json");
    Require(config.status());
    absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(directory.directory());
    Require(weights.status());
    options.config = *config;
    options.weights = *std::move(weights);
    options.dtype = dtype;
    options.max_batch_tokens = max_batch_tokens;
    options.graphs = false;
    options.on_stage = [this](const char* stage, cudaStream_t stream) { timer_.Record(stage, stream); };
    absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(options));
    Require(encoder.status());
    staged_ = *std::move(encoder);
    num_layers_ = directory.options().num_layers;
  }

  void MeasureStages(const std::vector<Row>& rows, nlohmann::json* found) {
    if (staged_ == nullptr) return;
    std::map<std::string, std::vector<double>> times;
    std::vector<RowResult> results(rows.size());
    for (int repeat = 0; repeat <= absl::GetFlag(FLAGS_repeats); ++repeat) {  // the first one warms up
      Require(staged_->Encode(rows, absl::MakeSpan(results)));
      for (const auto& [name, taken] : timer_.Take()) {
        if (repeat > 0) times[name].push_back(taken);
      }
    }
    std::printf("      ms:");
    for (auto& [name, taken] : times) {
      const double median = bench::Median(taken);
      (*found)["stages_ms"][name] = median;
      std::printf("  %s %.3f", name.empty() ? "all" : name.c_str(), median);
    }
    std::printf("; %lld layers\n", static_cast<long long>(num_layers_));
    std::fflush(stdout);
  }

  bench::StageTimer timer_;
  std::unique_ptr<CudaEncoder> staged_;
  int64_t num_layers_ = 0;
#else
  static int64_t RowBytes(const Encoder& encoder, const Row& row) { return encoder.RowBytes(row); }
  static void MeasureStages(const std::vector<Row>& /*rows*/, nlohmann::json* /*found*/) {}
#endif

  ComputePool pool_;
  nlohmann::json rows_ = nlohmann::json::array();
  int failures_ = 0;
};

}  // namespace
}  // namespace lion

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("the engine on pictures");
  absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_short)) {
    absl::SetFlag(&FLAGS_sizes, {"64x2x4"});
    absl::SetFlag(&FLAGS_variants, {"lion-s-natural", "lion-d", "lion-lit"});
    absl::SetFlag(&FLAGS_pixels, {"48", "224", "400"});
    absl::SetFlag(&FLAGS_batch, 2);
    absl::SetFlag(&FLAGS_repeats, 1);
  }
  return lion::Bench().Main();
}
