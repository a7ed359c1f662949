// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The server's life: ports, the drain in its order, and what is cut.

#include "server/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/support/sync_stream.h"
#include "gtest/gtest.h"
#include "tests/server/relay.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::HasSubstr;

std::string Requests(const char* rpc, const char* model, const char* code) {
  return absl::StrCat("lion_rpc_requests_total{rpc=\"", rpc, "\",model=\"", model, "\",code=\"", code, "\"}");
}

grpc::Status Embed(const TestServer& server) {
  grpc::ClientContext context;
  v1::EmbedResponse response;
  return server.stub()->Embed(&context, EmbedIds({1}), &response);
}

// Until new calls are refused. ListModels needs no encoder, so none waits for a device that is held.
void WaitUntilRefused(const TestServer& server) {
  for (;;) {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    if (!server.stub()->ListModels(&context, v1::ListModelsRequest(), &response).ok()) return;
  }
}

TEST(ServerTest, APortInUseIsNamed) {
  TestServer first;
  ServedModel model;
  FakeEncoder encoder;
  model.name = "m";
  model.info = TestModelInfo();
  model.encoders = {&encoder};
  model.max_sequence_tokens = 10;
  Server::Options options = TestServerOptions();
  options.listen = first->address();
  absl::Status status = Server::Create(options, {model}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("--listen: cannot bind ", first->address())));
  options = TestServerOptions();
  options.metrics_listen = first->metrics_address();
  status = Server::Create(options, {model}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(first->metrics_address()));
}

// ---------------------------------------------------------------------------------------------------------- devices

class DeviceLossTest : public testing::Test {
 protected:
  DeviceLossTest() {
    Server::Options options = TestServerOptions();
    options.drain_delay = absl::Hours(1);  // nobody waits for it once no device is left
    options.on_device_lost = [this](const LostDevice& lost) {
      absl::MutexLock lock(&mu_);
      lost_.push_back(absl::StrCat(lost.name, ", ", lost.num_left, " left, health ", server_->Health(kServiceName)));
    };
    server_ = std::make_unique<TestServer>(std::move(options), std::vector<Encoder*>{&first_, &second_});
    server_->Open();
  }

  std::vector<std::string> lost() {
    absl::MutexLock lock(&mu_);
    return lost_;
  }

  static FakeEncoder::Options LostAfter(const char* device, int batches) {
    FakeEncoder::Options options = TestEncoderOptions();
    options.device = device;
    options.lost_after = batches;
    return options;
  }

  FakeEncoder first_{LostAfter("fake:0", 2)};
  FakeEncoder second_{LostAfter("fake:1", 5)};
  absl::Mutex mu_;
  std::vector<std::string> lost_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<TestServer> server_;
};

TEST_F(DeviceLossTest, CallersNoticeNothingUntilTheLastOneIsGone) {
  // Each call is a batch; 2 + 5 of them end well.
  for (int i = 0; i < 7; ++i) {
    const grpc::Status status = Embed(*server_);
    ASSERT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
  const grpc::Status status = Embed(*server_);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), testing::MatchesRegex("fake:. is lost: cudaStreamSynchronize: .*"));
  EXPECT_EQ(server_->Health(kServiceName), "NOT_SERVING");
  EXPECT_EQ(server_->Health(""), "SERVING");
  ASSERT_EQ(lost().size(), 2);
  EXPECT_THAT(lost()[0], HasSubstr("1 left, health SERVING"));
  EXPECT_THAT(lost()[1], HasSubstr("0 left, health NOT_SERVING"));
  for (const char* device : {"fake:0", "fake:1"}) {
    EXPECT_EQ(server_->Metric(absl::StrCat("lion_device_up{device=\"", device, "\"}")), 0);
  }
  EXPECT_EQ(server_->Metric(Requests("Embed", "text", "OK")), 7);
  EXPECT_EQ(server_->Metric(Requests("Embed", "text", "UNAVAILABLE")), 1);
  EXPECT_EQ(server_->Metric("lion_sequences_total{model=\"text\",mode=\"parallel\"}"), 7);
  EXPECT_EQ(server_->Metric("lion_batch_retries_total"), 1);
  // What needs no device is still served, what needs one is refused in the device's words.
  grpc::ClientContext context;
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(server_->stub()->Tokenize(&context, WithInputs<v1::TokenizeRequest>({TextInput("a")}), &tokens).ok());
  EXPECT_EQ(Embed(*server_).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE((*server_)->Drain(absl::Now()));
}

TEST_F(DeviceLossTest, AStreamEndsWithTheDevicesWords) {
  grpc::ClientContext context;
  const auto stream = server_->stub()->EmbedStream(&context);
  v1::EmbedResponse response;
  for (int i = 0; i < 7; ++i) {
    ASSERT_TRUE(stream->Write(EmbedIds({1})));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_FALSE(response.has_error());
  }
  ASSERT_TRUE(stream->Write(EmbedIds({1})));
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("is lost: cudaStreamSynchronize"));
}

// ------------------------------------------------------------------------------------------------------------ the
// drain

// The machine's clock. One thread, which asks it between its steps, takes each of them only when told.
class SteppedClock : public Clock {
 public:
  absl::Time Now() const override {
    absl::MutexLock lock(&mu_);
    if (std::this_thread::get_id() == held_) {
      while (steps_ == 0) told_.Wait(&mu_);
      --steps_;
    }
    return absl::Now();
  }

  // The calling thread.
  void Hold() {
    absl::MutexLock lock(&mu_);
    held_ = std::this_thread::get_id();
  }
  void Step() { Add(1); }
  void Release() { Add(1'000'000); }

 private:
  void Add(int steps) {
    absl::MutexLock lock(&mu_);
    steps_ += steps;
    told_.SignalAll();
  }

  mutable absl::Mutex mu_;
  mutable absl::CondVar told_;
  std::thread::id held_ ABSL_GUARDED_BY(mu_);
  mutable int steps_ ABSL_GUARDED_BY(mu_) = 0;
};

// A server that drains on a thread of its own. Stepped, the drain waits for clock_.Step() before drain_delay, and for
// another one when it has begun to refuse, before refusal_time.
class DrainTest : public testing::Test {
 protected:
  DrainTest() : encoder_(TestEncoderOptions()) {}
  ~DrainTest() override {
    clock_.Release();
    encoder_.Release();
    if (drainer_.joinable()) drainer_.join();
  }

  void StartServer(Server::Options options) {
    options.clock = &clock_;
    server_ = std::make_unique<TestServer>(std::move(options), &encoder_);
    server_->Open();
  }

  void StartDrain(bool stepped = false) {
    drainer_ = std::thread([this, stepped] {
      if (stepped) clock_.Hold();
      clean_ = (*server_)->Drain(absl::Now());
      drained_.Notify();
    });
  }

  bool WaitDrained() {
    drained_.WaitForNotification();
    return clean_;
  }

  SteppedClock clock_;
  PuppetEncoder encoder_;
  std::unique_ptr<TestServer> server_;
  std::thread drainer_;
  bool clean_ = false;
  absl::Notification drained_;
};

TEST_F(DrainTest, TheOrder) {
  encoder_.Release();
  Server::Options options = TestServerOptions();
  options.drain_delay = absl::Milliseconds(300);
  options.refusal_time = absl::Milliseconds(300);
  StartServer(options);
  grpc::ClientContext watch_context;
  grpc::health::v1::HealthCheckRequest named;
  named.set_service(kServiceName);
  const auto watch = server_->health()->Watch(&watch_context, named);
  grpc::health::v1::HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  const absl::Time signalled = absl::Now();
  StartDrain(/*stepped=*/true);
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(server_->Health(""), "SERVING");
  // For drain_delay calls are served as before.
  EXPECT_TRUE(Embed(*server_).ok());
  clock_.Step();
  grpc::Status status;
  do {
    status = Embed(*server_);
  } while (status.ok());
  EXPECT_GE(absl::Now(), signalled + options.drain_delay);
  // Then they are refused, and can be seen to be.
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "server is draining");
  EXPECT_EQ(server_->Metric("lion_rejected_total{reason=\"draining\"}"), 1);
  EXPECT_EQ(server_->Health(""), "SERVING");
  EXPECT_EQ(server_->Health(kServiceName), "NOT_SERVING");
  clock_.Release();
  EXPECT_TRUE(WaitDrained());
  EXPECT_GE(absl::Now(), signalled + options.drain_delay + options.refusal_time);
  EXPECT_FALSE(watch->Read(&health));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(DrainTest, WhatWasAcceptedIsAnswered) {
  StartServer(TestServerOptions());
  std::vector<std::thread> callers;
  callers.reserve(4);
  std::vector<grpc::Status> outcomes(4);
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, i] { outcomes[i] = Embed(*server_); });
  }
  encoder_.WaitForBatch();
  server_->WaitForMetric("lion_rpc_in_flight{rpc=\"Embed\"}", 4);
  // All four have been queued or are running.
  const auto queued = [&] {
    return server_->Metric("lion_queue_sequences{model=\"text\"}") +
           server_->Metric("lion_queue_duration_seconds_count{model=\"text\"}");
  };
  while (queued() != 4) std::this_thread::yield();
  StartDrain();
  WaitUntilRefused(*server_);
  encoder_.Release();
  EXPECT_TRUE(WaitDrained());
  for (std::thread& caller : callers) caller.join();
  for (const grpc::Status& outcome : outcomes) EXPECT_TRUE(outcome.ok()) << outcome.error_message();
  EXPECT_EQ(server_->Metric(Requests("Embed", "text", "OK")), 4);
  EXPECT_EQ(server_->Metric("lion_dropped_total{reason=\"drain\"}"), 0);
}

TEST_F(DrainTest, AStreamsMessagesAreAnsweredAndThenItEnds) {
  StartServer(TestServerOptions());
  grpc::ClientContext context;
  const auto stream = server_->stub()->EmbedStream(&context);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream->Write(EmbedIds({1})));
  encoder_.WaitForBatch();
  const auto seen = [&] {
    return server_->Metric("lion_queue_sequences{model=\"text\"}") +
           server_->Metric("lion_queue_duration_seconds_count{model=\"text\"}");
  };
  while (seen() != 3) std::this_thread::yield();
  grpc::ClientContext idle_context;
  const auto idle = server_->stub()->EmbedStream(&idle_context);
  server_->WaitForMetric("lion_rpc_in_flight{rpc=\"EmbedStream\"}", 2);
  StartDrain();
  // An idle stream ends at once.
  v1::EmbedResponse response;
  EXPECT_FALSE(idle->Read(&response));
  EXPECT_EQ(idle->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  stream->Write(EmbedIds({2}));  // too late, unless it comes before this stream is told
  encoder_.Release();
  int answers = 0;
  while (stream->Read(&response)) ++answers;
  EXPECT_GE(answers, 3);
  EXPECT_LE(answers, 4);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(WaitDrained());
  EXPECT_EQ(server_->Metric(Requests("EmbedStream", "text", "UNAVAILABLE")), 1);
}

TEST_F(DrainTest, AStreamThatItsCallerHasClosedEndsWell) {
  StartServer(TestServerOptions());
  grpc::ClientContext context;
  const auto stream = server_->stub()->EmbedStream(&context);
  ASSERT_TRUE(stream->Write(EmbedIds({1})));
  stream->WritesDone();
  encoder_.WaitForBatch();
  // The end of its side has come after so many round trips: nothing else shows it, and gRPC tells the server on a
  // thread that a busy machine may keep waiting.
  for (int i = 0; i < 300; ++i) EXPECT_EQ(server_->Health(""), "SERVING");
  StartDrain();
  WaitUntilRefused(*server_);
  encoder_.Release();
  v1::EmbedResponse response;
  EXPECT_TRUE(stream->Read(&response));
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(WaitDrained());
}

TEST_F(DrainTest, TheTimeoutCutsWhatIsLeftAndCountsIt) {
  Server::Options options = TestServerOptions();
  options.drain_timeout = absl::Milliseconds(200);
  StartServer(options);
  grpc::Status unary;
  std::thread caller([&] { unary = Embed(*server_); });
  encoder_.WaitForBatch();
  grpc::ClientContext context;
  const auto stream = server_->stub()->EmbedStream(&context);
  ASSERT_TRUE(stream->Write(WithInputs({IdsInput({1}), IdsInput({2})})));
  server_->WaitForMetric("lion_queue_sequences{model=\"text\"}", 2);
  StartDrain();
  caller.join();
  EXPECT_EQ(unary.error_code(), grpc::StatusCode::UNAVAILABLE);
  v1::EmbedResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(WaitDrained());  // the device still holds its batch
  EXPECT_EQ(server_->Metric(Requests("Embed", "text", "UNAVAILABLE")), 1);
  EXPECT_EQ(server_->Metric(Requests("EmbedStream", "text", "UNAVAILABLE")), 1);
  EXPECT_EQ(server_->Metric("lion_dropped_total{reason=\"drain\"}"), 3);
}

// Whether somebody listens there.
bool Listens(const std::string& name) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(name.substr(name.rfind(':') + 1))));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return connected;
}

// The wire is held with answers on it until the port is closed: the drain's last step. What a slow reader has not taken
// by then is still its own, until drain_timeout.
TEST_F(DrainTest, SlowReadersHaveUntilTheTimeoutToTakeTheirAnswers) {
  encoder_.Release();
  Server::Options options = TestServerOptions();
  options.drain_timeout = absl::Hours(1);
  options.last_answers = absl::ZeroDuration();
  StartServer(options);
  Relay relay((*server_)->address());
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  const auto channel = grpc::CreateCustomChannel(relay.address(), grpc::InsecureChannelCredentials(), arguments);
  ASSERT_TRUE(channel->WaitForConnected(gpr_inf_future(GPR_CLOCK_REALTIME)));
  const auto stub = v1::EncoderService::NewStub(channel);
  // Small enough to arrive in one flow-control window, with an answer of several.
  v1::EmbedRequest request = WithInputs(std::vector<v1::Input>(5, IdsInput(std::vector<uint32_t>(5000, 1))), "ids");
  request.set_pooling(v1::POOLING_TOKENS);
  relay.Hold();
  grpc::Status unary, streamed;
  v1::EmbedResponse unary_answer, stream_answer;
  std::thread unary_caller([&] {
    grpc::ClientContext context;
    unary = stub->Embed(&context, request, &unary_answer);
  });
  std::thread stream_caller([&] {
    grpc::ClientContext context;
    const auto stream = stub->EmbedStream(&context);
    stream->Write(request);
    stream->Read(&stream_answer);
    streamed = stream->Finish();
  });
  server_->WaitForMetric("lion_sequences_total{model=\"ids\",mode=\"chunked\"}", 10);
  server_->WaitForMetric(Requests("Embed", "ids", "OK"), 1);
  while (relay.held_bytes() <= 8192) std::this_thread::yield();
  StartDrain();
  // Either gRPC holds the calls open for us, or they have ended and it alone has their answers.
  for (int i = 0; i < 2000 && Listens((*server_)->address()); ++i) std::this_thread::yield();
  relay.Resume();
  EXPECT_TRUE(WaitDrained());
  unary_caller.join();
  stream_caller.join();
  EXPECT_TRUE(unary.ok()) << unary.error_message();
  EXPECT_EQ(unary_answer.results_size(), 5);
  EXPECT_EQ(streamed.error_message(), "server is draining");
  EXPECT_EQ(stream_answer.results_size(), 5);
}

TEST_F(DrainTest, NothingIsLostUnderLoad) {
  encoder_.Release();
  StartServer(TestServerOptions());
  std::vector<std::thread> callers;
  callers.reserve(4);
  std::atomic<int> served = 0;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      const auto stub = v1::EncoderService::NewStub(server_->NewChannel());
      for (;;) {
        grpc::ClientContext context;
        v1::EmbedResponse response;
        const grpc::Status status = stub->Embed(&context, WithInputs({TextInput("hello world")}), &response);
        if (!status.ok()) {
          if (status.error_message() != "server is draining") ++wrong;
          return;
        }
        ++served;
      }
    });
  }
  while (served < 50) std::this_thread::yield();
  StartDrain(/*stepped=*/true);
  clock_.Step();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
  clock_.Release();
  EXPECT_TRUE(WaitDrained());
  EXPECT_EQ(server_->Metric(Requests("Embed", "text", "OK")), served);
}

TEST(ServerDestructionTest, ADestroyedServerAnswersWhoIsInside) {
  PuppetEncoder encoder(TestEncoderOptions());
  TestServer server(TestServerOptions(), &encoder);
  server.Open();
  grpc::Status status;
  std::thread caller([&] { status = Embed(server); });
  encoder.WaitForBatch();
  // Destruction waits for the batch, the caller does not.
  std::thread destroyer([&] { server.Destroy(); });
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  encoder.Release();
  destroyer.join();
}

}  // namespace
}  // namespace lion
