// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/http_messages.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lion {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kMaxInputs = 4;

v1::EmbedRequest Embeddings(const std::string& body) {
  absl::StatusOr<HttpEmbedRequest> read = ReadEmbeddings(body, kMaxInputs);
  EXPECT_TRUE(read.ok()) << body << ": " << read.status();
  return read.ok() ? read->request : v1::EmbedRequest();
}

std::string Refusal(const std::string& body) {
  const absl::Status status = ReadEmbeddings(body, kMaxInputs).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << body << ": " << status;
  return std::string(status.message());
}

TEST(ReadEmbeddingsTest, TakesEveryShapeOfInput) {
  v1::EmbedRequest request = Embeddings(R"({"model": "m", "input": "one"})");
  EXPECT_EQ(request.model(), "m");
  ASSERT_EQ(request.inputs_size(), 1);
  EXPECT_EQ(request.inputs(0).text(), "one");
  EXPECT_EQ(request.vector_type(), v1::VECTOR_TYPE_FLOAT32);
  EXPECT_EQ(request.options().truncation(), v1::TRUNCATION_UNSPECIFIED);

  request = Embeddings(R"({"input": ["one", "", "naïve\nthree"]})");
  ASSERT_EQ(request.inputs_size(), 3);
  EXPECT_EQ(request.inputs(1).text(), "");
  EXPECT_TRUE(request.inputs(1).has_text());
  EXPECT_EQ(request.inputs(2).text(), "naïve\nthree");

  request = Embeddings(R"({"input": [1, 2, 4294967295]})");
  ASSERT_EQ(request.inputs_size(), 1);
  EXPECT_THAT(request.inputs(0).token_ids().ids(), ElementsAre(1, 2, 4294967295));

  request = Embeddings(R"({"input": [[1], [], [2, 3]]})");
  ASSERT_EQ(request.inputs_size(), 3);
  EXPECT_THAT(request.inputs(2).token_ids().ids(), ElementsAre(2, 3));
  EXPECT_TRUE(request.inputs(1).has_token_ids());  // and refused as an empty one

  EXPECT_EQ(Embeddings(R"({"input": []})").inputs_size(), 0);  // what follows is validation's to say
  EXPECT_EQ(Embeddings("{}").inputs_size(), 0);
}

TEST(ReadEmbeddingsTest, TakesEveryField) {
  const absl::StatusOr<HttpEmbedRequest> read = ReadEmbeddings(
      R"({"user": "u", "dimensions": 7, "encoding_format": "base64", "input": "x", "truncate": true})", kMaxInputs);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->base64);
  EXPECT_EQ(read->request.vector_type(), v1::VECTOR_TYPE_FLOAT32_BYTES);
  EXPECT_EQ(read->request.dimensions(), 7);
  EXPECT_EQ(read->request.options().truncation(), v1::TRUNCATION_RIGHT);
  const absl::StatusOr<HttpEmbedRequest> unset = ReadEmbeddings(
      R"({"user": null, "dimensions": null, "encoding_format": null, "input": "x", "model": null, "truncate": null})",
      kMaxInputs);
  ASSERT_TRUE(unset.ok()) << unset.status();
  EXPECT_FALSE(unset->base64);
  EXPECT_EQ(unset->request.dimensions(), 0);
}

TEST(ReadEmbeddingsTest, NamesWhatItRefuses) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "body: is not JSON"},
      {"{", "body: is not JSON"},
      {"{\"input\": \"x\"} x", "body: is not JSON"},
      {"{\"input\": \"\xff\"}", "body: is not JSON"},
      {"{\"input\": \"\\ud800\"}", "body: is not JSON"},
      {"3", "body: is not a JSON object"},
      {"[]", "body: is an array"},
      {"[{}]", "body: is an array"},
      {R"({"inputs": "x"})", "'inputs': there is no such field"},
      {R"({"input": "x", "input": "y"})", "'input': given twice"},
      {R"({"input": 1})", "input: is an integer"},
      {R"({"input": null})", "input: is null"},
      {R"({"input": {"text": "x"}})", "input: is an object"},
      {R"({"input": [{"text": "x"}]})", "input: is an object"},
      {R"({"input": ["x", 1]})", "input: takes a string, an array of strings"},
      {R"({"input": [1, "x"]})", "input: takes a string, an array of strings"},
      {R"({"input": [1, [2]]})", "input: takes a string, an array of strings"},
      {R"({"input": [[1], 2]})", "input: takes a string, an array of strings"},
      {R"({"input": [["x"]]})", "input[0]: holds a string"},
      {R"({"input": [[1], [[2]]]})", "input[1]: is an array inside"},
      {R"({"input": [[1], [-2]]})", "input[1]: holds a number that is no integer"},
      {R"({"input": [1.5]})", "input: holds a number"},
      {R"({"input": [true]})", "input: holds a boolean"},
      {R"({"input": [4294967296]})", "input[0]: 4294967296 is no token id"},
      {R"({"input": ["1", "2", "3", "4", "5"]})", "input: more than 4 given"},
      {R"({"input": [[], [], [], [], []]})", "input: more than 4 given"},
      {R"({"model": 1})", "model: is an integer; it takes a string"},
      {R"({"model": ["m"]})", "model: is an array"},
      {R"({"dimensions": 0})", "dimensions: 0; it takes 1"},
      {R"({"dimensions": -1})", "dimensions: is a number"},
      {R"({"dimensions": "7"})", "dimensions: is a string; it takes an integer"},
      {R"({"dimensions": 4294967296})", "dimensions: 4294967296 is above"},
      {R"({"encoding_format": "int8"})", "encoding_format: 'int8' is not one of float, base64"},
      {R"({"truncate": 1})", "truncate: is an integer; it takes true or false"},
      {R"({"top_k": 1})", "'top_k': there is no such field"},
  };
  for (const auto& [body, message] : cases) EXPECT_THAT(Refusal(body), StartsWith(message)) << body;
  const std::string deep(1 << 20, '[');
  EXPECT_THAT(Refusal(absl::StrCat("{\"input\": ", deep)), StartsWith("input"));
  EXPECT_THAT(Refusal(deep), StartsWith("body: "));
  EXPECT_THAT(Refusal(absl::StrCat("{\"", std::string(1 << 20, 'x'), "\": 1}")), HasSubstr("there is no such field"));
}

TEST(ReadClassifyTest, TakesItsOwnFields) {
  const auto read = ReadClassify(R"({"input": ["a", "b"], "top_k": 2, "raw_scores": true, "model": "m"})", kMaxInputs);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->inputs_size(), 2);
  EXPECT_EQ(read->top_k(), 2);
  EXPECT_TRUE(read->raw_scores());
  EXPECT_THAT(ReadClassify(R"({"dimensions": 3})", kMaxInputs).status().message(), HasSubstr("no such field"));
}

v1::EmbedResponse TwoRows(const std::vector<float>& vector) {
  v1::EmbedResponse response;
  response.set_model("a \"model\"");
  for (int i = 0; i < 2; ++i) {
    v1::EmbedResult* result = response.add_results();
    result->set_token_count(5);
    v1::Vector* out = result->add_vectors();
    out->mutable_values()->Add(vector.begin(), vector.end());
    out->set_data(std::string(reinterpret_cast<const char*>(vector.data()), 4 * vector.size()));
  }
  return response;
}

TEST(WriteEmbeddingsTest, NumbersReadBackAsTheSameFloats) {
  const std::vector<float> vector = {0.1f, -1.5f, 1e-30f, std::numeric_limits<float>::max(), 0.0f, 1.0f / 3};
  const absl::StatusOr<std::string> text = WriteEmbeddings(TwoRows(vector), /*base64=*/false);
  ASSERT_TRUE(text.ok());
  const json body = json::parse(*text);
  EXPECT_EQ(body["object"], "list");
  EXPECT_EQ(body["model"], "a \"model\"");
  EXPECT_EQ(body["usage"], json({{"prompt_tokens", 10}, {"total_tokens", 10}}));
  ASSERT_EQ(body["data"].size(), 2);
  EXPECT_EQ(body["data"][1]["index"], 1);
  EXPECT_EQ(body["data"][1]["object"], "embedding");
  EXPECT_EQ(body["data"][1]["embedding"].get<std::vector<float>>(), vector);
}

TEST(WriteEmbeddingsTest, Base64IsOfTheBytes) {
  const std::vector<float> vector = {0.1f, -1.5f};
  const absl::StatusOr<std::string> text = WriteEmbeddings(TwoRows(vector), /*base64=*/true);
  ASSERT_TRUE(text.ok());
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(json::parse(*text)["data"][0]["embedding"].get<std::string>(), &bytes));
  ASSERT_EQ(bytes.size(), 8);
  EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(vector.data()), 8));
}

TEST(WriteEmbeddingsTest, ARowThatFailedFailsAll) {
  v1::EmbedResponse response = TwoRows({1});
  response.mutable_results(1)->mutable_error()->set_code(3);
  response.mutable_results(1)->mutable_error()->set_message("inputs[1].text: too long");
  const absl::Status status = WriteEmbeddings(response, false).status();
  EXPECT_EQ(status, absl::InvalidArgumentError("inputs[1].text: too long"));
}

TEST(WriteClassifyTest, HasTheBestLabelAndAllScores) {
  v1::ClassifyResponse response;
  response.set_model("m");
  v1::ClassifyResult* result = response.add_results();
  result->set_token_count(3);
  for (int i = 0; i < 2; ++i) {
    v1::LabelScore* score = result->add_scores();
    score->set_label(i == 0 ? "games" : "math");
    score->set_score(i == 0 ? 0.75f : 0.25f);
    score->set_index(i == 0 ? 7 : 2);
  }
  response.add_results();
  const absl::StatusOr<std::string> text = WriteClassify(response);
  ASSERT_TRUE(text.ok());
  const json body = json::parse(*text);
  const json& first = body["data"][0];
  EXPECT_EQ(first["label"], "games");
  EXPECT_EQ(first["score"], 0.75);
  EXPECT_EQ(first["scores"][1], json({{"label", "math"}, {"score", 0.25}, {"index", 2}}));
  EXPECT_EQ(body["data"][1]["scores"], json::array());
  EXPECT_EQ(body["usage"]["total_tokens"], 3);
}

TEST(WriteModelsTest, ListsAndFindsThem) {
  v1::ListModelsResponse response;
  response.add_models()->set_name("one");
  response.add_models()->set_name("two");
  const json list = json::parse(WriteModels(response, 17));
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][1]["id"], "two");
  EXPECT_EQ(list["data"][1]["object"], "model");
  EXPECT_EQ(list["data"][1]["created"], 17);
  EXPECT_EQ(json::parse(*WriteModel(response, "two", 17)), list["data"][1]);
  const absl::Status status = WriteModel(response, "three", 17).status();
  EXPECT_EQ(status, absl::NotFoundError("model: no model 'three'; this server has one, two"));
}

TEST(WriteErrorTest, EveryCodeHasItsNumber) {
  const std::pair<absl::StatusCode, int> cases[] = {
      {absl::StatusCode::kInvalidArgument, 400},  {absl::StatusCode::kUnimplemented, 400},
      {absl::StatusCode::kUnauthenticated, 401},  {absl::StatusCode::kPermissionDenied, 403},
      {absl::StatusCode::kNotFound, 404},         {absl::StatusCode::kResourceExhausted, 429},
      {absl::StatusCode::kCancelled, 499},        {absl::StatusCode::kInternal, 500},
      {absl::StatusCode::kUnknown, 500},          {absl::StatusCode::kUnavailable, 503},
      {absl::StatusCode::kDeadlineExceeded, 504},
  };
  for (const auto& [code, number] : cases) EXPECT_EQ(WriteError(absl::Status(code, "x"), {}).code, number);
  EXPECT_EQ(WriteError(absl::ResourceExhaustedError("x"), 20).retry_after_ms, 20);
  EXPECT_EQ(WriteError(absl::ResourceExhaustedError("x"), {}, 413).code, 413);
}

TEST(WriteErrorTest, SpeaksOfTheFieldsOfThisWire) {
  const auto error = [](const absl::Status& status) { return json::parse(WriteError(status, {}).body)["error"]; };
  const json model = error(absl::NotFoundError("model: no model 'x'; this server has m"));
  EXPECT_EQ(model, json({{"message", "model: no model 'x'; this server has m"},
                         {"type", "invalid_request_error"},
                         {"param", "model"},
                         {"code", "model_not_found"}}));
  const std::pair<const char*, const char*> messages[] = {
      {"inputs: none given", "input: none given"},
      {"inputs[3].text: 70 tokens", "input[3]: 70 tokens"},
      {"inputs[3].token_ids.ids[2]: bad", "input[3][2]: bad"},
      {"inputs[3].token_ids: empty", "input[3]: empty"},
  };
  for (const auto& [theirs, ours] : messages) {
    EXPECT_EQ(error(absl::InvalidArgumentError(theirs))["message"], ours);
    EXPECT_EQ(error(absl::InvalidArgumentError(theirs))["param"], "input");
  }
  EXPECT_EQ(error(absl::UnauthenticatedError("no key"))["code"], "invalid_api_key");
  EXPECT_EQ(error(absl::UnauthenticatedError("no key"))["param"], nullptr);
  EXPECT_EQ(error(absl::ResourceExhaustedError("full"))["type"], "rate_limit_error");
  EXPECT_EQ(error(absl::InternalError("x"))["type"], "server_error");
}

}  // namespace
}  // namespace lion
