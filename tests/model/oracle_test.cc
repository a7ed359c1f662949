// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Every oracle model in every form, against the outputs of the reference implementation (tests/oracle/README.md).

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "model/model.h"
#include "model/safetensors.h"

namespace lion {
namespace {

struct Case {
  const char* name;
  ComputeMode mode;
  int chunk_tokens;
};

constexpr Case kCases[] = {
    {"parallel", ComputeMode::kParallel, 0},   {"chunked_1", ComputeMode::kChunked, 1},
    {"chunked_7", ComputeMode::kChunked, 7},   {"chunked_16", ComputeMode::kChunked, 16},
    {"chunked_64", ComputeMode::kChunked, 64}, {"chunked_128", ComputeMode::kChunked, 128},
    {"recurrent", ComputeMode::kRecurrent, 0},
};

std::vector<float> Floats(const WeightFiles& files, const std::string& name) {
  const StoredTensor* tensor = files.Find(name);
  std::vector<float> values(tensor->num_elements());
  std::memcpy(values.data(), tensor->data, tensor->size_bytes);
  return values;
}

std::vector<uint32_t> Integers(const WeightFiles& files, const std::string& name) {
  const StoredTensor* tensor = files.Find(name);
  std::vector<int64_t> wide(tensor->num_elements());
  std::memcpy(wide.data(), tensor->data, tensor->size_bytes);
  return {wide.begin(), wide.end()};
}

// The largest difference; infinity if a value is not finite, so that NaN fails.
double WorstError(const float* actual, const float* expected, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(actual[i])) return INFINITY;
    worst = std::max(worst, std::fabs(static_cast<double>(actual[i]) - expected[i]));
  }
  return worst;
}

class OracleTest : public testing::TestWithParam<std::tuple<const char*, Case>> {};

TEST_P(OracleTest, MatchesTheReference) {
  const auto& [model_name, c] = GetParam();
  const std::string directory = std::string(LION_SOURCE_DIR) + "/tests/oracle/" + model_name;
  ComputePool pool({.num_threads = 2});
  ModelOptions options;
  options.directory = directory;
  options.parallel_max_tokens = 64;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, &pool);
  ASSERT_TRUE(model.ok()) << model.status();
  absl::StatusOr<std::unique_ptr<WeightFiles>> expected = WeightFiles::OpenFile(directory + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();

  const std::vector<uint32_t> lengths = Integers(**expected, "lengths");
  std::vector<std::vector<uint32_t>> ids;
  std::vector<std::vector<uint32_t>> type_ids;
  for (size_t b = 0; b < lengths.size(); ++b) {
    ids.push_back(Integers(**expected, "input_ids." + std::to_string(b)));
    type_ids.push_back(Integers(**expected, "token_type_ids." + std::to_string(b)));
  }
  std::vector<Row> rows;
  for (RowOutput output : {RowOutput::kTokens, RowOutput::kLogits}) {
    for (size_t b = 0; b < lengths.size(); ++b) rows.push_back({ids[b], type_ids[b], c.mode, c.chunk_tokens, output});
  }
  std::vector<RowResult> results(rows.size());
  const absl::Status status = (*model)->encoder()->Encode(rows, absl::MakeSpan(results));
  ASSERT_TRUE(status.ok()) << status;

  const std::vector<float> logits = Floats(**expected, "logits");
  const size_t labels = (*model)->info().labels.size();
  for (size_t b = 0; b < lengths.size(); ++b) {
    const std::vector<float> hidden = Floats(**expected, "last_hidden_state." + std::to_string(b));
    ASSERT_EQ(results[b].values.size(), hidden.size());
    EXPECT_LE(WorstError(results[b].values.data(), hidden.data(), hidden.size()), 1e-4) << "row " << b;
    const RowResult& scores = results[lengths.size() + b];
    ASSERT_EQ(scores.values.size(), labels);
    EXPECT_LE(WorstError(scores.values.data(), logits.data() + b * labels, labels), 1e-4) << "row " << b;
  }
}

std::string CaseName(const testing::TestParamInfo<std::tuple<const char*, Case>>& info) {
  std::string name = std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, OracleTest,
                         testing::Combine(testing::Values("text-lion-lit-ln", "text-lion-d-noln", "text-lion-s-ln",
                                                          "text-lion-s-noln"),
                                          testing::ValuesIn(kCases)),
                         CaseName);

class ImageOracleTest : public testing::TestWithParam<std::tuple<const char*, Case>> {};

TEST_P(ImageOracleTest, MatchesTheReference) {
  const auto& [model_name, c] = GetParam();
  const std::string directory = std::string(LION_SOURCE_DIR) + "/tests/oracle/" + model_name;
  ComputePool pool({.num_threads = 2});
  ModelOptions options;
  options.directory = directory;
  options.parallel_max_tokens = 64;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, &pool);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT((*model)->info().warnings, testing::IsEmpty());
  absl::StatusOr<std::unique_ptr<WeightFiles>> expected = WeightFiles::OpenFile(directory + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();

  const StoredTensor* stored = (*expected)->Find("pixel_values");
  const int64_t B = stored->shape[0];
  const int64_t S = stored->shape[3];
  const std::vector<float> pixels = Floats(**expected, "pixel_values");
  const RowOutput pooled = (*model)->info().pooling == Pooling::kCls ? RowOutput::kPooledCls : RowOutput::kPooledMean;
  std::vector<Row> rows;
  for (RowOutput output : {pooled, RowOutput::kLogits}) {
    for (int64_t b = 0; b < B; ++b) {
      Row row{{}, {}, c.mode, c.chunk_tokens, output};
      row.pixels = absl::MakeConstSpan(pixels).subspan(b * 3 * S * S, 3 * S * S);
      row.image_tokens = ImageTokens(S, (*model)->info().patch_size);
      rows.push_back(row);
    }
  }
  std::vector<RowResult> results(rows.size());
  const absl::Status status = (*model)->encoder()->Encode(rows, absl::MakeSpan(results));
  ASSERT_TRUE(status.ok()) << status;

  const std::vector<float> features = Floats(**expected, "features");
  const std::vector<float> logits = Floats(**expected, "logits");
  const int64_t E = (*model)->info().hidden_width;
  const auto labels = static_cast<int64_t>((*model)->info().labels.size());
  for (int64_t b = 0; b < B; ++b) {
    ASSERT_EQ(static_cast<int64_t>(results[b].values.size()), E);
    EXPECT_LE(WorstError(results[b].values.data(), features.data() + b * E, E), 1e-4) << "row " << b;
    const RowResult& scores = results[B + b];
    ASSERT_EQ(static_cast<int64_t>(scores.values.size()), labels);
    EXPECT_LE(WorstError(scores.values.data(), logits.data() + b * labels, labels), 1e-4) << "row " << b;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ImageOracleTest,
                         testing::Combine(testing::Values("image-lit-normal-pos-mean", "image-decay-normal-nopos-mean",
                                                          "image-decay-s-nopos-cls", "image-selective-normal-pos-cls",
                                                          "image-selective-s-nopos-mean"),
                                          testing::ValuesIn(kCases)),
                         CaseName);

}  // namespace
}  // namespace lion
