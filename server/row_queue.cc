// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/row_queue.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "server/batch_policy.h"

namespace lion {

void RowQueue::Append(std::vector<WaitingRow> rows) { std::move(rows.begin(), rows.end(), std::back_inserter(rows_)); }

std::vector<DroppedRow> RowQueue::TakeDead(absl::Time now) {
  std::vector<DroppedRow> dead;
  auto kept = rows_.begin();
  for (auto it = rows_.begin(); it != rows_.end(); ++it) {
    std::optional<DropReason> reason;
    if (it->cancelled != nullptr && it->cancelled->load(std::memory_order_acquire)) {
      reason = DropReason::kCancelled;
    } else if (now >= it->deadline) {
      reason = DropReason::kDeadline;
    }
    if (reason.has_value()) {
      dead.push_back({std::move(*it), *reason});
    } else {
      if (kept != it) *kept = std::move(*it);
      ++kept;
    }
  }
  rows_.erase(kept, rows_.end());
  return dead;
}

std::vector<WaitingRow> RowQueue::TakeBatch() {
  std::vector<WaitingRow> batch;
  if (rows_.empty()) return batch;
  std::vector<QueuedRow> view(std::min<size_t>(rows_.size(), kLookAheadRows));
  for (size_t i = 0; i < view.size(); ++i) view[i] = {rows_[i].model, rows_[i].tokens};
  const std::vector<int> leaving = NextBatch(view, {.max_batch_tokens = max_batch_tokens_[rows_.front().model]});
  batch.reserve(leaving.size());
  for (int i : leaving) batch.push_back(std::move(rows_[i]));
  // The rows passed over move up to the last that left: the rest of the queue, however long, is not touched.
  size_t to = static_cast<size_t>(leaving.back()) + 1;
  for (size_t from = to; from-- > 0;) {
    if (rows_[from].row != nullptr) rows_[--to] = std::move(rows_[from]);
  }
  rows_.erase(rows_.begin(), rows_.begin() + static_cast<ptrdiff_t>(to));
  return batch;
}

void RowQueue::PutBack(std::vector<WaitingRow> batch) {
  const auto size = static_cast<ptrdiff_t>(batch.size());
  rows_.insert(rows_.begin(), std::make_move_iterator(batch.begin()), std::make_move_iterator(batch.end()));
  // A row may be older than some of these: one that another batch brought back, or that was passed over.
  std::inplace_merge(rows_.begin(), rows_.begin() + size, rows_.end(),
                     [](const WaitingRow& a, const WaitingRow& b) { return a.number < b.number; });
}

std::vector<DroppedRow> RowQueue::TakeAll() {
  std::vector<DroppedRow> all;
  all.reserve(rows_.size());
  for (WaitingRow& row : rows_) all.push_back({std::move(row), DropReason::kDrain});
  rows_.clear();
  return all;
}

}  // namespace lion
