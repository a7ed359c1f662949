// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What a Call does where its threads are busy: the pool of tokenizer threads and the queue, held by the test.

#include "server/call.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/bytes.h"
#include "tests/fakes/fake_clock.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::HasSubstr;

// Everything a Call reaches, by hand.
class CallTest : public testing::Test {
 protected:
  CallTest() : encoder_(TestEncoderOptions()), tokenizer_(OpenTestTokenizer()) {
    ServedModel model;
    model.name = "text";
    model.info = TestModelInfo();
    model.tokenizer = tokenizer_.get();
    model.encoders = {&encoder_};
    model.max_sequence_tokens = 64;
    models_ = std::make_unique<LiveModels>(ServedModels{model});
    context_.models = models_.get();
    context_.limits.max_request_tokens = context_.limits.max_queue_tokens = 20;
    metrics_ = std::make_unique<Metrics>(*models_->Get());
    executor_ = std::make_unique<Executor>(1);
    Batcher::Options batching;
    batching.max_queue_tokens = 20;
    batching.clock = &clock_;
    batching.metrics = metrics_.get();
    batcher_ = std::make_unique<Batcher>(*models_->Get(), batching);
    tokenizers_ = std::make_unique<TokenizerPool>(TokenizerPool::Options{.num_threads = 1, .max_pending_bytes = 100});
    context_.batcher = batcher_.get();
    context_.tokenizers = tokenizers_.get();
    context_.executor = executor_.get();
    context_.metrics = metrics_.get();
    context_.clock = &clock_;
  }
  ~CallTest() override {
    encoder_.Release();
    tokenizers_.reset();
    batcher_.reset();
    executor_.reset();
  }

  // Where a call's result arrives.
  struct Outcome {
    CallResult result;
    std::atomic<int> num_results = 0;
    absl::Notification done;
    std::atomic<int> num_waits = 0;      // on_wait(true)
    std::atomic<int> num_continues = 0;  // on_wait(false)
    absl::Notification waits;            // the first on_wait(true)
    std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
    std::shared_ptr<Call> call;

    v1::EmbedResponse Response() {
      v1::EmbedResponse response;
      grpc::ByteBuffer bytes = result.response;  // parsing empties it
      EXPECT_TRUE(ParseBytes(&bytes, &response));
      return response;
    }
  };

  // The calls of a test end before it does, so outcome outlives them.
  void Start(const v1::EmbedRequest& request, bool waits, Outcome* outcome,
             absl::Time deadline = absl::InfiniteFuture()) {
    grpc::ByteBuffer bytes;
    ASSERT_TRUE(SerializeBytes(request, &bytes).ok());
    Call::Options options;
    options.started = clock_.Now();
    options.deadline = deadline;
    options.cancelled = outcome->cancelled;
    if (waits) {
      options.on_wait = [outcome](bool begins) {
        if (!begins) {
          ++outcome->num_continues;
        } else if (outcome->num_waits++ == 0) {
          outcome->waits.Notify();
        }
      };
    }
    outcome->call = Call::Create(&context_, options, bytes, [outcome](CallResult result) {
      outcome->result = std::move(result);
      if (outcome->num_results++ == 0) outcome->done.Notify();
    });
    outcome->call->Start();
  }

  // Keeps the one tokenizer thread busy with this many bytes until release_.
  void HoldTokenizer(int64_t bytes) {
    ASSERT_TRUE(tokenizers_->Submit(bytes, [this] { release_.WaitForNotification(); }).ok());
  }

  FakeClock clock_;
  PuppetEncoder encoder_;
  absl::Notification release_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ServiceContext context_;
  std::unique_ptr<LiveModels> models_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Batcher> batcher_;
  std::unique_ptr<TokenizerPool> tokenizers_;
};

TEST_F(CallTest, AFullTokenizerPoolRefusesAUnaryCall) {
  HoldTokenizer(95);
  Outcome outcome;
  Start(WithInputs({TextInput("hello")}), /*waits=*/false, &outcome);
  ASSERT_TRUE(outcome.done.HasBeenNotified());
  EXPECT_EQ(outcome.result.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(outcome.result.status.message()), HasSubstr("100"));
  EXPECT_EQ(outcome.result.retry_pushback_ms, 1);
  EXPECT_EQ(outcome.result.model, 0);
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_rejected_total{reason=\"queue_full\"} 1"));
  release_.Notify();
}

TEST_F(CallTest, AFullTokenizerPoolMakesAStreamsMessageWait) {
  encoder_.Release();
  HoldTokenizer(95);
  Outcome outcome;
  Start(WithInputs({TextInput("hello")}), /*waits=*/true, &outcome);
  EXPECT_TRUE(outcome.waits.HasBeenNotified());
  EXPECT_FALSE(outcome.done.HasBeenNotified());
  release_.Notify();
  outcome.done.WaitForNotification();
  EXPECT_TRUE(outcome.result.status.ok()) << outcome.result.status;
  EXPECT_EQ(outcome.Response().results(0).token_count(), 3);
  EXPECT_EQ(outcome.num_waits, outcome.num_continues);
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_rejected_total{reason=\"queue_full\"} 0"));
}

TEST_F(CallTest, AFullQueueMakesAStreamsMessageWait) {
  Outcome running, waiting, held;
  Start(EmbedIds({1}), false, &running);
  encoder_.WaitForBatch();
  Start(WithInputs({IdsInput(std::vector<uint32_t>(15, 1))}), false, &waiting);
  Start(WithInputs({IdsInput(std::vector<uint32_t>(10, 2)), v1::Input()}), true, &held);
  EXPECT_TRUE(held.waits.HasBeenNotified());
  EXPECT_EQ(held.num_continues, 0);
  encoder_.Release();
  held.done.WaitForNotification();
  ASSERT_TRUE(held.result.status.ok()) << held.result.status;
  EXPECT_EQ(held.Response().results(0).token_count(), 10);
  EXPECT_TRUE(held.Response().results(1).has_error());
  EXPECT_EQ(held.num_waits, held.num_continues);
  running.done.WaitForNotification();
  waiting.done.WaitForNotification();
}

TEST_F(CallTest, WhatWaitsForRoomEndsWhenTheQueueStops) {
  Outcome running, waiting, held;
  Start(EmbedIds({1}), false, &running);
  encoder_.WaitForBatch();
  Start(WithInputs({IdsInput(std::vector<uint32_t>(15, 1))}), false, &waiting);
  Start(WithInputs({IdsInput(std::vector<uint32_t>(10, 2))}), true, &held);
  encoder_.Release();
  batcher_->Stop();
  for (Outcome* outcome : {&running, &waiting, &held}) outcome->done.WaitForNotification();
  EXPECT_TRUE(running.result.status.ok());
  for (Outcome* outcome : {&waiting, &held}) {
    EXPECT_TRUE(outcome->result.status.ok() || absl::IsUnavailable(outcome->result.status)) << outcome->result.status;
    EXPECT_EQ(outcome->num_results, 1);
  }
}

TEST_F(CallTest, ACallerThatHasGoneIsNotTokenizedFor) {
  HoldTokenizer(1);
  Outcome outcome;
  Start(WithInputs({TextInput("hello")}), false, &outcome);
  outcome.cancelled->store(true);
  release_.Notify();
  outcome.done.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(outcome.result.status));
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_tokenize_duration_seconds_count{model=\"text\"} 0"));
  EXPECT_EQ(encoder_.num_batches(), 0);
}

TEST_F(CallTest, ADeadlineThatPassesBeforeTheQueueIsARejection) {
  HoldTokenizer(1);
  Outcome outcome;
  Start(WithInputs({TextInput("hello")}), false, &outcome, clock_.Now() + absl::Seconds(1));
  clock_.Advance(absl::Seconds(1));
  release_.Notify();
  outcome.done.WaitForNotification();
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.result.status));
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_rejected_total{reason=\"deadline\"} 1"));
}

TEST_F(CallTest, ACallThatCannotMeetItsDeadlineIsRefusedAtOnce) {
  // Before anything was measured nobody is refused.
  Outcome first;
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &first, clock_.Now() + absl::Seconds(5));
  encoder_.WaitForBatch();
  clock_.Advance(absl::Seconds(4));  // a second a token
  encoder_.Finish();
  first.done.WaitForNotification();
  EXPECT_TRUE(first.result.status.ok()) << first.result.status;

  // Too much for an idle server.
  Outcome hopeless;
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &hopeless, clock_.Now() + absl::Seconds(2));
  ASSERT_TRUE(hopeless.done.HasBeenNotified());
  EXPECT_EQ(hopeless.result.status,
            absl::DeadlineExceededError("inputs: 4 tokens take about 4000 ms on an idle server, "
                                        "2000 ms are left until the deadline"));
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_rejected_total{reason=\"deadline\"} 1"));

  // Too much behind others; and somewhat late is not clearly late.
  Outcome running, waiting, late, refused;
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &running);
  encoder_.WaitForBatch();
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &waiting);
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &late, clock_.Now() + absl::Seconds(9));
  EXPECT_FALSE(late.done.HasBeenNotified());
  Start(WithInputs({IdsInput({1, 2, 3, 4})}), false, &refused, clock_.Now() + absl::Seconds(8));
  ASSERT_TRUE(refused.done.HasBeenNotified());
  EXPECT_EQ(refused.result.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.result.status.message()), HasSubstr("about 12000 ms to wait and 4000 ms to compute"));
  EXPECT_EQ(refused.result.retry_pushback_ms, -1);
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_rejected_total{reason=\"deadline\"} 2"));
  encoder_.Release();
  for (Outcome* outcome : {&running, &waiting, &late}) {
    outcome->done.WaitForNotification();
    EXPECT_TRUE(outcome->result.status.ok()) << outcome->result.status;
  }
}

TEST_F(CallTest, CutEndsACallOnceWhereverItIs) {
  // In the encoder.
  Outcome running;
  Start(WithInputs({IdsInput({1}), IdsInput({2})}), false, &running);
  encoder_.WaitForBatch();
  running.call->Cut();
  ASSERT_TRUE(running.done.HasBeenNotified());
  EXPECT_TRUE(absl::IsUnavailable(running.result.status));
  EXPECT_EQ(running.result.model, 0);
  EXPECT_THAT(metrics_->Text(), HasSubstr("lion_dropped_total{reason=\"drain\"} 2"));
  running.call->Cut();
  // Before it is tokenized.
  HoldTokenizer(1);
  Outcome tokenizing;
  Start(WithInputs({TextInput("hello")}), false, &tokenizing);
  tokenizing.call->Cut();
  EXPECT_TRUE(absl::IsUnavailable(tokenizing.result.status));
  release_.Notify();
  // Late answers reach nobody.
  encoder_.Release();
  Outcome last;
  Start(WithInputs({TextInput("hello")}), false, &last);
  last.done.WaitForNotification();
  EXPECT_TRUE(last.result.status.ok());
  last.call->Cut();
  EXPECT_EQ(running.num_results, 1);
  EXPECT_EQ(tokenizing.num_results, 1);
  EXPECT_EQ(last.num_results, 1);
}

TEST_F(CallTest, TimingsAreThoseOfTheSlowestRow) {
  Outcome outcome;
  Start(WithInputs({IdsInput({1}), IdsInput({2})}), false, &outcome);
  encoder_.WaitForBatch();
  clock_.Advance(absl::Milliseconds(1500));
  encoder_.Finish();
  outcome.done.WaitForNotification();
  const v1::Timings timings = outcome.Response().timings();
  EXPECT_EQ(timings.compute().seconds(), 1);
  EXPECT_EQ(timings.compute().nanos(), 500000000);
  EXPECT_EQ(timings.total().seconds(), 1);
  EXPECT_EQ(timings.queue().seconds(), 0);
}

TEST_F(CallTest, ErrorResponsesAreMessagesOfTheStream) {
  grpc::ByteBuffer bytes = ErrorResponse(context_, CallKind::kEmbed, 0, absl::NotFoundError("why"));
  v1::EmbedResponse embed;
  ASSERT_TRUE(ParseBytes(&bytes, &embed));
  EXPECT_EQ(embed.model(), "text");
  EXPECT_EQ(embed.error().code(), 5);
  EXPECT_EQ(embed.error().message(), "why");
  bytes = ErrorResponse(context_, CallKind::kClassify, Metrics::kUnknownModel, absl::InternalError("why"));
  v1::ClassifyResponse classify;
  ASSERT_TRUE(ParseBytes(&bytes, &classify));
  EXPECT_EQ(classify.model(), "");
  EXPECT_EQ(classify.error().code(), 13);
}

TEST(WhyCancelledTest, NearTheDeadlineItWasTheDeadline) {
  const absl::Time start = absl::UnixEpoch();
  const absl::Time deadline = start + absl::Seconds(10);
  EXPECT_TRUE(absl::IsDeadlineExceeded(WhyCancelled(start, deadline, deadline)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(WhyCancelled(start, deadline, deadline + absl::Hours(1))));
  // 20 ms, and 1 % of ten seconds.
  EXPECT_TRUE(absl::IsDeadlineExceeded(WhyCancelled(start, deadline, deadline - absl::Milliseconds(120))));
  EXPECT_TRUE(absl::IsCancelled(WhyCancelled(start, deadline, deadline - absl::Milliseconds(121))));
  EXPECT_TRUE(absl::IsCancelled(WhyCancelled(start, absl::InfiniteFuture(), deadline)));
}

}  // namespace
}  // namespace lion
