// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// EmbedDocument from the wire's side, and its answer cut into messages.

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/support/sync_stream.h"
#include "gtest/gtest.h"
#include "server/document_call.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::StartsWith;

v1::EmbedDocumentRequest Document(const std::vector<uint32_t>& ids, uint32_t size, uint32_t stride = 0) {
  v1::EmbedDocumentRequest request;
  request.set_model("ids");
  *request.mutable_input() = IdsInput(ids);
  request.mutable_windows()->set_size_tokens(size);
  request.mutable_windows()->set_stride_tokens(stride);
  return request;
}

std::vector<uint32_t> Ids(size_t n) {
  std::vector<uint32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = static_cast<uint32_t>(i * 7 % 600);
  return ids;
}

// A whole answer, its order checked.
struct Answer {
  std::vector<v1::DocumentProgress> progress;
  std::vector<v1::Vector> vectors;
  std::vector<v1::Vector> documents;  // of the whole one, at most one
  v1::DocumentEnd end;
  size_t largest = 0;  // message, in bytes
  int vector_messages = 0;
  grpc::Status status;
};

Answer Embed(const TestServer& server, const v1::EmbedDocumentRequest& request) {
  Answer answer;
  grpc::ClientContext context;
  const auto stream = server.stub()->EmbedDocument(&context, request);
  v1::EmbedDocumentResponse message;
  bool ended = false;
  while (stream->Read(&message)) {
    EXPECT_FALSE(ended);
    answer.largest = std::max(answer.largest, message.ByteSizeLong());
    switch (message.content_case()) {
      case v1::EmbedDocumentResponse::kProgress:
        EXPECT_TRUE(answer.vectors.empty());
        answer.progress.push_back(message.progress());
        break;
      case v1::EmbedDocumentResponse::kVectors:
        EXPECT_EQ(message.vectors().first_vector(), answer.vectors.size());
        EXPECT_GT(message.vectors().vectors_size(), 0);
        ++answer.vector_messages;
        for (const v1::Vector& v : message.vectors().vectors()) answer.vectors.push_back(v);
        break;
      case v1::EmbedDocumentResponse::kEnd:
        answer.end = message.end();
        ended = true;
        break;
      case v1::EmbedDocumentResponse::kDocument:
        answer.documents.push_back(message.document());
        break;
      case v1::EmbedDocumentResponse::CONTENT_NOT_SET:
        ADD_FAILURE() << "a message without content";
    }
  }
  answer.status = stream->Finish();
  EXPECT_EQ(ended, answer.status.ok());
  return answer;
}

std::string Requests(const char* model, const char* code) {
  return absl::StrCat("lion_rpc_requests_total{rpc=\"EmbedDocument\",model=\"", model, "\",code=\"", code, "\"}");
}

class DocumentTest : public testing::Test {
 protected:
  DocumentTest() { server_.Open(); }
  TestServer server_;
};

TEST_F(DocumentTest, GivesTheVectorsOfEmbed) {
  const std::vector<uint32_t> ids = Ids(103);
  const Answer answer = Embed(server_, Document(ids, 10, 4));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  v1::EmbedRequest request = WithInputs({IdsInput(ids)}, "ids");
  request.set_pooling(v1::POOLING_WINDOWS);
  request.mutable_windows()->set_size_tokens(10);
  request.mutable_windows()->set_stride_tokens(4);
  grpc::ClientContext context;
  v1::EmbedResponse response;
  ASSERT_TRUE(server_.stub()->Embed(&context, request, &response).ok());
  const v1::EmbedResult& result = response.results(0);
  ASSERT_EQ(result.vectors_size(), 25);
  ASSERT_EQ(answer.vectors.size(), 25);
  for (int i = 0; i < 25; ++i) {
    EXPECT_EQ(answer.vectors[i].SerializeAsString(), result.vectors(i).SerializeAsString());
  }
  EXPECT_EQ(answer.vectors[24].span().start_token(), 96);
  EXPECT_EQ(answer.vectors[24].span().end_token(), 103);
  EXPECT_EQ(answer.end.model(), "ids");
  EXPECT_EQ(answer.end.model_version(), "0123456789ab");
  EXPECT_EQ(answer.end.token_count(), 103);
  EXPECT_EQ(answer.end.num_vectors(), 25);
  EXPECT_EQ(answer.end.mode(), v1::COMPUTE_MODE_CHUNKED);
  EXPECT_FALSE(answer.end.truncated());
  EXPECT_TRUE(answer.end.timings().has_total());
  ASSERT_GE(answer.progress.size(), 1);  // a slow reader may miss all but the last
  EXPECT_EQ(answer.progress.back().tokens_done(), 103);
  EXPECT_EQ(answer.progress.back().tokens_total(), 103);
  EXPECT_EQ(server_.Metric(Requests("ids", "OK")), 1);
  EXPECT_EQ(server_.Metric("lion_rpc_in_flight{rpc=\"EmbedDocument\"}"), 0);
}

TEST_F(DocumentTest, TextHasByteSpansAndIsTruncatedOnRequest) {
  v1::EmbedDocumentRequest request;
  request.mutable_input()->set_text("the quick brown fox");
  request.mutable_windows()->set_size_tokens(100);
  Answer answer = Embed(server_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.vectors.size(), 1);
  EXPECT_EQ(answer.vectors[0].span().start_byte(), 0);
  EXPECT_EQ(answer.vectors[0].span().end_byte(), 19);
  request.mutable_input()->set_text(std::string(1000, '.'));  // the model takes 64 tokens
  request.mutable_options()->set_truncation(v1::TRUNCATION_RIGHT);
  answer = Embed(server_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.end.truncated());
  EXPECT_EQ(answer.end.token_count(), 64);
}

TEST_F(DocumentTest, EveryPoolingComesThisWay) {
  v1::EmbedDocumentRequest request = Document(Ids(20), 0);
  for (v1::Pooling pooling : {v1::POOLING_CLS, v1::POOLING_MEAN, v1::POOLING_TOKENS}) {
    request.set_pooling(pooling);
    const Answer answer = Embed(server_, request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.vectors.size(), pooling == v1::POOLING_TOKENS ? 20 : 1);
  }
}

TEST_F(DocumentTest, OnePassGivesTheWholeAndItsWindows) {
  for (const size_t L : {1, 20, 103}) {
    v1::EmbedDocumentRequest request = Document(Ids(L), 10, 4);
    request.set_normalize(true);
    request.set_dimensions(2);
    const Answer plain = Embed(server_, request);
    EXPECT_TRUE(plain.documents.empty());
    request.set_with_document(true);
    const Answer answer = Embed(server_, request);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    ASSERT_EQ(answer.vectors.size(), plain.vectors.size());
    for (size_t i = 0; i < plain.vectors.size(); ++i) {
      EXPECT_EQ(answer.vectors[i].SerializeAsString(), plain.vectors[i].SerializeAsString());
    }
    EXPECT_EQ(answer.end.num_vectors(), plain.vectors.size());
    request.set_with_document(false);
    request.set_pooling(v1::POOLING_MEAN);
    const Answer mean = Embed(server_, request);
    ASSERT_EQ(answer.documents.size(), 1);
    EXPECT_THAT(answer.documents[0].values(), ElementsAreArray(mean.vectors[0].values()));
    EXPECT_EQ(answer.documents[0].span().start_token(), 0);
    EXPECT_EQ(answer.documents[0].span().end_token(), L);
  }
}

TEST_F(DocumentTest, WindowsEndWhereSentencesDo) {
  v1::EmbedDocumentRequest request;
  const std::string text = "the fox! the quick brown fox! the dog";
  request.mutable_input()->set_text(text);
  request.mutable_windows()->set_size_tokens(6);
  request.mutable_windows()->set_boundary(v1::WINDOW_BOUNDARY_SENTENCE);
  request.set_with_document(true);
  const Answer answer = Embed(server_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  std::vector<std::string> passages;
  for (const v1::Vector& v : answer.vectors) {
    passages.push_back(text.substr(v.span().start_byte(), v.span().end_byte() - v.span().start_byte()));
  }
  EXPECT_THAT(passages, ElementsAre("the fox!", "the quick brown fox!", "the dog"));
  EXPECT_EQ(answer.vectors.front().span().start_token(), 0);
  EXPECT_EQ(answer.vectors.back().span().end_token(), answer.end.token_count());
  ASSERT_EQ(answer.documents.size(), 1);
  EXPECT_EQ(answer.documents[0].span().end_byte(), text.size());
}

TEST_F(DocumentTest, NoMessageIsAboveTheLimit) {
  // 100,000 vectors of three or four values: the spans weigh more than they do.
  v1::EmbedDocumentRequest request = Document(Ids(100000), 1, 1);
  for (v1::VectorType type : {v1::VECTOR_TYPE_FLOAT32, v1::VECTOR_TYPE_INT8_BYTES}) {
    request.set_vector_type(type);
    const Answer answer = Embed(server_, request);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.vectors.size(), 100000);
    EXPECT_LE(answer.largest, kMaxDocumentMessageBytes);
    EXPECT_GT(answer.vector_messages, 1);
  }
}

TEST_F(DocumentTest, RefusesWhatEmbedRefusesAndNamesItsOwnField) {
  const auto expect = [this](const v1::EmbedDocumentRequest& request, grpc::StatusCode code, const char* begins) {
    const Answer answer = Embed(server_, request);
    EXPECT_EQ(answer.status.error_code(), code);
    EXPECT_THAT(answer.status.error_message(), StartsWith(begins));
    EXPECT_TRUE(answer.vectors.empty());
  };
  expect(Document({}, 4), grpc::StatusCode::INVALID_ARGUMENT, "input.token_ids.ids: ");
  expect(Document({1000}, 4), grpc::StatusCode::INVALID_ARGUMENT, "input.token_ids.ids[0]: ");
  expect(Document({1}, 0), grpc::StatusCode::INVALID_ARGUMENT, "windows.size_tokens: 0");
  expect(Document({1}, 2, 3), grpc::StatusCode::INVALID_ARGUMENT, "windows.stride_tokens: 3");
  expect(Document(Ids(100001), 4), grpc::StatusCode::INVALID_ARGUMENT, "input.token_ids.ids: 100001 tokens");
  v1::EmbedDocumentRequest request = Document({1}, 4);
  request.clear_input();
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "input: has no content");
  request = Document({1}, 4);
  request.set_model("nobody");
  expect(request, grpc::StatusCode::NOT_FOUND, "model: ");
  request = Document({1}, 4);
  request.set_dimensions(9);
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "dimensions: 9");
  request = Document({1, 2}, 4);
  request.mutable_windows()->set_boundary(v1::WINDOW_BOUNDARY_SENTENCE);
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "input.token_ids: has no sentences");
  request = Document({1, 2}, 4, 2);
  request.mutable_windows()->set_boundary(v1::WINDOW_BOUNDARY_SENTENCE);
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "windows.stride_tokens: 2");
  request = Document({1, 2}, 4);
  request.mutable_windows()->set_boundary(static_cast<v1::WindowBoundary>(3));
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "windows.boundary: 3");
  request = Document({1, 2}, 4);
  request.set_with_document(true);
  request.set_pooling(v1::POOLING_TOKENS);
  expect(request, grpc::StatusCode::INVALID_ARGUMENT, "with_document: ");
  request = Document({666, 1}, 0);  // the fake encoder answers that id with NaN
  request.set_pooling(v1::POOLING_MEAN);
  expect(request, grpc::StatusCode::INTERNAL, "the model's answer");
  EXPECT_EQ(server_.Metric(Requests("ids", "INVALID_ARGUMENT")), 11);
  EXPECT_EQ(server_.Metric(Requests("unknown", "NOT_FOUND")), 1);
}

TEST(DocumentDoorTest, WhileLoadingItIsUnavailable) {
  TestServer server;
  EXPECT_EQ(Embed(server, Document({1}, 4)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  server.Open();
  EXPECT_TRUE(Embed(server, Document({1}, 4)).status.ok());
}

class PuppetDocumentTest : public testing::Test {
 protected:
  PuppetDocumentTest() : encoder_(TestEncoderOptions()), server_(Options(), &encoder_) { server_.Open(); }
  ~PuppetDocumentTest() override { encoder_.Release(); }

  Server::Options Options() {
    Server::Options options = TestServerOptions();
    options.clock = &clock_;
    return options;
  }

  FakeClock clock_{absl::Now()};  // the test says when a deadline has passed
  PuppetEncoder encoder_;
  TestServer server_;
};

TEST_F(PuppetDocumentTest, ProgressComesBeforeTheDocumentHasRun) {
  grpc::ClientContext context;
  const auto stream = server_.stub()->EmbedDocument(&context, Document(Ids(50), 8));
  v1::EmbedDocumentResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.progress().tokens_done(), 0);
  EXPECT_EQ(message.progress().tokens_total(), 50);
  EXPECT_EQ(encoder_.WaitForBatch()[0].ids.size(), 50);
  EXPECT_EQ(server_.Metric("lion_rpc_in_flight{rpc=\"EmbedDocument\"}"), 1);
  encoder_.Finish();
  while (stream->Read(&message)) {
  }
  EXPECT_TRUE(message.has_end());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(PuppetDocumentTest, ACancelledDocumentIsDropped) {
  // One is on the device; another waits behind it.
  grpc::ClientContext first_context, second_context;
  const auto first = server_.stub()->EmbedDocument(&first_context, Document(Ids(50), 8));
  encoder_.WaitForBatch();
  const auto second = server_.stub()->EmbedDocument(&second_context, Document(Ids(60), 8));
  server_.WaitForMetric("lion_queue_sequences{model=\"ids\"}", 1);
  second_context.TryCancel();
  v1::EmbedDocumentResponse message;
  while (second->Read(&message)) {
  }
  EXPECT_EQ(second->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.WaitForMetric(Requests("ids", "CANCELLED"), 1);
  encoder_.Finish();
  server_.WaitForMetric("lion_dropped_total{reason=\"cancelled\"}", 1);
  while (first->Read(&message)) {
  }
  EXPECT_TRUE(first->Finish().ok());
}

TEST_F(PuppetDocumentTest, TheDeadlineEndsIt) {
  // One is on the device; the deadline of another passes while it waits behind it.
  grpc::ClientContext first_context, context;
  const auto first = server_.stub()->EmbedDocument(&first_context, Document(Ids(50), 8));
  encoder_.WaitForBatch();
  context.set_deadline(absl::ToChronoTime(clock_.Now() + absl::Hours(1)));
  const auto stream = server_.stub()->EmbedDocument(&context, Document(Ids(60), 8));
  server_.WaitForMetric("lion_queue_sequences{model=\"ids\"}", 1);
  clock_.Advance(absl::Hours(2));
  encoder_.Finish();
  v1::EmbedDocumentResponse message;
  while (stream->Read(&message)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server_.WaitForMetric(Requests("ids", "DEADLINE_EXCEEDED"), 1);
  EXPECT_EQ(server_.Metric("lion_dropped_total{reason=\"deadline\"}"), 1);
  while (first->Read(&message)) {
  }
  EXPECT_TRUE(first->Finish().ok());
}

TEST(DocumentDrainTest, ADocumentThatWasLetInIsFinished) {
  PuppetEncoder encoder(TestEncoderOptions());
  TestServer server(TestServerOptions(), &encoder);
  server.Open();
  grpc::ClientContext context;
  const auto stream = server.stub()->EmbedDocument(&context, Document(Ids(50), 8));
  encoder.WaitForBatch();
  std::thread drain([&server] { server->Drain(absl::Now()); });
  while (server.Health("lion.v1.EncoderService") != "NOT_SERVING") std::this_thread::yield();
  encoder.Release();
  v1::EmbedDocumentResponse message;
  while (stream->Read(&message)) {
  }
  EXPECT_TRUE(message.has_end());
  EXPECT_TRUE(stream->Finish().ok());
  drain.join();
}

TEST(DocumentDrainTest, TimeUpCutsIt) {
  PuppetEncoder encoder(TestEncoderOptions());
  Server::Options options = TestServerOptions();
  options.drain_timeout = absl::ZeroDuration();
  TestServer server(std::move(options), &encoder);
  server.Open();
  grpc::ClientContext context;
  const auto stream = server.stub()->EmbedDocument(&context, Document(Ids(50), 8));
  encoder.WaitForBatch();
  std::thread drain([&server] { server->Drain(absl::Now()); });
  v1::EmbedDocumentResponse message;
  while (stream->Read(&message)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  encoder.Release();
  drain.join();
  EXPECT_EQ(server.Metric(Requests("ids", "UNAVAILABLE")), 1);
}

// A reader that does not read: the answer waits in the server, and others go on.
TEST_F(DocumentTest, ASlowReaderHoldsNobodyUp) {
  grpc::ClientContext context;
  const auto slow = server_.stub()->EmbedDocument(&context, Document(Ids(100000), 1, 1));
  v1::EmbedDocumentResponse message;
  ASSERT_TRUE(slow->Read(&message));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Embed(server_, Document(Ids(10), 4)).status.ok());
  uint64_t vectors = 0;
  do {
    vectors += static_cast<uint64_t>(message.vectors().vectors_size());
  } while (slow->Read(&message));
  EXPECT_EQ(vectors, 100000);
  EXPECT_TRUE(slow->Finish().ok());
}

TEST_F(DocumentTest, CancelAtAnyMomentEndsEachOnce) {
  int num_ok = 0;
  for (int i = 0; i < 100; ++i) {
    grpc::ClientContext context;
    const auto stream = server_.stub()->EmbedDocument(&context, Document(Ids(20000), 1, 1));
    std::thread canceller([&context, i] {
      Spin(i * 2000);
      context.TryCancel();
    });
    v1::EmbedDocumentResponse message;
    while (stream->Read(&message)) {
    }
    num_ok += stream->Finish().ok();
    canceller.join();
  }
  server_.WaitForMetric("lion_rpc_in_flight{rpc=\"EmbedDocument\"}", 0);
  // One that is cancelled before it has reached the server is no call there; none is counted twice.
  const double counted = std::max(0.0, server_.Metric(Requests("ids", "CANCELLED"))) +
                         std::max(0.0, server_.Metric(Requests("unknown", "CANCELLED"))) +
                         std::max(0.0, server_.Metric(Requests("ids", "OK")));
  EXPECT_LE(counted, 100);
  EXPECT_GE(counted, num_ok);
}

}  // namespace
}  // namespace lion
