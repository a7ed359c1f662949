// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BATCH_POLICY_H_
#define LION_SERVER_BATCH_POLICY_H_

// Who leaves the queue next, how a long row shares its device, and which deadlines are hopeless: pure functions of what
// they are given. No lock, no clock, no thread.
//
// The device is idle whenever NextBatch is asked, and an idle device never waits: if anything waits, something leaves.
// A batch is of one model. Its token budget is a worked sum: with max_batch_tokens 16,384 and one caller's rows of
// 12,000, 6,000 and 3,000 waiting, the first and the third leave together (15,000) and the second leads the next batch.
// A row longer than the budget, or one that runs in steps, travels alone.
//
// Fairness: callers have equal shares, counted in tokens. Each batch is filled one row at a time, always from the
// caller that has been served least; of equals, from the one whose row is older. Within a caller the oldest row leads,
// so a row waits behind its caller's older rows and as many tokens of each other caller, whatever they have queued.
// With one caller this is oldest first.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace lion {

// One waiting row, oldest first in the view.
struct QueuedRow {
  int model = 0;
  int64_t tokens = 0;
  int caller = 0;      // from 0, as in `served`
  bool alone = false;  // runs in steps (Encoder::max_unstepped_tokens)
};

// Indices into the view of the rows that leave now, ascending; never empty unless the view is.
// max_batch_tokens: of each model. served: of each caller, the tokens it has been served; raised by what leaves.
std::vector<int> NextBatch(absl::Span<const QueuedRow> queue, absl::Span<const int64_t> max_batch_tokens,
                           absl::Span<double> served);

// Rows that may run in the pauses of a long one are at most its length divided by this: what is shorter by so much
// should not wait for it, and rows nested in one another stay few and small in sum.
inline constexpr int64_t kNestedRowShare = 8;

// How a row that runs in steps shares a device on which nothing else runs meanwhile. After each step others may run for
// as long as the step took. What they take beyond that, the row has first in later pauses; what they leave is gone. So
// the long row has half of the device or more, and a short one waits for what waits before it and for a step at most:
// less where the encoder ends a step because others may run (EncodeControl::WantsPause).
class StepShare {
 public:
  // The row ran for d since the last pause.
  void Worked(absl::Duration d);
  // Whether one more batch of others may run in this pause.
  bool MayRunOthers() const { return credit_ >= absl::ZeroDuration(); }
  void OthersRan(absl::Duration d) { credit_ -= d; }
  // How long the row runs before a step of it is ended for others: for what it is owed, and long enough that rows which
  // come one after the other run together, on all cores; each alone, they would take the row more than their share.
  absl::Duration UntilPause() const { return std::max(-credit_, kLeastStep); }

 private:
  static constexpr absl::Duration kLeastStep = absl::Milliseconds(8);
  absl::Duration credit_;
};

// What is to be said of a call that has `left` until its deadline and is expected to wait and to compute so long.
// Estimates err, so only what is clearly late is refused: kSureShare of the estimate already passes the deadline.
enum class Chance {
  kGood,
  kQueueTooLong,  // an idle server could make it
  kHopeless,      // nor could that
};
inline constexpr double kSureShare = 0.7;
Chance ChanceOf(absl::Duration left, absl::Duration wait, absl::Duration compute);

}  // namespace lion

#endif  // LION_SERVER_BATCH_POLICY_H_
