// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batch_policy.h"

namespace lion {

std::vector<int> NextBatch(absl::Span<const QueuedRow> queue, const BatchPolicyOptions& options) {
  std::vector<int> batch;
  if (queue.empty()) return batch;
  // The oldest row leaves whatever its size: that alone keeps every row's wait bounded by the rows before it.
  batch.push_back(0);
  const int model = queue[0].model;
  int64_t room = options.max_batch_tokens - queue[0].tokens;  // negative if the oldest travels alone
  for (int i = 1; i < static_cast<int>(queue.size()) && room > 0; ++i) {
    if (queue[i].model != model || queue[i].tokens > room) continue;
    batch.push_back(i);
    room -= queue[i].tokens;
  }
  return batch;
}

}  // namespace lion
