// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/row_queue.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::UnixEpoch() + absl::Hours(1);

WaitingRow MakeRow(int64_t number, int64_t tokens, int model = 0) {
  WaitingRow row;
  row.model = model;
  row.tokens = tokens;
  row.number = number;
  row.deadline = absl::InfiniteFuture();
  row.row = std::make_unique<PendingRow>();
  return row;
}

// Rows of 10 tokens.
std::vector<WaitingRow> MakeRows(const std::vector<int64_t>& numbers) {
  std::vector<WaitingRow> rows;
  for (int64_t number : numbers) rows.push_back(MakeRow(number, 10));
  return rows;
}

std::vector<int64_t> Numbers(const std::vector<WaitingRow>& rows) {
  std::vector<int64_t> numbers;
  for (const WaitingRow& row : rows) numbers.push_back(row.number);
  return numbers;
}

TEST(RowQueueTest, EachModelHasItsOwnBudget) {
  RowQueue queue({20, 30});
  std::vector<WaitingRow> rows;
  for (int64_t number = 0; number < 8; ++number) rows.push_back(MakeRow(number, 10, number % 2));
  queue.Append(std::move(rows));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0, 2));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(1, 3, 5));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(4, 6));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(7));
  EXPECT_THAT(queue.TakeBatch(), IsEmpty());
}

TEST(RowQueueTest, RowsThatComeBackTakeTheirOldPlaces) {
  RowQueue queue({20});
  queue.Append(MakeRows({0, 1, 2, 3, 4, 5, 6}));
  std::vector<WaitingRow> first = queue.TakeBatch();   // 0, 1
  std::vector<WaitingRow> second = queue.TakeBatch();  // 2, 3
  queue.PutBack(std::move(second));
  queue.PutBack(std::move(first));
  queue.Append(MakeRows({7}));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0, 1));
  std::vector<WaitingRow> again = queue.TakeBatch();
  EXPECT_THAT(Numbers(again), ElementsAre(2, 3));
  std::vector<WaitingRow> third = queue.TakeBatch();  // 4, 5
  queue.PutBack(std::move(again));
  queue.PutBack(std::move(third));
  for (int64_t number : {2, 4}) EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(number, number + 1));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(6, 7));
}

TEST(RowQueueTest, ARowPassedOverIsOlderThanOnesThatComeBack) {
  RowQueue queue({20});
  std::vector<WaitingRow> rows;
  rows.push_back(MakeRow(0, 10));
  rows.push_back(MakeRow(1, 15));
  rows.push_back(MakeRow(2, 10));
  queue.Append(std::move(rows));
  std::vector<WaitingRow> batch = queue.TakeBatch();
  EXPECT_THAT(Numbers(batch), ElementsAre(0, 2));
  batch.erase(batch.begin());  // only 2 comes back
  queue.PutBack(std::move(batch));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(1));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(2));
}

TEST(RowQueueTest, DeadRowsGoAndTheOthersKeepTheirOrder) {
  RowQueue queue({100});
  const std::atomic<bool> cancelled = true, wanted = false;
  std::vector<WaitingRow> rows = MakeRows({0, 1, 2, 3});
  rows[0].cancelled = &cancelled;
  rows[1].cancelled = &wanted;
  rows[2].deadline = kNow;
  rows[3].deadline = kNow + absl::Nanoseconds(1);
  queue.Append(std::move(rows));
  const std::vector<DroppedRow> dead = queue.TakeDead(kNow);
  ASSERT_EQ(dead.size(), 2);
  EXPECT_EQ(dead[0].waiting.number, 0);
  EXPECT_EQ(dead[0].reason, DropReason::kCancelled);
  EXPECT_EQ(dead[1].waiting.number, 2);
  EXPECT_EQ(dead[1].reason, DropReason::kDeadline);
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(1, 3));
}

WaitingRow RowOf(uint64_t caller, int64_t number, int64_t tokens) {
  WaitingRow row = MakeRow(number, tokens);
  row.caller = caller;
  return row;
}

TEST(RowQueueTest, CallersHaveEqualSharesWhateverTheyQueued) {
  RowQueue queue({40});
  std::vector<WaitingRow> rows;
  for (int64_t number = 0; number < 10; ++number) rows.push_back(RowOf(1, number, 10));
  rows.push_back(RowOf(2, 10, 10));
  rows.push_back(RowOf(2, 11, 10));
  queue.Append(std::move(rows));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0, 1, 10, 11));
  // Who comes anew does not have what the others had before; nor does who comes back.
  rows.clear();
  for (int64_t number = 20; number < 28; ++number) rows.push_back(RowOf(number < 24 ? 3 : 2, number, 10));
  queue.Append(std::move(rows));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(2, 3, 20, 24));
}

TEST(RowQueueTest, AOneRowCallerIsSeenBehindALongFlood) {
  RowQueue queue({10});
  std::vector<WaitingRow> rows;
  for (int64_t number = 0; number < 20000; ++number) rows.push_back(RowOf(1, number, 10));
  rows.push_back(RowOf(2, 20000, 10));
  queue.Append(std::move(rows));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(20000));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(1));
}

TEST(RowQueueTest, TakesOnlyWhatFits) {
  RowQueue queue({100});
  std::vector<WaitingRow> rows = MakeRows({0, 1, 2});
  rows[0].tokens = 60;
  rows[0].alone = true;
  rows[1].tokens = 30;
  rows[2].tokens = 5;
  queue.Append(std::move(rows));
  EXPECT_THAT(Numbers(queue.TakeBatch({.max_row_tokens = 10, .alone = true})), ElementsAre(2));
  EXPECT_THAT(queue.TakeBatch({.max_row_tokens = 10, .alone = true}), IsEmpty());
  EXPECT_THAT(Numbers(queue.TakeBatch({.alone = false})), ElementsAre(1));
  EXPECT_THAT(queue.TakeBatch({.alone = false}), IsEmpty());
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0));
}

TEST(RowQueueTest, RowsThatComeBackWereNotServed) {
  RowQueue queue({20});
  std::vector<WaitingRow> rows;
  for (int64_t number = 0; number < 4; ++number) rows.push_back(RowOf(1, number, 10));
  for (int64_t number = 4; number < 8; ++number) rows.push_back(RowOf(2, number, 10));
  queue.Append(std::move(rows));
  std::vector<WaitingRow> lost = queue.TakeBatch();
  EXPECT_THAT(Numbers(lost), ElementsAre(0, 4));
  queue.PutBack(std::move(lost));
  EXPECT_THAT(Numbers(queue.TakeBatch()), ElementsAre(0, 4));
}

TEST(RowQueueTest, TakeAllEmptiesIt) {
  RowQueue queue({100});
  queue.Append(MakeRows({0, 1}));
  const std::vector<DroppedRow> all = queue.TakeAll();
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[0].reason, DropReason::kDrain);
  EXPECT_THAT(queue.TakeBatch(), IsEmpty());
}

}  // namespace
}  // namespace lion
