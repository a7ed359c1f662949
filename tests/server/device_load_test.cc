// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/device_load.h"

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

TEST(DeviceLoadTest, NothingIsKnownBeforeTheFirstBatchHasEnded) {
  DeviceLoad load(2);
  EXPECT_EQ(load.Wait(1000, kStart), absl::ZeroDuration());
  load.BatchStarted(0, 100, kStart);
  EXPECT_EQ(load.Wait(1000, kStart + absl::Seconds(9)), absl::ZeroDuration());
  load.BatchEnded(0, 100, /*measures=*/false, kStart + absl::Seconds(9));
  EXPECT_EQ(load.Wait(1000, kStart + absl::Seconds(9)), absl::ZeroDuration());
}

TEST(DeviceLoadTest, BatchesThatOverlapAreMeasuredByTheTimeBetweenTheirEnds) {
  DeviceLoad load(1);
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
  DeviceLoad load(2);
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
  DeviceLoad load(3);
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
  DeviceLoad load(1);
  load.BatchStarted(0, 100, kStart);
  load.BatchEnded(0, 100, true, kStart + absl::Seconds(1));
  load.BatchStarted(0, 100, kStart + absl::Seconds(1));
  EXPECT_NEAR(absl::ToDoubleSeconds(load.Wait(0, kStart - absl::Hours(1))), 1, 1e-9);
  load.BatchEnded(0, 100, true, kStart - absl::Hours(1));
  EXPECT_GE(load.Wait(100, kStart), absl::ZeroDuration());
}

}  // namespace
}  // namespace lion
