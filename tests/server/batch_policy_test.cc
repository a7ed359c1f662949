// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batch_policy.h"

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAreArray;

// One caller, and one budget for all models.
std::vector<int> Next(const std::vector<QueuedRow>& queue, int64_t budget) {
  const std::vector<int64_t> budgets(3, budget);
  std::vector<double> served(1);
  return NextBatch(queue, budgets, absl::MakeSpan(served));
}

struct Case {
  std::string name;
  int64_t budget;
  std::vector<QueuedRow> queue;  // {model, tokens}, oldest first
  std::vector<int> leaves;
};

TEST(NextBatchTest, Table) {
  constexpr int64_t kLongest = std::numeric_limits<int64_t>::max();
  const Case cases[] = {
      {"nothing waits", 100, {}, {}},
      {"one row", 100, {{0, 10}}, {0}},
      {"all fit", 100, {{0, 10}, {0, 20}, {0, 70}}, {0, 1, 2}},
      {"exactly the budget and one more", 100, {{0, 60}, {0, 40}, {0, 1}}, {0, 1}},
      {"one token too many", 100, {{0, 60}, {0, 41}}, {0}},
      {"the worked sum of the header", 16384, {{0, 12000}, {0, 6000}, {0, 3000}}, {0, 2}},
      {"a longer row travels alone", 100, {{0, 101}, {0, 1}}, {0}},
      {"a row of the budget travels alone", 100, {{0, 100}, {0, 1}}, {0}},
      {"a longer row behind does not ride along", 100, {{0, 1}, {0, 101}, {0, 2}}, {0, 2}},
      {"the oldest's model leaves", 100, {{1, 10}, {0, 10}, {1, 10}, {2, 10}, {1, 10}}, {0, 2, 4}},
      {"the oldest is long, another model waits", 100, {{1, 5000}, {0, 10}}, {0}},
      {"small ones fill what a middle one leaves", 100, {{0, 50}, {0, 60}, {0, 30}, {0, 40}, {0, 20}}, {0, 2, 4}},
      {"a row in steps travels alone", 100, {{0, 50, 0, true}, {0, 1}}, {0}},
      {"nor does it ride along", 100, {{0, 1}, {0, 50, 0, true}, {0, 2}}, {0, 2}},
      {"no budget: one at a time", 0, {{0, 1}, {0, 1}}, {0}},
      {"negative budget: one at a time", -5, {{0, 1}, {0, 1}}, {0}},
      {"lengths near the type's end do not overflow", kLongest, {{0, kLongest}, {0, kLongest}}, {0}},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Next(c.queue, c.budget), ElementsAreArray(c.leaves)) << c.name;
  }
}

// What holds for every queue. 500 random ones, each emptied batch by batch.
TEST(NextBatchTest, InvariantsOnRandomQueues) {
  std::mt19937 random(20260101);
  for (int round = 0; round < 500; ++round) {
    const int64_t budget = 1 + static_cast<int64_t>(random() % 200);
    const int num_models = 1 + static_cast<int>(random() % 3);
    std::vector<QueuedRow> queue(1 + random() % 60);
    for (QueuedRow& row : queue) {
      row = {static_cast<int>(random() % num_models), 1 + static_cast<int64_t>(random() % 100)};
    }
    size_t batches = 0;
    const size_t rows = queue.size();
    while (!queue.empty()) {
      const std::vector<int> batch = Next(queue, budget);
      ASSERT_FALSE(batch.empty()) << "the device idles while rows wait";
      ASSERT_EQ(batch.front(), 0) << "the oldest stays";
      ASSERT_TRUE(std::is_sorted(batch.begin(), batch.end()));
      ASSERT_EQ(std::adjacent_find(batch.begin(), batch.end()), batch.end()) << "a row leaves twice";
      int64_t tokens = 0;
      for (int i : batch) {
        ASSERT_LT(i, static_cast<int>(queue.size()));
        ASSERT_EQ(queue[i].model, queue[0].model) << "two models in a batch";
        tokens += queue[i].tokens;
      }
      if (batch.size() > 1) {
        ASSERT_LE(tokens, budget);
      }
      // Nothing stays that would still have fitted.
      for (int i = 0, next = 0; i < static_cast<int>(queue.size()); ++i) {
        if (next < static_cast<int>(batch.size()) && batch[next] == i) {
          ++next;
        } else if (queue[i].model == queue[0].model) {
          ASSERT_GT(queue[i].tokens, budget - tokens) << "row " << i << " was left though it fits";
        }
      }
      for (size_t i = batch.size(); i-- > 0;) queue.erase(queue.begin() + batch[i]);
      ++batches;
    }
    // The oldest leaves every time, so a row waits for no more batches than there were rows before it.
    EXPECT_LE(batches, rows);
  }
}

TEST(NextBatchTest, TheCallerServedLeastComesFirst) {
  const std::vector<int64_t> budgets = {100};
  std::vector<double> served = {50, 0, 20};
  // Callers 0, 1 and 2 by turns, 30 tokens each.
  std::vector<QueuedRow> queue;
  for (int i = 0; i < 9; ++i) queue.push_back({0, 30, i % 3});
  // 1 has 0, then 30; 2 has 20, then 50; 1 again (30 is least), then 60; no more fits.
  EXPECT_THAT(NextBatch(queue, budgets, absl::MakeSpan(served)), ElementsAreArray({1, 2, 4}));
  EXPECT_THAT(served, ElementsAreArray({50.0, 60.0, 50.0}));
  // Of equals, the older row.
  queue.erase(queue.begin() + 4);
  queue.erase(queue.begin() + 1, queue.begin() + 3);
  EXPECT_THAT(NextBatch(queue, budgets, absl::MakeSpan(served)), ElementsAreArray({0, 2, 4}));
}

TEST(NextBatchTest, AFloodHasNoMoreThanItsShare) {
  // One caller's thousand rows before another's ten: the ten leave with as many tokens of the flood, not behind it.
  const std::vector<int64_t> budgets = {100};
  std::vector<double> served = {0, 0};
  std::vector<QueuedRow> queue(1000, {0, 10, 0});
  for (int i = 0; i < 10; ++i) queue.push_back({0, 10, 1});
  int of_the_flood = 0;
  for (int left = 10; left > 0;) {
    const std::vector<int> batch = NextBatch(queue, budgets, absl::MakeSpan(served));
    for (size_t i = batch.size(); i-- > 0;) {
      (queue[batch[i]].caller == 0 ? of_the_flood : left) += queue[batch[i]].caller == 0 ? 1 : -1;
      queue.erase(queue.begin() + batch[i]);
    }
  }
  EXPECT_EQ(of_the_flood, 10);
}

TEST(NextBatchTest, ARowThatDoesNotFitDoesNotHoldItsCallersOthers) {
  const std::vector<int64_t> budgets = {100, 100};
  std::vector<double> served = {0, 0};
  const std::vector<QueuedRow> queue = {{0, 60, 0}, {0, 70, 1}, {1, 10, 1}, {0, 20, 1}, {0, 20, 0}};
  EXPECT_THAT(NextBatch(queue, budgets, absl::MakeSpan(served)), ElementsAreArray({0, 3, 4}));
}

TEST(StepShareTest, OthersHaveAsMuchTimeAsTheStepBefore) {
  StepShare share;
  share.Worked(absl::Milliseconds(15));
  EXPECT_TRUE(share.MayRunOthers());
  share.OthersRan(absl::Milliseconds(10));
  EXPECT_TRUE(share.MayRunOthers());
  share.OthersRan(absl::Milliseconds(45));  // one batch may be longer than the step
  EXPECT_FALSE(share.MayRunOthers());
  // The 40 ms are the row's first.
  share.Worked(absl::Milliseconds(20));
  EXPECT_FALSE(share.MayRunOthers());
  share.Worked(absl::Milliseconds(19));
  EXPECT_FALSE(share.MayRunOthers());
  share.Worked(absl::Milliseconds(1));
  EXPECT_TRUE(share.MayRunOthers());
}

TEST(StepShareTest, TimeThatNobodyUsedIsGone) {
  StepShare share;
  for (int i = 0; i < 1000; ++i) share.Worked(absl::Milliseconds(15));
  share.OthersRan(absl::Milliseconds(16));
  EXPECT_FALSE(share.MayRunOthers());
}

TEST(StepShareTest, TheRowHasHalfOfTheTimeInTheLongRun) {
  StepShare share;
  std::mt19937 random(1);
  absl::Duration worked, others;
  for (int i = 0; i < 10000; ++i) {
    const absl::Duration step = absl::Milliseconds(10 + random() % 20);
    worked += step;
    share.Worked(step);
    while (share.MayRunOthers()) {
      const absl::Duration batch = absl::Milliseconds(1 + random() % 400);
      others += batch;
      share.OthersRan(batch);
    }
  }
  EXPECT_LE(others, worked + absl::Milliseconds(400));
  EXPECT_GE(others, worked * 0.9);
}

TEST(ChanceTest, OnlyWhatIsClearlyLateIsRefused) {
  const absl::Duration left = absl::Seconds(7);
  EXPECT_EQ(ChanceOf(left, absl::ZeroDuration(), absl::ZeroDuration()), Chance::kGood);
  EXPECT_EQ(ChanceOf(left, absl::Seconds(4), absl::Seconds(5)), Chance::kGood);
  EXPECT_EQ(ChanceOf(left, absl::Seconds(6), absl::Seconds(5)), Chance::kQueueTooLong);
  EXPECT_EQ(ChanceOf(left, absl::ZeroDuration(), absl::Seconds(11)), Chance::kHopeless);
  EXPECT_EQ(ChanceOf(left, absl::Seconds(100), absl::Seconds(11)), Chance::kHopeless);
  EXPECT_EQ(ChanceOf(absl::InfiniteDuration(), absl::Hours(100), absl::Hours(100)), Chance::kGood);
}

}  // namespace
}  // namespace lion
