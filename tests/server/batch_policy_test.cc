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
      {"no budget: one at a time", 0, {{0, 1}, {0, 1}}, {0}},
      {"negative budget: one at a time", -5, {{0, 1}, {0, 1}}, {0}},
      {"lengths near the type's end do not overflow", kLongest, {{0, kLongest}, {0, kLongest}}, {0}},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(NextBatch(c.queue, {.max_batch_tokens = c.budget}), ElementsAreArray(c.leaves)) << c.name;
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
      const std::vector<int> batch = NextBatch(queue, {.max_batch_tokens = budget});
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

}  // namespace
}  // namespace lion
