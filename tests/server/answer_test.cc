// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/answer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::FloatNear;
using ::testing::IsEmpty;

// The value of a half, by its definition.
double FromFloat16(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Float16Test, EveryHalfComesBack) {
  for (uint32_t half = 0; half < 0x7C00; ++half) {
    const float x = static_cast<float>(FromFloat16(static_cast<uint16_t>(half)));
    ASSERT_EQ(ToFloat16(x), half);
    ASSERT_EQ(ToFloat16(-x), half | 0x8000);
  }
}

TEST(Float16Test, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t half = 0; half < 0x7BFF; ++half) {
    const double low = FromFloat16(static_cast<uint16_t>(half));
    const double high = FromFloat16(static_cast<uint16_t>(half + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact
    ASSERT_EQ(ToFloat16(middle), half + (half & 1)) << half;
    ASSERT_EQ(ToFloat16(std::nextafter(middle, 0.0f)), half) << half;
    ASSERT_EQ(ToFloat16(std::nextafter(middle, 1e6f)), half + 1) << half;
  }
}

TEST(Float16Test, SaturatesInsteadOfOverflowing) {
  EXPECT_EQ(ToFloat16(65504.0f), 0x7BFF);
  EXPECT_EQ(ToFloat16(65520.0f), 0x7BFF);
  EXPECT_EQ(ToFloat16(-std::numeric_limits<float>::max()), 0xFBFF);
  EXPECT_EQ(ToFloat16(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(FillVectorTest, Float32) {
  const std::vector<float> v = {1.5f, -2.0f};
  v1::Vector values;
  FillVector(v, v1::VECTOR_TYPE_FLOAT32, &values);
  EXPECT_THAT(values.values(), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(values.data(), IsEmpty());
  EXPECT_EQ(values.scale(), 0);
  v1::Vector bytes;
  FillVector(v, v1::VECTOR_TYPE_FLOAT32_BYTES, &bytes);
  EXPECT_THAT(bytes.values(), IsEmpty());
  EXPECT_EQ(bytes.data(), std::string("\0\0\xc0\x3f\0\0\0\xc0", 8));
  EXPECT_EQ(bytes.scale(), 0);
}

TEST(FillVectorTest, Float16) {
  v1::Vector out;
  FillVector({1.0f, -2.0f}, v1::VECTOR_TYPE_FLOAT16_BYTES, &out);
  EXPECT_EQ(out.data(), std::string("\x00\x3c\x00\xc0", 4));
  EXPECT_EQ(out.scale(), 0);
}

TEST(FillVectorTest, Int8) {
  v1::Vector out;
  FillVector({12.7f, -6.35f, 0.0f, 0.04f, 0.06f}, v1::VECTOR_TYPE_INT8_BYTES, &out);
  EXPECT_FLOAT_EQ(out.scale(), 0.1f);
  EXPECT_EQ(out.data(), std::string("\x7f\xc0\x00\x00\x01", 5));  // 63.5 rounds away from zero
  EXPECT_THAT(out.values(), IsEmpty());
}

TEST(FillVectorTest, Int8OfZeros) {
  v1::Vector out;
  FillVector({0.0f, -0.0f}, v1::VECTOR_TYPE_INT8_BYTES, &out);
  EXPECT_EQ(out.scale(), 0);
  EXPECT_EQ(out.data(), std::string(2, '\0'));
  // So small that the scale is no longer a float: zeros too, and no division by it.
  FillVector({std::numeric_limits<float>::denorm_min()}, v1::VECTOR_TYPE_INT8_BYTES, &out);
  EXPECT_EQ(out.scale(), 0);
  EXPECT_EQ(out.data(), std::string(1, '\0'));
}

PlannedRow RowOf(int64_t num_tokens) {
  PlannedRow row;
  row.num_tokens = num_tokens;
  row.mode = ComputeMode::kChunked;
  row.truncated = true;
  return row;
}

TEST(FillEmbedResultTest, CutsThenNormalises) {
  CallPlan plan;
  plan.normalize = true;
  plan.width = 2;
  v1::EmbedResult out;
  FillEmbedResult(plan, RowOf(7), {.values = {3, 4, 100}, .num_vectors = 1, .width = 3}, &out);
  ASSERT_EQ(out.vectors_size(), 1);
  EXPECT_THAT(out.vectors(0).values(), ElementsAre(FloatEq(0.6f), FloatEq(0.8f)));
  EXPECT_FALSE(out.vectors(0).has_span());
  EXPECT_EQ(out.token_count(), 7);
  EXPECT_TRUE(out.truncated());
  EXPECT_EQ(out.mode(), v1::COMPUTE_MODE_CHUNKED);
  EXPECT_FALSE(out.has_error());
}

TEST(FillEmbedResultTest, AZeroVectorStaysZero) {
  CallPlan plan;
  plan.normalize = true;
  plan.width = 2;
  v1::EmbedResult out;
  FillEmbedResult(plan, RowOf(1), {.values = {0, 0}, .num_vectors = 1, .width = 2}, &out);
  EXPECT_THAT(out.vectors(0).values(), ElementsAre(0, 0));
}

TEST(FillEmbedResultTest, TokensCarrySpans) {
  CallPlan plan;
  plan.output = RowOutput::kTokens;
  plan.width = 1;
  PlannedRow row = RowOf(2);
  row.spans = {{0, 0}, {2, 5}};
  v1::EmbedResult out;
  FillEmbedResult(plan, row, {.values = {1, 2, 3, 4}, .num_vectors = 2, .width = 2}, &out);
  ASSERT_EQ(out.vectors_size(), 2);
  EXPECT_THAT(out.vectors(1).values(), ElementsAre(3));
  EXPECT_EQ(out.vectors(0).span().end_byte(), 0);
  EXPECT_EQ(out.vectors(1).span().start_token(), 1);
  EXPECT_EQ(out.vectors(1).span().end_token(), 2);
  EXPECT_EQ(out.vectors(1).span().start_byte(), 2);
  EXPECT_EQ(out.vectors(1).span().end_byte(), 5);
  row.spans.clear();  // ids
  v1::EmbedResult ids;
  FillEmbedResult(plan, row, {.values = {1, 2, 3, 4}, .num_vectors = 2, .width = 2}, &ids);
  EXPECT_EQ(ids.vectors(1).span().end_byte(), 0);
  EXPECT_EQ(ids.vectors(1).span().end_token(), 2);
}

// start_token, end_token, start_byte, end_byte of each window.
std::vector<std::vector<uint32_t>> WindowSpans(const CallPlan& plan, const PlannedRow& row) {
  const int64_t n = NumWindows(row.num_tokens, plan.window_tokens, plan.window_stride);
  v1::EmbedResult out;
  FillEmbedResult(plan, row, {.values = std::vector<float>(n, 1.0f), .num_vectors = n, .width = 1}, &out);
  std::vector<std::vector<uint32_t>> spans;
  for (const v1::Vector& vector : out.vectors()) {
    const v1::Span& span = vector.span();
    spans.push_back({span.start_token(), span.end_token(), span.start_byte(), span.end_byte()});
  }
  return spans;
}

TEST(FillEmbedResultTest, WindowsCarryTheBytesOfTheirText) {
  CallPlan plan;
  plan.output = RowOutput::kWindows;
  plan.width = 1;
  plan.window_tokens = 2;
  plan.window_stride = 1;
  PlannedRow row = RowOf(5);  // [CLS] a b c [SEP]
  row.spans = {{0, 0}, {1, 3}, {4, 6}, {6, 9}, {0, 0}};
  row.texts[0] = {1, 4};
  EXPECT_THAT(WindowSpans(plan, row), ElementsAre(ElementsAre(0, 2, 1, 3), ElementsAre(1, 3, 1, 6),
                                                  ElementsAre(2, 4, 4, 9), ElementsAre(3, 5, 6, 9)));
  plan.window_tokens = plan.window_stride = 4;  // the last is shorter, and has no token of the text
  EXPECT_THAT(WindowSpans(plan, row), ElementsAre(ElementsAre(0, 4, 1, 9), ElementsAre(4, 5, 0, 0)));
  plan.window_tokens = 100;
  EXPECT_THAT(WindowSpans(plan, row), ElementsAre(ElementsAre(0, 5, 1, 9)));
  row.spans.clear();  // ids
  row.texts[0] = {};
  EXPECT_THAT(WindowSpans(plan, row), ElementsAre(ElementsAre(0, 5, 0, 0)));
}

TEST(FillEmbedResultTest, AWindowOfAPairSpeaksOfItsFirstText) {
  CallPlan plan;
  plan.output = RowOutput::kWindows;
  plan.width = 1;
  plan.window_tokens = 3;
  plan.window_stride = 2;
  PlannedRow row = RowOf(7);  // [CLS] a b [SEP] c d [SEP]
  row.spans = {{0, 0}, {0, 1}, {2, 3}, {0, 0}, {5, 6}, {7, 9}, {0, 0}};
  row.texts[0] = {1, 3};
  row.texts[1] = {4, 6};
  EXPECT_THAT(WindowSpans(plan, row),
              ElementsAre(ElementsAre(0, 3, 0, 3), ElementsAre(2, 5, 2, 3), ElementsAre(4, 7, 5, 9)));
}

TEST(FillVectorsTest, AnyRangeOfThemIsThatPartOfAll) {
  CallPlan plan;
  plan.output = RowOutput::kTokens;
  plan.width = 2;
  plan.normalize = true;
  const RowResult result = {.values = {3, 4, 0, 5, 2, 0}, .num_vectors = 3, .width = 2};
  RowResult parts = result;
  google::protobuf::RepeatedPtrField<v1::Vector> out;
  FillVectors(plan, RowOf(3), parts, 0, 1, &out);
  FillVectors(plan, RowOf(3), parts, 1, 1, &out);
  FillVectors(plan, RowOf(3), parts, 1, 3, &out);
  v1::EmbedResult whole;
  FillEmbedResult(plan, RowOf(3), result, &whole);
  ASSERT_EQ(out.size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(out[i].SerializeAsString(), whole.vectors(i).SerializeAsString());
}

TEST(FillClassifyResultTest, ProbabilitiesHighestFirst) {
  CallPlan plan;
  plan.output = RowOutput::kLogits;
  ModelInfo info = TestModelInfo();
  v1::ClassifyResult out;
  FillClassifyResult(plan, RowOf(1), {.values = {0, 2, 1}, .num_vectors = 1, .width = 3}, info, &out);
  ASSERT_EQ(out.scores_size(), 3);
  EXPECT_EQ(out.scores(0).label(), "b");
  EXPECT_EQ(out.scores(0).index(), 1);
  EXPECT_EQ(out.scores(2).label(), "a");
  EXPECT_THAT(out.scores(0).score(), FloatNear(0.66524f, 1e-5));
  EXPECT_THAT(out.scores(0).score() + out.scores(1).score() + out.scores(2).score(), FloatNear(1.0f, 1e-6));
}

TEST(FillClassifyResultTest, SigmoidsTopKAndLogits) {
  CallPlan plan;
  plan.output = RowOutput::kLogits;
  plan.top_k = 2;
  ModelInfo info = TestModelInfo();
  info.multi_label = true;
  v1::ClassifyResult out;
  // Both of the first have a sigmoid of 1 in fp32; the order is still that of the logits.
  FillClassifyResult(plan, RowOf(1), {.values = {50, 60, 0}, .num_vectors = 1, .width = 3}, info, &out);
  ASSERT_EQ(out.scores_size(), 2);
  EXPECT_EQ(out.scores(0).label(), "b");
  EXPECT_EQ(out.scores(0).score(), 1.0f);
  plan.top_k = 0;
  plan.raw_scores = true;
  v1::ClassifyResult raw;
  FillClassifyResult(plan, RowOf(1), {.values = {50, 60, 0}, .num_vectors = 1, .width = 3}, info, &raw);
  ASSERT_EQ(raw.scores_size(), 3);
  EXPECT_EQ(raw.scores(0).score(), 60.0f);
  EXPECT_EQ(raw.scores(1).score(), 50.0f);
}

TEST(FillTokenizeResultTest, EverythingOfTheRow) {
  PlannedRow row;
  row.ids = {7, 8};
  row.type_ids = {0, 1};
  row.tokens = {"x", "y"};
  row.spans = {{0, 1}, {3, 4}};
  v1::TokenizeResult out;
  FillTokenizeResult(row, &out);
  EXPECT_THAT(out.ids(), ElementsAre(7, 8));
  EXPECT_THAT(out.type_ids(), ElementsAre(0, 1));
  EXPECT_THAT(out.tokens(), ElementsAre("x", "y"));
  EXPECT_EQ(out.spans(1).start_byte(), 3);
  EXPECT_EQ(out.spans(1).start_token(), 1);
}

TEST(AnswerBytesTest, TheEstimateIsAnUpperBound) {
  for (v1::VectorType type : {v1::VECTOR_TYPE_FLOAT32, v1::VECTOR_TYPE_FLOAT32_BYTES, v1::VECTOR_TYPE_FLOAT16_BYTES,
                              v1::VECTOR_TYPE_INT8_BYTES}) {
    for (int64_t width : {1, 300}) {
      CallPlan plan;
      plan.output = RowOutput::kTokens;
      plan.width = width;
      plan.vector_type = type;
      PlannedRow row = RowOf(50);
      row.spans.assign(50, {4000000000u, 4000000001u});
      RowResult result{.values = std::vector<float>(50 * width, 1.0f), .num_vectors = 50, .width = width};
      v1::EmbedResponse response;
      FillEmbedResult(plan, row, result, response.add_results());
      const int64_t bytes = static_cast<int64_t>(response.ByteSizeLong());
      EXPECT_GE(EstimateAnswerBytes(plan, {row}, TestModelInfo()), bytes);
      EXPECT_LE(EstimateAnswerBytes(plan, {row}, TestModelInfo()), bytes + 50 * 48 + 64);
    }
  }
  CallPlan plan;
  plan.output = RowOutput::kLogits;
  v1::ClassifyResponse response;
  FillClassifyResult(plan, RowOf(1), {.values = {1, 2, 3}, .num_vectors = 1, .width = 3}, TestModelInfo(),
                     response.add_results());
  EXPECT_GE(EstimateAnswerBytes(plan, {RowOf(1)}, TestModelInfo()), static_cast<int64_t>(response.ByteSizeLong()));

  plan = {};
  plan.spans = plan.tokens = true;
  PlannedRow row;
  row.ids = row.type_ids = std::vector<uint32_t>(50, 4000000000u);
  row.tokens.assign(50, "token");
  row.spans.assign(50, {4000000000u, 4000000001u});
  row.num_tokens = 50;
  v1::TokenizeResponse tokenized;
  FillTokenizeResult(row, tokenized.add_results());
  const int64_t bytes = static_cast<int64_t>(tokenized.ByteSizeLong());
  EXPECT_GE(EstimateAnswerBytes(plan, {row}, TestModelInfo()), bytes);
  EXPECT_LE(EstimateAnswerBytes(plan, {row}, TestModelInfo()), bytes + 50 * 24 + 64);
}

TEST(AnswerBytesTest, TheLimitIsNamed) {
  EXPECT_TRUE(CheckAnswerBytes(kMaxAnswerBytes).ok());
  const absl::Status status = CheckAnswerBytes(kMaxAnswerBytes + 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("2097152000"));
}

}  // namespace
}  // namespace lion
