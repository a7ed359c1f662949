// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What the class promises. That its answers equal those of the Python binding is tokenizer_parity_test.py's business.

#include "model/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/model/temp_dir.h"

namespace lion {

bool operator==(const ByteSpan& a, const ByteSpan& b) { return a.start == b.start && a.end == b.end; }

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string& TokenizerPath() {
  static const std::string path = std::string(LION_SOURCE_DIR) + "/tests/model/testdata/tokenizer.json";
  return path;
}

nlohmann::json TokenizerJson() {
  std::ifstream in(TokenizerPath());
  return nlohmann::json::parse(in);
}

std::unique_ptr<Tokenizer> Open(const std::string& path = TokenizerPath()) {
  auto tokenizer = Tokenizer::Open(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

Tokenizer::EncodeOptions All(size_t max_tokens = 0, TruncationSide side = TruncationSide::kRight) {
  Tokenizer::EncodeOptions options;
  options.max_tokens = max_tokens;
  options.side = side;
  options.spans = true;
  options.tokens = true;
  return options;
}

struct Row {
  std::string text;
  std::optional<std::string> pair;
  std::vector<std::string> tokens;
  std::vector<uint32_t> type_ids;
  std::vector<ByteSpan> spans;
};

TEST(TokenizerTest, GivesTokensTypesAndByteSpans) {
  const auto tokenizer = Open();
  for (const Row& row : std::vector<Row>{
           {"", {}, {"[CLS]", "[SEP]"}, {0, 0}, {{0, 0}, {0, 0}}},
           {" \n\t", {}, {"[CLS]", "[SEP]"}, {0, 0}, {{0, 0}, {0, 0}}},
           {"Hello, World",
            {},
            {"[CLS]", "hello", ",", "world", "[SEP]"},
            {0, 0, 0, 0, 0},
            {{0, 0}, {0, 5}, {5, 6}, {7, 12}, {0, 0}}},
           {"tokens",
            "a cat",
            {"[CLS]", "tokens", "[SEP]", "a", "cat", "[SEP]"},
            {0, 0, 0, 1, 1, 1},
            {{0, 0}, {0, 6}, {0, 0}, {0, 1}, {2, 5}, {0, 0}}},
           {"", "", {"[CLS]", "[SEP]", "[SEP]"}, {0, 0, 1}, {{0, 0}, {0, 0}, {0, 0}}},
           // Bytes, not characters; an accent is stripped but counts; a word unknown as a whole.
           {"é 你好",
            {},
            {"[CLS]", "e", "你", "好", "[SEP]"},
            {0, 0, 0, 0, 0},
            {{0, 0}, {0, 2}, {3, 6}, {6, 9}, {0, 0}}},
           {std::string("a\0b", 3), {}, {"[CLS]", "a", "##b", "[SEP]"}, {0, 0, 0, 0}, {{0, 0}, {0, 1}, {2, 3}, {0, 0}}},
           {std::string(200, 'x'), {}, {"[CLS]", "[UNK]", "[SEP]"}, {0, 0, 0}, {{0, 0}, {0, 200}, {0, 0}}},
       }) {
    SCOPED_TRACE(row.text);
    const auto encoding = tokenizer->Encode(row.text, row.pair, All());
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    EXPECT_EQ(encoding->tokens, row.tokens);
    EXPECT_EQ(encoding->type_ids, row.type_ids);
    EXPECT_EQ(encoding->spans, row.spans);
    EXPECT_EQ(encoding->untruncated_tokens, row.tokens.size());
    EXPECT_FALSE(encoding->truncated());
    // Spans and tokens come only where asked for, and change nothing else.
    const auto bare = tokenizer->Encode(row.text, row.pair, {});
    ASSERT_TRUE(bare.ok()) << bare.status();
    EXPECT_EQ(bare->ids, encoding->ids);
    EXPECT_EQ(bare->type_ids, encoding->type_ids);
    EXPECT_THAT(bare->spans, IsEmpty());
    EXPECT_THAT(bare->tokens, IsEmpty());
  }
}

TEST(TokenizerTest, AViewOfNothingIsTheEmptyText) {
  const auto encoding = Open()->Encode(std::string_view(), std::string_view(), {});
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->ids.size(), 3u);
}

TEST(TokenizerTest, CountsVocabularyAndSpecialTokens) {
  const auto tokenizer = Open();
  EXPECT_EQ(tokenizer->vocab_size(), TokenizerJson()["model"]["vocab"].size());
  EXPECT_EQ(tokenizer->num_special_tokens(false), 2u);
  EXPECT_EQ(tokenizer->num_special_tokens(true), 3u);
}

// vocab_size bounds ids: a vocabulary with a gap has fewer entries.
TEST(TokenizerTest, VocabularySizeIsAboveEveryId) {
  nlohmann::json json = TokenizerJson();
  json["model"]["vocab"]["hello"] = 5000;
  TempDir dir;
  const auto tokenizer = Open(dir.Write("tokenizer.json", json.dump()));
  EXPECT_EQ(tokenizer->vocab_size(), 5001u);
  const auto encoding = tokenizer->Encode("hello", std::nullopt, {});
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->ids[1], 5000u);
}

struct Cut {
  std::string text;
  std::optional<std::string> pair;
  size_t max_tokens;
  TruncationSide side;
  std::string tokens;  // by spaces
};

TEST(TokenizerTest, TruncatesAndKeepsSpecialTokens) {
  constexpr auto kRight = TruncationSide::kRight;
  constexpr auto kLeft = TruncationSide::kLeft;
  const auto tokenizer = Open();
  const std::string five = "one two three four five";
  for (const Cut& cut : std::vector<Cut>{
           {five, {}, 0, kRight, "[CLS] one two three four five [SEP]"},
           {five, {}, 7, kRight, "[CLS] one two three four five [SEP]"},
           {five, {}, 6, kRight, "[CLS] one two three four [SEP]"},
           {five, {}, 6, kLeft, "[CLS] two three four five [SEP]"},
           {five, {}, 3, kLeft, "[CLS] five [SEP]"},
           {five, {}, 2, kRight, "[CLS] [SEP]"},
           {five, {}, 2, kLeft, "[CLS] [SEP]"},
           {"", {}, 2, kRight, "[CLS] [SEP]"},
           // The longer text loses first, then both alike.
           {five, "a cat", 9, kRight, "[CLS] one two three four [SEP] a cat [SEP]"},
           {five, "a cat", 9, kLeft, "[CLS] two three four five [SEP] a cat [SEP]"},
           {"a cat", five, 8, kRight, "[CLS] a cat [SEP] one two three [SEP]"},
           {"a cat", five, 6, kRight, "[CLS] a [SEP] one two [SEP]"},
           {five, "a cat", 6, kRight, "[CLS] one two [SEP] a [SEP]"},
           {five, "a cat", 6, kLeft, "[CLS] four five [SEP] cat [SEP]"},
           {five, five, 7, kRight, "[CLS] one two [SEP] one two [SEP]"},
           {five, "", 5, kLeft, "[CLS] four five [SEP] [SEP]"},
           {five, "a cat", 3, kRight, "[CLS] [SEP] [SEP]"},
       }) {
    SCOPED_TRACE(testing::Message() << cut.text << " | " << cut.pair.value_or("-") << " " << cut.max_tokens);
    const auto full = tokenizer->Encode(cut.text, cut.pair, All());
    const auto encoding = tokenizer->Encode(cut.text, cut.pair, All(cut.max_tokens, cut.side));
    ASSERT_TRUE(full.ok() && encoding.ok()) << encoding.status();
    std::string tokens;
    for (const std::string& token : encoding->tokens) tokens += (tokens.empty() ? "" : " ") + token;
    EXPECT_EQ(tokens, cut.tokens);
    EXPECT_EQ(encoding->ids.size(), encoding->tokens.size());
    EXPECT_EQ(encoding->type_ids.size(), encoding->tokens.size());
    EXPECT_EQ(encoding->spans.size(), encoding->tokens.size());
    EXPECT_EQ(encoding->untruncated_tokens, full->ids.size());
    EXPECT_EQ(encoding->truncated(), encoding->ids.size() < full->ids.size());
  }
}

TEST(TokenizerTest, RefusesALimitBelowTheSpecialTokens) {
  const auto tokenizer = Open();
  for (const auto& [pair, max_tokens, message] :
       std::vector<std::tuple<std::optional<std::string>, size_t, std::string>>{
           {std::nullopt, 1, "max_tokens is 1, below the 2 special tokens"},
           {"b", 2, "max_tokens is 2, below the 3 special tokens"}}) {
    const absl::Status status = tokenizer->Encode("a", pair, All(max_tokens)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(TokenizerTest, RefusesWhatIsNotUtf8) {
  const auto tokenizer = Open();
  for (const auto& [bytes, at] : std::vector<std::pair<std::string, std::string>>{
           {"\x80", "byte 0"},                 // a continuation alone
           {"ab\xc3", "byte 2"},               // cut short
           {"a\xc0\x80", "byte 1"},            // overlong
           {"\xed\xa0\x80", "byte 0"},         // a surrogate
           {"ok \xf4\x90\x80\x80", "byte 3"},  // above U+10FFFF
           {"\xff\xfe", "byte 0"},
           {std::string(200000, 'a') + "\xff", "byte 200000"},
       }) {
    const absl::Status first = tokenizer->Encode(bytes, std::nullopt, All(8)).status();
    EXPECT_EQ(first.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(first.message()), HasSubstr("the text is not UTF-8 from " + at));
    const absl::Status second = tokenizer->Encode("fine", bytes, {}).status();
    EXPECT_EQ(second.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(second.message()), HasSubstr("the second text is not UTF-8 from " + at));
  }
}

TEST(TokenizerTest, SwitchesOffTruncationAndPaddingOfTheFile) {
  nlohmann::json json = TokenizerJson();
  json["truncation"] = {{"direction", "Right"}, {"max_length", 4}, {"strategy", "LongestFirst"}, {"stride", 0}};
  json["padding"] = {{"strategy", {{"Fixed", 32}}},
                     {"direction", "Right"},
                     {"pad_to_multiple_of", nullptr},
                     {"pad_id", 0},
                     {"pad_type_id", 0},
                     {"pad_token", "[PAD]"}};
  TempDir dir;
  const auto encoding =
      Open(dir.Write("tokenizer.json", json.dump()))->Encode("one two three four five", std::nullopt, {});
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->ids.size(), 7u);
}

TEST(TokenizerTest, WorksWithoutSpecialTokens) {
  nlohmann::json json = TokenizerJson();
  json["post_processor"] = nullptr;
  TempDir dir;
  const auto tokenizer = Open(dir.Write("tokenizer.json", json.dump()));
  EXPECT_EQ(tokenizer->num_special_tokens(true), 0u);
  const auto empty = tokenizer->Encode("", std::nullopt, All());
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_THAT(empty->ids, IsEmpty());
  const auto pair = tokenizer->Encode("a cat", "one", All(2));
  ASSERT_TRUE(pair.ok()) << pair.status();
  EXPECT_THAT(pair->tokens, ElementsAre("a", "one"));
  EXPECT_THAT(pair->type_ids, ElementsAre(0, 1));
}

TEST(TokenizerTest, OpenNamesTheFileAndWhatIsWrong) {
  TempDir dir;
  const auto with = [](const char* pointer, const nlohmann::json& value) {
    nlohmann::json json = TokenizerJson();
    json[nlohmann::json::json_pointer(pointer)] = value;
    return json.dump();
  };
  struct Bad {
    std::string path;
    std::string message;
    absl::StatusCode code = absl::StatusCode::kInvalidArgument;
  };
  const nlohmann::json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const nlohmann::json b = {{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
  const nlohmann::json none = {{"SpecialToken", {{"id", "[NONE]"}, {"type_id", 0}}}};
  for (const Bad& bad : std::vector<Bad>{
           {dir.File("none"), "No such file", absl::StatusCode::kNotFound},
           {dir.path(), "not a regular file but a directory"},
           {dir.MakeFifo("fifo"), "not a regular file"},
           {dir.Write("empty", ""), "not a tokenizer.json"},
           {dir.Write("text", "hello"), "not a tokenizer.json"},
           {dir.Write("bytes", "{\"model\":\"\xff\"}"), "not a tokenizer.json"},
           {dir.Write("object", "{}"), "not a tokenizer.json"},
           {dir.Write("cut", TokenizerJson().dump().substr(0, 3000)), "not a tokenizer.json"},
           {dir.Write("deep", std::string(100000, '[')), "not a tokenizer.json"},
           {dir.Write("model", with("/model/type", "NoSuchModel")), "not a tokenizer.json"},
           {dir.Write("id", with("/model/vocab/hello", -1)), "not a tokenizer.json"},
           {dir.Write("template", with("/post_processor/single", {none, a})), "not usable: panic: "},
           {dir.Write("single_b", with("/post_processor/single", {a, b})), "not usable"},
           {dir.Write("twice", with("/post_processor/single", {a, a})), "uses the text 2 times"},
           {dir.Write("dropped", with("/post_processor/single", nlohmann::json::array())), "uses the text 0 times"},
           {dir.Write("pair", with("/post_processor/pair", {a})), "not a tokenizer.json"},
       }) {
    const absl::Status status = Tokenizer::Open(bad.path).status();
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
}

// A model that cannot represent a text at all fails that call, not the process.
TEST(TokenizerTest, AFailureInsideTheCrateIsInternal) {
  nlohmann::json json = TokenizerJson();
  json["model"]["vocab"].erase("[UNK]");
  json["added_tokens"] = nlohmann::json::array();
  TempDir dir;
  const auto tokenizer = Open(dir.Write("tokenizer.json", json.dump()));
  EXPECT_TRUE(tokenizer->Encode("hello", std::nullopt, {}).ok());
  const absl::Status status = tokenizer->Encode("ꙮ", std::nullopt, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("UNK"));
}

TEST(TokenizerTest, ManyThreadsShareOne) {
  const auto tokenizer = Open();
  std::vector<std::string> texts;
  for (int i = 0; i < 8; ++i) texts.push_back("hello " + std::string(i, 'a') + " fast server, " + std::to_string(i));
  std::vector<Encoding> expected;
  for (const std::string& text : texts) expected.push_back(*tokenizer->Encode(text, text, All(16)));
  std::vector<std::thread> threads;
  std::vector<int> wrong(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 400; ++i) {
        const size_t k = (t + i) % texts.size();
        const auto encoding = tokenizer->Encode(texts[k], texts[k], All(16));
        if (!encoding.ok() || encoding->ids != expected[k].ids || encoding->spans != expected[k].spans) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

// hello sequences hello sequences ...: 16 bytes and 3 tokens a round.
std::string Rounds(size_t rounds) {
  std::string text;
  text.reserve(rounds * 16);
  for (size_t i = 0; i < rounds; ++i) text += "hello sequences ";
  return text;
}

// Hundreds of pieces; what is beyond the limit is counted, not kept.
TEST(LongTextTest, SixteenMebibytes) {
  const size_t rounds = (size_t{16} << 20) / 16;
  const auto encoding = Open()->Encode(Rounds(rounds), std::nullopt, All(512));
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->untruncated_tokens, rounds * 3 + 2);
  ASSERT_EQ(encoding->tokens.size(), 512u);
  EXPECT_EQ(encoding->tokens[1], "hello");
  EXPECT_EQ(encoding->spans[510], (ByteSpan{169 * 16 + 14, 169 * 16 + 15}));
}

TEST(LongTextTest, TheEndKeepsItsPlaceInTheText) {
  const std::string text = Rounds(100000) + "a cat sat";
  const auto encoding = Open()->Encode(text, std::nullopt, All(5, TruncationSide::kLeft));
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->untruncated_tokens, 300005u);
  EXPECT_THAT(encoding->tokens, ElementsAre("[CLS]", "a", "cat", "sat", "[SEP]"));
  const uint32_t end = static_cast<uint32_t>(text.size());
  EXPECT_THAT(encoding->spans, ElementsAre(ByteSpan{0, 0}, ByteSpan{end - 9, end - 8}, ByteSpan{end - 7, end - 4},
                                           ByteSpan{end - 3, end}, ByteSpan{0, 0}));
}

// Cut without white space: every byte is a token, and so is every ideograph and special token.
TEST(LongTextTest, SixteenMebibytesWithoutWhiteSpace) {
  const auto tokenizer = Open();
  const uint32_t size = uint32_t{16} << 20;
  const auto dots = tokenizer->Encode(std::string(size, '.'), std::nullopt, All(512, TruncationSide::kLeft));
  ASSERT_TRUE(dots.ok()) << dots.status();
  EXPECT_EQ(dots->untruncated_tokens, size + 2u);
  ASSERT_EQ(dots->tokens.size(), 512u);
  EXPECT_EQ(dots->tokens[1], ".");
  EXPECT_EQ(dots->spans[1], (ByteSpan{size - 510, size - 509}));
  EXPECT_EQ(dots->spans[510], (ByteSpan{size - 1, size}));

  std::string text;
  for (int i = 0; i < 100000; ++i) text += "你[SEP]";
  const auto mixed = tokenizer->Encode(text, std::nullopt, All(4, TruncationSide::kLeft));
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(mixed->untruncated_tokens, 200002u);
  EXPECT_THAT(mixed->tokens, ElementsAre("[CLS]", "你", "[SEP]", "[SEP]"));
  EXPECT_EQ(mixed->spans[1], (ByteSpan{799992, 799995}));
}

// Nothing to cut at: the whole is one piece, and one unknown word.
TEST(LongTextTest, OneWordOfMebibytes) {
  const std::string text(size_t{4} << 20, 'x');
  const auto encoding = Open()->Encode(text, std::nullopt, All(512));
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_THAT(encoding->tokens, ElementsAre("[CLS]", "[UNK]", "[SEP]"));
  EXPECT_EQ(encoding->spans[1], (ByteSpan{0, uint32_t{4} << 20}));
}

}  // namespace
}  // namespace lion
