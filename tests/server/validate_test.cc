// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/validate.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ServedModel TextModel() {
  ServedModel model;
  model.name = "text";
  model.info = TestModelInfo();
  model.max_sequence_tokens = 64;
  return model;
}

ServiceLimits Limits() {
  ServiceLimits limits;
  limits.max_inputs = 2;
  return limits;
}

v1::EmbedRequest Good() { return WithInputs({IdsInput({1})}); }

// What breaks a good request, and what the answer is.
struct Case {
  const char* name;
  std::function<void(v1::EmbedRequest*)> breaks;
  absl::StatusCode code;
  const char* begins;
  const char* names;
};

class EmbedCaseTest : public testing::TestWithParam<Case> {};

TEST_P(EmbedCaseTest, IsRefused) {
  v1::EmbedRequest request = Good();
  GetParam().breaks(&request);
  const absl::StatusOr<CallPlan> plan = PlanEmbed(request, 0, TextModel(), Limits());
  EXPECT_EQ(plan.status().code(), GetParam().code);
  EXPECT_THAT(std::string(plan.status().message()), StartsWith(GetParam().begins));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(GetParam().names));
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

const Case kCases[] = {
    {"NoInputs", [](auto* r) { r->clear_inputs(); }, kInvalid, "inputs: ", "1 to 2 (max_inputs)"},
    {"ManyInputs", [](auto* r) { r->add_inputs(), r->add_inputs(); }, kInvalid, "inputs: 3", "limit is 2"},
    {"Truncation", [](auto* r) { r->mutable_options()->set_truncation(static_cast<v1::Truncation>(4)); }, kInvalid,
     "options.truncation: 4", "TRUNCATION_LEFT (3)"},
    {"NegativeTruncation", [](auto* r) { r->mutable_options()->set_truncation(static_cast<v1::Truncation>(-1)); },
     kInvalid, "options.truncation: -1", "TRUNCATION_UNSPECIFIED (0)"},
    {"Mode", [](auto* r) { r->mutable_options()->set_mode(static_cast<v1::ComputeMode>(5)); }, kInvalid,
     "options.mode: 5", "COMPUTE_MODE_RECURRENT (4)"},
    {"Pooling", [](auto* r) { r->set_pooling(static_cast<v1::Pooling>(5)); }, kInvalid, "pooling: 5",
     "POOLING_WINDOWS (4)"},
    {"VectorType", [](auto* r) { r->set_vector_type(static_cast<v1::VectorType>(5)); }, kInvalid, "vector_type: 5",
     "VECTOR_TYPE_INT8_BYTES (4)"},
    {"ChunkTokens", [](auto* r) { r->mutable_options()->set_chunk_tokens(129); }, kInvalid, "options.chunk_tokens: 129",
     "limit of 128"},
    {"ChunkTokensOfChunked",
     [](auto* r) {
       r->mutable_options()->set_chunk_tokens(4000000000u);
       r->mutable_options()->set_mode(v1::COMPUTE_MODE_CHUNKED);
     },
     kInvalid, "options.chunk_tokens: 4000000000", "limit of 128"},
    {"Dimensions", [](auto* r) { r->set_dimensions(4); }, kInvalid, "dimensions: 4", "which is 3"},
    {"TokenDimensions",
     [](auto* r) {
       r->set_dimensions(5);
       r->set_pooling(v1::POOLING_TOKENS);
     },
     kInvalid, "dimensions: 5", "which is 4"},
    {"WindowsWithoutSize", [](auto* r) { r->set_pooling(v1::POOLING_WINDOWS); }, kInvalid, "windows.size_tokens: 0",
     "at least 1"},
    {"WindowsStride",
     [](auto* r) {
       r->set_pooling(v1::POOLING_WINDOWS);
       r->mutable_windows()->set_size_tokens(4);
       r->mutable_windows()->set_stride_tokens(5);
     },
     kInvalid, "windows.stride_tokens: 5", "which is 4"},
    {"WindowsAndABadVectorType",
     [](auto* r) {
       r->set_pooling(v1::POOLING_WINDOWS);
       r->mutable_windows()->set_size_tokens(4);
       r->set_vector_type(static_cast<v1::VectorType>(9));
     },
     kInvalid, "vector_type: 9", "FLOAT32"},
};

INSTANTIATE_TEST_SUITE_P(Cases, EmbedCaseTest, testing::ValuesIn(kCases),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(ValidateTest, DefaultsAreTheModelsOwn) {
  ServedModel model = TextModel();
  absl::StatusOr<CallPlan> plan = PlanEmbed(Good(), 7, model, Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->model, 7);
  EXPECT_EQ(plan->output, RowOutput::kPooledMean);
  EXPECT_EQ(plan->truncation, v1::TRUNCATION_ERROR);
  EXPECT_EQ(plan->mode, std::nullopt);
  EXPECT_EQ(plan->chunk_tokens, 0);
  EXPECT_FALSE(plan->spans);
  EXPECT_TRUE(plan->normalize);
  EXPECT_EQ(plan->width, 3);
  EXPECT_EQ(plan->vector_type, v1::VECTOR_TYPE_FLOAT32);

  model.info.pooling = Pooling::kCls;
  model.info.normalize = false;
  plan = PlanEmbed(Good(), 0, model, Limits());
  EXPECT_EQ(plan->output, RowOutput::kPooledCls);
  EXPECT_FALSE(plan->normalize);
}

TEST(ValidateTest, TokensAreNormalisedOnlyOnRequest) {
  v1::EmbedRequest request = Good();
  request.set_pooling(v1::POOLING_TOKENS);
  absl::StatusOr<CallPlan> plan = PlanEmbed(request, 0, TextModel(), Limits());
  EXPECT_EQ(plan->output, RowOutput::kTokens);
  EXPECT_TRUE(plan->spans);
  EXPECT_FALSE(plan->normalize);
  EXPECT_EQ(plan->width, 4);
  request.set_normalize(true);
  request.set_dimensions(2);
  plan = PlanEmbed(request, 0, TextModel(), Limits());
  EXPECT_TRUE(plan->normalize);
  EXPECT_EQ(plan->width, 2);
}

TEST(ValidateTest, NormalizeFalseIsHeard) {
  v1::EmbedRequest request = Good();
  request.set_normalize(false);
  EXPECT_FALSE(PlanEmbed(request, 0, TextModel(), Limits())->normalize);
}

TEST(ValidateTest, TheFlagIsTheDefaultAndTheCallerGoesFirst) {
  ServiceLimits limits = Limits();
  limits.default_mode = ComputeMode::kRecurrent;
  v1::EmbedRequest request = Good();
  for (v1::ComputeMode mode : {v1::COMPUTE_MODE_UNSPECIFIED, v1::COMPUTE_MODE_AUTO}) {
    request.mutable_options()->set_mode(mode);
    EXPECT_EQ(PlanEmbed(request, 0, TextModel(), limits)->mode, ComputeMode::kRecurrent);
  }
  request.mutable_options()->set_mode(v1::COMPUTE_MODE_PARALLEL);
  EXPECT_EQ(PlanEmbed(request, 0, TextModel(), limits)->mode, ComputeMode::kParallel);
}

TEST(ValidateTest, ChunkTokensAreNotLookedAtWhereNothingIsChunked) {
  v1::EmbedRequest request = Good();
  request.mutable_options()->set_chunk_tokens(5000);
  for (v1::ComputeMode mode : {v1::COMPUTE_MODE_PARALLEL, v1::COMPUTE_MODE_RECURRENT}) {
    request.mutable_options()->set_mode(mode);
    EXPECT_EQ(PlanEmbed(request, 0, TextModel(), Limits())->chunk_tokens, 0);
  }
  request.mutable_options()->set_chunk_tokens(128);
  request.mutable_options()->set_mode(v1::COMPUTE_MODE_CHUNKED);
  EXPECT_EQ(PlanEmbed(request, 0, TextModel(), Limits())->chunk_tokens, 128);
}

TEST(ValidateTest, WindowOptionsOfOtherPoolingsAreIgnored) {
  v1::EmbedRequest request = Good();
  request.mutable_windows()->set_stride_tokens(9);
  EXPECT_TRUE(PlanEmbed(request, 0, TextModel(), Limits()).ok());
}

TEST(ValidateTest, WindowsAreEmbeddingsWithSpans) {
  v1::EmbedRequest request = WithInputs<v1::EmbedRequest>({IdsInput({1})});
  request.set_pooling(v1::POOLING_WINDOWS);
  request.mutable_windows()->set_size_tokens(4000000000u);
  absl::StatusOr<CallPlan> plan = PlanEmbed(request, 0, TextModel(), Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->output, RowOutput::kWindows);
  EXPECT_EQ(plan->window_tokens, 4000000000);
  EXPECT_EQ(plan->window_stride, 4000000000);  // 0 = the size
  EXPECT_TRUE(plan->spans);
  EXPECT_TRUE(plan->normalize);  // as for MEAN
  EXPECT_EQ(plan->width, 3);
  request.mutable_windows()->set_stride_tokens(1);
  request.set_normalize(false);
  plan = PlanEmbed(request, 0, TextModel(), Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->window_stride, 1);
  EXPECT_FALSE(plan->normalize);
}

TEST(ValidateTest, ADocumentIsPooledByWindowsUnlessItSaysOtherwise) {
  v1::EmbedDocumentRequest request;
  EXPECT_EQ(PlanDocument(request, 0, TextModel(), Limits()).status().code(), kInvalid);  // windows.size_tokens: 0
  request.mutable_windows()->set_size_tokens(8);
  request.set_vector_type(v1::VECTOR_TYPE_INT8_BYTES);
  absl::StatusOr<CallPlan> plan = PlanDocument(request, 2, TextModel(), Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->model, 2);
  EXPECT_EQ(plan->output, RowOutput::kWindows);
  EXPECT_EQ(plan->vector_type, v1::VECTOR_TYPE_INT8_BYTES);
  request.set_pooling(v1::POOLING_TOKENS);
  plan = PlanDocument(request, 0, TextModel(), Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->output, RowOutput::kTokens);
  EXPECT_FALSE(plan->normalize);
}

TEST(ValidateTest, ClassifyNeedsAHead) {
  ServedModel model = TextModel();
  v1::ClassifyRequest request = WithInputs<v1::ClassifyRequest>({IdsInput({1})});
  request.set_top_k(4000000000u);
  request.set_raw_scores(true);
  absl::StatusOr<CallPlan> plan = PlanClassify(request, 0, model, Limits());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->output, RowOutput::kLogits);
  EXPECT_GE(plan->top_k, 3);
  EXPECT_TRUE(plan->raw_scores);
  model.info.classifies = false;
  plan = PlanClassify(request, 0, model, Limits());
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(plan.status().message()), StartsWith("model: text"));
  // What is wrong with the request comes first.
  request.mutable_options()->set_mode(static_cast<v1::ComputeMode>(9));
  EXPECT_EQ(PlanClassify(request, 0, model, Limits()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ValidateTest, ClassifyAndTokenizeCheckTheirInputsToo) {
  EXPECT_EQ(PlanClassify(v1::ClassifyRequest(), 0, TextModel(), Limits()).status().code(), kInvalid);
  EXPECT_EQ(PlanTokenize(v1::TokenizeRequest(), 0, TextModel(), Limits()).status().code(), kInvalid);
  v1::ClassifyRequest request = WithInputs<v1::ClassifyRequest>({IdsInput({1})});
  request.mutable_options()->set_mode(static_cast<v1::ComputeMode>(99));
  EXPECT_EQ(PlanClassify(request, 0, TextModel(), Limits()).status().code(), kInvalid);
  const absl::StatusOr<CallPlan> plan =
      PlanTokenize(WithInputs<v1::TokenizeRequest>({TextInput("a")}), 0, TextModel(), Limits());
  EXPECT_TRUE(plan->spans && plan->tokens);
}

TEST(ValidateTest, ModelsAreFoundByNameAndTheFirstByNone) {
  std::vector<ServedModel> models = {TextModel(), TextModel()};
  models[1].name = "other";
  EXPECT_EQ(*FindModel(models, ""), 0);
  EXPECT_EQ(*FindModel(models, "text"), 0);
  EXPECT_EQ(*FindModel(models, "other"), 1);
  const absl::StatusOr<int> found = FindModel(models, std::string(1000, 'x') + "\n");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(found.status().message()), StartsWith("model: "));
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("text, other"));
  EXPECT_LT(found.status().message().size(), 200);
}

}  // namespace
}  // namespace lion
