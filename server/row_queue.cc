// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/row_queue.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "server/batch_policy.h"

namespace lion {
namespace {

constexpr size_t kMaxRememberedCallers = 4096;

bool IsOlder(const WaitingRow& a, const WaitingRow& b) { return a.number < b.number; }

std::optional<DropReason> WhyDead(const WaitingRow& row, absl::Time now) {
  if (row.cancelled != nullptr && row.cancelled->load(std::memory_order_acquire)) return DropReason::kCancelled;
  if (now >= row.deadline) return DropReason::kDeadline;
  return std::nullopt;
}

void OldestFirst(std::vector<DroppedRow>* rows) {
  std::sort(rows->begin(), rows->end(),
            [](const DroppedRow& a, const DroppedRow& b) { return IsOlder(a.waiting, b.waiting); });
}

}  // namespace

RowQueue::Caller& RowQueue::CallerOf(uint64_t id) {
  Caller& caller = callers_[id];
  if (caller.rows.empty()) caller.served = std::max(caller.served, served_now_);
  return caller;
}

void RowQueue::ForgetIdle() {
  const bool too_many = callers_.size() > kMaxRememberedCallers;
  bool any_waits = false;
  for (auto it = callers_.begin(); it != callers_.end();) {
    const Caller& caller = it->second;
    any_waits |= !caller.rows.empty();
    it = caller.rows.empty() && (too_many || caller.served <= served_now_) ? callers_.erase(it) : std::next(it);
  }
  if (any_waits) return;
  callers_.clear();
  served_now_ = 0;
}

void RowQueue::Append(std::vector<WaitingRow> rows) {
  for (WaitingRow& row : rows) CallerOf(row.caller).rows.push_back(std::move(row));
}

std::vector<DroppedRow> RowQueue::TakeDead(absl::Time now) {
  std::vector<DroppedRow> dead;
  for (auto& [unused, caller] : callers_) {
    std::deque<WaitingRow>& rows = caller.rows;
    auto kept = rows.begin();
    for (auto it = rows.begin(); it != rows.end(); ++it) {
      if (const std::optional<DropReason> reason = WhyDead(*it, now); reason.has_value()) {
        dead.push_back({std::move(*it), *reason});
      } else {
        if (kept != it) *kept = std::move(*it);
        ++kept;
      }
    }
    rows.erase(kept, rows.end());
  }
  OldestFirst(&dead);
  ForgetIdle();
  return dead;
}

std::vector<WaitingRow> RowQueue::TakeBatch(const Fits& fits) {
  std::vector<Caller*> callers;
  for (auto& [unused, caller] : callers_) {
    if (!caller.rows.empty()) callers.push_back(&caller);
  }
  std::vector<WaitingRow> batch;
  if (callers.empty()) return batch;

  struct Seen {
    QueuedRow row;
    int64_t number;
    size_t index;  // among its caller's
  };
  std::vector<Seen> seen;
  std::vector<double> served(callers.size());
  const size_t of_each = std::max<size_t>(kLookAheadRows / callers.size(), 1);
  for (size_t c = 0; c < callers.size(); ++c) {
    served[c] = callers[c]->served;
    const size_t end = seen.size() + of_each;
    for (size_t i = 0; i < callers[c]->rows.size() && seen.size() < end; ++i) {
      const WaitingRow& row = callers[c]->rows[i];
      if (row.tokens > fits.max_row_tokens || (row.alone && !fits.alone)) continue;
      seen.push_back({{row.model, row.tokens, static_cast<int>(c), row.alone}, row.number, i});
    }
  }
  if (seen.empty()) return batch;
  if (callers.size() > 1) {
    std::sort(seen.begin(), seen.end(), [](const Seen& a, const Seen& b) { return a.number < b.number; });
  }
  std::vector<QueuedRow> view;
  view.reserve(seen.size());
  for (const Seen& s : seen) view.push_back(s.row);
  const std::vector<int> leaving = NextBatch(view, max_batch_tokens_, absl::MakeSpan(served));

  std::vector<size_t> past(callers.size(), 0);  // of each caller, the row behind the last that leaves
  batch.reserve(leaving.size());
  for (int i : leaving) {
    const int c = view[i].caller;
    batch.push_back(std::move(callers[c]->rows[seen[i].index]));
    past[c] = std::max(past[c], seen[i].index + 1);
  }
  for (size_t c = 0; c < callers.size(); ++c) {
    callers[c]->served = served[c];
    // The rows passed over move up to the last that left: the rest of the queue, however long, is not touched.
    std::deque<WaitingRow>& rows = callers[c]->rows;
    size_t to = past[c];
    for (size_t from = to; from-- > 0;) {
      if (rows[from].row != nullptr) rows[--to] = std::move(rows[from]);
    }
    rows.erase(rows.begin(), rows.begin() + static_cast<ptrdiff_t>(to));
  }
  // Where the next comer begins: beside the one of those who wait that had least.
  std::optional<double> least;
  for (const Caller* caller : callers) {
    if (!caller->rows.empty()) least = std::min(least.value_or(caller->served), caller->served);
  }
  served_now_ = std::max(served_now_, least.value_or(*std::max_element(served.begin(), served.end())));
  return batch;
}

void RowQueue::PutBack(std::vector<WaitingRow> batch) {
  for (WaitingRow& row : batch) {
    Caller& caller = CallerOf(row.caller);
    caller.served -= static_cast<double>(row.tokens);  // it was not served after all
    std::deque<WaitingRow>& rows = caller.rows;
    // Mostly near the front: what came back before, or was passed over, is all that is older.
    rows.insert(std::find_if(rows.begin(), rows.end(), [&](const WaitingRow& other) { return IsOlder(row, other); }),
                std::move(row));
  }
}

std::vector<DroppedRow> RowQueue::TakeAll() {
  std::vector<DroppedRow> all;
  for (auto& [unused, caller] : callers_) {
    for (WaitingRow& row : caller.rows) all.push_back({std::move(row), DropReason::kDrain});
  }
  callers_.clear();
  OldestFirst(&all);
  return all;
}

}  // namespace lion
