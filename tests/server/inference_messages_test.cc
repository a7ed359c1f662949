// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/inference_messages.h"

#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kMaxInputs = 4;

ServedModel TestModel() {
  ServedModel model;
  model.name = "text";
  model.info = TestModelInfo();
  return model;
}

inference::ModelInferRequest::InferInputTensor* Add(const char* name, const char* datatype,
                                                    std::initializer_list<int64_t> shape,
                                                    inference::ModelInferRequest* request) {
  auto* tensor = request->add_inputs();
  tensor->set_name(name);
  tensor->set_datatype(datatype);
  for (int64_t size : shape) tensor->add_shape(size);
  return tensor;
}

void AddTyped(const char* name, std::initializer_list<int64_t> shape, const std::vector<int64_t>& values,
              inference::ModelInferRequest* request) {
  auto* contents = Add(name, "INT64", shape, request)->mutable_contents()->mutable_int64_contents();
  contents->Add(values.begin(), values.end());
}

template <typename T>
void AddRaw(const char* name, const char* datatype, std::initializer_list<int64_t> shape, const std::vector<T>& values,
            inference::ModelInferRequest* request) {
  Add(name, datatype, shape, request);
  request->add_raw_input_contents(values.data(), values.size() * sizeof(T));
}

std::string RawTexts(std::initializer_list<std::string> texts) {
  std::string raw;
  for (const std::string& text : texts) {
    const uint32_t size = static_cast<uint32_t>(text.size());
    raw.append(reinterpret_cast<const char*>(&size), sizeof(size));
    raw.append(text);
  }
  return raw;
}

ServedModel TestImageModel() {
  ServedModel model = TestModel();
  model.name = "vision";
  model.info.input = "image";
  model.info.vocab_size = model.info.type_vocab_size = 0;
  model.info.image_size = 8;
  model.info.patch_size = 4;
  return model;
}

absl::StatusOr<InferQuery> Query(inference::ModelInferRequest request, const ServedModel& model = TestModel()) {
  return FromInfer(&request, model, kMaxInputs);
}

std::string Error(const inference::ModelInferRequest& request, const ServedModel& model = TestModel()) {
  const absl::StatusOr<InferQuery> query = Query(request, model);
  EXPECT_FALSE(query.ok());
  return std::string(query.status().message());
}

inference::ModelInferRequest Texts() {
  inference::ModelInferRequest request;
  Add("text", "BYTES", {2}, &request);
  request.add_raw_input_contents(RawTexts({"a b", ""}));
  return request;
}

TEST(FromInfer, RawText) {
  const absl::StatusOr<InferQuery> query = Query(Texts());
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_FALSE(query->scores);
  ASSERT_EQ(query->embed.inputs_size(), 2);
  EXPECT_EQ(query->embed.inputs(0).text(), "a b");
  EXPECT_TRUE(query->embed.inputs(1).has_text());
  EXPECT_FALSE(query->embed.has_normalize());
}

TEST(FromInfer, TypedTextAndPairs) {
  inference::ModelInferRequest request;
  auto* tensor = Add("text", "BYTES", {1, 2}, &request);
  tensor->mutable_contents()->add_bytes_contents("first");
  tensor->mutable_contents()->add_bytes_contents("second");
  absl::StatusOr<InferQuery> query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  ASSERT_EQ(query->embed.inputs_size(), 1);
  EXPECT_EQ(query->embed.inputs(0).text_pair().first(), "first");
  EXPECT_EQ(query->embed.inputs(0).text_pair().second(), "second");

  tensor->clear_shape();
  tensor->add_shape(2);
  tensor->add_shape(1);
  query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  ASSERT_EQ(query->embed.inputs_size(), 2);
  EXPECT_EQ(query->embed.inputs(1).text(), "second");
}

TEST(FromInfer, BadText) {
  inference::ModelInferRequest request = Texts();
  request.mutable_raw_input_contents(0)->append("\1\0\0", 3);
  EXPECT_EQ(Error(request), "text: element 2's length is cut off");
  *request.mutable_raw_input_contents(0) = RawTexts({"ab"}).substr(0, 5);
  EXPECT_EQ(Error(request), "text: element 0 has 2 bytes, of which 1 were sent");
  *request.mutable_raw_input_contents(0) = RawTexts({"a"});
  EXPECT_EQ(Error(request), "text: shape [2] does not hold the 1 elements that were sent");
  request.mutable_inputs(0)->set_shape(0, 5);
  EXPECT_EQ(Error(request), "text: shape [5] is 5 sequences; a call has 1 to 4 (max_inputs)");
  request.mutable_inputs(0)->set_shape(0, -1);
  EXPECT_THAT(Error(request), HasSubstr("a call has 1 to 4"));
  request.mutable_inputs(0)->set_shape(0, 1);
  request.mutable_inputs(0)->add_shape(3);
  EXPECT_EQ(Error(request), "text: shape [1, 3]; it must be (B), or (B, 2) for pairs");
  request.mutable_inputs(0)->set_datatype("FP32");
  EXPECT_EQ(Error(request), "text: datatype 'FP32'; it must be BYTES");
}

TEST(FromInfer, PaddedIdsLoseTheirPadding) {
  inference::ModelInferRequest request;
  AddTyped("input_ids", {3, 4}, {5, 6, 0, 0, 7, 8, 9, 10, 0, 0, 0, 11}, &request);
  AddTyped("attention_mask", {3, 4}, {1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1}, &request);
  AddTyped("token_type_ids", {3, 4}, {0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1}, &request);
  const absl::StatusOr<InferQuery> query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  ASSERT_EQ(query->embed.inputs_size(), 3);
  EXPECT_THAT(query->embed.inputs(0).token_ids().ids(), ElementsAre(5, 6));
  EXPECT_THAT(query->embed.inputs(0).token_ids().type_ids(), ElementsAre(0, 1));
  EXPECT_THAT(query->embed.inputs(1).token_ids().ids(), ElementsAre(7, 8, 9, 10));
  EXPECT_THAT(query->embed.inputs(2).token_ids().ids(), ElementsAre(11));
  EXPECT_THAT(query->embed.inputs(2).token_ids().type_ids(), ElementsAre(1));
}

TEST(FromInfer, RawIdsOfBothWidths) {
  inference::ModelInferRequest request;
  AddRaw<int32_t>("attention_mask", "INT32", {3}, {0, 1, 1}, &request);
  AddRaw<int64_t>("input_ids", "INT64", {3}, {0, 999, 1}, &request);
  const absl::StatusOr<InferQuery> query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  ASSERT_EQ(query->embed.inputs_size(), 1);
  EXPECT_THAT(query->embed.inputs(0).token_ids().ids(), ElementsAre(999, 1));
  EXPECT_EQ(query->embed.inputs(0).token_ids().type_ids_size(), 0);
}

TEST(FromInfer, BadIds) {
  const auto with = [](const std::vector<int64_t>& ids, const std::vector<int64_t>& mask) {
    inference::ModelInferRequest request;
    AddTyped("input_ids", {2, 3}, ids, &request);
    AddTyped("attention_mask", {2, 3}, mask, &request);
    return Error(request);
  };
  EXPECT_EQ(with({1, 2, 3, 4, 5, 1000}, {1, 1, 1, 1, 1, 1}),
            "input_ids[1][2]: 1000 is not from 0 to below the vocabulary size 1000");
  EXPECT_EQ(with({1, -2, 3, 4, 5, 6}, {1, 1, 1, 1, 1, 1}),
            "input_ids[0][1]: -2 is not from 0 to below the vocabulary size 1000");
  EXPECT_EQ(with({1, 2, 3, 4, 5, 6}, {1, 0, 1, 1, 1, 1}),
            "attention_mask[0][2]: is 1 behind a 0; a sequence's tokens stand together");
  EXPECT_EQ(with({1, 2, 3, 4, 5, 6}, {1, 1, 1, 1, 2, 1}), "attention_mask[1][1]: 2; it must be 0 or 1");
  EXPECT_EQ(with({1, 2, 3, 4, 5, 6}, {1, 1, 1, 0, 0, 0}),
            "attention_mask[1]: is 0 throughout; a sequence has at least 1 token");
  EXPECT_EQ(with({1, 2, 3, 4, 5}, {1, 1, 1, 1, 1, 1}),
            "input_ids: shape [2, 3] does not hold the 5 elements that were sent");

  inference::ModelInferRequest request;
  AddTyped("input_ids", {int64_t{1} << 62, int64_t{1} << 62}, {1}, &request);
  EXPECT_THAT(Error(request), HasSubstr("does not hold the 1 elements"));
  request.Clear();
  AddTyped("input_ids", {int64_t{1} << 62, 0}, {}, &request);
  EXPECT_THAT(Error(request), HasSubstr("sequences; a call has 1 to 4"));
  request.Clear();
  AddTyped("input_ids", {1, 1, 1}, {1}, &request);
  EXPECT_THAT(Error(request), HasSubstr("it must be (B, L), or (L)"));
  request.Clear();
  AddRaw<char>("input_ids", "INT64", {1}, {'1', '2', '3'}, &request);
  EXPECT_EQ(Error(request), "input_ids: 3 raw bytes are no whole number of INT64 elements");
  request.Clear();
  AddTyped("input_ids", {1, 2}, {1, 2}, &request);
  AddTyped("token_type_ids", {2, 1}, {0, 0}, &request);
  EXPECT_EQ(Error(request), "token_type_ids: shape [2, 1] is not input_ids' [1, 2]");
}

TEST(FromInfer, BadInputs) {
  inference::ModelInferRequest request;
  EXPECT_EQ(Error(request), "inputs: one of text (BYTES) and input_ids (INT64) is needed");
  Add("position_ids", "INT64", {1}, &request);
  EXPECT_EQ(Error(request),
            "inputs[0].name: 'position_ids' is none of text, input_ids, attention_mask, token_type_ids, image, pixels");

  request = Texts();
  AddTyped("attention_mask", {2}, {1, 1}, &request);
  EXPECT_EQ(Error(request), "raw_input_contents: 1 given for 2 inputs; as many, or none");
  request.add_raw_input_contents();
  EXPECT_EQ(Error(request), "attention_mask: has contents beside raw_input_contents; one of them");
  request.mutable_inputs(1)->clear_contents();
  EXPECT_EQ(Error(request), "inputs: attention_mask and token_type_ids go with input_ids, not with text");
  request.mutable_inputs(1)->set_name("text");
  EXPECT_EQ(Error(request), "inputs[1].name: text comes twice");
  request.mutable_inputs(1)->set_name("input_ids");
  EXPECT_THAT(Error(request), StartsWith("inputs: one of text"));
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("x");
  EXPECT_THAT(Error(request), StartsWith("text: is in shared memory"));
}

TEST(FromInfer, PixelsOfBothContents) {
  const ServedModel model = TestImageModel();
  std::vector<float> values(2 * 3 * 4 * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  inference::ModelInferRequest typed;
  Add("pixels", "FP32", {2, 3, 4, 4}, &typed)
      ->mutable_contents()
      ->mutable_fp32_contents()
      ->Add(values.begin(), values.end());
  inference::ModelInferRequest raw;
  AddRaw("pixels", "FP32", {2, 3, 4, 4}, values, &raw);
  for (const inference::ModelInferRequest& request : {typed, raw}) {
    const absl::StatusOr<InferQuery> query = Query(request, model);
    ASSERT_TRUE(query.ok()) << query.status();
    EXPECT_FALSE(query->scores);
    ASSERT_EQ(query->embed.inputs_size(), 2);
    for (int row = 0; row < 2; ++row) {
      const std::string& data = query->embed.inputs(row).pixels().data();
      ASSERT_EQ(data.size(), 48 * sizeof(float));
      EXPECT_EQ(std::memcmp(data.data(), &values[row * 48], data.size()), 0) << row;
    }
  }
}

TEST(FromInfer, EncodedPicturesOfBothContents) {
  inference::ModelInferRequest typed;
  auto* contents = Add("image", "BYTES", {2}, &typed)->mutable_contents();
  contents->add_bytes_contents("GIF");
  contents->add_bytes_contents(std::string("\0\xff", 2));
  typed.add_outputs()->set_name("scores");
  inference::ModelInferRequest raw;
  Add("image", "BYTES", {2, 1}, &raw);
  raw.add_raw_input_contents(RawTexts({"GIF", std::string("\0\xff", 2)}));
  raw.add_outputs()->set_name("scores");
  for (const inference::ModelInferRequest& request : {typed, raw}) {
    const absl::StatusOr<InferQuery> query = Query(request, TestImageModel());
    ASSERT_TRUE(query.ok()) << query.status();
    EXPECT_TRUE(query->scores);
    ASSERT_EQ(query->classify.inputs_size(), 2);
    EXPECT_EQ(query->classify.inputs(0).image(), "GIF");
    EXPECT_EQ(query->classify.inputs(1).image(), std::string("\0\xff", 2));
  }
}

TEST(FromInfer, BadPixels) {
  const ServedModel model = TestImageModel();
  const auto with = [&](const char* datatype, std::initializer_list<int64_t> shape, size_t num_bytes) {
    inference::ModelInferRequest request;
    AddRaw("pixels", datatype, shape, std::vector<char>(num_bytes), &request);
    return Error(request, model);
  };
  EXPECT_EQ(with("FP64", {1, 3, 1, 1}, 24), "pixels: datatype 'FP64'; it must be FP32");
  EXPECT_EQ(with("FP32", {3, 4, 4}, 192), "pixels: shape [3, 4, 4]; it must be (B, 3, S, S)");
  EXPECT_EQ(with("FP32", {1, 4, 4, 3}, 192), "pixels: shape [1, 4, 4, 3]; it must be (B, 3, S, S)");
  EXPECT_EQ(with("FP32", {1, 3, 4, 8}, 384), "pixels: shape [1, 3, 4, 8]; it must be (B, 3, S, S)");
  EXPECT_EQ(with("FP32", {1, 3, 0, 0}, 0), "pixels: shape [1, 3, 0, 0]; it must be (B, 3, S, S)");
  EXPECT_EQ(with("FP32", {1, 3, -4, -4}, 192), "pixels: shape [1, 3, -4, -4]; it must be (B, 3, S, S)");
  EXPECT_EQ(with("FP32", {5, 3, 1, 1}, 60), "pixels: shape [5, 3, 1, 1] is 5 pictures; a call has 1 to 4 (max_inputs)");
  EXPECT_EQ(with("FP32", {0, 3, 1, 1}, 0), "pixels: shape [0, 3, 1, 1] is 0 pictures; a call has 1 to 4 (max_inputs)");
  EXPECT_EQ(with("FP32", {1, 3, 1, 1}, 13), "pixels: 13 raw bytes are no whole number of FP32 elements");
  EXPECT_EQ(with("FP32", {1, 3, 2, 2}, 12), "pixels: shape [1, 3, 2, 2] does not hold the 3 elements that were sent");
  constexpr int64_t kHuge = int64_t{1} << 31;
  EXPECT_THAT(with("FP32", {4, 3, kHuge, kHuge}, 12), HasSubstr("does not hold the 3 elements that were sent"));
}

TEST(FromInfer, BadPictures) {
  const ServedModel model = TestImageModel();
  const auto with = [&](const char* datatype, std::initializer_list<int64_t> shape, const std::string& raw) {
    inference::ModelInferRequest request;
    Add("image", datatype, shape, &request);
    request.add_raw_input_contents(raw);
    return Error(request, model);
  };
  EXPECT_EQ(with("UINT8", {1}, "1"), "image: datatype 'UINT8'; it must be BYTES");
  EXPECT_EQ(with("BYTES", {1, 2}, RawTexts({"a", "b"})), "image: shape [1, 2]; it must be (B)");
  EXPECT_EQ(with("BYTES", {5}, ""), "image: shape [5] is 5 pictures; a call has 1 to 4 (max_inputs)");
  EXPECT_EQ(with("BYTES", {2}, RawTexts({"a"})), "image: shape [2] does not hold the 1 elements that were sent");
  EXPECT_EQ(with("BYTES", {1}, RawTexts({"abc"}).substr(0, 6)), "image: element 0 has 3 bytes, of which 2 were sent");
}

TEST(FromInfer, AnInputOfTheOtherKindIsRefusedNamingBoth) {
  EXPECT_EQ(Error(Texts(), TestImageModel()), "text: model vision takes image, not text");
  inference::ModelInferRequest request;
  EXPECT_EQ(Error(request, TestImageModel()), "inputs: one of image (BYTES) and pixels (FP32) is needed");
  Add("pixels", "FP32", {1, 3, 1, 1}, &request);
  EXPECT_EQ(Error(request), "pixels: model text takes text, not image");
  Add("image", "BYTES", {1}, &request);
  EXPECT_EQ(Error(request, TestImageModel()), "inputs: one of image (BYTES) and pixels (FP32) is needed");
  request.mutable_inputs(1)->set_name("attention_mask");
  EXPECT_EQ(Error(request, TestImageModel()), "attention_mask: model vision takes image, not text");
}

TEST(FromInfer, Parameters) {
  inference::ModelInferRequest request = Texts();
  auto& parameters = *request.mutable_parameters();
  parameters["pooling"].set_string_param("cls");
  parameters["normalize"].set_bool_param(false);
  parameters["dimensions"].set_int64_param(2);
  parameters["truncation"].set_string_param("left");
  parameters["mode"].set_string_param("chunked");
  parameters["chunk_tokens"].set_uint64_param(64);
  parameters["priority"].set_uint64_param(1);
  parameters["triton_enable_empty_final_response"].set_bool_param(true);
  const absl::StatusOr<InferQuery> query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->embed.pooling(), v1::POOLING_CLS);
  EXPECT_TRUE(query->embed.has_normalize());
  EXPECT_FALSE(query->embed.normalize());
  EXPECT_EQ(query->embed.dimensions(), 2);
  EXPECT_EQ(query->embed.options().truncation(), v1::TRUNCATION_LEFT);
  EXPECT_EQ(query->embed.options().mode(), v1::COMPUTE_MODE_CHUNKED);
  EXPECT_EQ(query->embed.options().chunk_tokens(), 64);
}

TEST(FromInfer, BadParameters) {
  const auto error = [](const char* name, const auto& set) {
    inference::ModelInferRequest request = Texts();
    set(&(*request.mutable_parameters())[name]);
    return Error(request);
  };
  using Parameter = inference::InferParameter;
  EXPECT_EQ(error("pooling", [](Parameter* p) { p->set_string_param("tokens"); }),
            "parameters.pooling: must be one of \"cls\", \"mean\"");
  EXPECT_EQ(error("mode", [](Parameter* p) { p->set_int64_param(1); }),
            "parameters.mode: must be one of \"auto\", \"parallel\", \"chunked\", \"recurrent\"");
  EXPECT_EQ(error("normalize", [](Parameter* p) { p->set_string_param("true"); }),
            "parameters.normalize: must be a bool");
  EXPECT_EQ(error("dimensions", [](Parameter* p) { p->set_int64_param(-1); }),
            "parameters.dimensions: must be an integer from 0 to 4294967295");
  EXPECT_EQ(error("raw_scores", [](Parameter* p) { p->set_bool_param(true); }),
            "parameters.raw_scores: goes with the output scores");
  EXPECT_EQ(error("normalise", [](Parameter* p) { p->set_bool_param(true); }),
            "parameters: 'normalise' is none of pooling, normalize, dimensions, raw_scores, truncation, mode, "
            "chunk_tokens");
}

TEST(FromInfer, Outputs) {
  inference::ModelInferRequest request = Texts();
  request.add_outputs()->set_name("scores");
  (*request.mutable_parameters())["raw_scores"].set_bool_param(true);
  const absl::StatusOr<InferQuery> query = Query(request);
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_TRUE(query->scores);
  EXPECT_TRUE(query->classify.raw_scores());
  EXPECT_EQ(query->classify.inputs_size(), 2);
  request.add_outputs()->set_name("embedding");
  EXPECT_EQ(Error(request), "outputs: a call has one of embedding and scores");
  request.mutable_outputs(0)->set_name("logits");
  EXPECT_EQ(Error(request), "outputs: 'logits' is none of embedding, scores");
}

TEST(FromInfer, Version) {
  inference::ModelInferRequest request = Texts();
  request.set_model_version("0123456789ab");
  EXPECT_TRUE(Query(request).ok());
  request.set_model_version("1");
  EXPECT_TRUE(absl::IsNotFound(Query(request).status()));
  EXPECT_EQ(Error(request), "model_version: no version '1' of text; it has 0123456789ab");
}

TEST(AddOutput, RawOrTyped) {
  inference::ModelInferResponse answer = InferAnswer(TestModel(), "id");
  AddOutput("embedding", 2, {1, 2, 3, 4, 5, 6}, /*raw=*/true, &answer);
  EXPECT_EQ(answer.id(), "id");
  EXPECT_EQ(answer.model_version(), "0123456789ab");
  EXPECT_EQ(answer.outputs(0).datatype(), "FP32");
  EXPECT_THAT(answer.outputs(0).shape(), ElementsAre(2, 3));
  EXPECT_FALSE(answer.outputs(0).has_contents());
  ASSERT_EQ(answer.raw_output_contents(0).size(), 24);
  float last = 0;
  std::memcpy(&last, answer.raw_output_contents(0).data() + 20, sizeof(last));
  EXPECT_EQ(last, 6);

  answer = InferAnswer(TestModel(), "");
  AddOutput("scores", 1, {1, 2}, /*raw=*/false, &answer);
  EXPECT_THAT(answer.outputs(0).contents().fp32_contents(), ElementsAre(1, 2));
  EXPECT_EQ(answer.raw_output_contents_size(), 0);
}

TEST(InferMetadata, ListsWhatTheModelHas) {
  ServedModel model = TestModel();
  inference::ModelMetadataResponse metadata = InferMetadata(model);
  ASSERT_EQ(metadata.inputs_size(), 3);  // without a tokenizer
  EXPECT_EQ(metadata.inputs(0).name(), "input_ids");
  EXPECT_EQ(metadata.platform(), "lion-s");
  ASSERT_EQ(metadata.outputs_size(), 2);
  EXPECT_THAT(metadata.outputs(0).shape(), ElementsAre(-1, 3));
  EXPECT_EQ(metadata.properties().at("labels"), "[\"a\",\"b\",\"c\"]");
  model.info.classifies = false;
  metadata = InferMetadata(model);
  EXPECT_EQ(metadata.outputs_size(), 1);
  EXPECT_EQ(metadata.properties_size(), 0);
}

TEST(InferMetadata, AnImageModelTakesPictures) {
  ServedModel model = TestImageModel();
  inference::ModelMetadataResponse metadata = InferMetadata(model);
  ASSERT_EQ(metadata.inputs_size(), 1);  // without a preprocessor
  EXPECT_EQ(metadata.inputs(0).name(), "pixels");
  EXPECT_EQ(metadata.inputs(0).datatype(), "FP32");
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(-1, 3, -1, -1));
  const absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(
      R"({"size": {"height": 8, "width": 8}, "image_mean": 0.5, "image_std": 0.25})", "preprocessor_config.json");
  ASSERT_TRUE(preprocessor.ok()) << preprocessor.status();
  model.preprocessor = &*preprocessor;
  model.info.image_size_fixed = true;
  metadata = InferMetadata(model);
  ASSERT_EQ(metadata.inputs_size(), 2);
  EXPECT_EQ(metadata.inputs(0).name(), "image");
  EXPECT_EQ(metadata.inputs(0).datatype(), "BYTES");
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(-1));
  EXPECT_THAT(metadata.inputs(1).shape(), ElementsAre(-1, 3, 8, 8));
}

TEST(InInferenceWords, NamesTheirFields) {
  const auto words = [](const char* message) {
    return std::string(InInferenceWords(absl::InvalidArgumentError(message)).message());
  };
  EXPECT_EQ(words("inputs[3].text: gives no tokens"), "text[3]: gives no tokens");
  EXPECT_EQ(words("inputs[3].text_pair: 9 tokens; options.truncation RIGHT or LEFT cuts instead"),
            "text[3]: 9 tokens; the parameter truncation \"right\" or \"left\" cuts instead");
  EXPECT_EQ(words("inputs[0].token_ids.ids: is empty"), "input_ids[0]: is empty");
  EXPECT_EQ(words("inputs[2].image: is empty"), "image[2]: is empty");
  EXPECT_EQ(words("inputs[1].pixels.data: value 7 is not finite"), "pixels[1]: value 7 is not finite");
  EXPECT_EQ(words("inputs[1].pixels: 9 tokens"), "pixels[1]: 9 tokens");
  EXPECT_EQ(words("dimensions: 9 is above"), "parameters.dimensions: 9 is above");
  EXPECT_EQ(words("options.chunk_tokens: 9 is above"), "parameters.chunk_tokens: 9 is above");
  EXPECT_EQ(words("model: no model 'x'"), "model_name: no model 'x'");
  EXPECT_EQ(words("the request is too long"), "the request is too long");
}

}  // namespace
}  // namespace lion
