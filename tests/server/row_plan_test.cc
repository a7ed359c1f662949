// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/row_plan.h"

#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class RowsTest : public testing::Test {
 protected:
  RowsTest() : tokenizer_(OpenTestTokenizer()) {
    model_.name = "text";
    model_.info = TestModelInfo();
    model_.tokenizer = tokenizer_.get();
    model_.max_sequence_tokens = 10;
  }

  PlannedRow Plan(const v1::Input& input) const { return PlanRow(input, 3, plan_, model_); }

  void ExpectInvalid(const v1::Input& input, const std::string& begins, const std::string& names) const {
    const PlannedRow row = Plan(input);
    EXPECT_EQ(row.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(row.status.message()), StartsWith(begins));
    EXPECT_THAT(std::string(row.status.message()), HasSubstr(names));
    EXPECT_THAT(row.ids, IsEmpty());
    EXPECT_EQ(row.num_tokens, 0);
    EXPECT_FALSE(row.truncated);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  ServedModel model_;
  CallPlan plan_;
};

TEST_F(RowsTest, ContentMustBeSetAndOfTheModelsKind) {
  ExpectInvalid(v1::Input(), "inputs[3]: ", "text, text_pair, token_ids");
  v1::Input image;
  image.set_image("");
  ExpectInvalid(image, "inputs[3].image: ", "takes text, not image");
  v1::Input pixels;
  pixels.mutable_pixels()->set_data("1234");
  ExpectInvalid(pixels, "inputs[3].pixels: ", "takes text, not image");
  model_.info.input = "image";
  ExpectInvalid(TextInput("a"), "inputs[3].text: ", "takes image, not text");
  ExpectInvalid(IdsInput({1}), "inputs[3].token_ids: ", "takes image, not text");
}

TEST_F(RowsTest, IdsAreUsedAsGiven) {
  const PlannedRow row = Plan(IdsInput({5, 999, 0}, {0, 1, 0}));
  ASSERT_TRUE(row.status.ok()) << row.status;
  EXPECT_THAT(row.ids, ElementsAre(5, 999, 0));
  EXPECT_THAT(row.type_ids, ElementsAre(0, 1, 0));
  EXPECT_EQ(row.num_tokens, 3);
  EXPECT_FALSE(row.truncated);
  EXPECT_EQ(row.mode, ComputeMode::kParallel);
}

TEST_F(RowsTest, BadIds) {
  ExpectInvalid(IdsInput({}), "inputs[3].token_ids.ids: ", "at least 1");
  ExpectInvalid(IdsInput({1, 1000}), "inputs[3].token_ids.ids[1]: 1000", "vocabulary size 1000");
  ExpectInvalid(IdsInput({4294967295u}), "inputs[3].token_ids.ids[0]: 4294967295", "1000");
  ExpectInvalid(IdsInput({1, 2}, {0}), "inputs[3].token_ids.type_ids: ", "1 entries for 2 ids");
  ExpectInvalid(IdsInput({1}, {0, 0}), "inputs[3].token_ids.type_ids: ", "2 entries for 1 ids");
  ExpectInvalid(IdsInput({1, 2}, {0, 2}), "inputs[3].token_ids.type_ids[1]: 2", "token types 2");
}

TEST_F(RowsTest, IdsBeyondTheLimitAreRefusedOrCutPlainly) {
  std::vector<uint32_t> ids(11);
  std::iota(ids.begin(), ids.end(), 100);
  std::vector<uint32_t> types(11, 0);
  types[10] = 1;
  ExpectInvalid(IdsInput(ids), "inputs[3].token_ids.ids: 11 tokens", "the limit is 10");
  plan_.truncation = v1::TRUNCATION_RIGHT;
  PlannedRow row = Plan(IdsInput(ids, types));
  EXPECT_TRUE(row.truncated);
  EXPECT_EQ(row.num_tokens, 10);
  EXPECT_EQ(row.ids.front(), 100);
  EXPECT_EQ(row.ids.back(), 109);
  EXPECT_THAT(row.type_ids, Each(0));
  plan_.truncation = v1::TRUNCATION_LEFT;
  row = Plan(IdsInput(ids, types));
  EXPECT_EQ(row.ids.front(), 101);
  EXPECT_EQ(row.ids.back(), 110);
  EXPECT_EQ(row.type_ids.back(), 1);
  ids.pop_back();
  EXPECT_FALSE(Plan(IdsInput(ids)).truncated);
}

TEST_F(RowsTest, TextIsTokenizedWithItsSpecialTokens) {
  plan_.spans = true;
  const std::string text = "hello world";
  const PlannedRow row = Plan(TextInput(text));
  ASSERT_TRUE(row.status.ok()) << row.status;
  ASSERT_EQ(row.num_tokens, 4);
  EXPECT_THAT(row.type_ids, IsEmpty());  // all 0
  ASSERT_EQ(row.spans.size(), 4);
  EXPECT_EQ(row.spans[0].end, 0);
  EXPECT_EQ(row.spans[1].end, 5);
  EXPECT_EQ(row.spans[2].start, 6);
  EXPECT_EQ(row.spans[3].end, 0);
  EXPECT_THAT(row.tokens, IsEmpty());
}

TEST_F(RowsTest, APairHasTypes) {
  v1::Input pair;
  pair.mutable_text_pair()->set_first("hello");
  pair.mutable_text_pair()->set_second("world");
  const PlannedRow row = Plan(pair);
  ASSERT_TRUE(row.status.ok()) << row.status;
  EXPECT_THAT(row.type_ids, ElementsAre(0, 0, 0, 1, 1));
}

TEST_F(RowsTest, TheEmptyTextIsItsSpecialTokens) { EXPECT_EQ(Plan(TextInput("")).num_tokens, 2); }

TEST_F(RowsTest, LongTextIsRefusedOrCutWithItsSpecialTokensKept) {
  const std::string text = "one two three four five one two three four";  // 9 and 2
  ExpectInvalid(TextInput(text), "inputs[3].text: 11 tokens", "the limit is 10");
  const std::vector<uint32_t> all = tokenizer_->Encode(text, std::nullopt, {})->ids;
  ASSERT_EQ(all.size(), 11);
  plan_.truncation = v1::TRUNCATION_RIGHT;
  PlannedRow row = Plan(TextInput(text));
  EXPECT_TRUE(row.truncated);
  EXPECT_EQ(row.num_tokens, 10);
  EXPECT_EQ(row.ids.front(), all.front());
  EXPECT_EQ(row.ids[1], all[1]);
  EXPECT_EQ(row.ids.back(), all.back());
  plan_.truncation = v1::TRUNCATION_LEFT;
  row = Plan(TextInput(text));
  EXPECT_EQ(row.ids[1], all[2]);
  EXPECT_EQ(row.ids.back(), all.back());
}

TEST_F(RowsTest, TextNeedsATokenizer) {
  model_.tokenizer = nullptr;
  ExpectInvalid(TextInput("a"), "inputs[3].text: ", "no tokenizer");
}

TEST_F(RowsTest, ATokenizerOfAnotherModelIsCaughtBeforeItFailsABatch) {
  model_.info.vocab_size = 3;
  ExpectInvalid(TextInput("hello"), "inputs[3].text: ", "vocabulary size 3");
  model_.info = TestModelInfo();
  model_.info.type_vocab_size = 1;
  v1::Input pair;
  pair.mutable_text_pair()->set_second("b");
  ExpectInvalid(pair, "inputs[3].text_pair: ", "the model has 1");
}

TEST_F(RowsTest, ModeComesFromTheLengthUnlessAskedFor) {
  EXPECT_EQ(Plan(IdsInput(std::vector<uint32_t>(8, 1))).mode, ComputeMode::kParallel);
  EXPECT_EQ(Plan(IdsInput(std::vector<uint32_t>(9, 1))).mode, ComputeMode::kChunked);
  plan_.mode = ComputeMode::kRecurrent;
  EXPECT_EQ(Plan(IdsInput({1})).mode, ComputeMode::kRecurrent);
}

TEST_F(RowsTest, ParallelHasALimitOfItsOwn) {
  model_.max_sequence_tokens = 100000;
  plan_.mode = ComputeMode::kParallel;
  EXPECT_TRUE(Plan(IdsInput(std::vector<uint32_t>(16384, 1))).status.ok());
  ExpectInvalid(IdsInput(std::vector<uint32_t>(16385, 1)), "inputs[3].token_ids: 16385 tokens", "16384");
}

TEST_F(RowsTest, TokenizeTakesTextOnlyAndNeverCuts) {
  plan_.spans = plan_.tokens = true;
  const PlannedRow row = PlanTokenizeRow(TextInput("one two three four five one two three four"), 0, plan_, model_);
  ASSERT_TRUE(row.status.ok()) << row.status;
  EXPECT_EQ(row.num_tokens, 11);
  EXPECT_EQ(row.type_ids.size(), 11);
  EXPECT_EQ(row.tokens.size(), 11);
  EXPECT_EQ(row.tokens[1], "one");
  const PlannedRow ids = PlanTokenizeRow(IdsInput({1}), 0, plan_, model_);
  EXPECT_EQ(ids.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status.message()), StartsWith("inputs[0].token_ids: Tokenize takes text"));
}

TEST_F(RowsTest, BytesToPrepareAreWhatTheTokenizerReads) {
  EXPECT_EQ(BytesToPrepare(IdsInput({1})), 0);
  EXPECT_EQ(BytesToPrepare(v1::Input()), 0);
  EXPECT_GT(BytesToPrepare(TextInput("")), 0);
  EXPECT_GE(BytesToPrepare(TextInput("12345")), 5);
}

TEST(CheckAnyRowTest, FailsWithTheFirstOnlyIfAllFail) {
  std::vector<PlannedRow> rows(2);
  EXPECT_TRUE(CheckAnyRow({}).ok());
  EXPECT_TRUE(CheckAnyRow(rows).ok());
  rows[0].status = absl::InvalidArgumentError("first");
  EXPECT_TRUE(CheckAnyRow(rows).ok());
  rows[1].status = absl::InternalError("second");
  EXPECT_EQ(CheckAnyRow(rows), rows[0].status);
}

TEST(CheckTotalTokensTest, NamesNumberAndLimit) {
  ServiceLimits limits;
  limits.max_request_tokens = 20;
  EXPECT_TRUE(CheckTotalTokens(20, limits).ok());
  const absl::Status status = CheckTotalTokens(21, limits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("21"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("20"));
}

TEST_F(RowsTest, KnowsWhichTokensAreOfWhichText) {
  const PlannedRow one = Plan(TextInput("hello"));
  ASSERT_TRUE(one.status.ok()) << one.status;
  EXPECT_EQ(one.texts[0].begin, 1);
  EXPECT_EQ(one.texts[0].end, one.ids.size() - 1);
  EXPECT_EQ(one.texts[1].begin, one.texts[1].end);
  v1::Input pair;
  pair.mutable_text_pair()->set_first("hello");
  pair.mutable_text_pair()->set_second("hello hello");
  const PlannedRow two = Plan(pair);
  ASSERT_TRUE(two.status.ok()) << two.status;
  EXPECT_EQ(two.texts[0].end - two.texts[0].begin, one.texts[0].end - one.texts[0].begin);
  EXPECT_EQ(two.texts[1].begin, two.texts[0].end + 1);
  EXPECT_EQ(two.texts[1].end, two.ids.size() - 1);
}

// What is above the limit is counted for the message, and not kept.
TEST_F(RowsTest, ALongTextIsTokenizedOnManyThreadsAndNamedWithItsLength) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "hello ";
  std::atomic<int> parts = 0;
  const ParallelFor parallel = [&parts](size_t n, const std::function<void(size_t)>& body) {
    for (size_t i = n; i > 0; --i) body(i - 1);
    parts += static_cast<int>(n);
  };
  const PlannedRow row = PlanRow(TextInput(text), 3, plan_, model_, &parallel);
  EXPECT_GT(parts, 1);
  EXPECT_THAT(std::string(row.status.message()), HasSubstr("100002 tokens, the limit is 10"));
  plan_.truncation = v1::TRUNCATION_RIGHT;
  const PlannedRow cut = PlanRow(TextInput(text), 3, plan_, model_, &parallel);
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.num_tokens, 10);
  EXPECT_TRUE(cut.truncated);
}

}  // namespace
}  // namespace lion
