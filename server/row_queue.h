// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ROW_QUEUE_H_
#define LION_SERVER_ROW_QUEUE_H_

// The rows that wait, oldest first: which are dead, which leave next (NextBatch, server/batch_policy.h), and where rows
// come back in whose device was lost. A plain container: no thread, no lock, no clock; its user brings those.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
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
  absl::Duration compute;  // of that batch; 0 if it was dropped
};

// A row as its caller submits it.
struct PendingRow {
  int model = 0;                   // index into the models that are served
  std::vector<uint32_t> ids;       // at least one
  std::vector<uint32_t> type_ids;  // as many, or empty
  ComputeMode mode = ComputeMode::kParallel;
  int chunk_tokens = 0;
  RowOutput output = RowOutput::kPooledMean;
  int64_t window_tokens = 0;  // of kWindows, as Row has them
  int64_t window_stride = 0;
  // How far a row that runs in steps has come, in its tokens (EncodeControl::BetweenSteps); after a device was lost it
  // begins anew. Null = nobody asks. Must not block, throw or call the Batcher. Called on a runner's thread, outside
  // every lock, never after done.
  std::function<void(int64_t tokens_done, int64_t tokens_total)> progress;
  absl::Time deadline = absl::InfiniteFuture();
  // Set by the caller's side at any time, from any thread: the row is dropped if it has not left yet. Null = never.
  std::shared_ptr<const std::atomic<bool>> cancelled;
  // Never null; must not block, throw or call Batcher::Stop; may call Submit and WhenRoom. Called and destroyed on a
  // runner's thread.
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
  int num_lost_devices = 0;                      // that were lost while this row was on them
  std::unique_ptr<PendingRow> row;
};

// A row that is answered without having run.
struct DroppedRow {
  WaitingRow waiting;
  DropReason reason;
};

class RowQueue {
 public:
  // NextBatch is shown this many of the oldest rows, which bounds its work and the rows of one batch whatever the
  // queue's length. The oldest row of all is among them, so nothing starves.
  static constexpr int kLookAheadRows = 4096;

  // max_batch_tokens: of each model, by its index; positive.
  explicit RowQueue(std::vector<int64_t> max_batch_tokens) : max_batch_tokens_(std::move(max_batch_tokens)) {}

  // Behind all others; their numbers ascend.
  void Append(std::vector<WaitingRow> rows);

  // Takes what is cancelled or past its deadline; the others keep their order.
  std::vector<DroppedRow> TakeDead(absl::Time now);

  // Takes the rows that leave now, all of one model; empty only if the queue is.
  std::vector<WaitingRow> TakeBatch();

  // Rows that TakeBatch gave, in that order: each takes its old place, before all younger ones.
  void PutBack(std::vector<WaitingRow> batch);

  // All of them, as dropped in a drain.
  std::vector<DroppedRow> TakeAll();

 private:
  const std::vector<int64_t> max_batch_tokens_;
  std::deque<WaitingRow> rows_;  // numbers ascend
};

}  // namespace lion

#endif  // LION_SERVER_ROW_QUEUE_H_
