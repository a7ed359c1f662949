// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/inputs.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/byte_reader.h"
#include "client/csv.h"
#include "client/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/temp_file.h"

namespace lion::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A record in one string: "text", "first|second", "ids 1,2", or "SOURCE! message" with the source's folder left out.
std::string Show(const InputRecord& record) {
  if (!record.status.ok()) {
    return absl::StrCat(record.source.substr(record.source.rfind('_') + 1), "! ", record.status.message());
  }
  if (record.input.has_text_pair())
    return absl::StrCat(record.input.text_pair().first(), "|", record.input.text_pair().second());
  if (record.input.has_token_ids()) return absl::StrCat("ids ", absl::StrJoin(record.input.token_ids().ids(), ","));
  return record.input.text();
}

std::vector<std::string> ReadAll(const InputOptions& options, absl::Status* end = nullptr, int stdin_fd = -1) {
  const auto reader = InputReader::Create(options, stdin_fd);
  EXPECT_TRUE(reader.ok()) << reader.status();
  std::vector<std::string> records;
  InputRecord record;
  while ((*reader)->Next(&record)) records.push_back(Show(record));
  if (end != nullptr) {
    *end = (*reader)->status();
  } else {
    EXPECT_TRUE((*reader)->status().ok()) << (*reader)->status();
  }
  return records;
}

std::vector<std::string> ReadFile(const std::string& name, const std::string& text, InputOptions options = {}) {
  const TempFile file(name, text);
  options.files = {file.path()};
  return ReadAll(options);
}

TEST(LinesTest, OneTextALine) {
  EXPECT_THAT(ReadFile("a.txt", "one\ntwo\n"), ElementsAre("one", "two"));
  EXPECT_THAT(ReadFile("a.txt", "one\ntwo"), ElementsAre("one", "two"));
  EXPECT_THAT(ReadFile("a.txt", ""), IsEmpty());
  EXPECT_THAT(ReadFile("a.txt", "\n"), ElementsAre(""));
}

TEST(LinesTest, EmptyLinesAreEmptyTexts) {
  EXPECT_THAT(ReadFile("a.txt", "a\n\nb\n\n"), ElementsAre("a", "", "b", ""));
}

TEST(LinesTest, DosLineEndsAndMark) {
  EXPECT_THAT(ReadFile("a.txt", "\xEF\xBB\xBFone\r\ntwo\r\n\r\nin\rside\r\n"),
              ElementsAre("one", "two", "", "in\rside"));
  EXPECT_THAT(ReadFile("a.txt", "\xEF\xBB\xBF"), IsEmpty());
}

TEST(LinesTest, BadUtf8FailsItsLineOnly) {
  EXPECT_THAT(ReadFile("a.txt", "ok\nab\xFFz\nna\xC3\xAFve\n"),
              ElementsAre("ok", "a.txt:2! is not UTF-8 from byte 2 on", "na\xC3\xAFve"));
}

TEST(LinesTest, LinesLongerThanTheBufferAndTheLimit) {
  const std::string longer(1'000'000, 'x');
  EXPECT_THAT(ReadFile("a.txt", absl::StrCat(longer, "\nshort\n")), ElementsAre(longer, "short"));
  InputOptions options;
  options.max_input_bytes = 5;
  const std::vector<std::string> records =
      ReadFile("a.txt", absl::StrCat("12345\r\n123456\n", longer, "\nshort"), options);
  EXPECT_THAT(records, ElementsAre("12345", HasSubstr("a.txt:2! is longer than 5 bytes"),
                                   HasSubstr("a.txt:3! is longer"), "short"));
}

TEST(LinesTest, Pairs) {
  InputOptions options;
  options.separator = "\t";
  EXPECT_THAT(ReadFile("a.txt", "a\tb\nc\n\td\te\n", options),
              ElementsAre("a|b", HasSubstr("a.txt:2! has no '\t'"), "|d\te"));
}

TEST(LinesTest, Ids) {
  InputOptions options;
  options.ids = true;
  EXPECT_THAT(ReadFile("a.txt", "1,2,3\n4 5\n\n7,x\n4294967295\n4294967296\n-1\n", options),
              ElementsAre("ids 1,2,3", "ids 4,5", "a.txt:3! has no token ids", HasSubstr("a.txt:4! 'x'"),
                          "ids 4294967295", HasSubstr("a.txt:6! '4294967296'"), HasSubstr("a.txt:7! '-1'")));
}

TEST(WholeFileTest, AFileIsAText) {
  const TempFile a("a.csv", "one\r\ntwo\n");
  const TempFile b("b.txt", "");
  InputOptions options;
  options.format = InputFormat::kWhole;
  options.files = {a.path(), b.path()};
  EXPECT_THAT(ReadAll(options), ElementsAre("one\r\ntwo\n", ""));
  options.max_input_bytes = 4;
  EXPECT_THAT(ReadAll(options), ElementsAre(HasSubstr("a.csv! is longer than 4 bytes"), ""));
}

TEST(JsonlTest, FieldsAndBadLines) {
  const std::string text =
      "{\"text\": \"one\", \"n\": 1}\n"
      "\n"
      "{\"text\": \"t\\u00efwo\\n\"}\r\n"
      "{\"text\": 3}\n"
      "{\"other\": \"x\"}\n"
      "{broken\n"
      "\"a string\"\n"
      "[1]\n";
  EXPECT_THAT(ReadFile("a.jsonl", text),
              ElementsAre("one", "t\xC3\xAFwo\n", "a.jsonl:4! field 'text' is number, not a string",
                          "a.jsonl:5! has no field 'text'",
                          HasSubstr("a.jsonl:6! is not JSON: parse error at line 1, column 2"), "a string",
                          "a.jsonl:8! has no field 'text'"));
}

TEST(JsonlTest, PathsGoDeeperAndExactKeysWin) {
  InputOptions options;
  options.field = "doc.parts.1";
  EXPECT_THAT(
      ReadFile(
          "a.ndjson",
          "{\"doc\": {\"parts\": [\"a\", \"b\"]}}\n{\"doc.parts.1\": \"exact\"}\n{\"doc\": {\"parts\": [\"a\"]}}\n",
          options),
      ElementsAre("b", "exact", "a.ndjson:3! has no field 'doc.parts.1'"));
}

TEST(JsonlTest, PairsAndIds) {
  InputOptions options;
  options.field = "q";
  options.pair_field = "a";
  EXPECT_THAT(ReadFile("a.jsonl", "{\"q\": \"x\", \"a\": \"y\"}\n{\"q\": \"x\"}\n", options),
              ElementsAre("x|y", "a.jsonl:2! has no field 'a'"));
  options = {};
  options.ids = true;
  options.field = "ids";
  EXPECT_THAT(
      ReadFile("a.jsonl", "{\"ids\": [1, 2]}\n[3]\n{\"ids\": \"4,5\"}\n{\"ids\": [1.5]}\n{\"ids\": []}\n", options),
      ElementsAre("ids 1,2", "ids 3", "ids 4,5", HasSubstr("a.jsonl:4! '1.5' is not"), "a.jsonl:5! has no token ids"));
}

TEST(CsvTest, QuotesLineEndsAndMark) {
  const std::string text =
      "\xEF\xBB\xBFid,text\r\n"
      "1,plain\r\n"
      "2,\"with, comma\"\r\n"
      "3,\"with \"\"quotes\"\"\"\r\n"
      "4,\"two\nlines\r\nthree\"\r\n"
      "\r\n"
      "5,\r\n"
      "6,a \"quote\" inside\r\n"
      "7,last";
  EXPECT_THAT(ReadFile("a.csv", text), ElementsAre("plain", "with, comma", "with \"quotes\"", "two\nlines\r\nthree", "",
                                                   "a \"quote\" inside", "last"));
}

TEST(CsvTest, BadRecordsNameTheirLine) {
  const std::string text =
      "text,n\n"
      "one\n"
      "\"a\nb\",2\n"
      "a,b,c\n"
      "\"x\"y,1\n"
      "fine,1\n"
      "\"never closed,1\n";
  EXPECT_THAT(ReadFile("a.csv", text),
              ElementsAre("a.csv:2! has 1 fields where the header has 2", "a\nb",
                          "a.csv:5! has 3 fields where the header has 2", "a.csv:6! text after a field's closing quote",
                          "fine", "a.csv:8! a quoted field is never closed"));
}

TEST(CsvTest, ColumnsTabsAndPairs) {
  InputOptions options;
  options.column = "b";
  options.pair_column = "a";
  EXPECT_THAT(ReadFile("a.tsv", "a\tb\n1,5\t2\n", options), ElementsAre("2|1,5"));
}

TEST(CsvTest, AMissingColumnEndsReading) {
  const TempFile file("a.csv", "id,title\n1,x\n");
  InputOptions options;
  options.files = {file.path()};
  absl::Status end;
  EXPECT_THAT(ReadAll(options, &end), IsEmpty());
  EXPECT_TRUE(absl::IsInvalidArgument(end));
  EXPECT_THAT(end.message(), HasSubstr("has no column 'text'; it has id, title"));
}

TEST(CsvTest, EmptyFilesHaveNoRows) {
  EXPECT_THAT(ReadFile("a.csv", ""), IsEmpty());
  EXPECT_THAT(ReadFile("a.csv", "text\n"), IsEmpty());
}

TEST(CsvTest, LongRecordsAreNotHeld) {
  InputOptions options;
  options.max_input_bytes = 10;
  EXPECT_THAT(ReadFile("a.csv", absl::StrCat("text\n\"", std::string(1'000'000, 'x'), "\"\nshort\n"), options),
              ElementsAre(HasSubstr("a.csv:2! the record has 1000000 bytes, more than the 10"), "short"));
}

TEST(CsvFieldTest, QuotesOnlyWhereItMust) {
  EXPECT_EQ(CsvField("plain text"), "plain text");
  EXPECT_EQ(CsvField("a,b"), "\"a,b\"");
  EXPECT_EQ(CsvField("a\"b"), "\"a\"\"b\"");
  EXPECT_EQ(CsvField("a\nb"), "\"a\nb\"");
}

TEST(InputReaderTest, ArgumentsAndStandardInput) {
  const TempFile file("stdin", "from\nstdin\n");
  const int fd = open(file.path().c_str(), O_RDONLY);
  InputOptions options;
  options.texts = {"one", "-", "two"};
  EXPECT_THAT(ReadAll(options, nullptr, fd), ElementsAre("one", "from", "stdin", "two"));
  lseek(fd, 0, SEEK_SET);
  EXPECT_THAT(ReadAll({}, nullptr, fd), ElementsAre("from", "stdin"));
  close(fd);
}

TEST(InputReaderTest, StandardInputMayBeCsvOrJsonl) {
  const TempFile file("stdin", "{\"body\": \"x\"}\n");
  const int fd = open(file.path().c_str(), O_RDONLY);
  InputOptions options;
  options.field = "body";
  EXPECT_THAT(ReadAll(options, nullptr, fd), ElementsAre("x"));
  close(fd);
}

TEST(InputReaderTest, PositionsAddUpOverFiles) {
  const TempFile a("a.txt", "12345\n");
  const TempFile b("b.txt", "12\n34\n");
  InputOptions options;
  options.files = {a.path(), b.path()};
  const auto reader = InputReader::Create(options, -1);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ((*reader)->total_bytes(), 12);
  std::vector<int64_t> positions;
  InputRecord record;
  while ((*reader)->Next(&record)) positions.push_back(record.position);
  EXPECT_THAT(positions, ElementsAre(6, 9, 12));
}

TEST(InputReaderTest, OptionsThatMakeNoSense) {
  InputOptions options;
  options.files = {"/nowhere/at/all.txt"};
  EXPECT_THAT(InputReader::Create(options, -1).status().message(), HasSubstr("/nowhere/at/all.txt"));
  options.files = {"/tmp"};
  EXPECT_THAT(InputReader::Create(options, -1).status().message(), HasSubstr("is a directory"));
  options.texts = {"x"};
  EXPECT_THAT(InputReader::Create(options, -1).status().message(), HasSubstr("not both"));
  options = {.texts = {"1"}, .separator = "\t", .ids = true};
  EXPECT_THAT(InputReader::Create(options, -1).status().message(), HasSubstr("pairs"));
}

TEST(InputReaderTest, AnInterruptionIsTheEnd) {
  const std::atomic<bool> interrupted = true;
  const auto reader = InputReader::Create({.texts = {"x"}}, -1, &interrupted);
  InputRecord record;
  EXPECT_FALSE((*reader)->Next(&record));
}

TEST(Utf8Test, FindsTheFirstBadByte) {
  EXPECT_EQ(FirstInvalidUtf8("plain"), 5);
  EXPECT_EQ(FirstInvalidUtf8("\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\x81"), 9);
  for (const char* bad : {"ab\x80", "ab\xC0\x80", "ab\xC3", "ab\xE0\x80\x80", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80",
                          "ab\xF8\x88\x80\x80\x80"}) {
    EXPECT_EQ(FirstInvalidUtf8(bad), 2) << bad;
  }
  EXPECT_EQ(FirstInvalidUtf8(absl::string_view("a\0b", 3)), 3);
}

TEST(Utf8Test, PreviewIsOneLineOfWholeCharacters) {
  EXPECT_EQ(Preview("short", 10), "short");
  EXPECT_EQ(Preview("na\xC3\xAFve", 3), "na\xC3\xAF…");
  EXPECT_EQ(Preview("a\nb\tc\x1B[31m", 20), "a b c [31m");
  EXPECT_EQ(Preview("a\xFF", 20), "a\xEF\xBF\xBD");
}

}  // namespace
}  // namespace lion::client
