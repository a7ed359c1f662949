// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/tokenizer/sentences.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Sentences(const std::string& text) {
  const absl::StatusOr<std::vector<uint32_t>> starts = SentenceStarts(text);
  EXPECT_TRUE(starts.ok()) << starts.status();
  std::vector<std::string> sentences;
  for (size_t i = 0; i < starts->size(); ++i) {
    const size_t end = i + 1 < starts->size() ? (*starts)[i + 1] : text.size();
    sentences.push_back(text.substr((*starts)[i], end - (*starts)[i]));
  }
  return sentences;
}

TEST(SentencesTest, EndWhereUnicodeSaysSo) {
  EXPECT_THAT(Sentences(""), IsEmpty());
  EXPECT_THAT(Sentences("no end"), ElementsAre("no end"));
  EXPECT_THAT(Sentences("One. Two! Three? 4.5 are four and a half."),
              ElementsAre("One. ", "Two! ", "Three? ", "4.5 are four and a half."));
  EXPECT_THAT(Sentences("He said \"Go.\" She went."), ElementsAre("He said \"Go.\" ", "She went."));
  EXPECT_THAT(Sentences("日本語。次の文。"), ElementsAre("日本語。", "次の文。"));
}

TEST(SentencesTest, ALinesEndAloneEndsNone) {
  EXPECT_THAT(Sentences("A sentence\nof three\r\nlines. Another\n"),
              ElementsAre("A sentence\nof three\r\nlines. ", "Another\n"));
  EXPECT_THAT(Sentences("A title\n\nA paragraph"), ElementsAre("A title\n", "\n", "A paragraph"));
  EXPECT_THAT(Sentences("A title\r\n \t\r\nA paragraph").back(), "A paragraph");
}

TEST(SentencesTest, RefusesWhatIsNotUtf8) {
  const absl::Status status = SentenceStarts("ab\xff").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "text is not UTF-8 at byte 2");
}

}  // namespace
}  // namespace lion
