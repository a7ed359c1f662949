// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/sentence_windows.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CutWindowsTest, TakesAsManySentencesAsFit) {
  const CutPlaces places = {.sentences = {4, 8, 9, 20}, .lines = {}};
  EXPECT_THAT(CutWindows(places, 25, 10), ElementsAre(0, 9, 19));  // 9 to 20 is too long by one
  EXPECT_THAT(CutWindows(places, 25, 11), ElementsAre(0, 9, 20));
  EXPECT_THAT(CutWindows(places, 25, 8), ElementsAre(0, 8, 9, 17));
  EXPECT_THAT(CutWindows(places, 25, 25), ElementsAre(0));
  EXPECT_THAT(CutWindows(places, 1, 1), ElementsAre(0));
  EXPECT_THAT(CutWindows({}, 5, 2), ElementsAre(0, 2, 4));
}

TEST(CutWindowsTest, CutsALongSentenceAtALinesEnd) {
  const CutPlaces places = {.sentences = {3, 40}, .lines = {6, 12, 18, 40}};
  EXPECT_THAT(CutWindows(places, 50, 10), ElementsAre(0, 3, 12, 18, 28, 38, 40));
}

// Any places: windows of 1 to size tokens over all of them, each as long as the rule allows.
TEST(CutWindowsTest, EveryCutIsTheLastThatTheRuleAllows) {
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    const int64_t L = 1 + static_cast<int64_t>(random() % 300);
    const int64_t size = 1 + static_cast<int64_t>(random() % 40);
    CutPlaces places;
    for (uint32_t t = 0; t < L + 5; ++t) {
      if (random() % 7 == 0) places.sentences.push_back(t);
      if (random() % 5 == 0) places.lines.push_back(t);
      if (random() % 50 == 0) places.lines.push_back(t);  // the same one again
    }
    std::vector<uint32_t> starts = CutWindows(places, L, size);
    ASSERT_EQ(starts.front(), 0);
    starts.push_back(static_cast<uint32_t>(L));
    for (size_t w = 0; w + 1 < starts.size(); ++w) {
      const int64_t start = starts[w];
      const int64_t end = starts[w + 1];
      ASSERT_LT(start, end);
      ASSERT_LE(end - start, size);
      if (end == L) continue;
      const auto last = [&](const std::vector<uint32_t>& all) {
        int64_t found = -1;
        for (const uint32_t t : all) {
          if (t > start && t <= start + size) found = t;
        }
        return found;
      };
      const int64_t sentence = last(places.sentences);
      const int64_t line = last(places.lines);
      ASSERT_EQ(end, sentence >= 0 ? sentence : line >= 0 ? line : start + size);
    }
  }
}

// A token of each word, between the two special ones; where the windows of at most `size` start, as words.
std::vector<std::string> Starts(const std::string& text, int64_t size) {
  std::vector<ByteSpan> spans = {{}};
  for (size_t begin = text.find_first_not_of(" \n"); begin < text.size();) {
    const size_t end = std::min(text.find_first_of(" \n", begin), text.size());
    spans.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    begin = text.find_first_not_of(" \n", end);
  }
  const TokenRange tokens = {1, spans.size()};
  spans.push_back({});
  CutPlaces places;
  EXPECT_TRUE(AddCutPlaces(text, spans, tokens, &places).ok());
  std::vector<std::string> words;
  for (const uint32_t t : CutWindows(places, static_cast<int64_t>(spans.size()), size)) {
    words.push_back(text.substr(spans[t].start, spans[t].end - spans[t].start));
  }
  return words;
}

TEST(AddCutPlacesTest, TokensStartWhereSentencesDo) {
  EXPECT_THAT(Starts("One two. Three four five six! Seven?", 5), ElementsAre("", "Three", "Seven?"));
  // A line's end is no sentence's, an empty line is.
  EXPECT_THAT(Starts("A line that\ngoes on. Next\n\nA paragraph of its own", 6), ElementsAre("", "Next", "A"));
  // What ends nowhere is cut at a line's end.
  EXPECT_THAT(Starts("a b c d\ne f g h\ni j k l", 7), ElementsAre("", "e", "i"));
  EXPECT_THAT(Starts("", 1), ElementsAre("", ""));
}

TEST(AddCutPlacesTest, ATokenAcrossASentencesStartIsNotCut) {
  CutPlaces places;
  const std::vector<ByteSpan> spans = {{0, 2}, {2, 9}, {9, 12}};
  ASSERT_TRUE(AddCutPlaces("ab. Cd. Efgh", spans, {0, 3}, &places).ok());  // starts at 4 and 8, in the second token
  EXPECT_THAT(places.sentences, ElementsAre(2, 2));
  EXPECT_THAT(places.lines, IsEmpty());
}

TEST(AddCutPlacesTest, RefusesWhatIsNoText) {
  CutPlaces places;
  EXPECT_EQ(AddCutPlaces("\xff", {}, {}, &places).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lion
