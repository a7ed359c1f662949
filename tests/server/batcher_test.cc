// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batcher.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Where the dones of a test put their answers, each under the row's name, in the order they came.
class Answers {
 public:
  struct Named {
    std::string name;
    RowAnswer answer;
  };

  std::function<void(RowAnswer)> Done(std::string name) {
    return [this, name = std::move(name)](RowAnswer answer) {
      absl::MutexLock lock(&mu_);
      answers_.push_back({name, std::move(answer)});
      arrived_.SignalAll();
    };
  }

  // Waits for the next answers, n of them, and takes them all.
  std::vector<Named> Take(size_t n) {
    absl::MutexLock lock(&mu_);
    while (answers_.size() < n) arrived_.Wait(&mu_);
    return std::exchange(answers_, {});
  }

  size_t size() const {
    absl::MutexLock lock(&mu_);
    return answers_.size();
  }

 private:
  mutable absl::Mutex mu_;
  absl::CondVar arrived_;
  std::vector<Named> answers_ ABSL_GUARDED_BY(mu_);
};

std::vector<std::string> Names(const std::vector<Answers::Named>& answers) {
  std::vector<std::string> names;
  names.reserve(answers.size());
  for (const Answers::Named& a : answers) names.push_back(a.name);
  return names;
}

// First ids of the rows of a batch: the tests give each row its own.
std::vector<uint32_t> Ids(const std::vector<PuppetEncoder::HeldRow>& batch) {
  std::vector<uint32_t> ids;
  ids.reserve(batch.size());
  for (const PuppetEncoder::HeldRow& row : batch) ids.push_back(row.ids[0]);
  return ids;
}

// Two models, each on a puppet, and a batcher with a budget of 100 tokens and room for 200.
class BatcherTest : public ::testing::Test {
 protected:
  ~BatcherTest() override {
    puppet_.Release();
    other_.Release();
  }

  // A row of that many tokens, whose first id is id.
  PendingRow MakeRow(uint32_t id, int64_t tokens, int model = 0) {
    PendingRow row;
    row.model = model;
    row.ids.assign(static_cast<size_t>(tokens), 1);
    row.ids[0] = id;
    row.done = answers_.Done(absl::StrCat(id));
    return row;
  }

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

  // The value of a series in the metrics' text, or -1 if it is not there.
  double Metric(const std::string& series) const {
    for (absl::string_view line : absl::StrSplit(metrics_.TextForTest(), '\n')) {
      double value = 0;
      if (absl::ConsumePrefix(&line, series + " ") && absl::SimpleAtod(line, &value)) return value;
    }
    return -1;
  }
  double NumDropped(const char* reason) const {
    return Metric(absl::StrCat("lion_dropped_total{reason=\"", reason, "\"}"));
  }

  static ServedModel MakeModel(std::string name, Encoder* encoder) {
    ServedModel model;
    model.name = std::move(name);
    model.encoder = encoder;
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
      models_,
      Batcher::Options{
          .policy = {.max_batch_tokens = 100}, .max_queue_tokens = 200, .clock = &clock_, .metrics = &metrics_});
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
  model.encoder = &puppet;
  Metrics metrics({model});
  Answers answers;
  FakeClock clock;
  Batcher batcher({model}, {.policy = {.max_batch_tokens = 1 << 20}, .clock = &clock, .metrics = &metrics});
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
  EXPECT_THAT(puppet.WaitForBatch(), SizeIs(Batcher::kLookAheadRows));
  puppet.Release();
  answers.Take(100'001);
  EXPECT_EQ(puppet.num_batches(), 1 + (100'000 + Batcher::kLookAheadRows - 1) / Batcher::kLookAheadRows);
}

// Many threads, random lengths, models, cancels, deadlines and refusals, and a stop in the middle: every row that was
// taken is answered exactly once, no other ever, and every count returns to where it was.
TEST(BatcherStressTest, EveryTakenRowIsAnsweredExactlyOnce) {
  constexpr int kThreads = 4, kCalls = 300;
  FakeEncoder encoder({.nan_id = 13, .fail_id = 14});
  ServedModel a, b;
  a.name = "a";
  b.name = "b";
  a.encoder = b.encoder = &encoder;
  for (bool stop_early : {false, true}) {
    Metrics metrics({a, b});
    FakeClock clock;
    struct Outcome {
      std::atomic<int> answers = 0;
      bool taken = false;  // by the thread that submits
    };
    std::vector<std::vector<Outcome>> outcomes;
    outcomes.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) outcomes.emplace_back(kCalls * 4);
    std::atomic<int> ok = 0, dropped = 0, failed = 0, rooms = 0, asked = 0;
    {
      Batcher batcher(
          {a, b}, {.policy = {.max_batch_tokens = 64}, .max_queue_tokens = 256, .clock = &clock, .metrics = &metrics});
      std::vector<std::thread> threads;
      threads.reserve(kThreads);
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
          std::mt19937 random(static_cast<uint32_t>(t));
          std::vector<std::shared_ptr<std::atomic<bool>>> flags;
          for (int call = 0; call < kCalls; ++call) {
            auto cancelled = std::make_shared<std::atomic<bool>>(random() % 8 == 0);
            flags.push_back(cancelled);
            std::vector<PendingRow> rows(1 + random() % 4);
            int64_t tokens = 0;
            for (size_t r = 0; r < rows.size(); ++r) {
              PendingRow& row = rows[r];
              row.model = static_cast<int>(random() % 2);
              row.ids.assign(1 + random() % 40, 1);
              row.ids[0] = random() % 200;  // 13 gives NaN, 14 fails the batch
              row.cancelled = cancelled;
              if (random() % 8 == 0) row.deadline = clock.Now() + absl::Microseconds(random() % 3);
              Outcome& outcome = outcomes[t][call * 4 + r];
              row.done = [&](const RowAnswer& answer) {
                ++outcome.answers;
                switch (answer.status.code()) {
                  case absl::StatusCode::kOk:
                    ++ok;
                    break;
                  case absl::StatusCode::kInternal:
                    ++failed;
                    break;
                  default:
                    ++dropped;
                }
              };
              tokens += static_cast<int64_t>(row.ids.size());
            }
            const size_t num_rows = rows.size();
            const absl::Status status = batcher.Submit(std::move(rows));
            for (size_t r = 0; r < num_rows; ++r) outcomes[t][call * 4 + r].taken = status.ok();
            if (absl::IsResourceExhausted(status)) {
              ++asked;
              absl::Notification room;
              batcher.WhenRoom(tokens, [&] {
                ++rooms;
                room.Notify();
              });
              room.WaitForNotification();
            }
            clock.Advance(absl::Microseconds(1));
            flags[random() % flags.size()]->store(true);
            if (stop_early && t == 0 && call == kCalls / 2) batcher.Stop();
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      batcher.Stop();
      EXPECT_EQ(batcher.num_pending_rows(), 0);
    }
    int taken = 0;
    for (const std::vector<Outcome>& of_thread : outcomes) {
      for (const Outcome& outcome : of_thread) {
        taken += outcome.taken;
        ASSERT_EQ(outcome.answers, outcome.taken ? 1 : 0);
      }
    }
    EXPECT_EQ(ok + failed + dropped, taken);
    EXPECT_GT(ok, 0);
    EXPECT_GT(dropped, 0);
    EXPECT_EQ(rooms, asked);
    double counted_dropped = 0;
    for (absl::string_view line : absl::StrSplit(metrics.TextForTest(), '\n')) {
      if (absl::StartsWith(line, "lion_queue_sequences{") || absl::StartsWith(line, "lion_queue_tokens{")) {
        EXPECT_TRUE(absl::EndsWith(line, "} 0")) << line;
      }
      double value = 0;
      if (absl::StartsWith(line, "lion_dropped_total{") && absl::SimpleAtod(line.substr(line.rfind(' ')), &value)) {
        counted_dropped += value;
      }
    }
    EXPECT_EQ(counted_dropped, dropped);
  }
}

}  // namespace
}  // namespace lion
