// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Every way in which a call can end, at every stage of its way, for every kind of call: it is answered once or not at
// all, counted once, its row runs, is dropped or fails once, and the server is then as before: every gauge at zero, and
// nobody inside, so that a drain is clean.
//
// The call under test comes over a wire that can be held and cut (relay.h); the encoder is a puppet; the one tokenizer
// thread is held by the clock that it asks.

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
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

using grpc::StatusCode;

enum class Kind { kUnary, kStream, kDocument };
enum class Stage {
  kQueued,      // behind a batch that is held
  kTokenizing,  // on the one tokenizer thread, which is held
  kComputing,   // in the batch that is held
  kAnswering,   // the answer is larger than the flow-control window, and the wire is held
};
enum class Ending {
  kOk,
  kCancel,    // by the client
  kDeadline,  // the client's
  kKilled,    // the client: its connection is gone
  kError,     // of ours or of the input, by stage
  kDrain,     // the server shuts down and has time
  kCut,       // the server shuts down and has none
};

std::string Name(Kind kind) {
  const std::vector<std::string> names = {"Unary", "Stream", "Document"};
  return names[static_cast<int>(kind)];
}
std::string Name(Stage stage) {
  const std::vector<std::string> names = {"Queued", "Tokenizing", "Computing", "Answering"};
  return names[static_cast<int>(stage)];
}
std::string Name(Ending ending) {
  const std::vector<std::string> names = {"Ok", "Cancel", "Deadline", "Killed", "Error", "Drain", "Cut"};
  return names[static_cast<int>(ending)];
}

// The machine's clock, which can hold one thread that asks it.
class HoldingClock : public Clock {
 public:
  absl::Time Now() const override {
    absl::MutexLock lock(&mu_);
    last_ = std::this_thread::get_id();
    if (last_ == held_) {
      num_held_ = 1;
      while (last_ == held_) released_.Wait(&mu_);
    }
    return absl::Now();
  }

  // Holds the thread that asked last, when it asks again.
  void HoldLast() {
    absl::MutexLock lock(&mu_);
    held_ = last_;
  }
  bool holds() const {
    absl::MutexLock lock(&mu_);
    return num_held_ > 0;
  }
  void Release() {
    absl::MutexLock lock(&mu_);
    held_ = std::thread::id();
    released_.SignalAll();
  }

 private:
  mutable absl::Mutex mu_;
  mutable absl::CondVar released_;
  mutable std::thread::id last_ ABSL_GUARDED_BY(mu_);
  mutable int num_held_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread::id held_ ABSL_GUARDED_BY(mu_);
};

// A call from the client's side.
class ClientCall {
 public:
  virtual ~ClientCall() = default;
  // The caller has nothing more to say; nothing for a unary call.
  virtual void CloseWrites() {}
  void Cancel() { context_.TryCancel(); }
  bool ended() const { return ended_.HasBeenNotified(); }
  const grpc::Status& Wait() {
    ended_.WaitForNotification();
    return status_;
  }
  // After Wait. Answers with status OK, or a stream's with an error of their own; a document's counts when it is whole.
  int num_answers() const { return num_answers_; }
  const v1::EmbedResponse& last_answer() const { return answer_; }  // of Embed and EmbedStream

 protected:
  explicit ClientCall(absl::Time deadline) {
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
  }

  grpc::ClientContext context_;
  v1::EmbedResponse answer_;
  int num_answers_ = 0;
  grpc::Status status_;
  absl::Notification ended_;
};

class UnaryCall final : public ClientCall {
 public:
  UnaryCall(v1::EncoderService::Stub* stub, const v1::EmbedRequest& request, absl::Time deadline)
      : ClientCall(deadline), request_(request) {
    stub->async()->Embed(&context_, &request_, &answer_, [this](grpc::Status status) {
      status_ = std::move(status);
      num_answers_ = status_.ok() ? 1 : 0;
      ended_.Notify();
    });
  }

 private:
  const v1::EmbedRequest request_;
};

class StreamCall final : public ClientCall {
 public:
  StreamCall(v1::EncoderService::Stub* stub, const v1::EmbedRequest& request, absl::Time deadline)
      : ClientCall(deadline), stream_(stub->EmbedStream(&context_)) {
    stream_->Write(request);
    reader_ = std::thread([this] {
      while (stream_->Read(&answer_)) ++num_answers_;
      status_ = stream_->Finish();
      ended_.Notify();
    });
  }
  ~StreamCall() override { reader_.join(); }
  void CloseWrites() override { stream_->WritesDone(); }

 private:
  std::unique_ptr<grpc::ClientReaderWriter<v1::EmbedRequest, v1::EmbedResponse>> stream_;
  std::thread reader_;
};

class DocumentCall final : public ClientCall {
 public:
  DocumentCall(v1::EncoderService::Stub* stub, const v1::EmbedRequest& request, absl::Time deadline)
      : ClientCall(deadline) {
    v1::EmbedDocumentRequest document;
    document.set_model(request.model());
    *document.mutable_input() = request.inputs(0);
    document.set_pooling(request.pooling() == v1::POOLING_UNSPECIFIED ? v1::POOLING_MEAN : request.pooling());
    stream_ = stub->EmbedDocument(&context_, document);
    reader_ = std::thread([this] {
      v1::EmbedDocumentResponse message;
      uint64_t num_vectors = 0;
      while (stream_->Read(&message)) {
        num_vectors += message.vectors().vectors_size();
        if (!message.has_end()) continue;
        ++num_answers_;
        EXPECT_EQ(message.end().num_vectors(), num_vectors);
      }
      status_ = stream_->Finish();
      ended_.Notify();
    });
  }
  ~DocumentCall() override { reader_.join(); }

 private:
  std::unique_ptr<grpc::ClientReader<v1::EmbedDocumentResponse>> stream_;
  std::thread reader_;
};

class OutcomeMatrixTest : public testing::TestWithParam<std::tuple<Kind, Stage, Ending>> {
 protected:
  OutcomeMatrixTest()
      : kind_(std::get<0>(GetParam())),
        stage_(std::get<1>(GetParam())),
        ending_(std::get<2>(GetParam())),
        encoder_(TestEncoderOptions()),
        server_(Options(), &encoder_),
        relay_(server_->address()),
        channel_(Connect()),
        stub_(v1::EncoderService::NewStub(channel_)) {
    server_.Open();
  }

  ~OutcomeMatrixTest() override {
    ReleaseAll();
    call_.reset();
    if (drainer_.joinable()) drainer_.join();
  }

  Server::Options Options() {
    Server::Options options = TestServerOptions();
    options.clock = &clock_;
    options.tokenizer_threads = 1;
    if (ending_ == Ending::kCut) options.drain_timeout = absl::ZeroDuration();
    return options;
  }

  std::shared_ptr<grpc::Channel> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    // The window stays what it is, 16 KiB: the rest of an answer that nobody takes waits in the server.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16384);
    arguments.SetMaxReceiveMessageSize(-1);
    auto channel = grpc::CreateCustomChannel(relay_.address(), grpc::InsecureChannelCredentials(), arguments);
    EXPECT_TRUE(channel->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Minutes(1))));
    return channel;
  }

  std::string rpc() const {
    const std::vector<std::string> names = {"Embed", "EmbedStream", "EmbedDocument"};
    return names[static_cast<int>(kind_)];
  }
  // A document is one row: where that fails there is nothing to answer.
  bool fails_before_its_answer() const {
    return kind_ == Kind::kDocument && stage_ == Stage::kAnswering && ending_ == Ending::kError;
  }

  v1::EmbedRequest Request() const {
    if (stage_ == Stage::kTokenizing) {
      // An error there: longer than the model takes.
      std::string text = "the quick brown fox";
      if (ending_ == Ending::kError)
        for (int i = 0; i < 100; ++i) text += " fox";
      return WithInputs({TextInput(text)});
    }
    if (fails_before_its_answer()) return WithInputs({IdsInput({666})}, "ids");
    if (stage_ == Stage::kAnswering) {
      std::vector<v1::Input> inputs = {IdsInput(std::vector<uint32_t>(20000, 1))};
      if (ending_ == Ending::kError) inputs.push_back(IdsInput({666}));  // NaN
      v1::EmbedRequest request = WithInputs(inputs, "ids");
      request.set_pooling(v1::POOLING_TOKENS);
      return request;
    }
    return EmbedIds({1, 2, 3});
  }

  // Brings the call under test to its stage, unless it has ended before: on a busy machine its deadline may pass on its
  // way.
  void Begin() {
    if (stage_ == Stage::kQueued) {
      server_.stub()->async()->Classify(&blocker_.context, &blocker_.request, &blocker_.response,
                                        [this](grpc::Status) { blocker_.ended.Notify(); });
      encoder_.WaitForBatch();
    } else if (stage_ == Stage::kTokenizing) {
      // The last to ask for the time on the way of a Tokenize is the tokenizer thread, which ends it.
      grpc::ClientContext context;
      v1::TokenizeResponse response;
      ASSERT_TRUE(
          server_.stub()->Tokenize(&context, WithInputs<v1::TokenizeRequest>({TextInput("a")}), &response).ok());
      clock_.HoldLast();
    } else if (stage_ == Stage::kAnswering) {
      encoder_.Release();
      relay_.Hold();
    }
    const absl::Time deadline =
        ending_ == Ending::kDeadline ? absl::Now() + absl::Milliseconds(500) : absl::InfiniteFuture();
    if (kind_ == Kind::kUnary) {
      call_ = std::make_unique<UnaryCall>(stub_.get(), Request(), deadline);
    } else if (kind_ == Kind::kStream) {
      call_ = std::make_unique<StreamCall>(stub_.get(), Request(), deadline);
    } else {
      call_ = std::make_unique<DocumentCall>(stub_.get(), Request(), deadline);
    }
    while (!(came_ = AtStage()) && !call_->ended()) std::this_thread::yield();
  }

  bool AtStage() const {
    switch (stage_) {
      case Stage::kQueued:
        return server_.Metric("lion_queue_sequences{model=\"text\"}") == 1;
      case Stage::kTokenizing:
        return clock_.holds();
      case Stage::kComputing:
        return encoder_.num_batches() == 1;
      case Stage::kAnswering:
        return relay_.held_bytes() > (fails_before_its_answer() ? 0 : 8192);
    }
    return false;
  }

  // Ends it, and lets everything go.
  void End() {
    switch (ending_) {
      case Ending::kOk:
        break;
      case Ending::kCancel:
        call_->Cancel();
        call_->Wait();
        break;
      case Ending::kDeadline:
        call_->Wait();
        break;
      case Ending::kKilled:
        relay_.Cut();
        call_->Wait();
        break;
      case Ending::kError:
        if (stage_ == Stage::kQueued) encoder_.Finish(Lost("cpu"));
        if (stage_ == Stage::kComputing) encoder_.Finish(absl::InternalError("the device failed"));
        break;
      case Ending::kDrain:
      case Ending::kCut:
        drainer_ = std::thread([this] {
          clean_ = server_->Drain(absl::Now());
          drained_.Notify();
        });
        if (ending_ == Ending::kDrain) {
          WaitUntilRefused();
        } else {
          drained_.WaitForNotification();
        }
        break;
    }
    ReleaseAll();
    if (ending_ == Ending::kOk || ending_ == Ending::kError) call_->CloseWrites();
    call_->Wait();
    if (stage_ == Stage::kQueued) blocker_.ended.WaitForNotification();
  }

  void ReleaseAll() {
    encoder_.Release();
    clock_.Release();
    relay_.Resume();
  }

  void WaitUntilRefused() const {
    for (;;) {
      grpc::ClientContext context;
      v1::ListModelsResponse response;
      if (!server_.stub()->ListModels(&context, v1::ListModelsRequest(), &response).ok()) return;
    }
  }

  // The status that the client must see.
  StatusCode WantedCode() const {
    switch (ending_) {
      case Ending::kOk:
        return StatusCode::OK;
      case Ending::kCancel:
        return StatusCode::CANCELLED;
      case Ending::kDeadline:
        return StatusCode::DEADLINE_EXCEEDED;
      case Ending::kKilled:
      case Ending::kCut:
        return StatusCode::UNAVAILABLE;
      case Ending::kDrain:  // a stream that is not closed ends so after its answers
        return kind_ == Kind::kStream ? StatusCode::UNAVAILABLE : StatusCode::OK;
      case Ending::kError:
        if (stage_ == Stage::kQueued) return StatusCode::UNAVAILABLE;  // the last device is lost
        if (fails_before_its_answer()) return StatusCode::INTERNAL;
        if (stage_ == Stage::kAnswering || kind_ == Kind::kStream) return StatusCode::OK;  // the error is in the answer
        return stage_ == Stage::kTokenizing ? StatusCode::INVALID_ARGUMENT : StatusCode::INTERNAL;
    }
    return StatusCode::UNKNOWN;
  }

  int WantedAnswers() const {
    if (ending_ == Ending::kOk || ending_ == Ending::kDrain) return 1;
    return ending_ == Ending::kError && WantedCode() == StatusCode::OK ? 1 : 0;
  }

  // How often the call under test has been counted.
  double NumCounted() { return Sum("lion_rpc_requests_total", absl::StrCat("rpc=\"", rpc(), "\"")); }

  // The sum of a metric over all of its label sets that hold label; every sample's name is NAME or NAME{...}.
  double Sum(const std::string& name, const std::string& label = "") {
    double sum = 0;
    const std::string text = server_->metrics()->Text();
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      if (!absl::StartsWith(line, name) || !absl::StrContains(line, label)) continue;
      if (line[name.size()] != '{' && line[name.size()] != ' ') continue;
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) << std::string(line);
      sum += value;
    }
    return sum;
  }

  const Kind kind_;
  const Stage stage_;
  const Ending ending_;
  HoldingClock clock_;
  PuppetEncoder encoder_;
  TestServer server_;
  Relay relay_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::EncoderService::Stub> stub_;
  // What the call waits behind where it is to be queued. Another RPC, so that it is counted apart.
  struct {
    grpc::ClientContext context;
    v1::ClassifyRequest request = WithInputs<v1::ClassifyRequest>({IdsInput({9})});
    v1::ClassifyResponse response;
    absl::Notification ended;
  } blocker_;
  std::unique_ptr<ClientCall> call_;
  bool came_ = false;  // the call came to its stage
  std::thread drainer_;
  absl::Notification drained_;
  bool clean_ = false;
};

TEST_P(OutcomeMatrixTest, IsAnsweredAndCountedOnce) {
  Begin();
  End();

  const StatusCode code = call_->Wait().error_code();
  if (ending_ == Ending::kCut && stage_ == Stage::kAnswering) {
    // gRPC is shut down under an answer that its caller does not read: what the caller sees is the connection's end.
    EXPECT_NE(code, StatusCode::OK);
  } else {
    EXPECT_EQ(code, WantedCode()) << call_->Wait().error_message();
  }
  EXPECT_EQ(call_->num_answers(), WantedAnswers());
  if (call_->num_answers() == 1 && kind_ != Kind::kDocument) {
    const v1::EmbedResponse& answer = call_->last_answer();
    const bool fails = ending_ == Ending::kError;
    const bool fails_in_row = fails && stage_ == Stage::kAnswering;
    EXPECT_EQ(answer.has_error(), fails && !fails_in_row) << answer.error().ShortDebugString();
    if (!fails) {
      ASSERT_EQ(answer.results_size(), 1);
      EXPECT_FALSE(answer.results(0).has_error());
    } else if (fails_in_row) {
      ASSERT_EQ(answer.results_size(), 2);
      EXPECT_EQ(answer.results(0).vectors_size(), 20000);
      EXPECT_EQ(answer.results(1).error().code(), StatusCode::INTERNAL);
    }
  }

  // The server learns of some endings from its own side of the wire.
  const std::vector<std::string> gauges = {"lion_rpc_in_flight", "lion_queue_sequences", "lion_queue_tokens"};
  for (const std::string& gauge : gauges) {
    while (Sum(gauge) != 0) std::this_thread::yield();
  }
  EXPECT_LE(NumCounted(), 1);
  EXPECT_GE(NumCounted(), came_ ? 1 : 0);

  // Every row ran, was dropped or failed with its batch, once; one that was cut while it ran is dropped and runs on.
  const double blockers = stage_ == Stage::kQueued ? 1 : 0;
  const double rows =
      blockers + (stage_ == Stage::kAnswering && ending_ == Ending::kError && kind_ != Kind::kDocument ? 2 : 1);
  const auto ended_rows = [this] { return Sum("lion_sequences_total") + Sum("lion_dropped_total"); };
  // A row that was queued ends, some after their call; the others fail with their batch or never come so far.
  if (stage_ == Stage::kQueued && ending_ != Ending::kError && came_) {
    while (ended_rows() < rows) std::this_thread::yield();
  }
  EXPECT_LE(ended_rows(), ending_ == Ending::kCut ? 2 * rows : rows);

  // Nobody is inside.
  if (ending_ == Ending::kDrain || ending_ == Ending::kCut) {
    drained_.WaitForNotification();
    EXPECT_EQ(clean_, ending_ == Ending::kDrain);
  } else {
    EXPECT_TRUE(server_->Drain(absl::Now()));
  }
  for (const std::string& gauge : gauges) EXPECT_EQ(Sum(gauge), 0) << gauge;
  EXPECT_LE(NumCounted(), 1);
  EXPECT_GE(NumCounted(), came_ ? 1 : 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, OutcomeMatrixTest,
    testing::Combine(testing::Values(Kind::kUnary, Kind::kStream, Kind::kDocument),
                     testing::Values(Stage::kQueued, Stage::kTokenizing, Stage::kComputing, Stage::kAnswering),
                     testing::Values(Ending::kOk, Ending::kCancel, Ending::kDeadline, Ending::kKilled, Ending::kError,
                                     Ending::kDrain, Ending::kCut)),
    [](const testing::TestParamInfo<OutcomeMatrixTest::ParamType>& cell) {
      return absl::StrCat(Name(std::get<0>(cell.param)), Name(std::get<1>(cell.param)), Name(std::get<2>(cell.param)));
    });

}  // namespace
}  // namespace lion
