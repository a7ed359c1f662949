// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// EmbedStream and ClassifyStream from the wire's side.

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/support/sync_stream.h"
#include "gtest/gtest.h"
#include "server/stream_reactor.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::HasSubstr;

std::string Requests(const char* rpc, const char* model, const char* code) {
  return absl::StrCat("lion_rpc_requests_total{rpc=\"", rpc, "\",model=\"", model, "\",code=\"", code, "\"}");
}

using Stream = grpc::ClientReaderWriter<v1::EmbedRequest, v1::EmbedResponse>;
using RawStream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;

std::unique_ptr<RawStream> OpenRaw(const TestServer& server, const char* method, grpc::ClientContext* context) {
  const std::string path = absl::StrCat("/lion.v1.EncoderService/", method);
  const grpc::internal::RpcMethod rpc(path.c_str(), grpc::internal::RpcMethod::BIDI_STREAMING, server.channel());
  return std::unique_ptr<RawStream>(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(server.channel().get(), rpc,
                                                                                            context));
}

class StreamTest : public testing::Test {
 protected:
  StreamTest() { server_.Open(); }
  TestServer server_;
};

TEST_F(StreamTest, OneAnswerAMessageInOrder) {
  grpc::ClientContext context;
  const auto stream = server_.stub()->EmbedStream(&context);
  constexpr int kMessages = 300;
  std::thread writer([&] {
    for (int i = 0; i < kMessages; ++i) {
      // Some need the tokenizer and some do not: they overtake each other on the way.
      v1::EmbedRequest request = EmbedIds(std::vector<uint32_t>(i % 60 + 1, 1));
      if (i % 3 == 0) request = WithInputs({TextInput("the quick brown fox")});
      EXPECT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  v1::EmbedResponse response;
  for (int i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    ASSERT_FALSE(response.has_error());
    ASSERT_EQ(response.results(0).token_count(), i % 3 == 0 ? 6 : i % 60 + 1);
  }
  EXPECT_FALSE(stream->Read(&response));
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(server_.Metric(Requests("EmbedStream", "text", "OK")), 1);  // once, at its end
  EXPECT_EQ(server_.Metric("lion_rpc_in_flight{rpc=\"EmbedStream\"}"), 0);
}

TEST_F(StreamTest, AnEmptyStreamEndsWell) {
  grpc::ClientContext context;
  const auto stream = server_.stub()->ClassifyStream(&context);
  stream->WritesDone();
  v1::ClassifyResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(server_.Metric(Requests("ClassifyStream", "unknown", "OK")), 1);
}

TEST_F(StreamTest, AnAnswerComesBeforeTheNextMessage) {
  grpc::ClientContext context;
  const auto stream = server_.stub()->ClassifyStream(&context);
  v1::ClassifyResponse response;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Write(WithInputs<v1::ClassifyRequest>({IdsInput({1})})));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.results(0).scores_size(), 3);
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(StreamErrorTest, WhatAUnaryCallWouldRefuseIsAnsweredInItsTurn) {
  // One row a batch, so that the one that breaks the device takes no other with it.
  TestServer server(TestServerOptions(), {}, /*max_batch_tokens=*/1);
  server.Open();
  grpc::ClientContext context;
  const auto stream = server.stub()->EmbedStream(&context);
  v1::EmbedRequest unknown = EmbedIds({1});
  unknown.set_model("lamb");
  v1::EmbedRequest bad_enum = EmbedIds({1});
  bad_enum.set_pooling(static_cast<v1::Pooling>(9));
  for (const v1::EmbedRequest& request : {EmbedIds({1}), unknown, bad_enum, EmbedIds({1000}), EmbedIds({777}),
                                          WithInputs({IdsInput({1}), v1::Input()}), EmbedIds({2, 3})}) {
    ASSERT_TRUE(stream->Write(request));
  }
  stream->WritesDone();
  std::vector<v1::EmbedResponse> answers;
  v1::EmbedResponse response;
  while (stream->Read(&response)) answers.push_back(response);
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(answers.size(), 7);
  EXPECT_FALSE(answers[0].has_error());
  EXPECT_EQ(answers[1].error().code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(answers[1].model(), "");
  EXPECT_EQ(answers[2].error().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(answers[2].model(), "text");
  EXPECT_THAT(answers[3].error().message(), HasSubstr("inputs[0].token_ids.ids[0]"));
  EXPECT_EQ(answers[4].error().code(), grpc::StatusCode::INTERNAL);
  EXPECT_FALSE(answers[5].has_error());
  EXPECT_TRUE(answers[5].results(1).has_error());
  EXPECT_EQ(answers[6].results(0).token_count(), 2);
}

TEST_F(StreamTest, WhatDoesNotParseEndsTheStreamAfterTheAnswersBeforeIt) {
  for (const char* method : {"EmbedStream", "ClassifyStream"}) {
    grpc::ClientContext context;
    const auto stream = OpenRaw(server_, method, &context);
    const std::string good = EmbedIds({1}).SerializeAsString();  // the same bytes for both
    ASSERT_TRUE(stream->Write(ToBytes(good)));
    ASSERT_TRUE(stream->Write(ToBytes(good)));
    ASSERT_TRUE(stream->Write(ToBytes("\x12\x04\x0a\x02\xc3\x28")));
    stream->Write(ToBytes(good));  // may fail: the stream may have ended
    stream->WritesDone();
    grpc::ByteBuffer answer;
    EXPECT_TRUE(stream->Read(&answer));
    EXPECT_TRUE(stream->Read(&answer));
    EXPECT_FALSE(stream->Read(&answer));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("request does not parse as lion.v1."));
    EXPECT_EQ(server_.Metric(Requests(method, "text", "INVALID_ARGUMENT")), 1);
  }
}

TEST_F(StreamTest, TheDeadlineEndsAnIdleStream) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  const auto stream = server_.stub()->EmbedStream(&context);
  v1::EmbedResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server_.WaitForMetric("lion_rpc_in_flight{rpc=\"EmbedStream\"}", 0);
}

TEST_F(StreamTest, LoadingAndUnknownMethods) {
  TestServer loading;
  grpc::ClientContext context;
  const auto stream = loading.stub()->EmbedStream(&context);
  v1::EmbedResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

// With a device that moves only when told, and room for 100 tokens.
class PuppetStreamTest : public testing::Test {
 protected:
  PuppetStreamTest()
      : encoder_(TestEncoderOptions()), server_(Options(), {&encoder_}, /*max_batch_tokens=*/1) {  // one row a batch
    server_.Open();
    stream_ = server_.stub()->EmbedStream(&context_);
  }
  ~PuppetStreamTest() override {
    encoder_.Release();
    stream_.reset();
  }

  Server::Options Options() {
    Server::Options options = TestServerOptions();
    options.limits.max_queue_tokens = options.limits.max_request_tokens = 100;
    options.clock = &clock_;
    return options;
  }

  FakeClock clock_{absl::Now()};  // the test says when a deadline has passed
  PuppetEncoder encoder_;
  TestServer server_;
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(PuppetStreamTest, AtMostSoManyMessagesAreInFlight) {
  std::thread writer([&] {
    for (int i = 0; i < 2 * kMaxStreamInFlight; ++i) stream_->Write(EmbedIds({static_cast<uint32_t>(i)}));
    stream_->WritesDone();
  });
  encoder_.WaitForBatch();
  // One runs, the others wait; the next one is not read.
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", kMaxStreamInFlight - 1);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(server_.Health(""), "SERVING");  // round trips: it would have been read by now
  EXPECT_EQ(server_.Metric("lion_queue_sequences{model=\"text\"}"), kMaxStreamInFlight - 1);
  encoder_.Release();
  v1::EmbedResponse response;
  int answers = 0;
  while (stream_->Read(&response)) ++answers;
  EXPECT_EQ(answers, 2 * kMaxStreamInFlight);
  writer.join();
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(PuppetStreamTest, AFullQueueStopsReadingAndRefusesNothing) {
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) stream_->Write(WithInputs({IdsInput(std::vector<uint32_t>(60, i))}));
    stream_->WritesDone();
  });
  encoder_.WaitForBatch();
  server_.WaitForMetric("lion_queue_tokens{model=\"text\"}", 60);
  encoder_.Release();
  v1::EmbedResponse response;
  int answers = 0;
  while (stream_->Read(&response)) {
    EXPECT_FALSE(response.has_error());
    ++answers;
  }
  EXPECT_EQ(answers, 20);
  writer.join();
  EXPECT_TRUE(stream_->Finish().ok());
  EXPECT_EQ(server_.Metric("lion_rejected_total{reason=\"queue_full\"}"), 0);
}

TEST_F(PuppetStreamTest, WhatCanNeverFitIsAnsweredInItsTurn) {
  encoder_.Release();
  ASSERT_TRUE(
      stream_->Write(WithInputs({IdsInput(std::vector<uint32_t>(60, 1)), IdsInput(std::vector<uint32_t>(60, 1))})));
  ASSERT_TRUE(stream_->Write(EmbedIds({1})));
  stream_->WritesDone();
  v1::EmbedResponse response;
  ASSERT_TRUE(stream_->Read(&response));
  EXPECT_EQ(response.error().code(), grpc::StatusCode::INVALID_ARGUMENT);
  ASSERT_TRUE(stream_->Read(&response));
  EXPECT_FALSE(response.has_error());
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(PuppetStreamTest, ACancelledStreamDropsItsRowsAndIsCountedOnce) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream_->Write(EmbedIds({1})));
  encoder_.WaitForBatch();
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 2);
  context_.TryCancel();
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.WaitForMetric(Requests("EmbedStream", "text", "CANCELLED"), 1);
  encoder_.Release();
  server_.WaitForMetric("lion_dropped_total{reason=\"cancelled\"}", 2);
  EXPECT_EQ(server_.Metric("lion_rpc_in_flight{rpc=\"EmbedStream\"}"), 0);
}

TEST_F(PuppetStreamTest, TheDeadlineDropsRowsAsThat) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(clock_.Now() + absl::Hours(1)));
  const auto stream = server_.stub()->EmbedStream(&context);
  ASSERT_TRUE(stream->Write(EmbedIds({1})));
  encoder_.WaitForBatch();
  ASSERT_TRUE(stream->Write(EmbedIds({2})));
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 1);
  clock_.Advance(absl::Hours(2));
  encoder_.Release();
  v1::EmbedResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server_.WaitForMetric("lion_dropped_total{reason=\"deadline\"}", 1);
  EXPECT_EQ(server_.Metric("lion_dropped_total{reason=\"cancelled\"}"), 0);
}

TEST_F(PuppetStreamTest, ASlowReaderIsBoundedAndTheOthersDoNotNotice) {
  encoder_.Release();
  // 60 tokens of 4 floats with their spans: 3 kB an answer; the reader takes none, and the window fills.
  std::thread writer([&] {
    for (int i = 0; i < 500; ++i) {
      v1::EmbedRequest request = WithInputs({IdsInput(std::vector<uint32_t>(60, 1))});
      request.set_pooling(v1::POOLING_TOKENS);
      if (!stream_->Write(request)) return;
    }
    stream_->WritesDone();
  });
  grpc::ClientContext context;
  v1::EmbedResponse response;
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext other;
    // A full queue is no surprise here: the stream fills it.
    const grpc::Status status = server_.stub()->Embed(&other, EmbedIds({1}), &response);
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  }
  int answers = 0;
  while (stream_->Read(&response)) ++answers;
  EXPECT_EQ(answers, 500);
  writer.join();
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST(StreamCancelTest, CancelAtAnyMomentEndsEachStreamOnce) {
  TestServer server;
  server.Open();
  for (int i = 0; i < 100; ++i) {
    grpc::ClientContext context;
    const auto stream = server.stub()->EmbedStream(&context);
    for (int message = 0; message < i % 7; ++message) stream->Write(WithInputs({TextInput("the quick brown fox")}));
    Spin(i * 100);
    context.TryCancel();
    stream->Finish();
  }
  while (server.Metric("lion_rpc_in_flight{rpc=\"EmbedStream\"}") != 0) std::this_thread::yield();
  grpc::ClientContext context;
  v1::EmbedResponse response;
  EXPECT_TRUE(server.stub()->Embed(&context, EmbedIds({1}), &response).ok());
}

}  // namespace
}  // namespace lion
