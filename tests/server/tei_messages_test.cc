// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tei_messages.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

TEST(FromTei, EmbedNormalizesUnlessTold) {
  tei::v1::EmbedRequest request;
  request.set_inputs("a text");
  v1::EmbedRequest out;
  ASSERT_TRUE(FromTei(request, &out).ok());
  ASSERT_EQ(out.inputs_size(), 1);
  EXPECT_EQ(out.inputs(0).text(), "a text");
  EXPECT_TRUE(out.normalize());
  EXPECT_EQ(out.dimensions(), 0);
  EXPECT_EQ(out.options().truncation(), v1::TRUNCATION_ERROR);

  request.set_normalize(false);
  request.set_dimensions(7);
  request.set_truncate(true);
  out.Clear();
  ASSERT_TRUE(FromTei(request, &out).ok());
  EXPECT_TRUE(out.has_normalize());
  EXPECT_FALSE(out.normalize());
  EXPECT_EQ(out.dimensions(), 7);
  EXPECT_EQ(out.options().truncation(), v1::TRUNCATION_RIGHT);

  request.set_truncation_direction(tei::v1::TRUNCATION_DIRECTION_LEFT);
  out.Clear();
  ASSERT_TRUE(FromTei(request, &out).ok());
  EXPECT_EQ(out.options().truncation(), v1::TRUNCATION_LEFT);
}

TEST(FromTei, DirectionAloneTruncatesNothing) {
  tei::v1::PredictRequest request;
  request.set_truncation_direction(tei::v1::TRUNCATION_DIRECTION_LEFT);
  v1::ClassifyRequest out;
  ASSERT_TRUE(FromTei(request, &out).ok());
  EXPECT_EQ(out.options().truncation(), v1::TRUNCATION_ERROR);
  EXPECT_TRUE(out.inputs(0).has_text());
}

TEST(FromTei, EmbedAllIsEveryToken) {
  tei::v1::EmbedAllRequest request;
  request.set_inputs("a");
  v1::EmbedRequest out;
  ASSERT_TRUE(FromTei(request, &out).ok());
  EXPECT_EQ(out.pooling(), v1::POOLING_TOKENS);
  EXPECT_FALSE(out.has_normalize());
}

TEST(FromTei, PairsHaveOneTextOrTwo) {
  tei::v1::PredictPairRequest request;
  request.set_raw_scores(true);
  v1::ClassifyRequest out;
  EXPECT_EQ(FromTei(request, &out).message(), "inputs: 0 given; a single text has 1, a pair has 2");
  request.add_inputs("a");
  ASSERT_TRUE(FromTei(request, &(out = {})).ok());
  EXPECT_EQ(out.inputs(0).text(), "a");
  EXPECT_TRUE(out.raw_scores());
  request.add_inputs("b");
  ASSERT_TRUE(FromTei(request, &(out = {})).ok());
  EXPECT_EQ(out.inputs(0).text_pair().first(), "a");
  EXPECT_EQ(out.inputs(0).text_pair().second(), "b");
  request.add_inputs("c");
  EXPECT_TRUE(absl::IsInvalidArgument(FromTei(request, &(out = {}))));
}

TEST(FromTei, RefusesWhatIsNotHere) {
  v1::EmbedRequest out;
  tei::v1::EmbedRequest request;
  request.set_prompt_name("query");
  EXPECT_EQ(FromTei(request, &out).message(), "prompt_name: no prompt 'query'; the model has none");
  request.clear_prompt_name();
  request.set_dimensions(0);
  EXPECT_EQ(FromTei(request, &out).message(), "dimensions: 0; a vector has at least 1");
  request.clear_dimensions();
  request.set_truncation_direction(static_cast<tei::v1::TruncationDirection>(5));
  EXPECT_THAT(std::string(FromTei(request, &out).message()), StartsWith("truncation_direction: 5 is not one of "));
}

TEST(ToTei, TokensHaveTheBytesTheyStandFor) {
  const std::string text = "Zürich is";
  v1::TokenizeResult result;
  const auto add = [&](uint32_t id, const char* token, uint32_t start, uint32_t end) {
    result.add_ids(id);
    result.add_tokens(token);
    v1::Span* span = result.add_spans();
    span->set_start_byte(start);
    span->set_end_byte(end);
  };
  add(2, "[CLS]", 0, 0);
  add(10, "z", 0, 1);
  add(11, "##\xc3\x83", 1, 2);  // half of the ü
  add(12, "##rich", 3, 7);
  add(13, "is", 8, 10);
  add(3, "[SEP]", 0, 0);

  tei::v1::EncodeResponse all;
  ToTei(result, text, /*add_special_tokens=*/true, &all);
  ASSERT_EQ(all.tokens_size(), 6);
  EXPECT_TRUE(all.tokens(0).special());
  EXPECT_EQ(all.tokens(0).text(), "[CLS]");
  EXPECT_FALSE(all.tokens(0).has_start());
  EXPECT_EQ(all.tokens(1).text(), "Z");
  EXPECT_TRUE(all.tokens(1).has_start());
  EXPECT_EQ(all.tokens(1).start(), 0);
  EXPECT_EQ(all.tokens(2).text(), "##\xc3\x83");
  EXPECT_EQ(all.tokens(3).text(), "rich");
  EXPECT_EQ(all.tokens(3).stop(), 7);
  EXPECT_EQ(all.tokens(4).text(), "is");

  tei::v1::EncodeResponse bare;
  ToTei(result, text, /*add_special_tokens=*/false, &bare);
  std::vector<uint32_t> ids;
  for (const auto& token : bare.tokens()) ids.push_back(token.id());
  EXPECT_THAT(ids, ElementsAre(10, 11, 12, 13));
}

TEST(InTeiWords, NamesTheirFields) {
  const auto words = [](const char* message) {
    return std::string(InTeiWords(absl::InvalidArgumentError(message)).message());
  };
  EXPECT_EQ(words("inputs[0].text: 9 tokens, the limit is 8 (max_sequence_tokens); options.truncation RIGHT or LEFT "
                  "cuts instead"),
            "inputs: 9 tokens, the limit is 8 (max_sequence_tokens); truncate cuts instead");
  EXPECT_EQ(words("inputs[0].text_pair: model ids has no tokenizer; send token_ids"),
            "inputs: model ids has no tokenizer");
  EXPECT_EQ(words("dimensions: 9 is above"), "dimensions: 9 is above");
  EXPECT_TRUE(absl::IsNotFound(InTeiWords(absl::NotFoundError("x"))));
}

TEST(NumChars, CountsCharacters) {
  EXPECT_EQ(NumChars(""), 0);
  EXPECT_EQ(NumChars("Zürich"), 6);
  EXPECT_EQ(NumChars("🙂日"), 2);
}

}  // namespace
}  // namespace lion
