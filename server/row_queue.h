// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ROW_QUEUE_H_
#define LION_SERVER_ROW_QUEUE_H_

// The rows that wait, each caller's oldest first: which are dead, which leave next (NextBatch, server/batch_policy.h),
// and where rows come back in whose device was lost. A plain container: no thread, no lock, no clock; its user brings
// those.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/encoder.h"
#include "server/metrics.h"

namespace lion {

// What a row's caller gets back.
struct RowAnswer {
  absl::Status status;     // of this row
  RowResult result;        // filled if status is OK
  absl::Duration queue;    // from Submit to the start of the batch that answers it, or to being dropped
  absl::Duration compute;  // of that batch, less what others ran between its steps; 0 if it was dropped
};

// A row as its caller submits it.
struct PendingRow {
  int model = 0;                   // index into the models that are served
  std::vector<uint32_t> ids;       // at least one, or none and pixels
  std::vector<uint32_t> type_ids;  // as many, or empty
  std::vector<float> pixels;       // with image_tokens as Row has them, or none
  int64_t image_tokens = 0;
  ComputeMode mode = ComputeMode::kParallel;
  int chunk_tokens = 0;
  RowOutput output = RowOutput::kPooledMean;
  int64_t window_tokens = 0;  // of kWindows, as Row has them
  int64_t window_stride = 0;
  std::vector<uint32_t> window_starts = {};
  bool with_document = false;
  // How far a row that runs in steps has come, in its tokens (EncodeControl::BetweenSteps); after a device was lost it
  // begins anew. Null = nobody asks. Must not block, throw or call the Batcher. Called on a runner's thread, outside
  // every lock, never after done.
  std::function<void(int64_t tokens_done, int64_t tokens_total)> progress;
  absl::Time deadline = absl::InfiniteFuture();
  // Whose row it is: callers have equal shares of the devices (server/batch_policy.h).
  uint64_t caller = 0;
  // The answer will be normalised: so many values of each vector, which must not all be 0. 0 = it will not.
  int64_t normalized_values = 0;
  // Set by the caller's side at any time, from any thread: the row is dropped if it has not left yet, and stopped
  // between its steps if it has. Null = never.
  std::shared_ptr<const std::atomic<bool>> cancelled;
  // Never null; must not block, throw or call Batcher::Stop; may call Submit and WhenRoom. Called and destroyed on a
  // thread of the Batcher's.
  std::function<void(RowAnswer)> done;
};

// A row in the queue. What is looked at between batches lies here; the rest is a pointer away, so that a sweep over
// 100,000 rows reads a few megabytes.
struct WaitingRow {
  int model = 0;
  int64_t tokens = 0;
  int64_t number = 0;  // in the order of submission: which of two rows is older
  absl::Time submitted;
  absl::Time deadline;
  const std::atomic<bool>* cancelled = nullptr;  // owned by row
  uint64_t caller = 0;
  bool alone = false;        // runs in steps
  int num_lost_devices = 0;  // that were lost while this row was on them
  std::unique_ptr<PendingRow> row;
};

// A row that is answered without having run.
struct DroppedRow {
  WaitingRow waiting;
  DropReason reason;
};

class RowQueue {
 public:
  // NextBatch is shown about so many of the oldest rows, of each caller an equal part and at least one: this bounds its
  // work and the rows of one batch whatever the queue's length. The oldest row of every caller is among them.
  static constexpr int kLookAheadRows = 4096;

  // Which rows a device has room for now.
  struct Fits {
    int64_t max_row_tokens = std::numeric_limits<int64_t>::max();
    bool alone = true;  // also those that run in steps
  };

  // max_batch_tokens: of each model, by its index; positive.
  explicit RowQueue(std::vector<int64_t> max_batch_tokens) : max_batch_tokens_(std::move(max_batch_tokens)) {}

  // Behind all others; their numbers ascend.
  void Append(std::vector<WaitingRow> rows);

  // Takes what is cancelled or past its deadline, the oldest first; the others keep their order.
  std::vector<DroppedRow> TakeDead(absl::Time now);

  // Takes the rows that leave now, all of one model, the oldest first; empty only if no row fits.
  std::vector<WaitingRow> TakeBatch(const Fits& fits);
  std::vector<WaitingRow> TakeBatch() { return TakeBatch(Fits()); }

  // Rows that TakeBatch gave, in that order: each takes its old place, before all younger ones.
  void PutBack(std::vector<WaitingRow> batch);

  // All of them, as dropped in a drain, the oldest first.
  std::vector<DroppedRow> TakeAll();

 private:
  struct Caller {
    std::deque<WaitingRow> rows;  // numbers ascend
    double served = 0;            // tokens that left, on the scale of served_now_
  };

  // The caller's rows. One that comes, or comes back, begins where the others are: what it did not use is gone.
  Caller& CallerOf(uint64_t caller);
  // Callers without rows are forgotten, unless others wait whom they are ahead of and they are not too many.
  void ForgetIdle();

  const std::vector<int64_t> max_batch_tokens_;
  std::unordered_map<uint64_t, Caller> callers_;
  double served_now_ = 0;  // where one that comes now begins
};

}  // namespace lion

#endif  // LION_SERVER_ROW_QUEUE_H_
