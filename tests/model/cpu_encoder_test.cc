// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_encoder.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "model/linear.h"
#include "model/model.h"
#include "tests/model/difference.h"
#include "tests/model/loaded_model.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"
#include "tests/sanitized.h"

namespace lion {
namespace {

using testing::HasSubstr;

struct Form {
  ComputeMode mode;
  int chunk_tokens;
};

constexpr Form kForms[] = {{ComputeMode::kParallel, 0},  {ComputeMode::kChunked, 0},  {ComputeMode::kChunked, 1},
                           {ComputeMode::kChunked, 7},   {ComputeMode::kChunked, 16}, {ComputeMode::kChunked, 64},
                           {ComputeMode::kChunked, 100}, {ComputeMode::kRecurrent, 0}};

std::unique_ptr<Model> Load(const RandomModel& directory, ComputePool* pool, DType dtype = DType::kFloat32) {
  ModelOptions options;
  options.directory = directory.directory();
  options.dtype = dtype;
  options.parallel_max_tokens = 128;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, pool);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// Whether this CPU has no exact int8 products, in which case Load must say so and nothing else is to be tested.
bool RefusedHere(DType dtype) {
  if (dtype != DType::kInt8) return false;
  ComputePool pool({.num_threads = 1});
  absl::Status exact;
  EXPECT_TRUE(pool.Run(1, [&](int, int) { exact = Linear::CheckInt8(); }).ok());
  if (exact.ok()) return false;
  const RandomModel directory({});
  ModelOptions options;
  options.directory = directory.directory();
  options.dtype = dtype;
  EXPECT_EQ(Model::Load(options, &pool).status().code(), absl::StatusCode::kUnimplemented);
  return true;
}

RandomModelOptions OptionsFor(Variant variant, bool layer_norm_after) {
  RandomModelOptions options;
  options.variant = variant;
  options.layer_norm_after = layer_norm_after;
  options.absolute_positions = variant == Variant::kLit;
  return options;
}

class VariantTest : public testing::TestWithParam<std::tuple<Variant, bool>> {
 protected:
  RandomModelOptions Options() const { return OptionsFor(std::get<0>(GetParam()), std::get<1>(GetParam())); }
};

TEST_P(VariantTest, AllFormsAgreeWithThePlainFormInFp64) {
  const RandomModelOptions options = Options();
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  // One token, and around chunks of 7, 16, 32 and 64; 200 crosses blocks of the parallel form.
  for (int64_t L : {1, 2, 6, 7, 8, 15, 16, 17, 23, 31, 32, 33, 50, 63, 64, 65, 98, 128, 194, 200}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    std::vector<Row> rows;
    for (const Form& form : kForms) rows.push_back({ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens});
    const std::vector<RowResult> results = Encode(*model, rows);
    const std::vector<double> truth = PlainForm(options, directory.tensors(), ids, PlainType::kFloat64);
    // fp32's own rounding through two layers, as torch has it: the yardstick of the tolerance.
    const Error plain = Difference(PlainForm(options, directory.tensors(), ids, PlainType::kFloat32), truth);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Error error = Difference(results[i].values, truth);
      constexpr double kUlp = 2.4e-7;  // of fp32 at 2 to 4, the scale of a LayerNorm's largest outputs
      EXPECT_LE(error.max, 4 * plain.max + 16 * kUlp) << "L " << L << " form " << i;
    }
  }
}

// In the lower precisions.
TEST_P(VariantTest, ErrsAtMostTwiceAsMuchAsThePlainForm) {
  RandomModelOptions options = Options();
  options.hidden_width = 128;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  for (const auto& [dtype, plain_type] :
       {std::pair(DType::kBFloat16, PlainType::kBFloat16), std::pair(DType::kInt8, PlainType::kInt8)}) {
    if (RefusedHere(dtype)) continue;
    const std::unique_ptr<Model> model = Load(directory, &pool, dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t L : {1, 33, 64, 200}) {
      if (L == 1 && dtype == DType::kInt8) continue;  // what a few roundings of one token come to is no yardstick
      const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
      const auto& tensors = directory.tensors();
      const std::vector<double> truth = PlainForm(options, tensors, ids, PlainType::kFloat64);
      const Error plain = Difference(PlainForm(options, tensors, ids, plain_type), truth);
      std::vector<Row> rows;
      for (const Form& form : kForms) rows.push_back({ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens});
      const std::vector<RowResult> results = Encode(*model, rows);
      constexpr double kUlp = 1.0 / 256;  // of bfloat16 at 1, the scale of a LayerNorm's output
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + kUlp) << Name(dtype) << " L " << L << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + kUlp) << Name(dtype) << " L " << L << " form " << i;
      }
    }
  }
}

std::string VariantName(const testing::TestParamInfo<std::tuple<Variant, bool>>& info) {
  const char* names[] = {"Lit", "D", "S"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) + (std::get<1>(info.param) ? "After" : "Plain");
}

INSTANTIATE_TEST_SUITE_P(Variants, VariantTest,
                         testing::Combine(testing::Values(Variant::kLit, Variant::kD, Variant::kS), testing::Bool()),
                         VariantName);

class BitsTest : public testing::TestWithParam<DType> {};

TEST_P(BitsTest, ARowIsTheSameAloneAndInAnyBatch) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  options.hidden_width = 128;
  options.feed_forward_width = 512;  // wide enough for oneDNN to choose by the number of rows
  options.dense_width = 48;
  const RandomModel directory(options);
  ComputePool one({.num_threads = 1});
  ComputePool two({.num_threads = 2});
  const std::unique_ptr<Model> alone = Load(directory, &one, GetParam());
  const std::unique_ptr<Model> model = Load(directory, &two, GetParam());
  ASSERT_NE(alone, nullptr);
  ASSERT_NE(model, nullptr);

  std::mt19937 random(7);
  std::vector<std::vector<uint32_t>> companions;
  for (int i = 0; i < 41; ++i) companions.push_back(RandomIds(1 + random() % 90, options.vocab_size, 100 + i));
  companions.push_back(RandomIds(700, options.vocab_size, 200));  // shared by the workers
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits};

  for (int64_t L : {1, 5, 64, 133, 300, 600, 1000}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    for (ComputeMode mode : modes) {
      for (RowOutput output : outputs) {
        const Row row{ids, {}, mode, 0, output};
        const RowResult expected = Encode(*alone, {row}).front();
        for (int num_companions : {0, 1, 3, 17, 40}) {
          if (kSanitized && num_companions > 3) continue;
          // The row at every kind of place: offsets take all values modulo 64 as companions change in length.
          std::vector<Row> rows;
          for (int i = 0; i < num_companions; ++i) {
            const std::vector<uint32_t>& other = companions[random() % companions.size()];
            rows.push_back({other, {}, modes[random() % 3], 0, outputs[random() % 4]});
          }
          const size_t place = rows.empty() ? 0 : random() % (rows.size() + 1);
          rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(place), row);
          const std::vector<RowResult> results = Encode(*model, rows);
          ASSERT_EQ(results[place].values, expected.values) << "L " << L << " mode " << Name(mode) << " output "
                                                            << static_cast<int>(output) << " beside " << num_companions;
        }
      }
    }
  }
}

TEST_P(BitsTest, EveryOffsetModulo64) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, GetParam());
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(70, options.vocab_size, 1);
  const std::vector<uint32_t> before = RandomIds(64, options.vocab_size, 2);
  const Row row{ids, {}, ComputeMode::kChunked, 16, RowOutput::kTokens};
  const RowResult expected = Encode(*model, {row}).front();
  for (size_t offset = 1; offset <= 64; ++offset) {
    const Row first{absl::MakeConstSpan(before).subspan(0, offset), {}, ComputeMode::kParallel, 0, RowOutput::kTokens};
    ASSERT_EQ(Encode(*model, {first, row})[1].values, expected.values) << offset;
  }
}

TEST_P(BitsTest, ARowOfNaNLeavesTheOthersAlone) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  RandomModel directory(options);
  // Words 0 and 1 are poison.
  std::vector<float>& words = directory.tensors()["bert.embeddings.word_embeddings.weight"].values;
  std::fill(words.begin(), words.begin() + options.hidden_width, std::numeric_limits<float>::quiet_NaN());
  std::fill(words.begin() + options.hidden_width, words.begin() + 2 * options.hidden_width,
            std::numeric_limits<float>::infinity());
  directory.WriteWeights();
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, GetParam());
  ASSERT_NE(model, nullptr);
  for (const Form& form : kForms) {
    for (RowOutput output : {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kLogits}) {
      std::vector<std::vector<uint32_t>> good;
      for (int64_t L : {3, 40, 70}) {
        good.push_back(RandomIds(L, options.vocab_size - 2, static_cast<uint32_t>(L)));
        for (uint32_t& id : good.back()) id += 2;
      }
      std::vector<std::vector<uint32_t>> bad;
      for (int64_t L : {20, 65, 9, 30}) bad.push_back(std::vector<uint32_t>(L, static_cast<uint32_t>(L % 2)));
      std::vector<Row> rows;
      for (size_t i = 0; i < bad.size(); ++i) {
        rows.push_back({bad[i], {}, form.mode, form.chunk_tokens, output});
        if (i < good.size()) rows.push_back({good[i], {}, form.mode, form.chunk_tokens, output});
      }
      const std::vector<RowResult> results = Encode(*model, rows);
      for (size_t i = 0; i < good.size(); ++i) {
        const RowResult expected = Encode(*model, {rows[2 * i + 1]}).front();
        EXPECT_EQ(results[2 * i + 1].values, expected.values);
        EXPECT_TRUE(std::isfinite(expected.values.front()));
      }
      for (size_t i = 0; i < bad.size(); ++i) EXPECT_TRUE(std::isnan(results[2 * i].values.front())) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, BitsTest, testing::Values(DType::kFloat32, DType::kBFloat16, DType::kInt8),
                         [](const auto& test) { return std::string(Name(test.param)); });

TEST(CpuEncoderTest, PoolsAndProjects) {
  RandomModelOptions options;
  options.dense_width = 24;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->info().embedding_width, 24);
  EXPECT_TRUE(model->info().normalize);
  EXPECT_EQ(model->info().pooling, Pooling::kMean);
  RandomModelOptions plain_options = options;
  plain_options.dense_width = 0;
  const RandomModel plain_directory(plain_options);  // the same seed: the same weights without the pipeline
  const std::unique_ptr<Model> plain = Load(plain_directory, &pool);
  ASSERT_NE(plain, nullptr);
  EXPECT_FALSE(plain->info().normalize);
  EXPECT_EQ(plain->info().embedding_width, options.hidden_width);

  const int64_t E = options.hidden_width;
  const int64_t L = 150;
  const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, 3);
  auto row = [&](RowOutput output) { return Row{ids, {}, ComputeMode::kChunked, 0, output}; };
  const std::vector<RowResult> results =
      Encode(*plain, {row(RowOutput::kTokens), row(RowOutput::kPooledMean), row(RowOutput::kPooledCls)});
  ASSERT_EQ(results[0].num_vectors, L);
  ASSERT_EQ(results[0].width, E);
  ASSERT_EQ(results[1].values.size(), static_cast<size_t>(E));
  for (int64_t e = 0; e < E; ++e) {
    double mean = 0;
    for (int64_t t = 0; t < L; ++t) mean += results[0].values[t * E + e] / static_cast<double>(L);
    EXPECT_NEAR(results[1].values[e], mean, 1e-5);
    EXPECT_EQ(results[2].values[e], results[0].values[e]);
  }
  // TOKENS never passes Dense; the pooled row does.
  const std::vector<RowResult> projected = Encode(*model, {row(RowOutput::kTokens), row(RowOutput::kPooledMean)});
  EXPECT_EQ(projected[0].values, results[0].values);
  EXPECT_EQ(projected[1].width, 24);
}

TEST_P(BitsTest, WindowsAreTheMeansOfTheirTokens) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  options.dense_width = 24;
  const RandomModel directory(options);
  RandomModelOptions plain_options = options;
  plain_options.dense_width = 0;
  const RandomModel plain_directory(plain_options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, GetParam());
  const std::unique_ptr<Model> plain = Load(plain_directory, &pool, GetParam());
  ASSERT_NE(model, nullptr);
  ASSERT_NE(plain, nullptr);
  const int64_t E = options.hidden_width;
  const std::vector<uint32_t> companion = RandomIds(33, options.vocab_size, 4);
  // In a group, and as a row that is cut into spans; more windows than a product takes at once.
  for (int64_t L : {100, 1500}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    for (const auto& [size, stride] : {std::pair<int64_t, int64_t>{64, 32}, {50, 50}, {7, 2}, {5000, 1}}) {
      Row row{ids, {}, ComputeMode::kChunked, 0, RowOutput::kWindows, size, stride};
      const int64_t n = NumWindows(L, size, stride);
      const RowResult windows = Encode(*plain, {row}).front();
      ASSERT_EQ(windows.num_vectors, n);
      ASSERT_EQ(windows.width, E);
      const RowResult tokens = Encode(*plain, {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}}).front();
      for (int64_t w = 0; w < n; ++w) {
        const int64_t last = std::min(w * stride + size, L);
        for (int64_t e = 0; e < E; ++e) {
          double mean = 0;
          for (int64_t t = w * stride; t < last; ++t) mean += tokens.values[t * E + e];
          mean /= static_cast<double>(last - w * stride);
          ASSERT_NEAR(windows.values[w * E + e], mean, 1e-5) << L << " " << w;
        }
      }
      // Dense behind them; the same bits in company; a window as long as the row is its mean.
      const RowResult projected = Encode(*model, {row}).front();
      ASSERT_EQ(projected.num_vectors, n);
      ASSERT_EQ(projected.width, 24);
      ASSERT_EQ(Encode(*model, {{companion, {}}, row})[1].values, projected.values);
      if (size >= L) {
        ASSERT_EQ(Encode(*model, {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}}).front().values,
                  projected.values);
      }
    }
  }
}

TEST(CpuEncoderTest, RefusesRowsThatBreakTheContract) {
  RandomModelOptions options = OptionsFor(Variant::kLit, true);
  options.max_positions = 20;
  options.num_labels = 0;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 1});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  EXPECT_FALSE(model->info().classifies);
  const std::vector<uint32_t> ids(20, 1);
  const std::vector<uint32_t> long_ids(21, 1);
  const std::vector<uint32_t> unknown = {1, 97};
  const std::vector<uint32_t> one_type = {0};
  const std::vector<uint32_t> bad_types(20, 2);
  const std::vector<std::pair<Row, std::string>> cases = {
      {Row{{}, {}}, "has no ids"},
      {Row{long_ids, {}}, "21 tokens, the model has 20 positions"},
      {Row{unknown, {}}, "id 97 is not below the vocabulary size 97"},
      {Row{ids, one_type}, "1 type ids for 20 ids"},
      {Row{ids, bad_types}, "type id 2 is not below 2"},
      {Row{ids, {}, ComputeMode::kChunked, 129}, "chunk_tokens 129 is not from 0 to 128"},
      {Row{ids, {}, ComputeMode::kParallel, 0, RowOutput::kLogits}, "the model has no classifier"},
      {Row{ids, {}, ComputeMode::kParallel, 0, RowOutput::kWindows}, "window_tokens 0 is below 1"},
      {Row{ids, {}, ComputeMode::kParallel, 0, RowOutput::kWindows, 4, 5},
       "window_stride 5 is not from 1 to window_tokens 4"},
  };
  for (const auto& [row, message] : cases) {
    RowResult result;
    const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: " + message));
  }
  EXPECT_TRUE(model->encoder()->Encode({}, {}).ok());
}

TEST_P(BitsTest, ALongRowIsTheSameSharedOrOnOneWorker) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  const RandomModel directory(options);
  ComputePool one({.num_threads = 1});
  ComputePool three({.num_threads = 3});
  const std::unique_ptr<Model> alone = Load(directory, &one, GetParam());
  const std::unique_ptr<Model> shared = Load(directory, &three, GetParam());
  ASSERT_NE(alone, nullptr);
  ASSERT_NE(shared, nullptr);
  // Around a span's end, and several spans; with chunks that divide a span and others.
  for (int64_t L : {512, 513, 1024, 1500}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    for (const Form& form : kForms) {
      const Row row{ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens};
      const std::vector<float> expected = Encode(*alone, {row}).front().values;
      ASSERT_EQ(Encode(*shared, {row}).front().values, expected) << L;
      // Work enough for each worker to keep its rows to itself.
      ASSERT_EQ(Encode(*shared, std::vector<Row>(7, row)).back().values, expected) << L;
    }
  }
}

// Runs other rows between the steps of one, and stops it when told.
class StepControl : public EncodeControl {
 public:
  absl::Status BetweenSteps(int64_t done, int64_t total) override {
    EXPECT_GT(done, 0);
    EXPECT_LT(done, total);
    EXPECT_GE(done, last_done);
    last_done = done;
    tokens = total;
    ++steps;
    if (between != nullptr) between();
    return steps == stop_at ? absl::CancelledError("stopped") : absl::OkStatus();
  }

  bool WantsPause() const override { return wants_pause; }

  std::function<void()> between;
  bool wants_pause = false;
  int stop_at = 0;
  int steps = 0;
  int64_t last_done = 0;
  int64_t tokens = 0;
};

TEST_P(BitsTest, StepsAndWhatRunsBetweenThemChangeNoBit) {
  if (RefusedHere(GetParam())) return;
  RandomModelOptions options;
  options.hidden_width = 128;
  options.feed_forward_width = 512;
  // Steps are lengths of time: enough work for several, each of which runs all that is between them.
  options.num_layers = kSanitized ? 1 : GetParam() == DType::kFloat32 ? 4 : 12;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, GetParam());
  ASSERT_NE(model, nullptr);
  Encoder& encoder = *model->encoder();
  ASSERT_TRUE(encoder.runs_nested_batches());
  const int64_t L = 2 * encoder.max_unstepped_tokens() + 100;
  const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, 1);
  const std::vector<uint32_t> short_ids = RandomIds(50, options.vocab_size, 2);
  const std::vector<uint32_t> middle_ids = RandomIds(1300, options.vocab_size, 3);
  std::vector<Row> others = {{short_ids, {}}, {middle_ids, {}, ComputeMode::kRecurrent}};
  std::vector<std::vector<float>> expected_others;
  for (const RowResult& result : Encode(*model, others)) expected_others.push_back(result.values);
  for (const Form& form : {Form{ComputeMode::kChunked, 0},
                           {ComputeMode::kChunked, 100},
                           {ComputeMode::kRecurrent, 0},
                           {ComputeMode::kParallel, 0}}) {
    for (RowOutput output : {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kWindows}) {
      const Row row{ids, {}, form.mode, form.chunk_tokens, output, 640, 320};
      const RowResult expected = Encode(*model, {row}).front();
      StepControl control;
      control.between = [&] {
        const std::vector<RowResult> results = Encode(*model, others);
        for (size_t i = 0; i < others.size(); ++i) ASSERT_EQ(results[i].values, expected_others[i]);
      };
      RowResult result;
      const absl::Status status = encoder.Encode({&row, 1}, {&result, 1}, &control);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_GT(control.steps, 1);
      EXPECT_EQ(control.tokens, L);
      ASSERT_EQ(result.values, expected.values);
      ASSERT_EQ(result.num_vectors, expected.num_vectors);
      if (kSanitized || GetParam() != DType::kFloat32) break;
    }
  }
}

TEST(CpuEncoderTest, ALongRowStopsWhereItIsTold) {
  RandomModelOptions options;
  options.hidden_width = 128;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(40000, options.vocab_size, 1);
  const Row row{ids, {}, ComputeMode::kChunked};
  for (int stop_at : {1, 3}) {
    StepControl control;
    control.stop_at = stop_at;
    RowResult result;
    const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1}, &control);
    EXPECT_EQ(status, absl::CancelledError("stopped"));
    EXPECT_EQ(control.steps, stop_at);
  }
  // Rows without steps ask nobody.
  StepControl control;
  const Row short_row{absl::MakeConstSpan(ids).first(model->encoder()->max_unstepped_tokens()), {}};
  RowResult result;
  EXPECT_TRUE(model->encoder()->Encode({&short_row, 1}, {&result, 1}, &control).ok());
  EXPECT_EQ(control.steps, 0);
}

TEST(CpuEncoderTest, APauseThatIsWantedComesAfterASpanOfEachWorker) {
  const RandomModelOptions options;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(5120, options.vocab_size, 1);  // ten spans
  const Row row{ids, {}, ComputeMode::kChunked};
  const RowResult expected = Encode(*model, {row}).front();
  StepControl control;
  control.wants_pause = true;
  RowResult result;
  const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1}, &control);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(result.values, expected.values);
  // Each passage through the spans, one more than there are layers, takes five steps of two spans, or more of one.
  EXPECT_GE(control.steps, 5 * (options.num_layers + 1));
}

TEST(CpuEncoderTest, LongRowsStayExact) {
  // 3,000 tokens through the workers' shared path: chunked and recurrent against each other.
  RandomModelOptions options;
  options.gate_bias = -5;
  const RandomModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(3000, options.vocab_size, 5);
  const std::vector<RowResult> results = Encode(*model, {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens},
                                                         {ids, {}, ComputeMode::kRecurrent, 0, RowOutput::kTokens},
                                                         {ids, {}, ComputeMode::kParallel, 0, RowOutput::kTokens}});
  const std::vector<double> recurrent(results[1].values.begin(), results[1].values.end());
  EXPECT_LE(Difference(results[0].values, recurrent).max, 5e-5);
  EXPECT_LE(Difference(results[2].values, recurrent).max, 5e-5);
}

}  // namespace
}  // namespace lion
