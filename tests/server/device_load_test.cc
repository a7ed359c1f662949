// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/device_load.h"

#include <optional>
#include <vector>

#include "gtest/gtest.h"

namespace lion {
namespace {

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

TEST(TimeUntilFreeTest, DevicesShareWhatWaitsAsTheyBecomeFree) {
  const struct {
    int waiting;            // seconds
    std::vector<int> busy;  // of each device
    double expected;
  } cases[] = {
      {0, {0}, 0},        {0, {5}, 5},       {3, {5}, 8},
      {0, {60, 0}, 0},  // one is free now
      {0, {60, 5}, 5},    {4, {60, 0}, 4},   {4, {0, 0}, 2},
      {100, {60, 0}, 80},  // the free one works alone for 60 s, then both
      {6, {1, 2, 3}, 4},  {1, {1, 2, 3}, 2}, {3, {3, 1, 2}, 3},
  };
  for (const auto& c : cases) {
    std::vector<absl::Duration> busy;
    for (int seconds : c.busy) busy.push_back(absl::Seconds(seconds));
    EXPECT_NEAR(absl::ToDoubleSeconds(TimeUntilFree(absl::Seconds(c.waiting), busy)), c.expected, 1e-9)
        << c.waiting << " for " << c.busy.size();
  }
}

// A device load whose batches are short rows.
class ShortLoad : public DeviceLoad {
 public:
  using DeviceLoad::DeviceLoad;
  void BatchStarted(int device, int64_t tokens, absl::Time now) {
    started_.push_back(now);
    DeviceLoad::BatchStarted(device, tokens, /*is_long=*/false, now);
  }
  // The oldest of those that run.
  void BatchEnded(int device, int64_t tokens, bool measures, absl::Time now) {
    const Ended batch = {.tokens = tokens,
                         .started = started_.front(),
                         .measured_tokens = measures ? tokens : 0,
                         .worked = std::nullopt};
    started_.erase(started_.begin());
    DeviceLoad::BatchEnded(device, batch, now);
  }
  absl::Duration Wait(int64_t waiting, absl::Time now) const { return DeviceLoad::Wait(waiting, false, now); }

 private:
  std::vector<absl::Time> started_;
};

TEST(DeviceLoadTest, NothingIsKnownBeforeTheFirstBatchHasEnded) {
  ShortLoad load(2);
  EXPECT_EQ(load.Wait(1000, kStart), absl::ZeroDuration());
  load.BatchStarted(0, 100, kStart);
  EXPECT_EQ(load.Wait(1000, kStart + absl::Seconds(9)), absl::ZeroDuration());
  load.BatchEnded(0, 100, /*measures=*/false, kStart + absl::Seconds(9));
  EXPECT_EQ(load.Wait(1000, kStart + absl::Seconds(9)), absl::ZeroDuration());
}

TEST(DeviceLoadTest, BatchesThatOverlapAreMeasuredByTheTimeBetweenTheirEnds) {
  ShortLoad load(1);
  load.BatchStarted(0, 100, kStart);
  load.BatchStarted(0, 100, kStart);
  load.BatchEnded(0, 100, true, kStart + absl::Seconds(1));
  load.BatchEnded(0, 100, true, kStart + absl::Seconds(2));  // it waited a second inside the device
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(300, kStart + absl::Seconds(2))), 3, 1e-9);
  // After a pause only the time since the next start counts.
  load.BatchStarted(0, 100, kStart + absl::Seconds(50));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(0, kStart + absl::Seconds(50))), 1, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, kStart + absl::Milliseconds(50500))), 1.5, 1e-9);
}

TEST(DeviceLoadTest, ALostDeviceSharesNothing) {
  ShortLoad load(2);
  load.BatchStarted(0, 100, kStart);
  load.BatchEnded(0, 100, true, kStart + absl::Seconds(1));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(200, kStart + absl::Seconds(1))), 1, 1e-9);
  load.Lose(1);
  EXPECT_TRUE(load.lost(1));
  EXPECT_EQ(load.num_left(), 1);
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(200, kStart + absl::Seconds(1))), 2, 1e-9);
  load.Lose(0);
  EXPECT_EQ(load.num_left(), 0);
  EXPECT_EQ(load.Wait(200, kStart + absl::Seconds(1)), absl::ZeroDuration());
}

TEST(DeviceLoadTest, TheFreerDevice) {
  ShortLoad load(3);
  EXPECT_TRUE(load.IsFreer(0, 1));
  EXPECT_FALSE(load.IsFreer(1, 0));
  load.BatchStarted(0, 1, kStart);
  EXPECT_TRUE(load.IsFreer(1, 0));
  load.BatchStarted(1, 2, kStart);
  EXPECT_TRUE(load.IsFreer(0, 1));
  load.BatchStarted(0, 1, kStart);  // two batches of one token are more than one of two
  EXPECT_TRUE(load.IsFreer(1, 0));
  EXPECT_TRUE(load.IsFreer(2, 1));
}

TEST(DeviceLoadTest, AClockThatStepsBackTakesNothingAway) {
  ShortLoad load(1);
  load.BatchStarted(0, 100, kStart);
  load.BatchEnded(0, 100, true, kStart + absl::Seconds(1));
  load.BatchStarted(0, 100, kStart + absl::Seconds(1));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(0, kStart - absl::Hours(1))), 1, 1e-9);
  load.BatchEnded(0, 100, true, kStart - absl::Hours(1));
  EXPECT_GE(load.Wait(100, kStart), absl::ZeroDuration());
}

TEST(DeviceLoadTest, AShortRowDoesNotWaitForALongOneThatRuns) {
  DeviceLoad load(1);
  load.BatchStarted(0, 100, false, kStart);
  load.BatchEnded(0, {.tokens = 100, .started = kStart, .measured_tokens = 100, .worked = std::nullopt},
                  kStart + absl::Seconds(1));
  const absl::Time now = kStart + absl::Seconds(1);
  load.BatchStarted(0, 5000, true, now);
  // It shares the device, which so is half as fast.
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, false, now)), 2, 1e-9);
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, true, now)), 51, 1e-9);
  load.Progressed(0, 3000);
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, true, now)), 21, 1e-9);
  // What it did in its own time, not what passed meanwhile, is its speed: as fast as before.
  load.BatchEnded(
      0, {.tokens = 2000, .is_long = true, .started = now, .measured_tokens = 5000, .worked = absl::Seconds(50)},
      now + absl::Hours(1));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, true, now + absl::Hours(1))), 1, 1e-9);
}

TEST(DeviceLoadTest, ALongRowBesideOthersMeasuresNothing) {
  DeviceLoad load(1);
  load.BatchStarted(0, 100000, true, kStart);
  load.BatchStarted(0, 100, false, kStart + absl::Seconds(9));
  // It started late, and had the device from then on.
  load.BatchEnded(0,
                  {.tokens = 100, .started = kStart + absl::Seconds(9), .measured_tokens = 100, .worked = std::nullopt},
                  kStart + absl::Seconds(10));
  load.BatchEnded(
      0, {.tokens = 100000, .is_long = true, .started = kStart, .measured_tokens = 100000, .worked = std::nullopt},
      kStart + absl::Seconds(10));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(100, false, kStart + absl::Seconds(10))), 1, 1e-9);
}

TEST(DeviceLoadTest, SmallBatchesSayNothingOfLargeOnes) {
  DeviceLoad load(1, 2);
  const auto run = [&load](int model, int64_t tokens, absl::Duration took) {
    load.BatchStarted(0, tokens, false, kStart);
    load.BatchEnded(0, {.model = model, .tokens = tokens, .started = kStart, .measured_tokens = tokens, .worked = took},
                    kStart);
  };
  EXPECT_EQ(load.Compute(0, 100), absl::ZeroDuration());
  run(0, 1, absl::Milliseconds(5));  // mostly what any batch costs
  EXPECT_EQ(load.Compute(0, 5000), absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleMilliseconds(load.Compute(0, 2)), 10, 1e-6);
  run(0, 2000, absl::Milliseconds(20));
  EXPECT_NEAR(absl::ToDoubleMilliseconds(load.Compute(0, 5000)), 50, 1e-6);
  EXPECT_EQ(load.Compute(1, 5000), absl::ZeroDuration());  // another model
  // The least wait is at the best speed; the usual one at the mean of both.
  EXPECT_NEAR(absl::ToDoubleMilliseconds(load.LeastWait(1000, false, kStart)), 10, 1e-6);
  EXPECT_GT(load.Wait(1000, false, kStart), absl::Milliseconds(11));
}

}  // namespace
}  // namespace lion
