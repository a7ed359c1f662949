// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/memory_budget.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {
namespace {

using ::testing::ElementsAre;

// What is taken more while so much is asked for and, if it is given, held.
int64_t TakenBeside(MemoryBudget& budget, int64_t bytes) {
  const int64_t before = budget.taken_bytes();
  const std::optional<MemoryBudget::Hold> hold = budget.Take(bytes);
  return budget.taken_bytes() - before;
}

TEST(MemoryBudgetTest, GivesWhatIsFreeAndTakesItBack) {
  MemoryBudget budget(100);
  std::optional<MemoryBudget::Hold> first = budget.Take(60);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(TakenBeside(budget, 41), 0);
  std::optional<MemoryBudget::Hold> second = budget.Take(40);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(budget.taken_bytes(), 100);
  std::optional<MemoryBudget::Hold> moved = std::move(first);
  first.reset();  // NOLINT(bugprone-use-after-move): that it gives nothing back is what is looked at
  EXPECT_EQ(budget.taken_bytes(), 100);
  moved.reset();
  EXPECT_EQ(budget.taken_bytes(), 40);
  EXPECT_EQ(TakenBeside(budget, 101), 0);
}

TEST(MemoryBudgetTest, ZeroIsNoLimit) {
  MemoryBudget budget(0);
  EXPECT_EQ(TakenBeside(budget, int64_t{1} << 60), int64_t{1} << 60);
  EXPECT_EQ(budget.taken_bytes(), 0);
}

TEST(MemoryBudgetTest, WakesWaitersInOrderAsTheyFit) {
  MemoryBudget budget(100);
  std::optional<MemoryBudget::Hold> all = budget.Take(100);
  std::vector<int> woken;
  budget.WhenRoom(30, [&woken] { woken.push_back(1); });
  budget.WhenRoom(80, [&woken] { woken.push_back(2); });
  budget.WhenRoom(10, [&woken] { woken.push_back(3); });  // fits, and waits its turn
  EXPECT_THAT(woken, ElementsAre());
  all.reset();
  EXPECT_THAT(woken, ElementsAre(1));
  all = budget.Take(1);
  all.reset();
  EXPECT_THAT(woken, ElementsAre(1, 2, 3));
  budget.WhenRoom(100, [&woken] { woken.push_back(4); });
  budget.WhenRoom(101, [&woken] { woken.push_back(5); });  // can never fit: at once, to be told so
  EXPECT_THAT(woken, ElementsAre(1, 2, 3, 4, 5));
}

TEST(MemoryBudgetTest, TheDefaultIsWhatTheSmallestDeviceHasFree) {
  FakeEncoder::Options large, small;
  large.usage.total_bytes = small.usage.total_bytes = 1000;
  large.usage.free_bytes = 900;
  small.usage.free_bytes = 300;
  FakeEncoder first(large), second(small), cpu;
  ServedModel model;
  model.encoders = {&first, &second};
  EXPECT_EQ(DefaultMemoryBytes({model}), 300);
  model.encoders = {&cpu};
  EXPECT_GT(DefaultMemoryBytes({model}), 0);
}

}  // namespace
}  // namespace lion
