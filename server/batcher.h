// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BATCHER_H_
#define LION_SERVER_BATCHER_H_

// The queue between callers and the devices: rows of all models wait here and leave in batches.
//
// Behaviour. Submit never blocks: the rows of one call are taken whole or refused whole (RESOURCE_EXHAUSTED, done is
// not called). Each taken row's done is called exactly once, outside every lock, on a thread of the Batcher's: with its
// result, or CANCELLED / DEADLINE_EXCEEDED if nobody waits for it any more, or UNAVAILABLE if Stop cut it or no device
// is left.
// Every device has as many runners as it takes batches at once (Encoder::max_concurrent_batches); all take from the one
// queue by the same policy (NextBatch, server/batch_policy.h), and none waits while rows do. A row that comes while
// several are free goes to the device with least to do; rows submitted together leave together if they fit.
//
// One row's way: 1. Submit appends it and calls a free runner. 2. A runner drops what is cancelled or past its deadline
// (lion_dropped_total) and asks NextBatch. 3. Encoder::Encode runs the batch outside the lock. 4. Every row is checked
// for NaN and infinity, and for vectors of zeros that are to be normalised (INTERNAL for that row alone,
// lion_bad_rows_total), counted and timed. 5. done. If Encode fails, every row of that batch gets its status, and none
// is counted as a sequence.
//
// Long rows (Encoder::max_unstepped_tokens) travel alone, in steps. Between two steps the row is stopped if its caller
// has gone or Stop was called, its progress is told, and where the device does nothing else meanwhile (the CPU) the
// runner runs batches of rows at most 1 / kNestedRowShare as long, as StepShare allows; such a row may be long itself.
// Where a device runs batches side by side, long rows take all of its runners but one at most.
//
// Who is gone while all runners are busy: Sweep, which whoever learns of it calls, drops waiting rows on a thread of
// its own, and their room in the queue is free at once.
//
// A lost device (Encode says UNAVAILABLE) takes no batch any more. Its rows go back to their place in the queue, before
// all younger ones, and run elsewhere: their callers see a longer wait (lion_batch_retries_total). A row on which
// kMaxLostDevices devices were lost is answered INTERNAL, so that one poisonous row does not take them all. When no
// device is left, every row is answered UNAVAILABLE with the last device's words, and Submit says the same.
//
// Memory ordering: what a row's outcome adds to Metrics and takes from num_pending_rows() is visible to its done, and
// so to whoever has its answer. Refusals are counted by the caller (lion_rejected_total counts calls, and a stream that
// waits for room was not rejected); Batcher counts rows only.
//
//   Batcher batcher(models, {.metrics = &metrics});
//   absl::Status taken = batcher.Submit(std::move(rows));       // rows[i].done delivers the rest
//   if (absl::IsResourceExhausted(taken)) { ... }                // retry after batcher.EstimatedWait()
//   batcher.Stop();                                              // every row has been answered

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/metrics.h"
#include "server/row_queue.h"
#include "server/served_model.h"

namespace lion {

struct LostDevice {
  std::string name;     // "cuda:1"
  absl::Status status;  // what Encode said
  int num_left = 0;     // devices that still serve
};

class Batcher {
 public:
  struct Options {
    int64_t max_queue_tokens = int64_t{1} << 20;  // waiting rows of all models; a batch that runs no longer waits
    Clock* clock = Clock::Real();
    Metrics* metrics = nullptr;  // borrowed; never null
    // Called once for each device that is lost, outside every lock, on the thread of the runner that found out, before
    // the rows of its batch are answered or run elsewhere. Must not block or call Stop. Null = nobody is told.
    std::function<void(const LostDevice&)> on_device_lost = nullptr;
  };

  static constexpr int kMaxLostDevices = 3;

  // models: at least one, borrowed views, all on the same devices in the same order. A batch of a model is filled to
  // its ModelInfo::max_batch_tokens. An entry may repeat another: two versions of a model need two (Replace).
  Batcher(std::vector<ServedModel> models, const Options& options);
  // Stop(), then waits for the runners. No other call may be in progress; not from done or room.
  ~Batcher();

  // Rows of models[index] that are submitted from here on run on model, which is on the same devices and takes as many
  // batches at once; the size of its batches stays. No row of that index may be waiting or running, nor be submitted
  // meanwhile. Thread-safe; what the entry held before is released.
  void Replace(int index, ServedModel model);

  // Takes all rows, or none: RESOURCE_EXHAUSTED naming the queue's limit and what waits (retry after EstimatedWait()):
  // a caller (PendingRow::caller, not 0) for whom rows wait is refused the last eighth of the queue, so that one who
  // fills it does not shut out the others;
  // INVALID_ARGUMENT if they could never fit or break what PendingRow states, UNAVAILABLE after Stop or without a
  // device. No rows = OK, nothing done. Thread-safe, never blocks.
  absl::Status Submit(std::vector<PendingRow> rows);

  // For callers that would rather wait than be refused (streams): calls room once, on a runner's thread, when a Submit
  // of that many tokens may succeed again (it may still fail: somebody else can be first), or when it is refused for
  // good. Waiters are woken in the order they came, as many at a time as fit together. Calls at once, on this thread,
  // if nobody waits and there is room now, after Stop or without a device, and where that many tokens can never fit
  // (Submit then says so). caller: whose rows they are (PendingRow::caller). room must not block, throw or call Stop;
  // it may call Submit and WhenRoom. Thread-safe.
  void WhenRoom(int64_t tokens, std::function<void()> room, uint64_t caller = 0);

  // Drops waiting rows that are cancelled or past their deadline, soon and on another thread. To be called when a row
  // submitted here was cancelled; calls that come while a sweep runs are one. Thread-safe, never blocks.
  void Sweep();

  // What a call of that caller may expect now: what its rows would wait, counting each other caller's rows up to its
  // own share, and how long they compute. Both at the best speed seen lately and 0 where nothing like it was seen, so
  // that they err towards the short. Thread-safe.
  struct Estimate {
    absl::Duration wait;
    absl::Duration compute;
  };
  Estimate EstimateCall(int model, uint64_t caller, int64_t tokens, int64_t longest_row) const;

  // How long a row submitted now would wait, by the tokens waiting and running, the devices that are left and the
  // measured speed (DeviceLoad); 0 before the first batch has run. Thread-safe.
  absl::Duration EstimatedWait() const;

  // Rows waiting and running. Thread-safe.
  int64_t num_pending_rows() const;

  // Answers every waiting row with UNAVAILABLE (counted as dropped, reason drain), refuses new ones; long rows that run
  // stop at their next step, likewise; other batches that run are finished and answered. Idempotent, thread-safe;
  // returns when every done and room has returned. Not from done or room: it would wait for itself.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_BATCHER_H_
