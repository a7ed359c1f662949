// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model.h"
#include "tests/model/cuda_models.h"
#include "tests/model/cuda_test.h"
#include "tests/model/difference.h"
#include "tests/model/loaded_model.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::HasSubstr;

struct Form {
  ComputeMode mode;
  int chunk_tokens;
};

constexpr Form kForms[] = {{ComputeMode::kParallel, 0},  {ComputeMode::kChunked, 0},  {ComputeMode::kChunked, 1},
                           {ComputeMode::kChunked, 7},   {ComputeMode::kChunked, 16}, {ComputeMode::kChunked, 64},
                           {ComputeMode::kChunked, 128}, {ComputeMode::kRecurrent, 0}};

// ------------------------------------------------------------------------------------------------ against the plain
// form

struct Shape {
  const char* name;
  int64_t E;
  int64_t H;
  int64_t FF;
};

// Heads of 16 and 50 columns are stored padded, those of 32, 64 and 128 are not; 150 and 100 are no multiples of 16.
constexpr Shape kShapes[] = {
    {"D16", 64, 4, 128}, {"D50", 150, 3, 100}, {"D32", 128, 4, 256}, {"D64", 128, 2, 256}, {"D128", 256, 2, 512}};

class CudaVariantTest : public OnCudaDevice<testing::TestWithParam<std::tuple<Variant, bool, Shape>>> {
 protected:
  static RandomModelOptions Options() {
    const auto& [variant, layer_norm_after, shape] = GetParam();
    RandomModelOptions options;
    options.variant = variant;
    options.layer_norm_after = layer_norm_after;
    options.absolute_positions = variant == Variant::kLit;
    options.max_positions = 2048;
    options.hidden_width = shape.E;
    options.num_heads = shape.H;
    options.feed_forward_width = shape.FF;
    return options;
  }
};

TEST_P(CudaVariantTest, AllFormsAgreeWithThePlainFormInFp64) {
  const RandomModelOptions options = Options();
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->info().device, "cuda:0");
  // One token, around tiles of 64, and across segments of 512.
  for (int64_t L : {1, 2, 7, 16, 17, 63, 64, 65, 128, 200, 513, 1100}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    std::vector<Row> rows;
    for (const Form& form : kForms) rows.push_back({ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens});
    const std::vector<RowResult> results = Encode(*model, rows);
    const std::vector<double> truth = PlainForm(options, directory.tensors(), ids, PlainType::kFloat64);
    const Error plain = Difference(PlainForm(options, directory.tensors(), ids, PlainType::kFloat32), truth);
    for (size_t i = 0; i < rows.size(); ++i) {
      constexpr double kUlp = 2.4e-7;  // of fp32 at 2 to 4, the scale of a LayerNorm's largest outputs
      EXPECT_LE(Difference(results[i].values, truth).max, 4 * plain.max + 16 * kUlp) << "L " << L << " form " << i;
    }
  }
}

TEST_P(CudaVariantTest, LowerPrecisionsErrAtMostTwiceAsMuchAsThePlainForm) {
  const RandomModelOptions options = Options();
  const RandomModel directory(options);
  for (const Precision& precision : kPrecisions) {
    const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), precision.dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t L : {1, 33, 64, 200, 1100}) {
      const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
      const auto& tensors = directory.tensors();
      const std::vector<double> truth = PlainForm(options, tensors, ids, PlainType::kFloat64);
      const Error plain = Difference(PlainForm(options, tensors, ids, precision.plain), truth);
      std::vector<Row> rows;
      for (const Form& form : kForms) rows.push_back({ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens});
      const std::vector<RowResult> results = Encode(*model, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + precision.ulp / 2) << Name(precision.dtype) << " L " << L << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + precision.ulp * Largest(truth))
            << Name(precision.dtype) << " L " << L << " form " << i;
      }
    }
  }
}

std::string VariantName(const testing::TestParamInfo<std::tuple<Variant, bool, Shape>>& info) {
  const char* names[] = {"Lit", "D", "S"};
  const auto& [variant, layer_norm_after, shape] = info.param;
  return std::string(names[static_cast<int>(variant)]) + (layer_norm_after ? "After" : "Plain") + shape.name;
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaVariantTest,
                         testing::Combine(testing::Values(Variant::kLit, Variant::kD, Variant::kS), testing::Bool(),
                                          testing::ValuesIn(kShapes)),
                         VariantName);

// ------------------------------------------------------------------------------------------------------ against the
// oracle

class CudaOracleTest : public OnCudaDevice<testing::TestWithParam<const char*>> {
 protected:
  static std::string Directory() { return std::string(LION_SOURCE_DIR) + "/tests/oracle/" + GetParam(); }

  static std::vector<float> Floats(const WeightFiles& files, const std::string& name) {
    const StoredTensor* tensor = files.Find(name);
    std::vector<float> values(tensor->num_elements());
    std::memcpy(values.data(), tensor->data, tensor->size_bytes);
    return values;
  }

  static std::vector<uint32_t> Integers(const WeightFiles& files, const std::string& name) {
    const StoredTensor* tensor = files.Find(name);
    std::vector<int64_t> wide(tensor->num_elements());
    std::memcpy(wide.data(), tensor->data, tensor->size_bytes);
    return {wide.begin(), wide.end()};
  }
};

TEST_P(CudaOracleTest, MatchesTheReference) {
  const std::unique_ptr<Model> model = LoadOnCuda(Directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  absl::StatusOr<std::unique_ptr<WeightFiles>> expected = WeightFiles::OpenFile(Directory() + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  const std::vector<uint32_t> lengths = Integers(**expected, "lengths");
  std::vector<std::vector<uint32_t>> ids;
  std::vector<std::vector<uint32_t>> type_ids;
  for (size_t b = 0; b < lengths.size(); ++b) {
    ids.push_back(Integers(**expected, "input_ids." + std::to_string(b)));
    type_ids.push_back(Integers(**expected, "token_type_ids." + std::to_string(b)));
  }
  const std::vector<float> logits = Floats(**expected, "logits");
  const size_t labels = model->info().labels.size();
  for (const Form& form : kForms) {
    std::vector<Row> rows;
    for (RowOutput output : {RowOutput::kTokens, RowOutput::kLogits}) {
      for (size_t b = 0; b < lengths.size(); ++b) {
        rows.push_back({ids[b], type_ids[b], form.mode, form.chunk_tokens, output});
      }
    }
    const std::vector<RowResult> results = Encode(*model, rows);
    for (size_t b = 0; b < lengths.size(); ++b) {
      const std::vector<float> hidden = Floats(**expected, "last_hidden_state." + std::to_string(b));
      EXPECT_LE(Difference(results[b].values, hidden).max, 1e-4) << "row " << b;
      const std::vector<float> scores(logits.begin() + static_cast<std::ptrdiff_t>(b * labels),
                                      logits.begin() + static_cast<std::ptrdiff_t>((b + 1) * labels));
      EXPECT_LE(Difference(results[lengths.size() + b].values, scores).max, 1e-4) << "row " << b;
    }
  }
}

TEST_P(CudaOracleTest, LowerPrecisionsErrAtMostTwiceAsMuchAsThePlainForm) {
  const std::unique_ptr<Model> reference = LoadOnCuda(Directory(), DType::kFloat32);
  ASSERT_NE(reference, nullptr);
  absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(Directory());
  ASSERT_TRUE(weights.ok()) << weights.status();
  std::map<std::string, NamedTensor> tensors;
  for (const auto& [name, tensor] : (*weights)->tensors()) {
    if (tensor.type == StoredType::kF32) tensors[name] = {tensor.shape, Floats(**weights, name)};
  }
  RandomModelOptions options;  // what the plain form asks of a model's shape
  options.variant = reference->info().variant;
  options.layer_norm_after = tensors.count("bert.encoder.layer.0.attention.self.layer_norm.weight") != 0;
  options.absolute_positions = reference->info().max_positions > 0;
  options.hidden_width = reference->info().hidden_width;
  options.num_heads = 4;
  for (const Precision& precision : kPrecisions) {
    const std::unique_ptr<Model> model = LoadOnCuda(Directory(), precision.dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t L : {1, 37, 129, 500}) {
      const std::vector<uint32_t> ids = RandomIds(L, model->info().vocab_size, static_cast<uint32_t>(L));
      const std::vector<double> truth = PlainForm(options, tensors, ids, PlainType::kFloat64);
      const Error plain = Difference(PlainForm(options, tensors, ids, precision.plain), truth);
      std::vector<Row> rows;
      for (const Form& form : kForms) rows.push_back({ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens});
      const std::vector<RowResult> results = Encode(*model, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + precision.ulp / 2) << Name(precision.dtype) << " L " << L << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + precision.ulp * Largest(truth))
            << Name(precision.dtype) << " L " << L << " form " << i;
      }
      const double rms = Difference(results[1].values, truth).rms;
      RecordProperty(absl::StrCat(Name(precision.dtype), "_rms_", L), absl::StrCat(rms, " plain ", plain.rms));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaOracleTest,
                         testing::Values("text-lion-lit-ln", "text-lion-d-noln", "text-lion-s-ln", "text-lion-s-noln"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// ------------------------------------------------------------------------------------------------------ the same bits

class CudaBitsTest : public OnCudaDevice<testing::TestWithParam<DType>> {};

TEST_P(CudaBitsTest, ARowIsTheSameAloneAndInAnyBatch) {
  RandomModelOptions options;
  options.hidden_width = 256;
  options.feed_forward_width = 1024;
  options.dense_width = 48;
  const RandomModel directory(options);
  const std::unique_ptr<Model> alone = LoadOnCuda(directory.directory(), GetParam());
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), GetParam());
  ASSERT_NE(alone, nullptr);
  ASSERT_NE(model, nullptr);

  std::mt19937 random(7);
  std::vector<std::vector<uint32_t>> companions;
  for (int i = 0; i < 41; ++i) companions.push_back(RandomIds(1 + random() % 90, options.vocab_size, 100 + i));
  companions.push_back(RandomIds(700, options.vocab_size, 200));  // passes states
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits};

  for (int64_t L : {1, 5, 64, 133, 300, 600, 1300}) {
    const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
    for (ComputeMode mode : modes) {
      for (RowOutput output : outputs) {
        const Row row{ids, {}, mode, 0, output};
        const RowResult expected = Encode(*alone, {row}).front();
        for (int num_companions : {0, 1, 3, 17, 40}) {
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

TEST_P(CudaBitsTest, EveryOffsetModulo64) {
  const RandomModelOptions options;
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), GetParam());
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(70, options.vocab_size, 1);
  const std::vector<uint32_t> before = RandomIds(64, options.vocab_size, 2);
  for (const Form& form : kForms) {
    const Row row{ids, {}, form.mode, form.chunk_tokens, RowOutput::kTokens};
    const RowResult expected = Encode(*model, {row}).front();
    for (size_t offset = 1; offset <= 64; ++offset) {
      const Row first{
          absl::MakeConstSpan(before).subspan(0, offset), {}, ComputeMode::kParallel, 0, RowOutput::kTokens};
      ASSERT_EQ(Encode(*model, {first, row})[1].values, expected.values) << offset;
    }
  }
}

TEST_P(CudaBitsTest, ARowOfNaNLeavesTheOthersAlone) {
  const RandomModelOptions options;
  RandomModel directory(options);
  // Words 0 and 1 are poison.
  std::vector<float>& words = directory.tensors()["bert.embeddings.word_embeddings.weight"].values;
  std::fill(words.begin(), words.begin() + options.hidden_width, std::numeric_limits<float>::quiet_NaN());
  std::fill(words.begin() + options.hidden_width, words.begin() + 2 * options.hidden_width,
            std::numeric_limits<float>::infinity());
  directory.WriteWeights();
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), GetParam());
  ASSERT_NE(model, nullptr);
  for (const Form& form : kForms) {
    for (RowOutput output : {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kLogits}) {
      std::vector<std::vector<uint32_t>> good;
      for (int64_t L : {3, 40, 70, 600}) {
        good.push_back(RandomIds(L, options.vocab_size - 2, static_cast<uint32_t>(L)));
        for (uint32_t& id : good.back()) id += 2;
      }
      std::vector<std::vector<uint32_t>> bad;
      for (int64_t L : {20, 65, 9, 700, 30}) bad.push_back(std::vector<uint32_t>(L, static_cast<uint32_t>(L % 2)));
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

INSTANTIATE_TEST_SUITE_P(DTypes, CudaBitsTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFp8),
                         [](const auto& test) { return std::string(Name(test.param)); });

// ---------------------------------------------------------------------------------------------------------------- the
// rest

class CudaEncoderTest : public OnCudaDevice<> {};

TEST_F(CudaEncoderTest, PoolsAndProjects) {
  RandomModelOptions options;
  options.dense_width = 24;
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->info().embedding_width, 24);
  RandomModelOptions plain_options = options;
  plain_options.dense_width = 0;
  const RandomModel plain_directory(plain_options);  // the same seed: the same weights without the pipeline
  const std::unique_ptr<Model> plain = LoadOnCuda(plain_directory.directory(), DType::kFloat32);
  ASSERT_NE(plain, nullptr);
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
  // TOKENS never passes Dense; the pooled row does, as on the CPU.
  const std::vector<RowResult> projected = Encode(*model, {row(RowOutput::kTokens), row(RowOutput::kPooledMean)});
  EXPECT_EQ(projected[0].values, results[0].values);
  ASSERT_EQ(projected[1].width, 24);
}

TEST_F(CudaEncoderTest, RefusesRowsThatBreakTheContract) {
  RandomModelOptions options;
  options.variant = Variant::kLit;
  options.absolute_positions = true;
  options.max_positions = 20;
  options.num_labels = 0;
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), DType::kFloat32);
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
  };
  for (const auto& [row, message] : cases) {
    RowResult result;
    const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: " + message));
  }
  EXPECT_TRUE(model->encoder()->Encode({}, {}).ok());
}

TEST_F(CudaEncoderTest, GrowsForARowAboveTheBudgetAndRefusesWhatCannotFit) {
  RandomModelOptions options;
  options.gate_bias = -5;
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  auto* encoder = dynamic_cast<CudaEncoder*>(model->encoder());
  ASSERT_NE(encoder, nullptr);

  const std::vector<uint32_t> short_ids = RandomIds(100, options.vocab_size, 4);
  const Row short_row{short_ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens};
  const RowResult before = Encode(*model, {short_row}).front();
  // Beyond the 65,536 tokens that there is room for from the start.
  const std::vector<uint32_t> long_ids = RandomIds(100000, options.vocab_size, 5);
  const Row long_row{long_ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens};
  const std::vector<RowResult> results = Encode(*model, {short_row, long_row});
  EXPECT_EQ(results[0].values, before.values);
  ASSERT_EQ(results[1].num_vectors, 100000);
  EXPECT_TRUE(
      std::all_of(results[1].values.begin(), results[1].values.end(), [](float v) { return std::isfinite(v); }));
  EXPECT_GT(encoder->EstimateBytes({&long_row, 1}), 100 * encoder->EstimateBytes({&short_row, 1}));

  // The same row twice as often as it takes to need what the device has: rows share a tile, and cost less together.
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  const int64_t bytes = encoder->EstimateBytes({&long_row, 1});
  const std::vector<Row> many(2 * total_bytes / static_cast<size_t>(bytes) + 1, long_row);
  std::vector<RowResult> unused(many.size());
  const absl::Status status = encoder->Encode(many, absl::MakeSpan(unused));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes of device memory"));
  EXPECT_EQ(Encode(*model, {short_row}).front().values, before.values);
}

TEST_F(CudaEncoderTest, LongRowsStayExact) {
  RandomModelOptions options;
  options.gate_bias = -5;
  const RandomModel directory(options);
  const std::unique_ptr<Model> model = LoadOnCuda(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  const std::vector<uint32_t> ids = RandomIds(3000, options.vocab_size, 5);
  const std::vector<RowResult> results = Encode(*model, {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens},
                                                         {ids, {}, ComputeMode::kRecurrent, 0, RowOutput::kTokens},
                                                         {ids, {}, ComputeMode::kParallel, 0, RowOutput::kTokens}});
  EXPECT_LE(Difference(results[0].values, results[1].values).max, 5e-5);
  EXPECT_LE(Difference(results[2].values, results[1].values).max, 5e-5);
}

TEST_F(CudaEncoderTest, MeasuresItsCrossover) {
  const RandomModel directory(RandomModelOptions{});
  ModelOptions options;
  options.directory = directory.directory();
  options.devices = {"cuda:0"};
  options.dtype = DType::kBFloat16;
  const absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, nullptr);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(kCrossoverChoices, testing::Contains((*model)->info().parallel_max_tokens));
}

TEST_F(CudaEncoderTest, NamesTheTensorThatFloat16DoesNotHold) {
  for (const char* name : {"bert.encoder.layer.1.attention.self.key.weight", "bert.encoder.layer.0.output.dense.bias",
                           "bert.encoder.layer.1.intermediate.dense.weight"}) {
    RandomModel directory(RandomModelOptions{});
    directory.tensors().at(name).values[3] = -70000;
    directory.WriteWeights();
    EXPECT_NE(LoadOnCuda(directory.directory(), DType::kBFloat16), nullptr);
    ModelOptions options;
    options.directory = directory.directory();
    options.devices = {"cuda:0"};
    options.dtype = DType::kFloat16;
    const absl::Status status = Model::Load(options, nullptr).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("-70000"));
  }
}

TEST(CudaModelTest, NamesWhatItCannotLoad) {
  const RandomModel directory(RandomModelOptions{});
  ModelOptions options;
  options.directory = directory.directory();
  for (const auto& [device, message] : {std::pair<std::string, std::string>{"cuda", "neither cpu nor cuda:N"},
                                        {"cuda:-1", "neither cpu nor cuda:N"},
                                        {"cuda:x", "neither cpu nor cuda:N"},
                                        {"gpu:0", "neither cpu nor cuda:N"},
                                        {"cuda:1000", "cuda:1000: "}}) {
    options.devices = {device};
    const absl::Status status = Model::Load(options, nullptr).status();
    EXPECT_FALSE(status.ok()) << device;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  options.devices = {"cuda:0"};
  options.dtype = DType::kInt8;
  const absl::Status status = Model::Load(options, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("dtype int8 is not available on cuda"));
}

}  // namespace
}  // namespace lion
