// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/parquet_writer.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/parquet/lion_parquet.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/temp_file.h"

namespace lion::client {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kSource = "a.txt:4";

v1::EmbedResult Embedding(const std::vector<std::vector<float>>& vectors) {
  v1::EmbedResult result;
  for (const std::vector<float>& values : vectors) {
    v1::Vector* const vector = result.add_vectors();
    vector->mutable_values()->Add(values.begin(), values.end());
    const uint32_t at = static_cast<uint32_t>(result.vectors_size());
    vector->mutable_span()->set_start_token(at);
    vector->mutable_span()->set_end_token(at + 2);
    vector->mutable_span()->set_start_byte(10 * at);
    vector->mutable_span()->set_end_byte(10 * at + 7);
  }
  result.set_token_count(9);
  result.set_mode(v1::COMPUTE_MODE_CHUNKED);
  return result;
}

OutputRow RowOf(int64_t index, const v1::EmbedResult* result, absl::Status status = absl::OkStatus()) {
  OutputRow row;
  row.index = index;
  row.source = &kSource;
  row.status = std::move(status);
  row.embed = result;
  return row;
}

bool Exists(const std::string& path) { return std::filesystem::exists(path); }

// The file as pyarrow has it: its rows without what is null, floats as their bits, and the rows of each row group.
Json Read(const std::string& path) {
  const std::string code =
      "import json, sys, numpy, pyarrow.parquet\n"
      "file = pyarrow.parquet.ParquetFile(sys.argv[1])\n"
      "bits = lambda vector: numpy.array(vector, numpy.float32).view(numpy.uint32).tolist()\n"
      "rows = [{k: bits(v) if k == \"vector\" else v for k, v in row.items() if v is not None}\n"
      "        for row in file.read().to_pylist()]\n"
      "groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]\n"
      "names = file.schema_arrow.names\n"
      "json.dump({\"rows\": rows, \"groups\": groups, \"names\": names}, open(sys.argv[2], \"w\"))\n";
  const TempFile json("rows.json");
  const std::string command = absl::StrCat(LION_PYTHON, " -c '", code, "' ", path, " ", json.path());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  return Json::parse(json.Read());
}

Json Bits(const std::vector<float>& values) {
  Json bits = Json::array();
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(ParquetWriterTest, ARowAnInput) {
  const TempFile file("o.parquet");
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values = {0.1f, -0.0f, 1e-45f, 3.4028235e38f, inf, nan};
  auto writer = MakeParquetWriter({.path = file.path()}).value();
  const v1::EmbedResult result = Embedding({values});
  EXPECT_TRUE(writer->Write(RowOf(0, &result)).ok());
  EXPECT_TRUE(writer->Write(RowOf(1, nullptr, absl::InvalidArgumentError("is \"bad\"\xFF"))).ok());
  EXPECT_TRUE(writer->Finish(true).ok());
  EXPECT_EQ(writer->incomplete_path(), "");
  const Json read = Read(file.path());
  EXPECT_EQ(read["names"], Json({"index", "source", "token_count", "mode", "truncated", "vector", "error"}));
  EXPECT_EQ(
      read["rows"][0],
      Json({{"index", 0}, {"token_count", 9}, {"mode", "chunked"}, {"truncated", false}, {"vector", Bits(values)}}));
  EXPECT_EQ(read["rows"][1], Json({{"index", 1},
                                   {"source", kSource},
                                   {"error", {{"code", "INVALID_ARGUMENT"}, {"message", "is \"bad\"\xEF\xBF\xBD"}}}}));
  EXPECT_EQ(read["groups"], Json({2}));
}

TEST(ParquetWriterTest, ARowAVectorOfSeveral) {
  const TempFile file("o.parquet");
  auto writer = MakeParquetWriter({.path = file.path(), .kind = RowKind::kVectors, .sources = true}).value();
  const v1::EmbedResult result = Embedding({{1, 2}, {3, 4}});
  EXPECT_TRUE(writer->Write(RowOf(5, &result)).ok());
  EXPECT_TRUE(writer->Finish(true).ok());
  const Json read = Read(file.path());
  EXPECT_EQ(read["rows"].size(), 2);
  EXPECT_EQ(read["rows"][1], Json({{"index", 5},
                                   {"source", kSource},
                                   {"token_count", 9},
                                   {"mode", "chunked"},
                                   {"truncated", false},
                                   {"number", 1},
                                   {"tokens", {2, 4}},
                                   {"bytes", {20, 27}},
                                   {"vector", Bits({3, 4})}}));
}

TEST(ParquetWriterTest, DocumentsWindowsAndWholes) {
  const TempFile file("o.parquet");
  auto writer = MakeParquetWriter({.path = file.path(), .kind = RowKind::kDocument}).value();
  const v1::EmbedResult windows = Embedding({{1, 2}, {3, 4}}), document = Embedding({{5, 6}});
  OutputRow row = RowOf(3, &windows);
  row.first_vector = 3'000'000'000;
  EXPECT_TRUE(writer->Write(row).ok());
  row = RowOf(3, &document);
  row.whole = true;
  EXPECT_TRUE(writer->Write(row).ok());
  EXPECT_TRUE(writer->Finish(true).ok());
  const Json read = Read(file.path());
  EXPECT_EQ(read["names"], Json({"index", "source", "number", "whole", "tokens", "bytes", "vector", "error"}));
  EXPECT_EQ(read["rows"][1], Json({{"index", 3},
                                   {"source", kSource},
                                   {"number", 3'000'000'001},
                                   {"tokens", {2, 4}},
                                   {"bytes", {20, 27}},
                                   {"vector", Bits({3, 4})}}));
  EXPECT_EQ(read["rows"][2], Json({{"index", 3},
                                   {"source", kSource},
                                   {"whole", true},
                                   {"tokens", {1, 3}},
                                   {"bytes", {10, 17}},
                                   {"vector", Bits({5, 6})}}));
}

// 300 vectors of 4,000 bytes: a group closes with the row that fills it, failed rows count too, and lists go on beyond
// the levels that are made at a time.
TEST(ParquetWriterTest, RowGroupsAreBoundedInBytes) {
  const TempFile file("o.parquet");
  auto writer = MakeParquetWriter({.path = file.path()}, 500'000).value();
  for (int64_t i = 0; i < 300; ++i) {
    std::vector<float> values(1'000);
    for (size_t j = 0; j < values.size(); ++j) values[j] = static_cast<float>(i) + static_cast<float>(j) / 1'000;
    const v1::EmbedResult result = Embedding({values});
    ASSERT_TRUE(writer->Write(i == 7 ? RowOf(i, nullptr, absl::InternalError("x")) : RowOf(i, &result)).ok());
  }
  EXPECT_TRUE(writer->Finish(true).ok());
  const Json read = Read(file.path());
  EXPECT_EQ(read["groups"], Json({123, 122, 55}));  // of 4,128 bytes a row
  ASSERT_EQ(read["rows"].size(), 300);
  for (int64_t i = 0; i < 300; ++i) {
    const Json& row = read["rows"][static_cast<size_t>(i)];
    EXPECT_EQ(row["index"], i);
    ASSERT_EQ(row.contains("vector"), i != 7);
    if (i == 7) continue;
    EXPECT_EQ(row["vector"][999], Bits({static_cast<float>(i) + 0.999f})[0]);
  }
}

TEST(ParquetWriterTest, NoRowsAtAllAreATable) {
  const TempFile file("o.parquet");
  EXPECT_TRUE(MakeParquetWriter({.path = file.path()}).value()->Finish(true).ok());
  EXPECT_EQ(Read(file.path())["rows"], Json::array());
}

TEST(ParquetWriterTest, AVectorThatDoesNotDecodeIsAFailedRow) {
  const TempFile file("o.parquet");
  v1::EmbedResult result;
  result.add_vectors()->set_data("abc");
  auto writer = MakeParquetWriter({.path = file.path(), .vector_type = v1::VECTOR_TYPE_FLOAT32_BYTES}).value();
  EXPECT_TRUE(writer->Write(RowOf(0, &result)).ok());
  EXPECT_TRUE(writer->Finish(true).ok());
  EXPECT_EQ(Read(file.path())["rows"][0]["error"]["code"], "INTERNAL");
}

TEST(ParquetWriterTest, TheNameComesWithTheLastRow) {
  const TempFile file("o.parquet", "what was there");
  const std::string partial_path = file.path() + ".partial";
  const v1::EmbedResult result = Embedding({{1}});
  {
    auto writer = MakeParquetWriter({.path = file.path()}).value();
    EXPECT_TRUE(writer->Write(RowOf(0, &result)).ok());
    EXPECT_TRUE(Exists(partial_path));
    EXPECT_EQ(file.Read(), "what was there");
  }
  EXPECT_FALSE(Exists(partial_path)) << "nobody finished it";
  auto unfinished = MakeParquetWriter({.path = file.path()}).value();
  EXPECT_TRUE(unfinished->Write(RowOf(0, &result)).ok());
  EXPECT_TRUE(unfinished->Finish(false).ok());
  EXPECT_EQ(unfinished->incomplete_path(), partial_path);
  EXPECT_EQ(file.Read(), "what was there");
  EXPECT_EQ(Read(partial_path)["rows"].size(), 1);
  auto whole = MakeParquetWriter({.path = file.path()}).value();
  EXPECT_TRUE(whole->Finish(true).ok());
  EXPECT_FALSE(Exists(partial_path));
  EXPECT_EQ(file.Read().substr(0, 4), "PAR1");
}

TEST(ParquetWriterTest, ALinkLeadsToTheFile) {
  const TempFile file("o.parquet"), link("link.parquet");
  std::remove(link.path().c_str());
  std::filesystem::create_symlink(file.path(), link.path());
  EXPECT_TRUE(MakeParquetWriter({.path = link.path()}).value()->Finish(true).ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link.path()));
  EXPECT_EQ(file.Read().substr(0, 4), "PAR1");
}

TEST(ParquetWriterTest, WhatIsNoFileIsRefused) {
  for (const std::string& path : {std::string("/dev/full"), ::testing::TempDir()}) {
    const absl::Status status = MakeParquetWriter({.path = path}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_EQ(status.message(), absl::StrCat(path, ": is there and is no file"));
  }
  EXPECT_THAT(MakeParquetWriter({.path = "/nowhere/o.parquet"}).status().message(),
              HasSubstr("/nowhere/o.parquet.partial: cannot write"));
}

// A file that may not grow stands in for a full disk.
class SmallFiles {
 public:
  explicit SmallFiles(rlim_t max_bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit small = {max_bytes, limit_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  }
  ~SmallFiles() {
    setrlimit(RLIMIT_FSIZE, &limit_);
    signal(SIGXFSZ, handler_);
  }

 private:
  sighandler_t handler_;
  rlimit limit_;
};

TEST(ParquetWriterTest, AFullDiskIsAnErrorAndLeavesNothing) {
  const TempFile file("o.parquet", "what was there");
  const v1::EmbedResult result = Embedding({std::vector<float>(100'000, 0.1f)});
  // Amid the rows; and with the last of them.
  for (const int64_t group_bytes : {int64_t{1}, kParquetGroupBytes}) {
    absl::Status written, finished, again;
    {
      const SmallFiles limit(2'000'000);
      auto writer = MakeParquetWriter({.path = file.path()}, group_bytes).value();
      for (int64_t i = 0; i < 10; ++i) written.Update(writer->Write(RowOf(i, &result)));
      again = writer->Write(RowOf(10, &result));
      finished = writer->Finish(true);
    }
    EXPECT_EQ(written.ok(), group_bytes > 1);
    EXPECT_EQ(again, written);
    EXPECT_THAT(finished.message(), HasSubstr(absl::StrCat(file.path(), ".partial: cannot write")));
    EXPECT_FALSE(Exists(file.path() + ".partial"));
    EXPECT_EQ(file.Read(), "what was there");
  }
}

// The C interface, given what its only caller never gives.
class InterfaceTest : public ::testing::Test {
 protected:
  ~InterfaceTest() override { lion_parquet_free(writer_); }

  std::string Open(const std::string& schema) {
    lion_parquet_free(std::exchange(writer_, nullptr));
    return Said(lion_parquet_open({schema.data(), schema.size()}, {&InterfaceTest::Take, this}, &writer_, &error_));
  }
  std::string Write(const std::vector<LionParquetColumn>& columns, size_t num_rows) {
    return Said(lion_parquet_write_rows(writer_, columns.data(), columns.size(), num_rows, &error_));
  }

  LionParquetWriter* writer_ = nullptr;
  std::string bytes_;

 private:
  static int32_t Take(void* context, const uint8_t* data, size_t size) {
    static_cast<InterfaceTest*>(context)->bytes_.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }
  std::string Said(int32_t code) {
    if (code == LION_PARQUET_OK) return "";
    EXPECT_EQ(code, LION_PARQUET_INTERNAL);
    const std::string message = error_;
    lion_parquet_error_free(error_);
    return message;
  }

  char* error_ = nullptr;
};

TEST_F(InterfaceTest, ASchemaThatIsNone) { EXPECT_NE(Open("rows { int index }"), ""); }

TEST_F(InterfaceTest, ColumnsThatDoNotFit) {
  const int64_t numbers[] = {1, 2, 3};
  const uint32_t with_null[] = {1, 0}, two[] = {2, 1};
  const std::string schema = "message m { required int64 a; optional int64 b; }";
  EXPECT_EQ(Open(schema), "");
  EXPECT_EQ(Write({{numbers, 2, nullptr}}, 2), "Parquet error: 1 columns for a schema of 2");
  const std::vector<std::vector<LionParquetColumn>> wrong = {
      {{numbers, 3, nullptr}, {numbers, 2, nullptr}},    // a value too many
      {{numbers, 1, with_null}, {numbers, 2, nullptr}},  // null where the schema has none
      {{numbers, 2, nullptr}, {numbers, 3, two}},        // a list where it has none
      {{numbers, 2, nullptr}, {numbers, 2, with_null}},  // a value that no row has
  };
  for (const std::vector<LionParquetColumn>& columns : wrong) {
    EXPECT_EQ(Open(schema), "");
    EXPECT_THAT(Write(columns, 2), HasSubstr("do not fit 2 rows"));
  }
}

TEST_F(InterfaceTest, TheEndIsWrittenOnceAndNothingByFree) {
  EXPECT_EQ(Open("message m { required int64 a; }"), "");
  const int64_t number = 1;
  EXPECT_EQ(Write({{&number, 1, nullptr}}, 1), "");
  char* error = nullptr;
  EXPECT_EQ(lion_parquet_finish(writer_, &error), LION_PARQUET_OK);
  EXPECT_EQ(bytes_.substr(0, 4), "PAR1");
  EXPECT_EQ(bytes_.substr(bytes_.size() - 4), "PAR1");
  const size_t size = bytes_.size();
  lion_parquet_free(std::exchange(writer_, nullptr));
  EXPECT_EQ(bytes_.size(), size);
}

}  // namespace
}  // namespace lion::client
