// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BATCH_POLICY_H_
#define LION_SERVER_BATCH_POLICY_H_

// Which waiting rows leave now: a pure function of the queue. No lock, no clock, no thread.
//
// The device is idle whenever this is asked, and an idle device never waits: if anything waits, something leaves.
// A batch is of one model. Its token budget is a worked sum: with max_batch_tokens 16,384 and rows of 12,000, 6,000 and
// 3,000 waiting, the first and the third leave together (15,000) and the second leads the next batch.
// Fairness: the oldest row always leaves, so no row waits behind more than the one batch that runs and the rows before
// it. A row longer than the budget travels alone.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace lion {

// One waiting row, oldest first in the view.
struct QueuedRow {
  int model = 0;
  int64_t tokens = 0;
};

struct BatchPolicyOptions {
  int64_t max_batch_tokens = 16384;
};

// Indices into the view of the rows that leave now, ascending; never empty unless the view is.
std::vector<int> NextBatch(absl::Span<const QueuedRow> queue, const BatchPolicyOptions& options);

}  // namespace lion

#endif  // LION_SERVER_BATCH_POLICY_H_
