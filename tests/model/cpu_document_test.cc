// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Very long rows on the CPU: the memory they take against the formula, and their values against full attention in fp64
// at some positions.

#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "model/cpu_encoder.h"
#include "model/model.h"
#include "tests/model/difference.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"
#include "tests/sanitized.h"

namespace lion {
namespace {

// "VmRSS" or "VmHWM", the most since ResetPeak, in bytes.
int64_t ProcessBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!absl::StartsWith(line, field + ":")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t kilobytes = 0;
    EXPECT_TRUE(absl::SimpleAtoi(words[1], &kilobytes)) << line;
    return kilobytes * 1024;
  }
  ADD_FAILURE() << "/proc/self/status has no " << field;
  return 0;
}
void ResetPeak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;
  EXPECT_TRUE(clear.good());
}

std::unique_ptr<Model> Load(const RandomModel& directory, ComputePool* pool, DType dtype) {
  ModelOptions options;
  options.directory = directory.directory();
  options.dtype = dtype;
  options.parallel_max_tokens = 128;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, pool);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

TEST(CpuDocumentTest, MemoryIsWhatTheFormulaSays) {
  RandomModelOptions options;
  options.hidden_width = 256;
  options.feed_forward_width = 512;
  options.num_layers = 1;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const std::unique_ptr<Model> model = Load(directory, &pool, dtype);
    ASSERT_NE(model, nullptr);
    Encoder& encoder = *model->encoder();
    // What stays: the workers' buffers, and products of every size that a row of this kind needs.
    constexpr int64_t kWarmTokens = kSanitized ? 600 : 6000;
    constexpr int64_t kLongTokens = kSanitized ? 4000 : 40000;
    const std::vector<uint32_t> warm = RandomIds(kWarmTokens, options.vocab_size, 1);
    for (ComputeMode mode : {ComputeMode::kChunked, ComputeMode::kRecurrent, ComputeMode::kParallel}) {
      for (RowOutput output : {RowOutput::kPooledMean, RowOutput::kTokens, RowOutput::kWindows}) {
        const Row row{warm, {}, mode, 0, output, 256, 128};
        RowResult result;
        ASSERT_TRUE(encoder.Encode({&row, 1}, {&result, 1}).ok());
      }
    }
    struct Case {
      ComputeMode mode;
      RowOutput output;
      int64_t L;
    };
    for (const Case& c : {Case{ComputeMode::kChunked, RowOutput::kPooledMean, kLongTokens},
                          {ComputeMode::kRecurrent, RowOutput::kPooledMean, kLongTokens},
                          {ComputeMode::kChunked, RowOutput::kTokens, kLongTokens},
                          {ComputeMode::kChunked, RowOutput::kWindows, kLongTokens},
                          {ComputeMode::kParallel, RowOutput::kPooledMean, kWarmTokens}}) {
      const std::vector<uint32_t> ids = RandomIds(c.L, options.vocab_size, 2);
      const Row row{ids, {}, c.mode, 0, c.output, 256, 128};
      malloc_trim(0);
      ResetPeak();
      const int64_t before = ProcessBytes("VmRSS");
      {
        RowResult result;
        ASSERT_TRUE(encoder.Encode({&row, 1}, {&result, 1}).ok());
      }
      const auto taken = static_cast<double>(ProcessBytes("VmHWM") - before);
      const auto expected = static_cast<double>(encoder.RowBytes(row));
      std::printf("%s %d %d: %.1f MB, by the formula %.1f\n", Name(dtype).data(), static_cast<int>(c.mode),
                  static_cast<int>(c.output), taken / 1e6, expected / 1e6);
      if (kSanitized) continue;
      EXPECT_LE(taken, 1.1 * expected);
      // Some of it lies in pages that earlier rows left with the process: up to 10 % of a small row, by the allocator's
      // mood.
      EXPECT_GE(taken, 0.8 * expected);
    }
  }
}

// Means of a row's hidden states in fp64, and the bits of MEAN, whatever else is asked for and however the row is run.
TEST(CpuDocumentTest, OnePassGivesWindowsOfAnySizeAndTheWhole) {
  RandomModelOptions options;
  options.num_layers = 1;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, DType::kFloat32);
  ASSERT_NE(model, nullptr);
  const int64_t E = options.hidden_width;
  const auto encode = [&](const Row& row) {
    RowResult result;
    EXPECT_TRUE(model->encoder()->Encode({&row, 1}, {&result, 1}).ok());
    return result;
  };
  // In a group, cut into spans, and in steps; sums of whole and of broken blocks.
  for (const int64_t L : {int64_t{1}, int64_t{63}, int64_t{300}, int64_t{1025}, int64_t{4097}, int64_t{20000}}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, L);
    const RowResult tokens = encode({ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens});
    const RowResult mean = encode({ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean});
    std::vector<uint32_t> starts;
    for (int64_t start = 0; start < L; start += 1 + start * 7 % 300) starts.push_back(static_cast<uint32_t>(start));
    for (const bool by_starts : {false, true}) {
      Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kWindows, 100, 64};
      if (by_starts) row.window_starts = starts;
      const RowResult alone = encode(row);
      row.with_document = true;
      const RowResult both = encode(row);
      const int64_t n = NumWindows(row, L);
      ASSERT_EQ(alone.num_vectors, n);
      ASSERT_EQ(both.num_vectors, n + 1);
      ASSERT_EQ(both.values.size(), alone.values.size() + E);
      EXPECT_TRUE(std::equal(alone.values.begin(), alone.values.end(), both.values.begin())) << L;
      EXPECT_TRUE(std::equal(mean.values.begin(), mean.values.end(), both.values.end() - E)) << L;
      for (int64_t w = 0; w <= n; ++w) {
        const int64_t first = w == n ? 0 : by_starts ? int64_t{starts[w]} : w * 64;
        const int64_t last = w == n      ? L
                             : by_starts ? (w + 1 < n ? int64_t{starts[w + 1]} : L)
                                         : std::min(first + 100, L);
        for (int64_t e = 0; e < E; ++e) {
          double sum = 0;
          for (int64_t t = first; t < last; ++t) sum += tokens.values[t * E + e];
          ASSERT_NEAR(both.values[w * E + e], sum / static_cast<double>(last - first), 2e-5) << L << " " << w;
        }
      }
    }
  }
}

TEST(CpuDocumentTest, RefusesWindowsThatAreNone) {
  const RandomModel directory({});
  ComputePool pool({.num_threads = 1});
  const std::unique_ptr<Model> model = Load(directory, &pool, DType::kFloat32);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = {1, 2, 3};
  const std::vector<std::vector<uint32_t>> wrong = {{1, 2}, {0, 2, 2}, {0, 2, 1}, {0, 3}};
  for (const std::vector<uint32_t>& starts : wrong) {
    Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kWindows};
    row.window_starts = starts;
    RowResult result;
    EXPECT_TRUE(absl::IsInvalidArgument(model->encoder()->Encode({&row, 1}, {&result, 1})));
  }
}

struct Case {
  const char* name;
  Variant variant;
  DType dtype;
  ComputeMode mode;
  int64_t L;
};

class CpuLongRowTest : public testing::TestWithParam<Case> {};

// One layer: what it makes of a token depends on its id alone until attention, so full attention at a position costs
// O(L) in the reference.
TEST_P(CpuLongRowTest, ErrsAtMostTwiceAsMuchAsThePlainForm) {
  const Case& c = GetParam();
  RandomModelOptions options;
  options.variant = c.variant;
  options.layer_norm_after = false;
  options.hidden_width = 128;
  options.num_layers = 1;
  RandomModel directory(options);
  // Heads forget at once, never, and at rates between: a = sigmoid(l) with l from -8 (0.0003) to 16 (1 - 1e-7: the
  // whole row).
  std::vector<float>& decays =
      directory.tensors()
          .at(std::string("bert.encoder.layer.0.attention.self.") + (c.variant == Variant::kD ? "ai" : "Wa_i.bias"))
          .values;
  for (int64_t h = 0; h < options.num_heads; ++h) {
    const float logit = -8 + 24 * static_cast<float>(h) / static_cast<float>(options.num_heads - 1);
    decays[h] = c.variant == Variant::kD ? logit : -logit;
  }
  directory.WriteWeights();
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, c.dtype);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(c.L, options.vocab_size, 11);
  // The ends, borders of chunks and spans, and between.
  const std::vector<int64_t> positions = {0,           1,         31,       32,     63, 64, 511, 512, c.L / 2 + 17,
                                          c.L / 3 * 2, c.L - 513, c.L - 65, c.L - 1};
  const Row row{ids, {}, c.mode, 0, RowOutput::kTokens};
  RowResult result;
  const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
  ASSERT_TRUE(status.ok()) << status;
  std::vector<float> actual;
  for (int64_t i : positions) {
    const auto at = result.values.begin() + i * options.hidden_width;
    actual.insert(actual.end(), at, at + options.hidden_width);
  }
  const std::vector<double> truth = PlainFormAt(options, directory.tensors(), ids, positions, PlainType::kFloat64);
  const bool wide = c.dtype == DType::kFloat32;
  const PlainType plain_type = wide ? PlainType::kFloat32 : PlainType::kBFloat16;
  const Error plain = Difference(PlainFormAt(options, directory.tensors(), ids, positions, plain_type), truth);
  const Error error = Difference(actual, truth);
  // A unit in the last place at the scale of a LayerNorm's outputs.
  const double ulp = wide ? 16 * 2.4e-7 : 1.0 / 128;
  double largest = 0;
  for (double v : truth) largest = std::max(largest, std::fabs(v));
  // The yardstick of so long a row passes fp32 states between chunks of 64 (between tokens in the recurrent form),
  // where PlainFormAt's sums are exact: as many additions round a state that all of them have about the size of, by
  // half a unit each.
  const double additions = static_cast<double>(c.L) / (c.mode == ComputeMode::kRecurrent ? 1 : 64);
  const double states = std::sqrt(additions) * std::ldexp(1.0, -24);
  EXPECT_LE(error.rms, 2 * (plain.rms + states) + ulp / 2);
  EXPECT_LE(error.max, 2 * (plain.max + states * largest) + ulp * largest);
  std::printf("%s: rms %.3g max %.3g; plain form rms %.3g max %.3g\n", c.name, error.rms, error.max, plain.rms,
              plain.max);
}

// A million tokens, which repeat the same steps; under a sanitizer 512 chunks of them.
constexpr int64_t kLong = 1048576 / (kSanitized ? 32 : 1);
INSTANTIATE_TEST_SUITE_P(Variants, CpuLongRowTest,
                         testing::Values(Case{"DFloat32", Variant::kD, DType::kFloat32, ComputeMode::kChunked, kLong},
                                         Case{"DBFloat16", Variant::kD, DType::kBFloat16, ComputeMode::kChunked, kLong},
                                         Case{"SFloat32", Variant::kS, DType::kFloat32, ComputeMode::kChunked, kLong},
                                         Case{"SBFloat16", Variant::kS, DType::kBFloat16, ComputeMode::kChunked, kLong},
                                         Case{"SRecurrent", Variant::kS, DType::kFloat32, ComputeMode::kRecurrent,
                                              kLong / 8}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace lion
