// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The wires of others, tei.v1 and inference, against the same server as lion.v1: equal numbers, and the same keys,
// limits, metrics and drain.

#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "tei/v1/tei.grpc.pb.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// 14 tokens: the vocabulary of the tests spells "lion", letter by letter.
constexpr char kSentence[] = "the lion is in the lion";

template <typename Message>
std::vector<float> Floats(const Message& values) {
  return std::vector<float>(values.begin(), values.end());
}

class WiresTest : public testing::Test {
 protected:
  WiresTest()
      : info_(tei::v1::Info::NewStub(server_.channel())),
        embed_(tei::v1::Embed::NewStub(server_.channel())),
        predict_(tei::v1::Predict::NewStub(server_.channel())),
        rerank_(tei::v1::Rerank::NewStub(server_.channel())),
        tokenize_(tei::v1::Tokenize::NewStub(server_.channel())),
        infer_(inference::GRPCInferenceService::NewStub(server_.channel())) {
    server_.Open();
  }

  std::vector<float> LionEmbed(const v1::EmbedRequest& request) {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    const grpc::Status status = server_.stub()->Embed(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return Floats(response.results(0).vectors(0).values());
  }

  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (stub->*method)(&context, request, response);
  }

  TestServer server_;
  std::unique_ptr<tei::v1::Info::Stub> info_;
  std::unique_ptr<tei::v1::Embed::Stub> embed_;
  std::unique_ptr<tei::v1::Predict::Stub> predict_;
  std::unique_ptr<tei::v1::Rerank::Stub> rerank_;
  std::unique_ptr<tei::v1::Tokenize::Stub> tokenize_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> infer_;
};

// ------------------------------------------------------------------------------------------------------ tei.v1

TEST_F(WiresTest, TeiInfo) {
  tei::v1::InfoResponse info;
  ASSERT_TRUE(Call(info_.get(), &tei::v1::Info::Stub::Info, {}, &info).ok());
  EXPECT_EQ(info.model_id(), "text");
  EXPECT_EQ(info.model_sha(), "0123456789ab");
  EXPECT_EQ(info.model_dtype(), "float32");
  EXPECT_EQ(info.model_type(), tei::v1::MODEL_TYPE_EMBEDDING);
  EXPECT_EQ(info.max_input_length(), 64);
  EXPECT_EQ(info.max_client_batch_size(), 16);
  EXPECT_EQ(info.tokenization_workers(), 1);
  server_.WaitForMetric("lion_rpc_requests_total{rpc=\"tei.Info\",model=\"text\",code=\"OK\"}", 1);
}

TEST_F(WiresTest, TeiEmbedEqualsEmbed) {
  tei::v1::EmbedRequest request;
  request.set_inputs(kSentence);
  tei::v1::EmbedResponse response;
  ASSERT_TRUE(Call(embed_.get(), &tei::v1::Embed::Stub::Embed, request, &response).ok());
  EXPECT_THAT(response.embeddings(), ElementsAreArray(LionEmbed(WithInputs({TextInput(kSentence)}))));
  EXPECT_EQ(response.metadata().compute_chars(), sizeof(kSentence) - 1);
  EXPECT_EQ(response.metadata().compute_tokens(), 14);
  EXPECT_GT(response.metadata().total_time_ns(), 0);
  server_.WaitForMetric("lion_rpc_requests_total{rpc=\"tei.Embed\",model=\"text\",code=\"OK\"}", 1);
  EXPECT_EQ(server_.Metric("lion_rpc_in_flight{rpc=\"tei.Embed\"}"), 0);

  request.set_normalize(false);
  request.set_dimensions(2);
  response.Clear();
  ASSERT_TRUE(Call(embed_.get(), &tei::v1::Embed::Stub::Embed, request, &response).ok());
  v1::EmbedRequest ours = WithInputs({TextInput(kSentence)});
  ours.set_normalize(false);
  ours.set_dimensions(2);
  EXPECT_THAT(response.embeddings(), ElementsAreArray(LionEmbed(ours)));
}

TEST_F(WiresTest, TeiEmbedAllGivesEveryToken) {
  tei::v1::EmbedAllRequest request;
  request.set_inputs(kSentence);
  tei::v1::EmbedAllResponse response;
  ASSERT_TRUE(Call(embed_.get(), &tei::v1::Embed::Stub::EmbedAll, request, &response).ok());
  ASSERT_EQ(response.token_embeddings_size(), 14);
  EXPECT_EQ(response.token_embeddings(13).embeddings_size(), 4);
  v1::EmbedRequest ours = WithInputs({TextInput(kSentence)});
  ours.set_pooling(v1::POOLING_TOKENS);
  EXPECT_THAT(response.token_embeddings(0).embeddings(), ElementsAreArray(LionEmbed(ours)));
}

TEST_F(WiresTest, TeiPredict) {
  grpc::ClientContext context;
  v1::ClassifyResponse ours;
  const auto both = WithInputs<v1::ClassifyRequest>({TextInput("the lion")});
  ASSERT_TRUE(server_.stub()->Classify(&context, both, &ours).ok());
  tei::v1::PredictRequest request;
  request.set_inputs("the lion");
  tei::v1::PredictResponse response;
  ASSERT_TRUE(Call(predict_.get(), &tei::v1::Predict::Stub::Predict, request, &response).ok());
  ASSERT_EQ(response.predictions_size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(response.predictions(i).label(), ours.results(0).scores(i).label());
    EXPECT_EQ(response.predictions(i).score(), ours.results(0).scores(i).score());
  }
  tei::v1::PredictPairRequest pair;
  pair.add_inputs("the");
  pair.add_inputs("lion is");
  ASSERT_TRUE(Call(predict_.get(), &tei::v1::Predict::Stub::PredictPair, pair, &response).ok());
  EXPECT_EQ(response.metadata().compute_chars(), 10);
  EXPECT_EQ(response.metadata().compute_tokens(), 9);
}

TEST_F(WiresTest, TeiTokenize) {
  tei::v1::EncodeRequest request;
  request.set_inputs("The lion");
  tei::v1::EncodeResponse response;
  ASSERT_TRUE(Call(tokenize_.get(), &tei::v1::Tokenize::Stub::Tokenize, request, &response).ok());
  ASSERT_EQ(response.tokens_size(), 5);
  EXPECT_EQ(response.tokens(0).text(), "The");
  EXPECT_EQ(response.tokens(1).start(), 4);
  request.set_add_special_tokens(true);
  ASSERT_TRUE(Call(tokenize_.get(), &tei::v1::Tokenize::Stub::Tokenize, request, &response).ok());
  ASSERT_EQ(response.tokens_size(), 7);
  EXPECT_TRUE(response.tokens(6).special());
}

TEST_F(WiresTest, TeiErrorsNameTheirFields) {
  tei::v1::EmbedRequest request;
  for (int i = 0; i < 70; ++i) request.mutable_inputs()->append("lion ");
  tei::v1::EmbedResponse response;
  grpc::Status status = Call(embed_.get(), &tei::v1::Embed::Stub::Embed, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "inputs: 282 tokens, the limit is 64 (max_sequence_tokens); truncate cuts instead");
  request.set_truncate(true);
  ASSERT_TRUE(Call(embed_.get(), &tei::v1::Embed::Stub::Embed, request, &response).ok());
  EXPECT_EQ(response.metadata().compute_tokens(), 64);
  request.set_dimensions(9);
  status = Call(embed_.get(), &tei::v1::Embed::Stub::Embed, request, &response);
  EXPECT_EQ(status.error_message(), "dimensions: 9 is above the width of the embedding, which is 3");
  server_.WaitForMetric("lion_rpc_requests_total{rpc=\"tei.Embed\",model=\"text\",code=\"INVALID_ARGUMENT\"}", 2);
}

TEST_F(WiresTest, TeiStreamAnswersInOrderAndEndsAtAnError) {
  grpc::ClientContext context;
  const auto stream = embed_->EmbedStream(&context);
  tei::v1::EmbedRequest request;
  for (const char* text : {"the", "the lion", "the lion is"}) {
    request.set_inputs(text);
    ASSERT_TRUE(stream->Write(request));
  }
  request.set_dimensions(100);
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->WritesDone());
  tei::v1::EmbedResponse response;
  std::vector<int> tokens;
  while (stream->Read(&response)) tokens.push_back(static_cast<int>(response.metadata().compute_tokens()));
  EXPECT_THAT(tokens, ElementsAre(3, 7, 8));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("dimensions: 100"));
}

TEST_F(WiresTest, TeiStreamsOfAllKinds) {
  const auto count = [](auto stream, const auto& request, auto response) {
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->WritesDone());
    int answers = 0;
    while (stream->Read(&response)) ++answers;
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return answers;
  };
  grpc::ClientContext contexts[4];
  EXPECT_EQ(count(embed_->EmbedAllStream(&contexts[0]), tei::v1::EmbedAllRequest(), tei::v1::EmbedAllResponse()), 2);
  EXPECT_EQ(count(predict_->PredictStream(&contexts[1]), tei::v1::PredictRequest(), tei::v1::PredictResponse()), 2);
  tei::v1::PredictPairRequest pair;
  pair.add_inputs("lion");
  EXPECT_EQ(count(predict_->PredictPairStream(&contexts[2]), pair, tei::v1::PredictResponse()), 2);
  EXPECT_EQ(count(tokenize_->TokenizeStream(&contexts[3]), tei::v1::EncodeRequest(), tei::v1::EncodeResponse()), 2);
}

TEST_F(WiresTest, TeiWhatDoesNotApply) {
  tei::v1::EmbedSparseResponse sparse;
  const grpc::Status status = Call(embed_.get(), &tei::v1::Embed::Stub::EmbedSparse, {}, &sparse);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(status.error_message(), "EmbedSparse: models give dense vectors only");
  tei::v1::RerankResponse ranks;
  EXPECT_EQ(Call(rerank_.get(), &tei::v1::Rerank::Stub::Rerank, {}, &ranks).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  tei::v1::DecodeResponse text;
  EXPECT_EQ(Call(tokenize_.get(), &tei::v1::Tokenize::Stub::Decode, {}, &text).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  grpc::ClientContext context;
  const auto stream = rerank_->RerankStream(&context, &ranks);
  stream->WritesDone();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  server_.WaitForMetric("lion_rpc_requests_total{rpc=\"tei.Rerank\",model=\"unknown\",code=\"UNIMPLEMENTED\"}", 1);
}

// --------------------------------------------------------------------------------------------------- inference

inference::ModelInferRequest InferTexts(const std::vector<std::string>& texts) {
  inference::ModelInferRequest request;
  request.set_id("7");
  auto* tensor = request.add_inputs();
  tensor->set_name("text");
  tensor->set_datatype("BYTES");
  tensor->add_shape(static_cast<int64_t>(texts.size()));
  for (const std::string& text : texts) tensor->mutable_contents()->add_bytes_contents(text);
  return request;
}

using Infer = inference::GRPCInferenceService::Stub;

TEST_F(WiresTest, InferTextEqualsEmbed) {
  inference::ModelInferResponse response;
  const grpc::Status status = Call(infer_.get(), &Infer::ModelInfer, InferTexts({kSentence, "lion"}), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_name(), "text");
  EXPECT_EQ(response.id(), "7");
  EXPECT_EQ(response.outputs(0).name(), "embedding");
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(2, 3));
  std::vector<float> expected = LionEmbed(WithInputs({TextInput(kSentence)}));
  for (float value : LionEmbed(WithInputs({TextInput("lion")}))) expected.push_back(value);
  EXPECT_THAT(response.outputs(0).contents().fp32_contents(), ElementsAreArray(expected));
  server_.WaitForMetric("lion_rpc_requests_total{rpc=\"kserve.ModelInfer\",model=\"text\",code=\"OK\"}", 1);
}

TEST_F(WiresTest, InferPaddedIdsEqualEmbed) {
  inference::ModelInferRequest request;
  request.set_model_name("ids");
  const std::vector<int64_t> ids = {5, 6, 7, 8, 9, 0}, mask = {1, 1, 1, 1, 1, 0};
  for (const auto& [name, values] : {std::pair("input_ids", &ids), std::pair("attention_mask", &mask)}) {
    auto* tensor = request.add_inputs();
    tensor->set_name(name);
    tensor->set_datatype("INT64");
    tensor->add_shape(2);
    tensor->add_shape(3);
    request.add_raw_input_contents(values->data(), values->size() * sizeof(int64_t));
  }
  inference::ModelInferResponse response;
  const grpc::Status status = Call(infer_.get(), &Infer::ModelInfer, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.raw_output_contents(0).size(), 24);
  std::vector<float> values(6);
  std::memcpy(values.data(), response.raw_output_contents(0).data(), 24);
  std::vector<float> expected = LionEmbed(WithInputs({IdsInput({5, 6, 7})}, "ids"));
  for (float value : LionEmbed(WithInputs({IdsInput({8, 9})}, "ids"))) expected.push_back(value);
  EXPECT_EQ(values, expected);
}

TEST_F(WiresTest, InferScoresInTheOrderOfLabels) {
  inference::ModelInferRequest request = InferTexts({"the lion"});
  request.add_outputs()->set_name("scores");
  inference::ModelInferResponse response;
  ASSERT_TRUE(Call(infer_.get(), &Infer::ModelInfer, request, &response).ok());
  grpc::ClientContext context;
  v1::ClassifyResponse ours;
  const auto classify = WithInputs<v1::ClassifyRequest>({TextInput("the lion")});
  ASSERT_TRUE(server_.stub()->Classify(&context, classify, &ours).ok());
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(1, 3));
  for (const v1::LabelScore& score : ours.results(0).scores()) {
    EXPECT_EQ(response.outputs(0).contents().fp32_contents(static_cast<int>(score.index())), score.score());
  }
  request.set_model_name("ids");
  const grpc::Status status = Call(infer_.get(), &Infer::ModelInfer, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(status.error_message(), "model_name: ids has no classification head; it only embeds");
}

TEST_F(WiresTest, OneBadRowFailsTheCall) {
  inference::ModelInferResponse response;
  std::string long_text;
  for (int i = 0; i < 70; ++i) long_text += "lion ";
  inference::ModelInferRequest request = InferTexts({"the", long_text});
  grpc::Status status = Call(infer_.get(), &Infer::ModelInfer, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(
      status.error_message(),
      "text[1]: 282 tokens, the limit is 64 (max_sequence_tokens); the parameter truncation \"right\" or \"left\" "
      "cuts instead");
  EXPECT_EQ(server_.Metric("lion_sequences_total{model=\"text\",mode=\"parallel\"}"), 0) << "nothing ran";
  status = Call(infer_.get(), &Infer::ModelInfer, InferTexts({"the", "\xff"}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("text[1]: "));
  request.set_model_name("none");
  status = Call(infer_.get(), &Infer::ModelInfer, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "model_name: no model 'none'; this server has text, ids");
}

TEST_F(WiresTest, StreamInferGoesOnAfterAnError) {
  grpc::ClientContext context;
  const auto stream = infer_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(InferTexts({"the"})));
  inference::ModelInferRequest bad = InferTexts({"the"});
  bad.set_id("bad");
  (*bad.mutable_parameters())["x"].set_bool_param(true);
  ASSERT_TRUE(stream->Write(bad));
  ASSERT_TRUE(stream->Write(InferTexts({"the", "lion"})));
  ASSERT_TRUE(stream->WritesDone());
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), IsEmpty());
  EXPECT_THAT(response.infer_response().outputs(0).shape(), ElementsAre(1, 3));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("parameters: 'x'"));
  EXPECT_EQ(response.infer_response().id(), "bad");
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.infer_response().outputs(0).shape(), ElementsAre(2, 3));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(WiresTest, InferenceMetadata) {
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(Call(infer_.get(), &Infer::ServerMetadata, {}, &server).ok());
  EXPECT_EQ(server.name(), "lion-serve");
  inference::ModelMetadataRequest request;
  request.set_name("ids");
  inference::ModelMetadataResponse model;
  ASSERT_TRUE(Call(infer_.get(), &Infer::ModelMetadata, request, &model).ok());
  EXPECT_EQ(model.inputs(0).name(), "input_ids");
  request.set_version("2");
  const grpc::Status status = Call(infer_.get(), &Infer::ModelMetadata, request, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "version: no version '2' of ids; it has 0123456789ab");
  inference::RepositoryIndexResponse index;
  ASSERT_TRUE(Call(infer_.get(), &Infer::RepositoryIndex, {}, &index).ok());
  ASSERT_EQ(index.models_size(), 2);
  EXPECT_EQ(index.models(1).name(), "ids");
  EXPECT_EQ(index.models(1).state(), "READY");
}

TEST_F(WiresTest, ModelReady) {
  inference::ModelReadyRequest request;
  inference::ModelReadyResponse response;
  request.set_name("text");
  ASSERT_TRUE(Call(infer_.get(), &Infer::ModelReady, request, &response).ok());
  EXPECT_TRUE(response.ready());
  request.set_name("none");
  ASSERT_TRUE(Call(infer_.get(), &Infer::ModelReady, request, &response).ok());
  EXPECT_FALSE(response.ready());
}

TEST_F(WiresTest, UnparsableRequestsSaySo) {
  const auto raw = [&](const char* path, const std::string& bytes) {
    const grpc::internal::RpcMethod rpc(path, grpc::internal::RpcMethod::NORMAL_RPC, server_.channel());
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    return grpc::internal::BlockingUnaryCall(server_.channel().get(), rpc, &context, ToBytes(bytes), &response);
  };
  EXPECT_EQ(raw("/tei.v1.Embed/Embed", "\x0a\xff").error_message(), "request does not parse as tei.v1.EmbedRequest");
  EXPECT_EQ(raw("/tei.v1.Info/Info", "\x0a\xff").error_message(), "request does not parse as tei.v1.InfoRequest");
  EXPECT_EQ(raw("/inference.GRPCInferenceService/ModelInfer", "\x0a\xff").error_message(),
            "request does not parse as inference.ModelInferRequest");
}

// ----------------------------------------------------------------------------------------- before ready, with keys

TEST(Wires, LiveAndNotReadyWhileLoading) {
  TestServer server;
  const auto infer = inference::GRPCInferenceService::NewStub(server.channel());
  const auto ready = [&] {
    grpc::ClientContext context;
    inference::ServerReadyResponse response;
    EXPECT_TRUE(infer->ServerReady(&context, {}, &response).ok());
    return response.ready();
  };
  grpc::ClientContext live_context, infer_context;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(infer->ServerLive(&live_context, {}, &live).ok());
  EXPECT_TRUE(live.live());
  EXPECT_FALSE(ready());
  inference::ModelInferResponse response;
  EXPECT_EQ(infer->ModelInfer(&infer_context, InferTexts({"a"}), &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  server.Open();
  EXPECT_TRUE(ready());
}

TEST(Wires, KeysAreAskedForEverywhere) {
  Server::Options options = TestServerOptions();
  // SHA-256 of "secret".
  auto keys = ApiKeys::Parse("caller 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  options.api_keys = *std::move(keys);
  TestServer server(std::move(options));
  server.Open();
  const auto embed = tei::v1::Embed::NewStub(server.channel());
  const auto infer = inference::GRPCInferenceService::NewStub(server.channel());
  const auto call = [&](bool with_key) {
    grpc::ClientContext contexts[2];
    if (with_key) {
      for (grpc::ClientContext& context : contexts) context.AddMetadata("authorization", "Bearer secret");
    }
    tei::v1::EmbedRequest request;
    tei::v1::EmbedResponse response;
    inference::ServerLiveResponse live;
    return std::pair(embed->Embed(&contexts[0], request, &response).error_code(),
                     infer->ServerLive(&contexts[1], {}, &live).error_code());
  };
  EXPECT_EQ(call(false), std::pair(grpc::StatusCode::UNAUTHENTICATED, grpc::StatusCode::UNAUTHENTICATED));
  EXPECT_EQ(call(true), std::pair(grpc::StatusCode::OK, grpc::StatusCode::OK));
  EXPECT_EQ(server.Metric("lion_rejected_total{reason=\"unauthenticated\"}"), 2);
}

}  // namespace
}  // namespace lion
