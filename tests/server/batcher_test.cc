// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batcher.h"

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_encoder.h"
#include "tests/server/batcher_rows.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Two models, each on a puppet, and a batcher with a budget of 100 tokens and room for 200.
class BatcherTest : public ::testing::Test {
 protected:
  ~BatcherTest() override {
    puppet_.Release();
    other_.Release();
  }

  // A row of that many tokens, whose first id is id.
  PendingRow MakeRow(uint32_t id, int64_t tokens, int model = 0) { return lion::MakeRow(id, tokens, &answers_, model); }

  absl::Status Submit(PendingRow row) {
    std::vector<PendingRow> rows;
    rows.push_back(std::move(row));
    return batcher_->Submit(std::move(rows));
  }

  // Puts a row of one token on the device, with id 0, and leaves it there.
  void Occupy() {
    ASSERT_TRUE(Submit(MakeRow(0, 1)).ok());
    ASSERT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(0));
  }

  double Metric(const std::string& series) const { return MetricValue(metrics_, series); }
  double NumDropped(const char* reason) const {
    return Metric(absl::StrCat("lion_dropped_total{reason=\"", reason, "\"}"));
  }

  static ServedModel MakeModel(std::string name, Encoder* encoder) {
    ServedModel model;
    model.name = std::move(name);
    model.encoders = {encoder};
    model.info.max_batch_tokens = 100;
    return model;
  }

  FakeClock clock_;
  PuppetEncoder puppet_;
  PuppetEncoder other_;
  const std::vector<ServedModel> models_ = {MakeModel("demo", &puppet_), MakeModel("other", &other_)};
  Metrics metrics_{models_};
  Answers answers_;
  // Last: it ends before what it uses.
  std::unique_ptr<Batcher> batcher_ = std::make_unique<Batcher>(
      models_, Batcher::Options{.max_queue_tokens = 200, .clock = &clock_, .metrics = &metrics_});
};

TEST_F(BatcherTest, AnswersARowWithTheEncodersResult) {
  PendingRow row = MakeRow(7, 3);
  row.type_ids = {0, 0, 1};
  row.mode = ComputeMode::kChunked;
  row.chunk_tokens = 16;
  row.output = RowOutput::kTokens;
  ASSERT_TRUE(Submit(std::move(row)).ok());
  const std::vector<PuppetEncoder::HeldRow> batch = puppet_.WaitForBatch();
  ASSERT_THAT(batch, SizeIs(1));
  EXPECT_THAT(batch[0].ids, ElementsAre(7, 1, 1));
  EXPECT_THAT(batch[0].type_ids, ElementsAre(0, 0, 1));
  EXPECT_EQ(batch[0].mode, ComputeMode::kChunked);
  EXPECT_EQ(batch[0].chunk_tokens, 16);
  EXPECT_EQ(batch[0].output, RowOutput::kTokens);
  puppet_.Finish();
  const std::vector<Answers::Named> answers = answers_.Take(1);
  ASSERT_THAT(answers, SizeIs(1));
  ASSERT_TRUE(answers[0].answer.status.ok()) << answers[0].answer.status;
  const std::vector<uint32_t> ids = {7, 1, 1}, type_ids = {0, 0, 1};
  const RowResult expected = FakeEncoder().Answer({.ids = ids, .type_ids = type_ids, .output = RowOutput::kTokens});
  EXPECT_EQ(answers[0].answer.result.values, expected.values);
  EXPECT_EQ(answers[0].answer.result.num_vectors, 3);
  EXPECT_EQ(answers[0].answer.result.width, 4);
}

TEST_F(BatcherTest, NoRowsIsNothing) {
  EXPECT_TRUE(batcher_->Submit({}).ok());
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
}

TEST_F(BatcherTest, RowsThatCameWhileTheDeviceWasBusyLeaveTogether) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 10)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 20)).ok());
  std::vector<PendingRow> call;
  call.push_back(MakeRow(3, 30));
  call.push_back(MakeRow(4, 5));
  ASSERT_TRUE(batcher_->Submit(std::move(call)).ok());
  EXPECT_EQ(batcher_->num_pending_rows(), 5);
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(batcher_->num_pending_rows(), 4);
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(5)), ElementsAre("0", "1", "2", "3", "4"));
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
}

TEST_F(BatcherTest, BatchesKeepTheBudgetTheModelAndTheOrder) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 60)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 50)).ok());
  ASSERT_TRUE(Submit(MakeRow(3, 5, /*model=*/1)).ok());
  ASSERT_TRUE(Submit(MakeRow(4, 40)).ok());
  ASSERT_TRUE(Submit(MakeRow(5, 10)).ok());
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1, 4));  // 100 tokens; 2 is passed over
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2, 5));
  puppet_.Finish();
  EXPECT_THAT(Ids(other_.WaitForBatch()), ElementsAre(3));
  other_.Finish();
  EXPECT_THAT(Names(answers_.Take(6)), ElementsAre("0", "1", "4", "2", "5", "3"));
}

TEST_F(BatcherTest, ARowLongerThanTheBudgetTravelsAlone) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 150)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 1)).ok());
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1));
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2));
}

TEST_F(BatcherTest, TimesAreMeasured) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 10)).ok());
  clock_.Advance(absl::Seconds(2));
  puppet_.Finish();
  RowAnswer first = answers_.Take(1)[0].answer;
  EXPECT_EQ(first.queue, absl::ZeroDuration());
  EXPECT_EQ(first.compute, absl::Seconds(2));
  puppet_.WaitForBatch();
  clock_.Advance(absl::Seconds(1));
  puppet_.Finish();
  RowAnswer second = answers_.Take(1)[0].answer;
  EXPECT_EQ(second.queue, absl::Seconds(2));
  EXPECT_EQ(second.compute, absl::Seconds(1));
  EXPECT_EQ(Metric("lion_queue_duration_seconds_sum{model=\"demo\"}"), 2);
  EXPECT_EQ(Metric("lion_compute_duration_seconds_sum{model=\"demo\"}"), 3);
}

TEST_F(BatcherTest, AClockThatStepsBackGivesNoNegativeTimes) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 10)).ok());
  clock_.Advance(-absl::Hours(1));
  puppet_.Finish();
  EXPECT_EQ(answers_.Take(1)[0].answer.compute, absl::ZeroDuration());
  puppet_.Finish();
  EXPECT_EQ(answers_.Take(1)[0].answer.queue, absl::ZeroDuration());
  EXPECT_EQ(batcher_->EstimatedWait(), absl::ZeroDuration());
}

TEST_F(BatcherTest, ACancelledRowIsDroppedBeforeItCostsAnything) {
  Occupy();
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  PendingRow row = MakeRow(1, 10);
  row.cancelled = cancelled;
  ASSERT_TRUE(Submit(std::move(row)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 10)).ok());
  cancelled->store(true);
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2));
  const std::vector<Answers::Named> answers = answers_.Take(2);
  EXPECT_THAT(Names(answers), ElementsAre("0", "1"));  // 1 did not wait for the batch that left without it
  EXPECT_EQ(answers[1].answer.status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(answers[1].answer.result.values, IsEmpty());
  EXPECT_EQ(NumDropped("cancelled"), 1);
  EXPECT_EQ(Metric("lion_queue_sequences{model=\"demo\"}"), 0);
}

TEST_F(BatcherTest, ARowThatLeftIsNotDroppedAnymore) {
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  PendingRow row = MakeRow(1, 10);
  row.cancelled = cancelled;
  row.deadline = clock_.Now() + absl::Seconds(1);
  ASSERT_TRUE(Submit(std::move(row)).ok());
  puppet_.WaitForBatch();
  cancelled->store(true);
  clock_.Advance(absl::Seconds(2));
  puppet_.Finish();
  EXPECT_TRUE(answers_.Take(1)[0].answer.status.ok());
  EXPECT_EQ(Metric("lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 1);
}

TEST_F(BatcherTest, ADeadlineThatPassesInTheQueueDropsTheRow) {
  Occupy();
  const absl::Time deadline = clock_.Now() + absl::Seconds(5);
  PendingRow row = MakeRow(1, 60);
  row.deadline = deadline;
  ASSERT_TRUE(Submit(std::move(row)).ok());
  row = MakeRow(2, 60);  // does not fit beside 1: still in the queue when 1 has left
  row.deadline = deadline;
  ASSERT_TRUE(Submit(std::move(row)).ok());
  clock_.Set(deadline - absl::Microseconds(1));
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1));
  EXPECT_THAT(Names(answers_.Take(1)), ElementsAre("0"));
  EXPECT_EQ(NumDropped("deadline"), 0);
  clock_.Advance(absl::Microseconds(1));
  puppet_.Finish();
  const std::vector<Answers::Named> answers = answers_.Take(2);
  EXPECT_THAT(Names(answers), ElementsAre("1", "2"));
  EXPECT_TRUE(answers[0].answer.status.ok());
  EXPECT_EQ(answers[1].answer.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(answers[1].answer.queue, absl::Seconds(5));
  EXPECT_EQ(answers[1].answer.compute, absl::ZeroDuration());
  EXPECT_EQ(NumDropped("deadline"), 1);
  EXPECT_EQ(puppet_.num_batches(), 2);
}

TEST_F(BatcherTest, AFullQueueRefusesTheWholeCallAtOnce) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 150)).ok());
  std::vector<PendingRow> call;
  call.push_back(MakeRow(2, 50));
  call.push_back(MakeRow(3, 1));
  const absl::Status refused = batcher_->Submit(std::move(call));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "queue full: 150 tokens wait, 51 more would pass the limit of 200 (max_queue_tokens)");
  EXPECT_EQ(batcher_->num_pending_rows(), 2);
  EXPECT_EQ(Metric("lion_queue_tokens{model=\"demo\"}"), 150);
  EXPECT_TRUE(Submit(MakeRow(4, 50)).ok());  // exactly the limit
  EXPECT_EQ(Submit(MakeRow(5, 1)).code(), absl::StatusCode::kResourceExhausted);
  puppet_.Finish();
  puppet_.WaitForBatch();  // 1 runs: what runs waits no longer
  EXPECT_TRUE(Submit(MakeRow(6, 150)).ok());
  puppet_.Release();
  EXPECT_THAT(Names(answers_.Take(4)), ElementsAre("0", "1", "4", "6"));
}

TEST_F(BatcherTest, WhatCanNeverFitOrIsNoRowIsInvalid) {
  absl::Status status = Submit(MakeRow(1, 201));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "inputs: 201 tokens in one call, the limit is 200 (max_queue_tokens)");
  PendingRow row = MakeRow(1, 2);
  row.ids.clear();
  EXPECT_EQ(Submit(std::move(row)).code(), absl::StatusCode::kInvalidArgument);
  row = MakeRow(1, 2);
  row.type_ids = {0};
  EXPECT_EQ(Submit(std::move(row)).code(), absl::StatusCode::kInvalidArgument);
  for (int model : {-1, 2}) {
    EXPECT_EQ(Submit(MakeRow(1, 2, model)).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  EXPECT_EQ(answers_.size(), 0);
}

TEST_F(BatcherTest, ANanRowFailsAlone) {
  Occupy();
  for (uint32_t id : {1, 2, 3}) ASSERT_TRUE(Submit(MakeRow(id, 10)).ok());
  puppet_.Finish();
  puppet_.Finish(absl::OkStatus(), /*nan_rows=*/{1});
  const std::vector<Answers::Named> answers = answers_.Take(4);
  EXPECT_TRUE(answers[1].answer.status.ok());
  EXPECT_EQ(answers[2].answer.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(answers[2].answer.status.message()), HasSubstr("NaN"));
  EXPECT_THAT(answers[2].answer.result.values, IsEmpty());
  EXPECT_TRUE(answers[3].answer.status.ok());
  EXPECT_EQ(Metric("lion_bad_rows_total{model=\"demo\"}"), 1);
  EXPECT_EQ(Metric("lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 4);  // it was encoded
}

TEST_F(BatcherTest, AnEncoderThatFailsFailsItsBatchAndNoOther) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 60)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 40)).ok());
  ASSERT_TRUE(Submit(MakeRow(3, 60)).ok());
  puppet_.Finish();
  puppet_.Finish(absl::InternalError("cudaLaunchKernel: out of luck"));
  puppet_.Finish();
  const std::vector<Answers::Named> answers = answers_.Take(4);
  ASSERT_THAT(Names(answers), ElementsAre("0", "1", "2", "3"));
  for (int i : {1, 2}) EXPECT_EQ(answers[i].answer.status, absl::InternalError("cudaLaunchKernel: out of luck"));
  EXPECT_TRUE(answers[3].answer.status.ok());
  EXPECT_EQ(Metric("lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 2);
  EXPECT_EQ(Metric("lion_tokens_total{mode=\"parallel\",model=\"demo\"}"), 61);
  EXPECT_EQ(Metric("lion_batch_sequences_count{model=\"demo\"}"), 3);
  EXPECT_EQ(Metric("lion_queue_sequences{model=\"demo\"}"), 0);
}

TEST_F(BatcherTest, MetricsAndCountsStandBeforeTheAnswer) {
  double sequences = 0, tokens = 0, batches = 0, waiting = -1;
  int64_t pending = -1;
  absl::Notification answered;
  PendingRow row = MakeRow(1, 10);
  row.done = [&](const RowAnswer&) {
    sequences = Metric("lion_sequences_total{mode=\"parallel\",model=\"demo\"}");
    tokens = Metric("lion_tokens_total{mode=\"parallel\",model=\"demo\"}");
    batches = Metric("lion_batch_tokens_count{model=\"demo\"}");
    waiting = Metric("lion_queue_sequences{model=\"demo\"}");
    pending = batcher_->num_pending_rows();  // and so no lock is held
    answered.Notify();
  };
  ASSERT_TRUE(Submit(std::move(row)).ok());
  puppet_.Finish();
  answered.WaitForNotification();
  EXPECT_EQ(sequences, 1);
  EXPECT_EQ(tokens, 10);
  EXPECT_EQ(batches, 1);
  EXPECT_EQ(waiting, 0);
  EXPECT_EQ(pending, 0);
}

TEST_F(BatcherTest, DoneMaySubmit) {
  absl::Notification again;
  PendingRow row = MakeRow(1, 10);
  row.done = [&](const RowAnswer&) {
    PendingRow next = MakeRow(2, 10);
    next.done = [&again](const RowAnswer&) { again.Notify(); };
    ASSERT_TRUE(Submit(std::move(next)).ok());
  };
  ASSERT_TRUE(Submit(std::move(row)).ok());
  puppet_.Finish();
  puppet_.Finish();
  again.WaitForNotification();
}

TEST_F(BatcherTest, StopAnswersWhatWaitsFinishesWhatRunsAndRefusesTheRest) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 10)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 10, /*model=*/1)).ok());
  absl::Notification room;
  batcher_->WhenRoom(190, [&room] { room.Notify(); });
  EXPECT_FALSE(room.HasBeenNotified());
  std::thread stopper([this] { batcher_->Stop(); });
  std::thread second_stopper([this] { batcher_->Stop(); });
  // Nothing moves while the puppet holds its batch: rows are taken, then refused for want of room, then because Stop
  // has begun.
  size_t taken = 3;
  for (absl::Status status; !absl::IsUnavailable(status); std::this_thread::yield()) {
    status = Submit(MakeRow(3, 1));
    if (status.ok()) ++taken;
  }
  puppet_.Finish();
  stopper.join();
  second_stopper.join();
  EXPECT_TRUE(room.HasBeenNotified());
  EXPECT_EQ(answers_.size(), taken);
  const std::vector<Answers::Named> answers = answers_.Take(taken);
  EXPECT_TRUE(answers[0].answer.status.ok());
  EXPECT_EQ(answers[1].name, "1");
  EXPECT_EQ(answers[1].answer.status, absl::UnavailableError("server is draining"));
  EXPECT_EQ(answers[2].name, "2");
  EXPECT_EQ(answers[2].answer.status, absl::UnavailableError("server is draining"));
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  EXPECT_EQ(Submit(MakeRow(4, 1)), absl::UnavailableError("server is draining"));
  batcher_->Stop();  // again: nothing
  EXPECT_EQ(NumDropped("drain"), static_cast<double>(taken) - 1);
  EXPECT_EQ(Metric("lion_queue_sequences{model=\"demo\"}"), 0);
  EXPECT_EQ(Metric("lion_queue_tokens{model=\"other\"}"), 0);
}

TEST_F(BatcherTest, WhenRoomCallsAtOnceIfThereIsRoomOrNeverWillBeOrAfterStop) {
  int called = 0;  // on this thread
  batcher_->WhenRoom(200, [&called] { ++called; });
  EXPECT_EQ(called, 1);
  batcher_->WhenRoom(0, [&called] { ++called; });
  EXPECT_EQ(called, 2);
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 200)).ok());
  batcher_->WhenRoom(201, [&called] { ++called; });
  EXPECT_EQ(called, 3);
  puppet_.Release();
  batcher_->Stop();
  batcher_->WhenRoom(1, [&called] { ++called; });
  EXPECT_EQ(called, 4);
}

TEST_F(BatcherTest, WhenRoomWakesInOrderAsManyAsFit) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 100)).ok());
  ASSERT_TRUE(Submit(MakeRow(2, 100)).ok());
  std::vector<int> woken;  // by the runner: read where it is held or has answered
  auto wait = [&](int name, int64_t tokens, uint32_t id) {
    batcher_->WhenRoom(tokens, [this, &woken, name, tokens, id] {
      woken.push_back(name);
      ASSERT_TRUE(Submit(MakeRow(id, tokens)).ok());
    });
  };
  wait(1, 60, 11);
  wait(2, 50, 12);  // does not fit beside the first
  wait(3, 10, 13);  // would fit, but came later
  EXPECT_THAT(woken, IsEmpty());
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1));
  EXPECT_THAT(woken, ElementsAre(1));
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2));
  EXPECT_THAT(woken, ElementsAre(1, 2, 3));
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(11, 13));
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(12));
  puppet_.Finish();
  answers_.Take(6);
}

TEST_F(BatcherTest, AWaiterThatLeavesItsRoomUnusedDoesNotStrandTheNext) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 200)).ok());
  absl::Notification second;
  batcher_->WhenRoom(200, [] {});  // its caller has gone
  batcher_->WhenRoom(200, [&second] { second.Notify(); });
  puppet_.Finish();
  puppet_.Finish();
  second.WaitForNotification();  // though no row is left to come by
}

TEST_F(BatcherTest, RoomMayWaitAgain) {
  Occupy();
  ASSERT_TRUE(Submit(MakeRow(1, 200)).ok());
  absl::Notification ended;
  batcher_->WhenRoom(150, [&] {
    ASSERT_TRUE(Submit(MakeRow(2, 150)).ok());
    batcher_->WhenRoom(100, [&ended] { ended.Notify(); });
  });
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1));
  EXPECT_FALSE(ended.HasBeenNotified());
  puppet_.Finish();
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2));
  EXPECT_TRUE(ended.HasBeenNotified());
}

TEST_F(BatcherTest, EstimatedWaitFollowsTheMeasuredSpeed) {
  EXPECT_EQ(batcher_->EstimatedWait(), absl::ZeroDuration());
  ASSERT_TRUE(Submit(MakeRow(1, 100)).ok());
  puppet_.WaitForBatch();
  ASSERT_TRUE(Submit(MakeRow(2, 50)).ok());
  EXPECT_EQ(batcher_->EstimatedWait(), absl::ZeroDuration());  // nothing measured yet
  clock_.Advance(absl::Seconds(1));
  puppet_.Finish();  // 100 tokens a second
  puppet_.WaitForBatch();
  ASSERT_TRUE(Submit(MakeRow(3, 150)).ok());
  auto seconds = [this] { return absl::ToDoubleSeconds(batcher_->EstimatedWait()); };
  EXPECT_NEAR(seconds(), 2.0, 1e-9);  // 50 run, 150 wait
  clock_.Advance(absl::Milliseconds(200));
  EXPECT_NEAR(seconds(), 1.8, 1e-9);
  clock_.Advance(absl::Milliseconds(9800));
  EXPECT_NEAR(seconds(), 1.5, 1e-9);  // the batch is late: its rest counts 0
  puppet_.Finish();                   // 50 tokens in 10 s
  puppet_.WaitForBatch();
  const double slower = (0.8 * 1 + 10) / (0.8 * 100 + 50);
  EXPECT_NEAR(seconds(), 150 * slower, 1e-9);
  puppet_.Finish(absl::InternalError("at once"));
  answers_.Take(3);
  ASSERT_TRUE(Submit(MakeRow(4, 100)).ok());
  puppet_.WaitForBatch();
  EXPECT_NEAR(seconds(), 100 * slower, 1e-9);  // failing fast is not being fast
}

TEST(BatcherLimitsTest, ALongQueueLeavesInBatchesOfTheLookAhead) {
  PuppetEncoder puppet;
  ServedModel model;
  model.name = "demo";
  model.encoders = {&puppet};
  model.info.max_batch_tokens = 1 << 20;
  Metrics metrics({model});
  Answers answers;
  FakeClock clock;
  Batcher batcher({model}, {.clock = &clock, .metrics = &metrics});
  auto submit = [&](int rows) {
    std::vector<PendingRow> call(static_cast<size_t>(rows));
    for (PendingRow& row : call) {
      row.ids = {1};
      row.done = answers.Done("");
    }
    ASSERT_TRUE(batcher.Submit(std::move(call)).ok());
  };
  submit(1);
  puppet.WaitForBatch();
  submit(100'000);
  puppet.Finish();
  EXPECT_THAT(puppet.WaitForBatch(), SizeIs(RowQueue::kLookAheadRows));
  puppet.Release();
  answers.Take(100'001);
  EXPECT_EQ(puppet.num_batches(), 1 + (100'000 + RowQueue::kLookAheadRows - 1) / RowQueue::kLookAheadRows);
}

}  // namespace
}  // namespace lion
