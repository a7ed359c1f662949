// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The unary RPCs from the wire's side: a real server on a real port around fake encoders.

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/encoder_service.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Requests(const char* rpc, const char* model, const char* code) {
  return absl::StrCat("lion_rpc_requests_total{rpc=\"", rpc, "\",model=\"", model, "\",code=\"", code, "\"}");
}
std::string InFlight(const char* rpc) { return absl::StrCat("lion_rpc_in_flight{rpc=\"", rpc, "\"}"); }
std::string Rejected(const char* reason) { return absl::StrCat("lion_rejected_total{reason=\"", reason, "\"}"); }
std::string Dropped(const char* reason) { return absl::StrCat("lion_dropped_total{reason=\"", reason, "\"}"); }

// What the fake encoder makes of ids.
std::vector<float> Expected(const std::vector<uint32_t>& ids, RowOutput output) {
  Row row;
  row.ids = ids;
  row.output = output;
  return FakeEncoder(TestEncoderOptions()).Answer(row).values;
}

// An Embed that runs beside the test.
class AsyncEmbed {
 public:
  AsyncEmbed(const TestServer& server, const v1::EmbedRequest& request, absl::Time deadline = absl::InfiniteFuture())
      : request_(request) {
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
    server.stub()->async()->Embed(&context_, &request_, &response_, [this](grpc::Status status) {
      status_ = std::move(status);
      done_.Notify();
    });
  }

  ~AsyncEmbed() {
    context_.TryCancel();
    Wait();
  }

  const grpc::Status& Wait() {
    done_.WaitForNotification();
    return status_;
  }
  void Cancel() { context_.TryCancel(); }
  grpc::ClientContext& context() { return context_; }
  const v1::EmbedResponse& response() const { return response_; }
  // Of the trailer that says when to retry; "" if there is none.
  std::string Pushback() const {
    const auto& trailers = context_.GetServerTrailingMetadata();
    const auto it = trailers.find("grpc-retry-pushback-ms");
    return it == trailers.end() ? "" : std::string(it->second.data(), it->second.size());
  }

 private:
  grpc::ClientContext context_;
  v1::EmbedRequest request_;
  v1::EmbedResponse response_;
  grpc::Status status_;
  absl::Notification done_;
};

class ServiceTest : public testing::Test {
 protected:
  ServiceTest() { server_.Open(); }

  grpc::Status Embed(const v1::EmbedRequest& request, v1::EmbedResponse* response) {
    grpc::ClientContext context;
    return server_.stub()->Embed(&context, request, response);
  }
  grpc::Status Embed(const v1::EmbedRequest& request) {
    v1::EmbedResponse response;
    return Embed(request, &response);
  }

  TestServer server_;
};

TEST_F(ServiceTest, EmbedAnswersWhatTheEncoderComputed) {
  v1::EmbedRequest request = WithInputs({IdsInput({1, 2, 3}), IdsInput(std::vector<uint32_t>(9, 5))}, "ids");
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(request, &response).ok());
  EXPECT_EQ(response.model(), "ids");
  EXPECT_EQ(response.model_version(), "0123456789ab");
  EXPECT_FALSE(response.has_error());
  ASSERT_EQ(response.results_size(), 2);
  ASSERT_EQ(response.results(0).vectors_size(), 1);
  EXPECT_THAT(response.results(0).vectors(0).values(), ElementsAreArray(Expected({1, 2, 3}, RowOutput::kPooledMean)));
  EXPECT_EQ(response.results(0).token_count(), 3);
  EXPECT_EQ(response.results(0).mode(), v1::COMPUTE_MODE_PARALLEL);
  EXPECT_EQ(response.results(1).token_count(), 9);
  EXPECT_EQ(response.results(1).mode(), v1::COMPUTE_MODE_CHUNKED);
  EXPECT_TRUE(response.timings().has_tokenize());
  EXPECT_TRUE(response.timings().has_queue());
  EXPECT_TRUE(response.timings().has_compute());
  EXPECT_GT(response.timings().total().nanos(), 0);
  EXPECT_EQ(server_.Metric(Requests("Embed", "ids", "OK")), 1);
  EXPECT_EQ(server_.Metric(InFlight("Embed")), 0);
  EXPECT_EQ(server_.Metric("lion_tokens_total{model=\"ids\",mode=\"chunked\"}"), 9);
}

TEST_F(ServiceTest, AnEmptyModelIsTheFirstAndCountedAsThat) {
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(EmbedIds({1}), &response).ok());
  EXPECT_EQ(response.model(), "text");
  EXPECT_EQ(server_.Metric(Requests("Embed", "text", "OK")), 1);
  // Its pipeline normalises.
  double norm = 0;
  for (float x : response.results(0).vectors(0).values()) norm += x * x;
  EXPECT_NEAR(norm, 1, 1e-6);
}

TEST_F(ServiceTest, TextBecomesTokensWithSpans) {
  v1::EmbedRequest request = WithInputs({TextInput("hello world")});
  request.set_pooling(v1::POOLING_TOKENS);
  request.set_vector_type(v1::VECTOR_TYPE_FLOAT16_BYTES);
  request.set_dimensions(2);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(request, &response).ok());
  ASSERT_EQ(response.results(0).vectors_size(), 4);
  const v1::Vector& world = response.results(0).vectors(2);
  EXPECT_EQ(world.data().size(), 4);
  EXPECT_EQ(world.span().start_token(), 2);
  EXPECT_EQ(world.span().start_byte(), 6);
  EXPECT_EQ(world.span().end_byte(), 11);
  EXPECT_EQ(server_.Metric("lion_tokenize_duration_seconds_count{model=\"text\"}"), 1);
}

TEST_F(ServiceTest, Classify) {
  grpc::ClientContext context;
  v1::ClassifyRequest request = WithInputs<v1::ClassifyRequest>({IdsInput({4}), TextInput("a cat")});
  request.set_top_k(1);
  request.set_raw_scores(true);
  v1::ClassifyResponse response;
  ASSERT_TRUE(server_.stub()->Classify(&context, request, &response).ok());
  ASSERT_EQ(response.results_size(), 2);
  const std::vector<float> logits = Expected({4}, RowOutput::kLogits);
  ASSERT_EQ(response.results(0).scores_size(), 1);
  EXPECT_EQ(response.results(0).scores(0).score(), *std::max_element(logits.begin(), logits.end()));
  EXPECT_TRUE(response.has_timings());
  EXPECT_EQ(server_.Metric(Requests("Classify", "text", "OK")), 1);

  grpc::ClientContext headless_context;
  request.set_model("ids");
  EXPECT_EQ(server_.stub()->Classify(&headless_context, request, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(server_.Metric(Requests("Classify", "ids", "UNIMPLEMENTED")), 1);
}

TEST_F(ServiceTest, TokenizeShowsTheIdsThatEmbedRuns) {
  grpc::ClientContext context;
  v1::TokenizeRequest request =
      WithInputs<v1::TokenizeRequest>({TextInput("hello world"), IdsInput({1}), TextInput("")});
  v1::TokenizeResponse response;
  ASSERT_TRUE(server_.stub()->Tokenize(&context, request, &response).ok());
  ASSERT_EQ(response.results_size(), 3);
  EXPECT_EQ(response.results(0).ids_size(), 4);
  EXPECT_EQ(response.results(0).tokens(1), "hello");
  EXPECT_EQ(response.results(0).type_ids_size(), 4);
  EXPECT_EQ(response.results(1).error().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(response.results(2).ids_size(), 2);
  EXPECT_EQ(server_.Metric(Requests("Tokenize", "text", "OK")), 1);
  EXPECT_EQ(server_.Metric("lion_tokenize_duration_seconds_count{model=\"text\"}"), 2);
}

TEST_F(ServiceTest, ListModels) {
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(server_.stub()->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "text");
  EXPECT_EQ(server_.Metric(Requests("ListModels", "unknown", "OK")), 1);
  EXPECT_EQ(server_.RawUnary("ListModels", "\xff").error_message(),
            "request does not parse as lion.v1.ListModelsRequest");
}

TEST_F(ServiceTest, ABadRowFailsAlone) {
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(WithInputs({IdsInput({1}), v1::Input(), IdsInput({2})}), &response).ok());
  ASSERT_EQ(response.results_size(), 3);
  EXPECT_FALSE(response.results(0).has_error());
  EXPECT_EQ(response.results(1).error().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(response.results(1).error().message(), StartsWith("inputs[1]: "));
  EXPECT_EQ(response.results(1).token_count(), 0);
  EXPECT_EQ(response.results(1).mode(), v1::COMPUTE_MODE_UNSPECIFIED);
  EXPECT_FALSE(response.results(2).has_error());
  EXPECT_EQ(server_.Metric("lion_sequences_total{model=\"text\",mode=\"parallel\"}"), 2);
}

TEST_F(ServiceTest, WhenEveryRowFailsTheFirstSpeaks) {
  const grpc::Status status = Embed(WithInputs({IdsInput({1000}), v1::Input()}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("inputs[0].token_ids.ids[0]: 1000"));
  EXPECT_EQ(server_.Metric(Requests("Embed", "text", "INVALID_ARGUMENT")), 1);
}

TEST_F(ServiceTest, ARowOfNaNFailsAloneAndABrokenDeviceFailsItsBatch) {
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(WithInputs({IdsInput({666}), IdsInput({1})}), &response).ok());
  EXPECT_EQ(response.results(0).error().code(), grpc::StatusCode::INTERNAL);
  EXPECT_FALSE(response.results(1).has_error());
  EXPECT_EQ(server_.Metric("lion_bad_rows_total{model=\"text\"}"), 1);
  EXPECT_EQ(Embed(WithInputs({IdsInput({777}), IdsInput({1})})).error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(server_.Metric(Requests("Embed", "text", "INTERNAL")), 1);
}

TEST_F(ServiceTest, UnknownModelsAreNotFoundAndNoLabel) {
  v1::EmbedRequest request = EmbedIds({1});
  request.set_model("lamb");
  const grpc::Status status = Embed(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("text, ids"));
  EXPECT_EQ(server_.Metric(Requests("Embed", "unknown", "NOT_FOUND")), 1);
}

TEST_F(ServiceTest, WhatDoesNotParseIsInvalidAndCounted) {
  for (const char* bytes : {"\xff", "\x0a\x02\xc3\x28", "\x12\x04\x0a\x02\xc3\x28",
                            "\x12\x05"
                            "ab"}) {
    for (const char* method : {"Embed", "Classify", "Tokenize"}) {
      const grpc::Status status = server_.RawUnary(method, bytes);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      EXPECT_EQ(status.error_message(), absl::StrCat("request does not parse as lion.v1.", method, "Request"));
    }
  }
  EXPECT_EQ(server_.Metric(Requests("Embed", "unknown", "INVALID_ARGUMENT")), 4);
  EXPECT_EQ(server_.Metric(InFlight("Embed")), 0);
}

TEST_F(ServiceTest, ALargeRequestIsParsedElsewhereAndAnsweredTheSame) {
  const std::vector<uint32_t> ids(90000, 999);  // two bytes each: above the size parsed in place
  std::vector<v1::Input> inputs(3, IdsInput(ids));
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(WithInputs(inputs, "ids"), &response).ok());
  EXPECT_EQ(response.results(2).token_count(), 90000);
  // And refused the same.
  EXPECT_EQ(server_.RawUnary("Embed", std::string(1 << 20, '\xff')).error_message(),
            "request does not parse as lion.v1.EmbedRequest");
  inputs.push_back(TextInput("no tokenizer"));
  ASSERT_TRUE(Embed(WithInputs(inputs, "ids"), &response).ok());
  EXPECT_THAT(response.results(3).error().message(), HasSubstr("no tokenizer"));
  ASSERT_TRUE(Embed(WithInputs({TextInput(std::string(300 << 10, 'x'))}), &response).ok());  // one unknown word
}

TEST_F(ServiceTest, ACallOfTooManyTokensIsRefusedWhole) {
  const grpc::Status status =
      Embed(WithInputs(std::vector<v1::Input>(12, IdsInput(std::vector<uint32_t>(100000, 1))), "ids"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("1048576 (max_request_tokens)"));
}

TEST_F(ServiceTest, AMessageAboveTheLimitIsRefusedByGrpc) {
  EXPECT_EQ(server_.RawUnary("Embed", std::string((64 << 20) + 1, 'x')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ServiceAnswerTest, AnAnswerThatWouldNotTravelIsRefusedBeforeItIsComputed) {
  PuppetEncoder encoder(TestEncoderOptions());
  encoder.Release();
  Server::Options options = TestServerOptions();
  options.limits.max_request_tokens = options.limits.max_queue_tokens = int64_t{1} << 40;
  options.limits.max_inputs = 1000;
  TestServer server(options, &encoder);
  server.Open();
  v1::EmbedRequest request;
  // 330 rows of 100,000 tokens, 64 bytes each at most: 2.1 GB.
  for (int i = 0; i < 330; ++i) *request.add_inputs() = IdsInput(std::vector<uint32_t>(100000, 1));
  request.set_model("ids");
  request.set_pooling(v1::POOLING_TOKENS);
  grpc::ClientContext context;
  v1::EmbedResponse response;
  const grpc::Status status = server.stub()->Embed(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the limit is 2097152000"));
  EXPECT_EQ(encoder.num_batches(), 0);
}

TEST(ServiceLoadingTest, BeforeOpenCallsAreUnavailableAndHealthSaysSo) {
  TestServer server(TestServerOptions(), {}, /*max_batch_tokens=*/100);
  EXPECT_EQ(server.Health(""), "SERVING");
  EXPECT_EQ(server.Health(kServiceName), "NOT_SERVING");
  for (const char* method : {"Embed", "Classify", "Tokenize", "ListModels"}) {
    const grpc::Status status = server.RawUnary(method, "");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(status.error_message(), "server is loading");
  }
  EXPECT_EQ(server.Metric(Requests("Embed", "unknown", "UNAVAILABLE")), 1);
  EXPECT_EQ(server.Metric(Rejected("draining")), 0);
  ASSERT_TRUE(server->WarmUp().ok());
  EXPECT_EQ(server.Metric("lion_sequences_total{model=\"text\",mode=\"parallel\"}"), 0);
  EXPECT_EQ(server.Health(kServiceName), "NOT_SERVING");
  server.Open();
  EXPECT_EQ(server.Health(kServiceName), "SERVING");
  EXPECT_EQ(server.Health("lamb"), "service: not served here; known are '' and lion.v1.EncoderService");
}

TEST(ServiceKeysTest, CallsNeedAKeyAndHealthDoesNot) {
  Server::Options options = TestServerOptions();
  // SHA-256 of "sesame".
  options.api_keys = *ApiKeys::Parse("ann d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272");
  TestServer server(options);
  server.Open();
  v1::EmbedResponse response;
  {
    grpc::ClientContext context;
    EXPECT_EQ(server.stub()->Embed(&context, EmbedIds({1}), &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer sesame");
    EXPECT_TRUE(server.stub()->Embed(&context, EmbedIds({1}), &response).ok());
  }
  {
    grpc::ClientContext context;
    const auto stream = server.stub()->EmbedStream(&context);
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_EQ(server.Health(kServiceName), "SERVING");
  EXPECT_EQ(server.Metric(Rejected("unauthenticated")), 2);
  EXPECT_EQ(server.Metric(Requests("Embed", "unknown", "UNAUTHENTICATED")), 1);
  EXPECT_EQ(server.Metric(Requests("EmbedStream", "unknown", "UNAUTHENTICATED")), 1);
}

// With a device that moves only when told.
class PuppetServiceTest : public testing::Test {
 protected:
  PuppetServiceTest() : encoder_(TestEncoderOptions()), server_(Options(), &encoder_) { server_.Open(); }
  ~PuppetServiceTest() override { encoder_.Release(); }

  Server::Options Options() {
    Server::Options options = TestServerOptions();
    options.limits.max_queue_tokens = options.limits.max_request_tokens = 100;
    options.clock = &clock_;
    return options;
  }

  FakeClock clock_{absl::Now()};  // the test says when a deadline has passed
  PuppetEncoder encoder_;
  TestServer server_;
};

TEST_F(PuppetServiceTest, AFullQueueRefusesAtOnceAndSaysWhenToComeBack) {
  AsyncEmbed running(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  AsyncEmbed waiting(server_, WithInputs({IdsInput(std::vector<uint32_t>(60, 1))}));
  server_.WaitForMetric("lion_queue_tokens{model=\"text\"}", 60);
  AsyncEmbed refused(server_, WithInputs({IdsInput(std::vector<uint32_t>(41, 1))}));
  const grpc::Status status = refused.Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("100 (max_queue_tokens)"));
  EXPECT_EQ(refused.Pushback(), "1");  // nothing has run: the wait is not known, and 0 would be at once
  EXPECT_EQ(server_.Metric(Rejected("queue_full")), 1);
  EXPECT_EQ(server_.Metric(Requests("Embed", "text", "RESOURCE_EXHAUSTED")), 1);
  encoder_.Release();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_TRUE(waiting.Wait().ok());
  EXPECT_EQ(running.Pushback(), "");
}

TEST_F(PuppetServiceTest, WhereTheWaitIsLongerThanTheDeadlineWaitingCannotHelp) {
  // A speed to estimate from: one token in 100 s of the device's time.
  AsyncEmbed first(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  clock_.Advance(absl::Seconds(100));
  encoder_.Finish();
  ASSERT_TRUE(first.Wait().ok());
  AsyncEmbed running(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  AsyncEmbed waiting(server_, WithInputs({IdsInput(std::vector<uint32_t>(60, 1))}));
  server_.WaitForMetric("lion_queue_tokens{model=\"text\"}", 60);
  // 60 tokens wait for 6,000 s.
  const v1::EmbedRequest request = WithInputs({IdsInput(std::vector<uint32_t>(41, 1))});
  AsyncEmbed hasty(server_, request, clock_.Now() + absl::Seconds(5000));
  EXPECT_EQ(hasty.Wait().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(hasty.Pushback(), "-1");
  AsyncEmbed patient(server_, request);
  EXPECT_EQ(patient.Wait().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_GE(std::stoi(patient.Pushback()), 6'000'000);
}

TEST_F(PuppetServiceTest, ACancelledCallIsDroppedAndCountedOnce) {
  AsyncEmbed running(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  AsyncEmbed waiting(server_, WithInputs({IdsInput({1}), IdsInput({2})}));
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 2);
  waiting.Cancel();
  EXPECT_EQ(waiting.Wait().error_code(), grpc::StatusCode::CANCELLED);
  running.Cancel();
  EXPECT_EQ(running.Wait().error_code(), grpc::StatusCode::CANCELLED);
  // Its rows leave the queue while the device is busy.
  server_.WaitForMetric(Dropped("cancelled"), 2);
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 0);
  // The server hears of it on its own connection: let it, before the device is free.
  AsyncEmbed later(server_, EmbedIds({9}));
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 1);
  encoder_.Finish();
  EXPECT_THAT(encoder_.WaitForBatch(), testing::SizeIs(1));  // the one that still listens
  encoder_.Finish();
  EXPECT_TRUE(later.Wait().ok());
  server_.WaitForMetric(Requests("Embed", "text", "CANCELLED"), 2);
  EXPECT_EQ(server_.Metric(Dropped("cancelled")), 2);
  EXPECT_EQ(server_.Metric(Requests("Embed", "text", "OK")), 1);
  EXPECT_EQ(server_.Metric(InFlight("Embed")), 0);
  // The row that ran is counted, listener or not.
  EXPECT_EQ(server_.Metric("lion_sequences_total{model=\"text\",mode=\"parallel\"}"), 2);
}

TEST_F(PuppetServiceTest, ARowPastItsDeadlineIsDroppedAsThat) {
  AsyncEmbed running(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  AsyncEmbed waiting(server_, EmbedIds({2}), clock_.Now() + absl::Hours(1));
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 1);
  clock_.Advance(absl::Hours(2));
  encoder_.Release();
  EXPECT_EQ(waiting.Wait().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(running.Wait().ok());
  server_.WaitForMetric(Requests("Embed", "text", "DEADLINE_EXCEEDED"), 1);
  EXPECT_EQ(server_.Metric(Dropped("deadline")), 1);
  EXPECT_EQ(server_.Metric(Dropped("cancelled")), 0);
}

TEST_F(PuppetServiceTest, CancelAtAnyMomentEndsEachCallOnce) {
  encoder_.Release();
  constexpr int kCalls = 300;
  for (int i = 0; i < kCalls; ++i) {
    AsyncEmbed call(server_, WithInputs({TextInput("the quick brown fox"), IdsInput({1, 2})}));
    Spin(i * 100);
    call.Cancel();
    call.Wait();
  }
  while (server_.Metric(InFlight("Embed")) != 0) std::this_thread::yield();
  double ended = 0;
  for (const char* model : {"text", "unknown"}) {
    for (const char* code : {"OK", "CANCELLED"}) ended += std::max(0.0, server_.Metric(Requests("Embed", model, code)));
  }
  // Those cancelled before they left the client never reached a handler.
  EXPECT_LE(ended, kCalls);
  EXPECT_EQ(server_.Metric("lion_queue_sequences{model=\"text\"}"), 0);
  // Everything is as before.
  grpc::ClientContext context;
  v1::EmbedResponse response;
  EXPECT_TRUE(server_.stub()->Embed(&context, EmbedIds({1}), &response).ok());
}

TEST_F(PuppetServiceTest, RowsOfManyCallsShareABatch) {
  AsyncEmbed running(server_, EmbedIds({1}));
  encoder_.WaitForBatch();
  AsyncEmbed a(server_, WithInputs({IdsInput({2}), IdsInput({3})}));
  AsyncEmbed b(server_, EmbedIds({4}));
  server_.WaitForMetric("lion_queue_sequences{model=\"text\"}", 3);
  encoder_.Finish();
  EXPECT_THAT(encoder_.WaitForBatch(), testing::SizeIs(3));
  encoder_.Finish();
  ASSERT_TRUE(a.Wait().ok());
  ASSERT_TRUE(b.Wait().ok());
  EXPECT_EQ(a.response().results_size(), 2);
  EXPECT_EQ(b.response().results_size(), 1);
  EXPECT_TRUE(running.Wait().ok());
}

}  // namespace
}  // namespace lion
