// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batch_policy.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

namespace lion {

std::vector<int> NextBatch(absl::Span<const QueuedRow> queue, absl::Span<const int64_t> max_batch_tokens,
                           absl::Span<double> served) {
  std::vector<int> batch;
  if (queue.empty()) return batch;
  // The rows of each caller, and how far each has been looked at.
  std::vector<std::vector<int>> rows(served.size());
  for (int i = 0; i < static_cast<int>(queue.size()); ++i) rows[queue[i].caller].push_back(i);
  std::vector<size_t> next(served.size(), 0);

  using Turn = std::tuple<double, int, int>;  // served, its next row, caller: the least comes first
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  for (int caller = 0; caller < static_cast<int>(rows.size()); ++caller) {
    if (!rows[caller].empty()) turns.emplace(served[caller], rows[caller].front(), caller);
  }
  // The first row leaves whatever its size: that alone keeps every row's wait bounded.
  const QueuedRow& first = queue[std::get<1>(turns.top())];
  int64_t room = std::max(max_batch_tokens[first.model], first.tokens);
  const auto fits = [&](const QueuedRow& row) {
    return row.model == first.model && row.tokens <= room && (!row.alone || &row == &first);
  };
  while (!turns.empty() && room > 0) {
    const auto [unused, row, caller] = turns.top();
    turns.pop();
    if (fits(queue[row])) {
      batch.push_back(row);
      room -= queue[row].tokens;
      served[caller] += static_cast<double>(queue[row].tokens);
      if (queue[row].alone) break;
    }
    // Its next row that fits now: one that does not will not later either, as room only shrinks.
    size_t& n = next[caller];
    for (++n; n < rows[caller].size() && !fits(queue[rows[caller][n]]);) ++n;
    if (n < rows[caller].size()) turns.emplace(served[caller], rows[caller][n], caller);
  }
  std::sort(batch.begin(), batch.end());
  return batch;
}

void StepShare::Worked(absl::Duration d) { credit_ = std::min(credit_, absl::ZeroDuration()) + d; }

Chance ChanceOf(absl::Duration left, absl::Duration wait, absl::Duration compute) {
  if (kSureShare * (wait + compute) <= left) return Chance::kGood;
  return kSureShare * compute > left ? Chance::kHopeless : Chance::kQueueTooLong;
}

}  // namespace lion
