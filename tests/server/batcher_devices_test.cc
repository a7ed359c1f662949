// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The batcher with several devices: who gets which batch, and what happens when devices are lost.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
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
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// One model of 100 tokens a batch on puppets fake:0, fake:1, ..., and room for 1,000 waiting tokens.
class BatcherDevicesTest : public ::testing::Test {
 protected:
  ~BatcherDevicesTest() override {
    for (const auto& puppet : puppets_) puppet->Release();
  }

  void Start(int num_devices, int max_concurrent_batches = 1) {
    model_.name = "demo";
    model_.info.max_batch_tokens = 100;
    model_.info.devices.clear();
    for (int i = 0; i < num_devices; ++i) {
      puppets_.push_back(
          std::make_unique<PuppetEncoder>(FakeEncoder::Options{.max_concurrent_batches = max_concurrent_batches}));
      model_.encoders.push_back(puppets_.back().get());
      model_.info.devices.push_back(absl::StrCat("fake:", i));
    }
    metrics_ = std::make_unique<Metrics>(std::vector<ServedModel>{model_});
    batcher_ = std::make_unique<Batcher>(
        std::vector<ServedModel>{model_},
        Batcher::Options{.max_queue_tokens = 1000,
                         .clock = &clock_,
                         .metrics = metrics_.get(),
                         .on_device_lost = [this](const LostDevice& lost) {
                           absl::MutexLock lock(&mu_);
                           lost_.push_back(absl::StrCat(lost.name, ", ", lost.num_left, " left"));
                         }});
  }

  PuppetEncoder& device(int i) { return *puppets_[static_cast<size_t>(i)]; }

  PendingRow MakeRow(uint32_t id, int64_t tokens) { return lion::MakeRow(id, tokens, &answers_); }

  void Submit(uint32_t id, int64_t tokens) {
    std::vector<PendingRow> rows;
    rows.push_back(MakeRow(id, tokens));
    ASSERT_TRUE(batcher_->Submit(std::move(rows)).ok());
  }

  std::vector<std::string> lost() {
    absl::MutexLock lock(&mu_);
    return lost_;
  }

  double Metric(const std::string& series) const { return MetricValue(*metrics_, series); }

  FakeClock clock_;
  std::vector<std::unique_ptr<PuppetEncoder>> puppets_;
  ServedModel model_;
  std::unique_ptr<Metrics> metrics_;
  Answers answers_;
  absl::Mutex mu_;
  std::vector<std::string> lost_ ABSL_GUARDED_BY(mu_);  // as on_device_lost came
  // Last: it ends before what it uses.
  std::unique_ptr<Batcher> batcher_;
};

// ------------------------------------------------------------------------------------------------------ who gets what

TEST_F(BatcherDevicesTest, ARowThatComesWhileADeviceIsBusyGoesToTheOther) {
  Start(2);
  Submit(1, 10);
  EXPECT_THAT(Ids(device(0).WaitForBatch()), ElementsAre(1));
  Submit(2, 10);
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(2));
  Submit(3, 10);  // both are busy: it waits for whoever is free first
  Submit(4, 10);
  device(1).Finish();
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(3, 4));
  device(0).Finish();
  device(1).Finish();
  EXPECT_THAT(Names(answers_.Take(4)), UnorderedElementsAre("1", "2", "3", "4"));
}

TEST_F(BatcherDevicesTest, RowsSubmittedTogetherAreNotSplitWhereTheyFit) {
  Start(4);
  std::vector<PendingRow> call;
  for (uint32_t id : {1, 2, 3, 4}) call.push_back(MakeRow(id, 25));
  ASSERT_TRUE(batcher_->Submit(std::move(call)).ok());
  EXPECT_THAT(Ids(device(0).WaitForBatch()), ElementsAre(1, 2, 3, 4));
  device(0).Finish();
  answers_.Take(4);
  for (int i : {1, 2, 3}) EXPECT_EQ(device(i).num_batches(), 0);
}

TEST_F(BatcherDevicesTest, WhatDoesNotFitRunsBesideIt) {
  Start(3);
  std::vector<PendingRow> call;
  for (uint32_t id : {1, 2, 3}) call.push_back(MakeRow(id, 60));
  ASSERT_TRUE(batcher_->Submit(std::move(call)).ok());
  EXPECT_THAT(Ids(device(0).WaitForBatch()), ElementsAre(1));
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(2));
  EXPECT_THAT(Ids(device(2).WaitForBatch()), ElementsAre(3));
}

TEST_F(BatcherDevicesTest, ADeviceTakesAsManyBatchesAsItCanAndTheFreerOneComesFirst) {
  Start(2, /*max_concurrent_batches=*/2);
  Submit(1, 10);
  device(0).WaitForBatch();
  Submit(2, 50);
  device(1).WaitForBatch();
  Submit(3, 10);  // one batch on each: the one with fewer tokens
  device(0).WaitForBatches(2);
  Submit(4, 10);
  device(1).WaitForBatches(2);
  Submit(5, 10);
  Submit(6, 10);
  EXPECT_EQ(device(0).num_batches() + device(1).num_batches(), 4);
  device(1).Finish();
  const auto batches = device(1).WaitForBatches(2);
  EXPECT_THAT(Ids(batches[0]), ElementsAre(4));
  EXPECT_THAT(Ids(batches[1]), ElementsAre(5, 6));
}

TEST_F(BatcherDevicesTest, TheEstimatedWaitCountsTheDevices) {
  Start(2);
  Submit(1, 100);
  device(0).WaitForBatch();
  clock_.Advance(absl::Seconds(1));
  device(0).Finish();  // 100 tokens a second
  answers_.Take(1);
  auto seconds = [this] { return absl::ToDoubleSeconds(batcher_->EstimatedWait()); };
  EXPECT_EQ(seconds(), 0);
  Submit(2, 100);
  Submit(3, 50);
  for (int i : {0, 1}) device(i).WaitForBatch();
  EXPECT_NEAR(seconds(), 0.5, 1e-9);
  Submit(4, 100);
  EXPECT_NEAR(seconds(), 1.25, 1e-9);  // 250 tokens for two
}

// -------------------------------------------------------------------------------------------------------- one is lost

TEST_F(BatcherDevicesTest, ALostDevicesRowsRunElsewhereBeforeYoungerOnes) {
  Start(2);
  Submit(1, 10);
  device(0).WaitForBatch();
  Submit(2, 10);
  device(1).WaitForBatch();
  Submit(3, 10);
  Submit(4, 10);
  clock_.Advance(absl::Seconds(1));
  device(0).Finish(Lost("fake:0"));
  // Its rows are back when what waits has grown by them.
  while (Metric("lion_queue_sequences{model=\"demo\"}") != 3) std::this_thread::yield();
  EXPECT_THAT(lost(), ElementsAre("fake:0, 1 left"));
  EXPECT_EQ(Metric("lion_device_up{device=\"fake:0\"}"), 0);
  EXPECT_EQ(Metric("lion_device_up{device=\"fake:1\"}"), 1);
  EXPECT_EQ(answers_.size(), 0);
  clock_.Advance(absl::Seconds(1));
  device(1).Finish();
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(1, 3, 4));
  clock_.Advance(absl::Seconds(5));
  device(1).Finish();
  const std::vector<Answers::Named> answers = answers_.Take(4);
  EXPECT_THAT(Names(answers), ElementsAre("2", "1", "3", "4"));
  for (const Answers::Named& a : answers) EXPECT_TRUE(a.answer.status.ok()) << a.answer.status;
  EXPECT_EQ(answers[1].answer.queue, absl::Seconds(2));  // the time on the lost device is waiting
  EXPECT_EQ(answers[1].answer.compute, absl::Seconds(5));
  EXPECT_EQ(Metric("lion_batch_retries_total"), 1);
  EXPECT_EQ(Metric("lion_queue_duration_seconds_count{model=\"demo\"}"), 5);  // 1 left twice
  EXPECT_EQ(Metric("lion_queue_duration_seconds_sum{model=\"demo\"}"), 0 + 0 + 2 + 2 + 2);
  EXPECT_EQ(Metric("lion_batch_sequences_count{model=\"demo\"}"), 2);
  EXPECT_EQ(Metric("lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 4);
  EXPECT_EQ(Metric("lion_queue_tokens{model=\"demo\"}"), 0);
  // It takes nothing any more.
  Submit(5, 10);
  device(1).Finish();
  Submit(6, 10);
  device(1).Finish();
  answers_.Take(2);
  EXPECT_EQ(device(0).num_batches(), 1);
}

TEST_F(BatcherDevicesTest, AnIdleDeviceTakesALostOnesRowsAtOnce) {
  Start(2);
  Submit(1, 10);
  device(0).Finish(Lost("fake:0"));  // its first batch
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(1));
  device(1).Finish();
  EXPECT_TRUE(answers_.Take(1)[0].answer.status.ok());
}

TEST_F(BatcherDevicesTest, AFailureThatIsNoLossIsTheBatchsOwn) {
  Start(2);
  Submit(1, 10);
  device(0).Finish(absl::ResourceExhaustedError("no memory for a batch of 10 tokens"));
  EXPECT_EQ(answers_.Take(1)[0].answer.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(lost(), IsEmpty());
  EXPECT_EQ(Metric("lion_batch_retries_total"), 0);
}

TEST_F(BatcherDevicesTest, CancelledAndLateRowsAreNotRunAgain) {
  Start(2);
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  std::vector<PendingRow> call;
  for (uint32_t id : {1, 2, 3}) call.push_back(MakeRow(id, 10));
  call[0].cancelled = cancelled;
  call[1].deadline = clock_.Now() + absl::Seconds(1);
  ASSERT_TRUE(batcher_->Submit(std::move(call)).ok());
  device(0).WaitForBatch();
  cancelled->store(true);
  clock_.Advance(absl::Seconds(1));
  device(0).Finish(Lost("fake:0"));
  EXPECT_THAT(Ids(device(1).WaitForBatch()), ElementsAre(3));
  const std::vector<Answers::Named> dropped = answers_.Take(2);
  EXPECT_THAT(Names(dropped), ElementsAre("1", "2"));
  EXPECT_EQ(dropped[0].answer.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(dropped[1].answer.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Metric("lion_dropped_total{reason=\"cancelled\"}"), 1);
  EXPECT_EQ(Metric("lion_dropped_total{reason=\"deadline\"}"), 1);
}

TEST_F(BatcherDevicesTest, BatchesThatWereTogetherOnALostDeviceKeepTheirOrderAndItIsToldOnce) {
  Start(2, /*max_concurrent_batches=*/2);
  for (uint32_t id : {1, 2, 3, 4}) {  // 1 and 3 on the first, 2 and 4 on the second
    Submit(id, 60);
    while (device(0).num_batches() + device(1).num_batches() != static_cast<int>(id)) std::this_thread::yield();
  }
  Submit(5, 60);
  device(0).WaitForBatches(2);
  device(0).Finish(Lost("fake:0"));
  device(0).Finish(Lost("fake:0"));
  while (Metric("lion_queue_sequences{model=\"demo\"}") != 3) std::this_thread::yield();
  // One ends after the other: of two runners that take at the same time, either may reach its device first.
  device(1).Finish();
  EXPECT_THAT(Ids(device(1).WaitForBatches(2)[1]), ElementsAre(1));
  device(1).Finish();
  EXPECT_THAT(Ids(device(1).WaitForBatches(2)[1]), ElementsAre(3));
  for (int i = 0; i < 3; ++i) device(1).Finish();
  for (const Answers::Named& a : answers_.Take(5)) EXPECT_TRUE(a.answer.status.ok()) << a.name;
  EXPECT_THAT(lost(), ElementsAre("fake:0, 1 left"));
  EXPECT_EQ(Metric("lion_batch_retries_total"), 2);
}

TEST_F(BatcherDevicesTest, ABatchThatEndedWellOnALostDeviceIsAnswered) {
  Start(2, /*max_concurrent_batches=*/2);
  Submit(1, 60);
  device(0).WaitForBatch();
  Submit(2, 60);
  device(1).WaitForBatch();
  Submit(3, 60);
  device(0).WaitForBatches(2);
  device(0).Finish(Lost("fake:0"));  // 1
  device(1).WaitForBatches(2);
  device(0).Finish();  // 3
  const std::vector<Answers::Named> answers = answers_.Take(1);
  EXPECT_EQ(answers[0].name, "3");
  EXPECT_TRUE(answers[0].answer.status.ok());
}

TEST_F(BatcherDevicesTest, APoisonousRowDoesNotTakeEveryDevice) {
  Start(Batcher::kMaxLostDevices + 1);
  Submit(1, 10);
  for (int i = 0; i < Batcher::kMaxLostDevices; ++i) device(i).Finish(Lost(absl::StrCat("fake:", i)));
  const std::vector<Answers::Named> answers = answers_.Take(1);
  EXPECT_EQ(answers[0].answer.status.code(), absl::StatusCode::kInternal);  // clients do not send it again
  EXPECT_THAT(std::string(answers[0].answer.status.message()), HasSubstr("3 devices were lost running it"));
  EXPECT_THAT(std::string(answers[0].answer.status.message()), HasSubstr("fake:2 is lost"));
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  Submit(2, 10);
  device(Batcher::kMaxLostDevices).Finish();
  EXPECT_TRUE(answers_.Take(1)[0].answer.status.ok());
  EXPECT_EQ(Metric("lion_batch_retries_total"), Batcher::kMaxLostDevices - 1);
}

// -------------------------------------------------------------------------------------------------------- none is left

TEST_F(BatcherDevicesTest, WithoutADeviceEveryRowIsAnsweredWithTheLastOnesWords) {
  Start(2);
  Submit(1, 100);
  device(0).WaitForBatch();
  Submit(2, 100);
  device(1).WaitForBatch();
  Submit(3, 900);  // waits, and fills the queue
  absl::Notification room;
  batcher_->WhenRoom(200, [&room] { room.Notify(); });
  device(0).Finish(Lost("fake:0"));
  while (Metric("lion_device_up{device=\"fake:0\"}") != 0) std::this_thread::yield();
  EXPECT_FALSE(room.HasBeenNotified());
  device(1).Finish(Lost("fake:1"));
  const std::vector<Answers::Named> answers = answers_.Take(3);
  EXPECT_THAT(Names(answers), ElementsAre("1", "2", "3"));
  for (const Answers::Named& a : answers) EXPECT_EQ(a.answer.status, Lost("fake:1"));
  room.WaitForNotification();
  EXPECT_THAT(lost(), ElementsAre("fake:0, 1 left", "fake:1, 0 left"));
  EXPECT_EQ(Metric("lion_dropped_total{reason=\"drain\"}"), 3);
  EXPECT_EQ(Metric("lion_queue_sequences{model=\"demo\"}"), 0);
  EXPECT_EQ(Metric("lion_queue_tokens{model=\"demo\"}"), 0);
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  EXPECT_EQ(batcher_->EstimatedWait(), absl::ZeroDuration());
  std::vector<PendingRow> rows;
  rows.push_back(MakeRow(4, 1));
  EXPECT_EQ(batcher_->Submit(std::move(rows)), Lost("fake:1"));
  bool called = false;
  batcher_->WhenRoom(1, [&called] { called = true; });
  EXPECT_TRUE(called);
  batcher_->Stop();
}

TEST_F(BatcherDevicesTest, TheLastDeviceWithTwoBatchesAnswersBoth) {
  Start(1, /*max_concurrent_batches=*/2);
  Submit(1, 60);
  device(0).WaitForBatch();
  Submit(2, 60);
  device(0).WaitForBatches(2);
  device(0).Finish(Lost("fake:0"));
  EXPECT_EQ(answers_.Take(1)[0].answer.status, Lost("fake:0"));
  device(0).Finish(Lost("fake:0"));
  EXPECT_EQ(answers_.Take(1)[0].answer.status, Lost("fake:0"));
  EXPECT_THAT(lost(), ElementsAre("fake:0, 0 left"));
}

TEST_F(BatcherDevicesTest, ADeviceThatIsLostWhileStoppingAnswersItsRows) {
  Start(2);
  Submit(1, 10);
  device(0).WaitForBatch();
  Submit(2, 10);
  device(1).WaitForBatch();
  std::thread stopper([this] { batcher_->Stop(); });
  // Rows are taken until Stop has begun; then 2 ends well and 1 does not.
  for (absl::Status status; !absl::IsUnavailable(status); std::this_thread::yield()) {
    std::vector<PendingRow> rows;
    rows.push_back(MakeRow(0, 1));
    status = batcher_->Submit(std::move(rows));
  }
  device(1).Finish();
  device(0).Finish(Lost("fake:0"));
  stopper.join();
  EXPECT_EQ(batcher_->num_pending_rows(), 0);
  int num_well = 0;
  for (const Answers::Named& a : answers_.Take(2)) {
    num_well += a.answer.status.ok();
    EXPECT_EQ(a.answer.status, a.name == "2" ? absl::OkStatus() : absl::UnavailableError("server is draining"));
  }
  EXPECT_EQ(num_well, 1);
  EXPECT_EQ(Metric("lion_batch_retries_total"), 0);
}

}  // namespace
}  // namespace lion
