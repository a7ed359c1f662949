// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Pictures from the wire's side: an image model beside a text model on one server, around a fake encoder.

#include <png.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/image_input/preprocessor.h"
#include "tests/model/image_input/encode_for_test.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// S = 8, patches of 4: 5 tokens.
constexpr int64_t kSize = 8;

const ImagePreprocessor& TestPreprocessor() {
  static const auto* preprocessor = new absl::StatusOr<ImagePreprocessor>(ImagePreprocessor::Parse(
      R"({"size": {"height": 8, "width": 8}, "image_mean": 0.5, "image_std": 0.25})", "preprocessor_config.json"));
  return preprocessor->value();
}

ModelInfo TestImageInfo() {
  ModelInfo info = TestModelInfo();
  info.input = "image";
  info.vocab_size = 0;
  info.type_vocab_size = 0;
  info.image_size = kSize;
  info.patch_size = 4;
  info.normalize = false;
  return info;
}

v1::Input ImageInput(const std::string& encoded) {
  v1::Input input;
  input.set_image(encoded);
  return input;
}

v1::Input PixelsInput(const std::vector<float>& pixels) {
  v1::Input input;
  input.mutable_pixels()->set_data(
      std::string(reinterpret_cast<const char*>(pixels.data()), pixels.size() * sizeof(float)));
  return input;
}

std::vector<float> PixelsOf(int64_t S, float first) {
  std::vector<float> pixels(static_cast<size_t>(3 * S * S), 0.25f);
  pixels[0] = first;
  return pixels;
}

class ImageCallTest : public testing::Test {
 protected:
  ImageCallTest() : encoder_(TestEncoderOptions()), tokenizer_(OpenTestTokenizer()) {
    ServedModel image;
    image.name = "image";
    image.info = TestImageInfo();
    image.preprocessor = &TestPreprocessor();
    image.encoders = {&encoder_};
    image.max_sequence_tokens = 17;  // S = 16 at most
    ServedModel fixed = image;
    fixed.name = "fixed";
    fixed.info.image_size_fixed = true;
    fixed.preprocessor = nullptr;
    ServedModel text;
    text.name = "text";
    text.info = TestModelInfo();
    text.tokenizer = tokenizer_.get();
    text.encoders = {&encoder_};
    text.max_sequence_tokens = 64;
    Server::Options options = TestServerOptions();
    options.limits.max_image_pixels = 200;
    auto server = Server::Create(std::move(options), {image, fixed, text});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Open();
    stub_ = v1::EncoderService::NewStub(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }

  v1::EmbedResponse Embed(const v1::EmbedRequest& request) {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    status_ = stub_->Embed(&context, request, &response);
    return response;
  }

  void ExpectRefused(const v1::Input& input, const std::string& begins, const std::string& names,
                     const std::string& model = "image") {
    Embed(WithInputs({input}, model));
    EXPECT_EQ(status_.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status_.error_message(), StartsWith(begins));
    EXPECT_THAT(status_.error_message(), HasSubstr(names));
  }

  std::vector<float> Expected(const std::vector<float>& pixels, int64_t num_tokens, RowOutput output) const {
    Row row;
    row.pixels = pixels;
    row.image_tokens = num_tokens;
    row.output = output;
    return encoder_.Answer(row).values;
  }

  FakeEncoder encoder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::EncoderService::Stub> stub_;
  grpc::Status status_;
};

MATCHER_P(HasValues, values, "") {
  return std::vector<float>(arg.vectors(0).values().begin(), arg.vectors(0).values().end()) == values;
}

TEST_F(ImageCallTest, EncodedPicturesAndPixelsOfAnySizeInOneCall) {
  const Picture picture = PatternPicture(12, 9);
  const std::vector<float> small = PixelsOf(8, 0.125f);
  const std::vector<float> large = PixelsOf(16, 0.5f);
  const v1::EmbedResponse response = Embed(WithInputs(
      {ImageInput(EncodePng(picture)), PixelsInput(small), PixelsInput(large), ImageInput(EncodeWebp(picture))}));
  ASSERT_TRUE(status_.ok()) << status_.error_message();
  ASSERT_EQ(response.results_size(), 4);
  const std::vector<float> prepared = TestPreprocessor().Prepare(picture);
  EXPECT_THAT(response.results(0), HasValues(Expected(prepared, 5, RowOutput::kPooledMean)));
  EXPECT_THAT(response.results(1), HasValues(Expected(small, 5, RowOutput::kPooledMean)));
  EXPECT_THAT(response.results(2), HasValues(Expected(large, 17, RowOutput::kPooledMean)));
  EXPECT_THAT(response.results(3), HasValues(Expected(prepared, 5, RowOutput::kPooledMean)));
  EXPECT_EQ(response.results(0).token_count(), 5);
  EXPECT_EQ(response.results(0).mode(), v1::COMPUTE_MODE_PARALLEL);
  EXPECT_EQ(response.results(2).token_count(), 17);
  EXPECT_EQ(response.results(2).mode(), v1::COMPUTE_MODE_CHUNKED);
}

TEST_F(ImageCallTest, TokensAndScores) {
  const std::vector<float> pixels = PixelsOf(8, 0.125f);
  v1::EmbedRequest request = WithInputs({PixelsInput(pixels)});
  request.set_pooling(v1::POOLING_TOKENS);
  const v1::EmbedResponse response = Embed(request);
  ASSERT_TRUE(status_.ok()) << status_.error_message();
  ASSERT_EQ(response.results(0).vectors_size(), 5);
  EXPECT_EQ(response.results(0).vectors(4).span().start_token(), 4);
  EXPECT_EQ(response.results(0).vectors(4).span().end_byte(), 0);

  grpc::ClientContext context;
  v1::ClassifyResponse scores;
  auto classify = WithInputs<v1::ClassifyRequest>({PixelsInput(pixels)});
  classify.set_raw_scores(true);
  ASSERT_TRUE(stub_->Classify(&context, classify, &scores).ok());
  const std::vector<float> logits = Expected(pixels, 5, RowOutput::kLogits);
  ASSERT_EQ(scores.results(0).scores_size(), 3);
  for (const v1::LabelScore& score : scores.results(0).scores()) {
    EXPECT_EQ(score.score(), logits[score.index()]) << score.label();
  }
}

TEST_F(ImageCallTest, ABadPictureFailsItsRowAlone) {
  const v1::EmbedResponse response =
      Embed(WithInputs({ImageInput("GIF89a"), ImageInput(EncodePng(PatternPicture(5, 5))), PixelsInput({1, 2})}));
  ASSERT_TRUE(status_.ok()) << status_.error_message();
  EXPECT_EQ(response.results(0).error().message(),
            "inputs[0].image: is neither JPEG, PNG nor WebP: it looks like a GIF");
  EXPECT_FALSE(response.results(1).has_error());
  EXPECT_THAT(response.results(2).error().message(), StartsWith("inputs[2].pixels.data: 8 bytes are not 12 S S"));
}

TEST_F(ImageCallTest, WhatIsRefusedNamesFieldAndLimit) {
  ExpectRefused(ImageInput(""), "inputs[0].image: ", "is empty");
  ExpectRefused(ImageInput(EncodePng(PatternPicture(15, 14))),
                "inputs[0].image: ", "15 x 14 pixels, the limit is 200 together (max_image_pixels)");
  ExpectRefused(ImageInput(EncodePng(PatternPicture(9, 9)).substr(0, 70)), "inputs[0].image: ", "it is cut short");
  ExpectRefused(PixelsInput({}), "inputs[0].pixels.data: ", "0 bytes are not 12 S S");
  ExpectRefused(PixelsInput(PixelsOf(9, 0)), "inputs[0].pixels.data: ", "S is 9, not a multiple of the patch size 4");
  ExpectRefused(PixelsInput(PixelsOf(20, 0)),
                "inputs[0].pixels.data: ", "S is 20, which is 26 tokens, the limit is 17 (max_sequence_tokens)");
  ExpectRefused(PixelsInput(PixelsOf(8, INFINITY)), "inputs[0].pixels.data: ", "value 0 is not finite");
  ExpectRefused(PixelsInput(PixelsOf(8, NAN)), "inputs[0].pixels.data: ", "value 0 is not finite");
  v1::Input ragged;
  ragged.mutable_pixels()->set_data(std::string(3 * 8 * 8 * 4 + 1, '\0'));
  ExpectRefused(ragged, "inputs[0].pixels.data: ", "769 bytes are not 12 S S");
}

TEST_F(ImageCallTest, WhatTheModelCannotTakeIsRefusedNamingBoth) {
  ExpectRefused(TextInput("a cat"), "inputs[0].text: ", "model image takes image, not text");
  ExpectRefused(IdsInput({1}), "inputs[0].token_ids: ", "model image takes image, not text");
  ExpectRefused(ImageInput(EncodePng(PatternPicture(5, 5))), "inputs[0].image: ", "model text takes text, not image",
                "text");
  ExpectRefused(PixelsInput(PixelsOf(8, 0)), "inputs[0].pixels: ", "model text takes text, not image", "text");
  ExpectRefused(ImageInput(EncodePng(PatternPicture(5, 5))),
                "inputs[0].image: ", "model fixed has no preprocessor_config.json; send pixels", "fixed");
  ExpectRefused(PixelsInput(PixelsOf(16, 0)), "inputs[0].pixels.data: ", "S is 16; model fixed takes S = 8 only",
                "fixed");
  grpc::ClientContext context;
  v1::TokenizeResponse tokens;
  const grpc::Status status = stub_->Tokenize(
      &context, WithInputs<v1::TokenizeRequest>({ImageInput(EncodePng(PatternPicture(5, 5)))}), &tokens);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("inputs[0].image: Tokenize takes text and text_pair only"));
}

TEST_F(ImageCallTest, ADocumentIsNoPicture) {
  grpc::ClientContext context;
  v1::EmbedDocumentRequest request;
  *request.mutable_input() = PixelsInput(PixelsOf(8, 0));
  const auto stream = stub_->EmbedDocument(&context, request);
  v1::EmbedDocumentResponse response;
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("model: image takes image; EmbedDocument takes"));
}

TEST_F(ImageCallTest, AStreamOfPicturesAnswersInOrder) {
  grpc::ClientContext context;
  const auto stream = stub_->EmbedStream(&context);
  constexpr int kNumMessages = 50;
  for (int i = 0; i < kNumMessages; ++i) {
    const v1::Input bad = TextInput("a");
    ASSERT_TRUE(stream->Write(WithInputs({i % 7 == 3 ? bad : PixelsInput(PixelsOf(8, static_cast<float>(i) / 100))})));
  }
  stream->WritesDone();
  for (int i = 0; i < kNumMessages; ++i) {
    v1::EmbedResponse response;
    ASSERT_TRUE(stream->Read(&response)) << i;
    EXPECT_EQ(response.has_error(), i % 7 == 3) << i;
    if (response.has_error()) continue;
    EXPECT_THAT(response.results(0),
                HasValues(Expected(PixelsOf(8, static_cast<float>(i) / 100), 5, RowOutput::kPooledMean)))
        << i;
  }
  EXPECT_TRUE(stream->Finish().ok());
}

}  // namespace
}  // namespace lion
