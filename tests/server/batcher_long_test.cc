// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Rows that run in steps: how they share a device, stop and show their progress. And callers who share a queue.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/batcher.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_encoder.h"
#include "tests/server/batcher_rows.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kLong = 1000;  // more than 100 run in steps

// One model on one puppet: batches of 100 tokens, room for 10,000.
class BatcherLongTest : public ::testing::Test {
 protected:
  // runs_nested: like the CPU; else two batches at once, like a GPU.
  explicit BatcherLongTest(bool runs_nested = true)
      : puppet_({.max_concurrent_batches = runs_nested ? 1 : 2,
                 .max_unstepped_tokens = 100,
                 .runs_nested_batches = runs_nested}) {
    ServedModel model;
    model.name = "demo";
    model.encoders = {&puppet_};
    model.info.max_batch_tokens = 100;
    models_ = {model};
    metrics_ = std::make_unique<Metrics>(models_);
    batcher_ = std::make_unique<Batcher>(
        models_, Batcher::Options{.max_queue_tokens = 10000, .clock = &clock_, .metrics = metrics_.get()});
  }
  ~BatcherLongTest() override { puppet_.Release(); }

  PendingRow MakeRow(uint32_t id, int64_t tokens) { return lion::MakeRow(id, tokens, &answers_); }
  absl::Status Submit(PendingRow row) {
    std::vector<PendingRow> rows;
    rows.push_back(std::move(row));
    return batcher_->Submit(std::move(rows));
  }
  void Await(uint32_t id) { puppet_.WaitForRow(id); }
  double NumDropped(const char* reason) const {
    return MetricValue(*metrics_, absl::StrCat("lion_dropped_total{reason=\"", reason, "\"}"));
  }

  FakeClock clock_;
  PuppetEncoder puppet_;
  std::vector<ServedModel> models_;
  std::unique_ptr<Metrics> metrics_;
  Answers answers_;
  // Last: it ends before what it uses.
  std::unique_ptr<Batcher> batcher_;
};

TEST_F(BatcherLongTest, ShortRowsRunBetweenTheStepsOfALongOne) {
  std::vector<std::pair<int64_t, int64_t>> progress;
  PendingRow row = MakeRow(1, kLong);
  row.progress = [&progress](int64_t done, int64_t total) { progress.emplace_back(done, total); };
  ASSERT_TRUE(Submit(std::move(row)).ok());
  Await(1);
  ASSERT_TRUE(Submit(MakeRow(2, 10)).ok());
  ASSERT_TRUE(Submit(MakeRow(3, 10)).ok());
  ASSERT_TRUE(Submit(MakeRow(4, kLong / 8 + 1)).ok());  // too long to go between
  clock_.Advance(absl::Milliseconds(15));
  puppet_.Step(300, kLong);
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(2, 3));
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(2)), ElementsAre("2", "3"));
  Await(1);
  EXPECT_EQ(batcher_->num_pending_rows(), 2);
  clock_.Advance(absl::Milliseconds(5));
  puppet_.Finish();
  std::vector<Answers::Named> answers = answers_.Take(1);
  EXPECT_THAT(Names(answers), ElementsAre("1"));
  EXPECT_TRUE(answers[0].answer.status.ok());
  EXPECT_EQ(answers[0].answer.compute, absl::Milliseconds(20));
  EXPECT_THAT(progress, ElementsAre(std::make_pair(300, kLong)));
  Await(4);
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(1)), ElementsAre("4"));
}

TEST_F(BatcherLongTest, TheLongRowHasItsShare) {
  ASSERT_TRUE(Submit(MakeRow(1, kLong)).ok());
  Await(1);
  for (uint32_t id : {2, 3, 4}) ASSERT_TRUE(Submit(MakeRow(id, 90)).ok());
  clock_.Advance(absl::Milliseconds(10));
  puppet_.Step(100, kLong);
  Await(2);
  clock_.Advance(absl::Milliseconds(25));  // the batch takes longer than the step
  puppet_.Finish();
  Await(1);  // not 3: the row has 15 ms to itself
  clock_.Advance(absl::Milliseconds(10));
  puppet_.Step(200, kLong);
  Await(1);
  clock_.Advance(absl::Milliseconds(5));
  puppet_.Step(250, kLong);
  Await(3);
  puppet_.Finish();
  Await(4);  // no time has passed
  puppet_.Finish();
  Await(1);
  clock_.Advance(absl::Milliseconds(1));
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(4)), ElementsAre("2", "3", "4", "1"));
}

TEST_F(BatcherLongTest, APauseIsWantedWhereOneMayRunInIt) {
  ASSERT_TRUE(Submit(MakeRow(1, kLong)).ok());
  Await(1);
  puppet_.Step(100, kLong);
  Await(1);
  EXPECT_FALSE(puppet_.WantsPause());
  ASSERT_TRUE(Submit(MakeRow(2, 90)).ok());
  ASSERT_TRUE(Submit(MakeRow(3, 90)).ok());
  EXPECT_FALSE(puppet_.WantsPause());  // others may come to run with them
  clock_.Advance(absl::Milliseconds(8));
  EXPECT_TRUE(puppet_.WantsPause());
  clock_.Advance(absl::Milliseconds(2));
  puppet_.Step(200, kLong);
  Await(2);
  clock_.Advance(absl::Milliseconds(25));
  puppet_.Finish();
  Await(1);  // it has 15 ms to itself, though 3 waits
  EXPECT_FALSE(puppet_.WantsPause());
  clock_.Advance(absl::Milliseconds(15) - absl::Nanoseconds(1));
  EXPECT_FALSE(puppet_.WantsPause());
  clock_.Advance(absl::Nanoseconds(1));
  EXPECT_TRUE(puppet_.WantsPause());
  puppet_.Step(300, kLong);
  Await(3);
  puppet_.Finish();
  Await(1);
  EXPECT_FALSE(puppet_.WantsPause());
  // What is too long to go between wants no pause once that has been seen.
  ASSERT_TRUE(Submit(MakeRow(4, kLong / 8 + 1)).ok());
  clock_.Advance(absl::Milliseconds(8));
  EXPECT_TRUE(puppet_.WantsPause());
  puppet_.Step(400, kLong);
  Await(1);
  clock_.Advance(absl::Milliseconds(8));
  EXPECT_FALSE(puppet_.WantsPause());
  puppet_.Finish();
  Await(4);
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(4)), ElementsAre("2", "3", "1", "4"));
}

TEST_F(BatcherLongTest, LongRowsNestWhereOneIsMuchShorter) {
  ASSERT_TRUE(Submit(MakeRow(1, 8000)).ok());
  Await(1);
  ASSERT_TRUE(Submit(MakeRow(2, 1000)).ok());
  puppet_.Step(1000, 8000);
  Await(2);
  ASSERT_TRUE(Submit(MakeRow(3, 100)).ok());
  puppet_.Step(500, 1000);
  Await(3);
  puppet_.Finish();
  Await(2);
  puppet_.Finish();
  Await(1);
  puppet_.Finish();
  EXPECT_THAT(Names(answers_.Take(3)), ElementsAre("3", "2", "1"));
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
}

TEST_F(BatcherLongTest, ACancelledOrExpiredRowStopsAtItsNextStep) {
  PendingRow cancelled = MakeRow(1, kLong);
  auto flag = std::make_shared<std::atomic<bool>>(false);
  cancelled.cancelled = flag;
  PendingRow expired = MakeRow(2, kLong);
  expired.deadline = clock_.Now() + absl::Seconds(1);
  ASSERT_TRUE(Submit(std::move(cancelled)).ok());
  ASSERT_TRUE(Submit(std::move(expired)).ok());
  Await(1);
  puppet_.Step(100, kLong);
  Await(1);
  *flag = true;
  puppet_.Step(200, kLong);
  std::vector<Answers::Named> answers = answers_.Take(1);
  EXPECT_THAT(Names(answers), ElementsAre("1"));
  EXPECT_EQ(answers[0].answer.status, absl::CancelledError("the caller cancelled while the row ran"));
  EXPECT_EQ(NumDropped("cancelled"), 1);
  Await(2);
  clock_.Advance(absl::Seconds(1));
  puppet_.Step(100, kLong);
  answers = answers_.Take(1);
  EXPECT_EQ(answers[0].answer.status, absl::DeadlineExceededError("the deadline passed while the row ran"));
  EXPECT_EQ(NumDropped("deadline"), 1);
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  EXPECT_EQ(MetricValue(*metrics_, "lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 0);
}

TEST_F(BatcherLongTest, StopCutsALongRowAtItsNextStep) {
  ASSERT_TRUE(Submit(MakeRow(1, kLong)).ok());
  Await(1);
  ASSERT_TRUE(Submit(MakeRow(2, 900)).ok());  // too long to go between
  std::thread stop([this] { batcher_->Stop(); });
  // Until Stop has begun, steps go on.
  while (answers_.size() < 2) puppet_.TryStep(100, kLong);
  stop.join();
  for (const Answers::Named& named : answers_.Take(2)) {
    EXPECT_EQ(named.answer.status, absl::UnavailableError("server is draining"));
  }
  EXPECT_EQ(NumDropped("drain"), 2);
}

TEST_F(BatcherLongTest, SweepDropsWhatHasGoneWhileAllRunnersAreBusy) {
  ASSERT_TRUE(Submit(MakeRow(1, kLong)).ok());
  Await(1);
  PendingRow cancelled = MakeRow(2, 9000);
  auto flag = std::make_shared<std::atomic<bool>>(false);
  cancelled.cancelled = flag;
  PendingRow expired = MakeRow(3, 900);
  expired.deadline = clock_.Now() + absl::Seconds(1);
  ASSERT_TRUE(Submit(std::move(cancelled)).ok());
  ASSERT_TRUE(Submit(std::move(expired)).ok());
  absl::Notification room;
  batcher_->WhenRoom(5000, [&room] { room.Notify(); });
  *flag = true;
  batcher_->Sweep();
  std::vector<Answers::Named> answers = answers_.Take(1);
  EXPECT_THAT(Names(answers), ElementsAre("2"));
  EXPECT_EQ(answers[0].answer.status, absl::CancelledError("the caller cancelled while the row waited"));
  room.WaitForNotification();
  clock_.Advance(absl::Seconds(1));
  batcher_->Sweep();
  EXPECT_THAT(Names(answers_.Take(1)), ElementsAre("3"));
  EXPECT_EQ(NumDropped("cancelled"), 1);
  EXPECT_EQ(NumDropped("deadline"), 1);
}

TEST_F(BatcherLongTest, AVectorOfZerosThatIsToBeNormalisedIsAnError) {
  PendingRow plain = MakeRow(1, 1);
  PendingRow normalized = MakeRow(2, 1);
  normalized.normalized_values = 4;
  PendingRow zeros = MakeRow(FakeEncoder::kZeroId, 1);
  zeros.normalized_values = 4;
  PendingRow plain_zeros = MakeRow(FakeEncoder::kZeroId, 1);
  std::vector<PendingRow> rows;
  rows.push_back(std::move(plain));
  rows.push_back(std::move(normalized));
  rows.push_back(std::move(zeros));
  rows.push_back(std::move(plain_zeros));
  ASSERT_TRUE(batcher_->Submit(std::move(rows)).ok());
  puppet_.Finish();
  const std::vector<Answers::Named> answers = answers_.Take(4);
  EXPECT_TRUE(answers[0].answer.status.ok());
  EXPECT_TRUE(answers[1].answer.status.ok());
  EXPECT_EQ(answers[2].answer.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(answers[2].answer.status.message()), HasSubstr("zeros"));
  EXPECT_TRUE(answers[3].answer.status.ok());
  EXPECT_EQ(MetricValue(*metrics_, "lion_bad_rows_total{model=\"demo\"}"), 1);
}

TEST_F(BatcherLongTest, CallersShareTheDevice) {
  ASSERT_TRUE(Submit(MakeRow(0, 50)).ok());
  Await(0);
  for (uint32_t id = 1; id <= 4; ++id) {
    PendingRow row = MakeRow(id, 50);
    row.caller = 7;
    ASSERT_TRUE(Submit(std::move(row)).ok());
  }
  PendingRow other = MakeRow(5, 50);
  other.caller = 8;
  ASSERT_TRUE(Submit(std::move(other)).ok());
  puppet_.Finish();
  Await(1);
  EXPECT_THAT(Ids(puppet_.WaitForBatch()), ElementsAre(1, 5));
  puppet_.Finish();
}

TEST_F(BatcherLongTest, TheLastEighthOfTheQueueIsForCallersOfWhomNothingWaits) {
  ASSERT_TRUE(Submit(MakeRow(0, 50)).ok());
  Await(0);
  const auto row_of = [this](uint64_t caller, int64_t tokens) {
    PendingRow row = MakeRow(static_cast<uint32_t>(caller), tokens);
    row.caller = caller;
    return row;
  };
  ASSERT_TRUE(Submit(row_of(1, 8000)).ok());
  EXPECT_TRUE(Submit(row_of(1, 750)).ok());  // to 8,750 of 10,000
  const absl::Status refused = Submit(row_of(1, 1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("8750 of them yours"));
  bool called = false;
  batcher_->WhenRoom(
      1, [&called] { called = true; }, 1);
  EXPECT_FALSE(called);
  EXPECT_TRUE(Submit(row_of(2, 1000)).ok());
  EXPECT_FALSE(Submit(row_of(2, 1)).ok());
  EXPECT_TRUE(Submit(row_of(3, 250)).ok());
  EXPECT_FALSE(Submit(row_of(4, 1)).ok());
  puppet_.Release();
  batcher_->Stop();
  EXPECT_TRUE(called);
}

TEST_F(BatcherLongTest, EstimatesCountOthersUpToOnesOwnShare) {
  EXPECT_EQ(batcher_->EstimateCall(0, 1, 50, 50).wait, absl::ZeroDuration());
  // 50 tokens take a second.
  ASSERT_TRUE(Submit(MakeRow(0, 50)).ok());
  Await(0);
  clock_.Advance(absl::Seconds(1));
  puppet_.Finish();
  answers_.Take(1);
  ASSERT_TRUE(Submit(MakeRow(0, 50)).ok());
  Await(0);
  PendingRow flood = MakeRow(1, 50);
  flood.caller = 1;
  ASSERT_TRUE(Submit(std::move(flood)).ok());
  for (int i = 0; i < 9; ++i) {
    flood = MakeRow(1, 100);
    flood.caller = 1;
    ASSERT_TRUE(Submit(std::move(flood)).ok());
  }
  // One second for what runs, one for as much of the flood as the call itself; 19 for the flood's own.
  const Batcher::Estimate other = batcher_->EstimateCall(0, 2, 50, 50);
  EXPECT_NEAR(absl::ToDoubleSeconds(other.wait), 2, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(other.compute), 1, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(batcher_->EstimateCall(0, 1, 50, 50).wait), 20, 1e-6);
}

class BatcherBesideTest : public BatcherLongTest {
 protected:
  BatcherBesideTest() : BatcherLongTest(/*runs_nested=*/false) {}
};

TEST_F(BatcherBesideTest, LongRowsLeaveOneRunnerToShortOnes) {
  ASSERT_TRUE(Submit(MakeRow(1, kLong)).ok());
  Await(1);
  ASSERT_TRUE(Submit(MakeRow(2, kLong)).ok());
  ASSERT_TRUE(Submit(MakeRow(3, 10)).ok());
  std::vector<std::vector<PuppetEncoder::HeldRow>> held = puppet_.WaitForBatches(2);
  EXPECT_THAT(Ids(held[1]), ElementsAre(3));  // before 2, which is older
  puppet_.Step(500, kLong);                   // runs nothing: it has the device beside others
  puppet_.Finish();                           // 3
  puppet_.Finish();                           // 1, held again
  Await(2);
  puppet_.Finish();
  EXPECT_EQ(answers_.Take(3).size(), 3);
  EXPECT_EQ(puppet_.num_batches(), 3);
}

}  // namespace
}  // namespace lion
