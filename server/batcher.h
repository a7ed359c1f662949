// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BATCHER_H_
#define LION_SERVER_BATCHER_H_

// The queue between callers and the device: rows of all models wait here and leave in batches.
//
// Behaviour. Submit never blocks: the rows of one call are taken whole or refused whole (RESOURCE_EXHAUSTED, done is
// not called). Each taken row's done is called exactly once, outside every lock, on the runner's thread: with its
// result, or CANCELLED / DEADLINE_EXCEEDED if it was dropped before it cost anything, or UNAVAILABLE if Stop cut it.
// The runner never waits while rows do (NextBatch, server/batch_policy.h).
//
// One row's way: 1. Submit appends it and wakes the runner. 2. The runner drops what is cancelled or past its deadline
// (lion_dropped_total) and asks NextBatch. Both happen between two batches, so a row that is cancelled while a batch
// runs is answered, and its room in the queue is free, when that batch has ended. 3. Encoder::Encode runs the batch
// outside the lock. 4. Every row is checked for NaN and infinity (INTERNAL for that row alone, lion_bad_rows_total),
// counted and timed. 5. done. If Encode fails, every row of that batch gets its status, and none is counted as a
// sequence.
//
// Memory ordering: what a row's outcome adds to Metrics and takes from num_pending_rows() is visible to its done, and
// so to whoever has its answer. Refusals are counted by the caller (lion_rejected_total counts calls, and a stream that
// waits for room was not rejected); Batcher counts rows only.
//
//   Batcher batcher(models, {.metrics = &metrics});
//   absl::Status taken = batcher.Submit(std::move(rows));       // rows[i].done delivers the rest
//   if (absl::IsResourceExhausted(taken)) { ... }                // retry after batcher.EstimatedWait()
//   batcher.Stop();                                              // every row has been answered

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/encoder.h"
#include "server/batch_policy.h"
#include "server/clock.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace lion {

// What a row's caller gets back.
struct RowAnswer {
  absl::Status status;     // of this row
  RowResult result;        // filled if status is OK
  absl::Duration queue;    // from Submit to the start of its batch, or to being dropped
  absl::Duration compute;  // of the batch it left in; 0 if it never left
};

struct PendingRow {
  int model = 0;                   // index into the models given to Create
  std::vector<uint32_t> ids;       // at least one
  std::vector<uint32_t> type_ids;  // as many, or empty
  ComputeMode mode = ComputeMode::kParallel;
  int chunk_tokens = 0;
  RowOutput output = RowOutput::kPooledMean;
  absl::Time deadline = absl::InfiniteFuture();
  // Set by the caller's side at any time, from any thread: the row is dropped if it has not left yet. Null = never.
  std::shared_ptr<const std::atomic<bool>> cancelled;
  // Never null; must not block, throw or call Stop; may call Submit and WhenRoom. Destroyed on the runner's thread too.
  std::function<void(RowAnswer)> done;
};

class Batcher {
 public:
  struct Options {
    BatchPolicyOptions policy;
    int64_t max_queue_tokens = int64_t{1} << 20;  // waiting rows of all models; a batch that runs no longer waits
    Clock* clock = Clock::Real();
    Metrics* metrics = nullptr;  // borrowed; never null
  };

  // NextBatch is shown this many of the oldest rows, which bounds its work and the rows of one batch whatever the
  // queue's length. The oldest row of all is among them, so nothing starves.
  static constexpr int kLookAheadRows = 4096;

  // models are borrowed views; encoders are called by the one runner thread, one at a time.
  Batcher(std::vector<ServedModel> models, const Options& options);
  // Stop(), then waits for the runner. No other call may be in progress; not from done or room.
  ~Batcher();

  // Takes all rows, or none: RESOURCE_EXHAUSTED naming the queue's limit and what waits (retry after EstimatedWait()),
  // INVALID_ARGUMENT if they could never fit or break what PendingRow states, UNAVAILABLE after Stop. No rows = OK,
  // nothing done. Thread-safe, never blocks.
  absl::Status Submit(std::vector<PendingRow> rows);

  // For callers that would rather wait than be refused (streams): calls room once, on the runner's thread, when a
  // Submit of that many tokens may succeed again (it may still fail: somebody else can be first), or when Stop was
  // called. Waiters are woken in the order they came, as many at a time as fit together. Calls at once, on this thread,
  // if nobody waits and there is room now, after Stop, and where that many tokens can never fit (Submit then says so).
  // room must not block, throw or call Stop; it may call Submit and WhenRoom. Thread-safe.
  void WhenRoom(int64_t tokens, std::function<void()> room);

  // How long a row submitted now would wait, by the tokens waiting and running and the measured speed (all models
  // together, recent batches weigh most); 0 before the first batch has run. Thread-safe.
  absl::Duration EstimatedWait() const;

  // Rows waiting and running. Thread-safe.
  int64_t num_pending_rows() const;

  // Answers every waiting row with UNAVAILABLE (counted as dropped, reason drain), refuses new ones; the batch that
  // runs is finished and answered. Idempotent, thread-safe; returns when every done and room has returned. Not from
  // done or room: it would wait for itself.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_BATCHER_H_
