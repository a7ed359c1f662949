// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/outputs.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/vectors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/temp_file.h"

namespace lion::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

v1::EmbedResult Embedding(const std::vector<float>& values) {
  v1::EmbedResult result;
  for (const float v : values) result.add_vectors()->mutable_values(), result.mutable_vectors(0)->add_values(v);
  while (result.vectors_size() > 1) result.mutable_vectors()->RemoveLast();
  result.set_token_count(7);
  result.set_mode(v1::COMPUTE_MODE_CHUNKED);
  return result;
}

// Writes rows to a file of that name and gives back its bytes.
class Written {
 public:
  Written(const std::string& name, OutputOptions options) : file_(name) {
    options.path = file_.path();
    writer_ = OpenWriter(options, nullptr, false).value();
    input_.set_text("some text");
  }
  Written& Embed(const v1::EmbedResult& result) {
    OutputRow row = Next();
    row.embed = &result;
    EXPECT_TRUE(writer_->Write(row).ok());
    return *this;
  }
  Written& Classify(const v1::ClassifyResult& result) {
    OutputRow row = Next();
    row.classify = &result;
    EXPECT_TRUE(writer_->Write(row).ok());
    return *this;
  }
  Written& Tokenize(const v1::TokenizeResult& result) {
    OutputRow row = Next();
    row.tokenize = &result;
    EXPECT_TRUE(writer_->Write(row).ok());
    return *this;
  }
  Written& Failed(const absl::Status& status) {
    OutputRow row = Next();
    row.status = status;
    row.input = nullptr;
    EXPECT_TRUE(writer_->Write(row).ok());
    return *this;
  }
  std::string Finish() {
    EXPECT_TRUE(writer_->Finish(true).ok());
    return file_.Read();
  }
  const std::string& path() const { return file_.path(); }

 private:
  OutputRow Next() {
    OutputRow row;
    row.index = next_++;
    row.source = &source_;
    row.input = &input_;
    return row;
  }
  TempFile file_;
  std::unique_ptr<ResultWriter> writer_;
  std::string source_ = "a.txt:4";
  v1::Input input_;
  int64_t next_ = 0;
};

std::vector<Json> Lines(const std::string& text) {
  std::vector<Json> lines;
  for (const auto& line : absl::StrSplit(text, '\n', absl::SkipEmpty())) lines.push_back(Json::parse(line));
  return lines;
}

TEST(JsonlWriterTest, VectorsReadBackAsTheSameFloats) {
  const std::vector<float> values = {0.1f, -1.0f / 3, 1e-38f, 3.4028235e38f, 0.0f, 16777216.0f};
  const Json line = Lines(Written("o.jsonl", {}).Embed(Embedding(values)).Finish()).at(0);
  EXPECT_EQ(line["index"], 0);
  EXPECT_EQ(line["token_count"], 7);
  EXPECT_EQ(line["mode"], "chunked");
  EXPECT_EQ(line["truncated"], false);
  EXPECT_EQ(line["vector"].get<std::vector<float>>(), values);
}

TEST(JsonlWriterTest, FailuresSayWhereAndWhy) {
  const auto lines =
      Lines(Written("o.jsonl", {}).Failed(absl::InvalidArgumentError("is \"bad\"\xFF")).Embed(Embedding({1})).Finish());
  EXPECT_EQ(lines[0]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_THAT(lines[0]["error"]["message"].get<std::string>(), HasSubstr("is \"bad\""));
  EXPECT_EQ(lines[0]["source"], "a.txt:4");
  EXPECT_EQ(lines[1]["index"], 1);
}

TEST(JsonlWriterTest, TokenVectorsCarrySpans) {
  v1::EmbedResult result = Embedding({1});
  *result.add_vectors() = result.vectors(0);
  result.mutable_vectors(1)->mutable_span()->set_end_byte(9);
  const Json line = Lines(Written("o.jsonl", {.kind = RowKind::kVectors}).Embed(result).Finish()).at(0);
  EXPECT_EQ(line["vectors"].size(), 2);
  EXPECT_EQ(line["vectors"][1]["bytes"], Json({0, 9}));
}

TEST(JsonlWriterTest, ScoresAndTokens) {
  v1::ClassifyResult scores;
  scores.add_scores()->set_label("a \"label\"");
  scores.mutable_scores(0)->set_score(0.5);
  EXPECT_EQ(Lines(Written("o.jsonl", {.kind = RowKind::kScores}).Classify(scores).Finish()).at(0)["scores"],
            Json::parse(R"([{"label": "a \"label\"", "index": 0, "score": 0.5}])"));
  v1::TokenizeResult tokens;
  tokens.add_ids(5);
  tokens.add_type_ids(1);
  tokens.add_tokens("##\xC3\xA9");
  tokens.add_spans()->set_end_byte(2);
  const Json line = Lines(Written("o.jsonl", {.kind = RowKind::kTokens}).Tokenize(tokens).Finish()).at(0);
  EXPECT_EQ(line,
            Json::parse(R"({"index":0,"token_count":1,"ids":[5],"type_ids":[1],"tokens":["##é"],"bytes":[[0,2]]})"));
}

TEST(CsvWriterTest, HeaderWaitsForTheWidth) {
  EXPECT_EQ(Written("o.csv", {}).Failed(absl::InvalidArgumentError("a, b")).Embed(Embedding({0.5f, -2})).Finish(),
            "index,token_count,mode,truncated,error,v0,v1\n"
            "0,,,,\"INVALID_ARGUMENT: a, b\",,\n"
            "1,7,chunked,false,,0.5,-2\n");
  EXPECT_EQ(Written("o.csv", {.default_width = 1}).Failed(absl::InternalError("x")).Finish(),
            "index,token_count,mode,truncated,error,v0\n0,,,,INTERNAL: x,\n");
}

TEST(CsvWriterTest, ScoresAreOneLineALabel) {
  v1::ClassifyResult scores;
  for (int i = 0; i < 2; ++i) {
    scores.add_scores()->set_label(i == 0 ? "x,y" : "z");
    scores.mutable_scores(i)->set_index(static_cast<uint32_t>(4 - i));
    scores.mutable_scores(i)->set_score(i == 0 ? 0.75f : 0.25f);
  }
  scores.set_token_count(3);
  scores.set_mode(v1::COMPUTE_MODE_PARALLEL);
  EXPECT_EQ(Written("o.csv", {.kind = RowKind::kScores}).Classify(scores).Failed(absl::InternalError("x")).Finish(),
            "index,token_count,mode,truncated,error,rank,label,label_index,score\n"
            "0,3,parallel,false,,0,\"x,y\",4,0.75\n"
            "0,3,parallel,false,,1,z,3,0.25\n"
            "1,,,,INTERNAL: x,,,,\n");
}

TEST(CsvWriterTest, TokensAndTokenVectors) {
  v1::TokenizeResult tokens;
  tokens.add_ids(5);
  tokens.add_type_ids(0);
  tokens.add_tokens("a,");
  tokens.add_spans()->set_end_byte(2);
  EXPECT_EQ(Written("o.csv", {.kind = RowKind::kTokens}).Tokenize(tokens).Failed(absl::InternalError("x")).Finish(),
            "index,error,position,id,type_id,token,start_byte,end_byte\n0,,0,5,0,\"a,\",0,2\n1,INTERNAL: x,,,,,,\n");
  EXPECT_EQ(
      Written("o.csv", {.kind = RowKind::kVectors}).Embed(Embedding({2})).Failed(absl::InternalError("x")).Finish(),
      "index,token_count,mode,truncated,error,vector,start_token,end_token,start_byte,end_byte,v0\n"
      "0,7,chunked,false,,0,0,0,0,0,2\n"
      "1,,,,INTERNAL: x,,,,,,\n");
}

// The bytes, by NumPy's own description of its format 1.0.
TEST(NpyWriterTest, HeaderAndRows) {
  const std::string bytes = Written("o.npy", {}).Failed(absl::InternalError("x")).Embed(Embedding({1, 2, 3})).Finish();
  ASSERT_EQ(bytes.size(), 128 + 2 * 3 * 4);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(static_cast<int>(bytes[8]) + 256 * static_cast<int>(bytes[9]), 118);
  EXPECT_THAT(bytes.substr(10, 118), HasSubstr("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"));
  EXPECT_EQ(bytes[127], '\n');
  float rows[6];
  std::memcpy(rows, bytes.data() + 128, sizeof(rows));
  EXPECT_TRUE(std::isnan(rows[0]) && std::isnan(rows[1]) && std::isnan(rows[2]));
  EXPECT_EQ(rows[5], 3);
}

TEST(NpyWriterTest, NumPyReadsIt) {
  Written rows("o.npy", {});
  rows.Embed(Embedding({1, 2, 3})).Failed(absl::InternalError("x")).Embed(Embedding({4, 5, 6})).Finish();
  Written none("none.npy", {.default_width = 384});
  none.Finish();
  Written failed("failed.npy", {.default_width = 2});
  failed.Failed(absl::InternalError("x")).Finish();
  const std::string code = absl::StrCat(
      "import numpy, sys; a, b, c = map(numpy.load, sys.argv[1:]); "
      "assert a.dtype == numpy.float32 and a.shape == (3, 3) and numpy.isnan(a[1]).all() and a[2].tolist() == [4, 5, "
      "6]; "
      "assert b.shape == (0, 384) and c.shape == (1, 2) and numpy.isnan(c).all()");
  const std::string command =
      absl::StrCat(LION_PYTHON, " -c '", code, "' ", rows.path(), " ", none.path(), " ", failed.path());
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

TEST(TextWriterTest, SimilarityNamesTheNearest) {
  const std::string text = Written("o.txt", {.similarity = true})
                               .Embed(Embedding({1, 0}))
                               .Embed(Embedding({0, 1}))
                               .Embed(Embedding({0.9f, 0.1f}))
                               .Finish();
  EXPECT_THAT(text, HasSubstr("2 dims  norm 1.0000  [+1.0000 +0.0000]"));
  EXPECT_THAT(text, HasSubstr("   0  some text\n      +0.9939  2  some text\n"));
  EXPECT_THAT(text, HasSubstr("   1  some text\n      +0.1104  2  some text\n"));
}

TEST(TextWriterTest, FailuresAreShown) {
  EXPECT_EQ(Written("o.txt", {}).Failed(absl::InvalidArgumentError("no good")).Finish(),
            "   0  failed  INVALID_ARGUMENT: a.txt:4: no good\n");
}

TEST(WriterTest, AFullDiskIsAnError) {
  OutputOptions options;
  options.path = "/dev/full";
  options.format = OutputFormat::kJsonl;
  auto writer = OpenWriter(options, nullptr, false).value();
  const std::string source = "a";
  const v1::EmbedResult result = Embedding(std::vector<float>(100'000, 0.1f));
  OutputRow row;
  row.source = &source;
  row.embed = &result;
  absl::Status status = writer->Write(row);
  status.Update(writer->Finish(true));
  EXPECT_THAT(status.message(), HasSubstr("/dev/full: cannot write"));
}

TEST(ResolveFormatTest, BySuffixTerminalAndSense) {
  EXPECT_EQ(*ResolveFormat({}, true), OutputFormat::kText);
  EXPECT_EQ(*ResolveFormat({}, false), OutputFormat::kJsonl);
  EXPECT_EQ(*ResolveFormat({.similarity = true}, false), OutputFormat::kText);
  EXPECT_EQ(*ResolveFormat({.path = "a.npy"}, true), OutputFormat::kNpy);
  EXPECT_EQ(*ResolveFormat({.path = "a.csv"}, true), OutputFormat::kCsv);
  EXPECT_EQ(*ResolveFormat({.path = "a", .format = OutputFormat::kCsv}, true), OutputFormat::kCsv);
  EXPECT_FALSE(ResolveFormat({.path = "a.xls"}, true).ok());
  EXPECT_EQ(*ResolveFormat({.path = "a.parquet", .kind = RowKind::kDocument}, true), OutputFormat::kParquet);
  EXPECT_FALSE(ResolveFormat({.format = OutputFormat::kNpy}, false).ok());
  EXPECT_FALSE(ResolveFormat({.format = OutputFormat::kParquet}, false).ok());
  EXPECT_FALSE(ResolveFormat({.path = "a.parquet", .kind = RowKind::kTokens}, false).ok());
  EXPECT_FALSE(ResolveFormat({.path = "a.npy", .kind = RowKind::kScores}, false).ok());
  EXPECT_FALSE(ResolveFormat({.path = "a.csv", .similarity = true}, false).ok());
}

TEST(VectorsTest, DecodesEveryType) {
  v1::Vector vector;
  vector.set_data(std::string("\x00\x00\x80\x3F\x00\x00\x00\xC0", 8));
  EXPECT_THAT(DecodeVector(vector, v1::VECTOR_TYPE_FLOAT32_BYTES).value(), ElementsAre(1, -2));
  // 1, -2, the smallest subnormal, the largest, infinity
  vector.set_data(std::string("\x00\x3C\x00\xC0\x01\x00\xFF\x7B\x00\x7C", 10));
  EXPECT_THAT(DecodeVector(vector, v1::VECTOR_TYPE_FLOAT16_BYTES).value(),
              ElementsAre(1, -2, 0x1p-24f, 65504, std::numeric_limits<float>::infinity()));
  vector.set_data(std::string("\x7F\x81\x00", 3));
  vector.set_scale(0.5f);
  EXPECT_THAT(DecodeVector(vector, v1::VECTOR_TYPE_INT8_BYTES).value(), ElementsAre(63.5, -63.5, 0));
  EXPECT_TRUE(absl::IsInternal(DecodeVector(vector, v1::VECTOR_TYPE_FLOAT32_BYTES).status()));
}

TEST(WithCommasTest, Groups) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(-1234567), "-1,234,567");
  EXPECT_EQ(WithCommas(-123), "-123");
}

}  // namespace
}  // namespace lion::client
