// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batcher.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "model/postprocess.h"

namespace lion {
namespace {

// How much of the past each new batch keeps in the measured speed.
constexpr double kSpeedMemory = 0.8;

// A row in the queue. What the runner looks at between batches lies here; the rest is a pointer away, so that a sweep
// over 100,000 rows reads a few megabytes.
struct Waiting {
  int model;
  int64_t tokens;
  absl::Time submitted;
  absl::Time deadline;
  const std::atomic<bool>* cancelled;  // owned by row
  std::unique_ptr<PendingRow> row;
};

struct Waiter {
  int64_t tokens;
  std::function<void()> room;
};

// A row that is answered without having run.
struct Dropped {
  Waiting waiting;
  DropReason reason;
};

absl::Status StatusOf(DropReason reason) {
  switch (reason) {
    case DropReason::kCancelled:
      return absl::CancelledError("the caller cancelled while the row waited");
    case DropReason::kDeadline:
      return absl::DeadlineExceededError("the deadline passed while the row waited");
    case DropReason::kDrain:
      break;
  }
  return absl::UnavailableError("server is draining");
}

// Counts rows into the queue's gauges (sign 1) or out of them (-1), one change for each run of the same model.
void CountWaiting(const std::vector<Waiting>& rows, int sign, Metrics* metrics) {
  for (size_t first = 0, last = 0; first < rows.size(); first = last) {
    int64_t tokens = 0;
    for (; last < rows.size() && rows[last].model == rows[first].model; ++last) tokens += rows[last].tokens;
    metrics->QueueChanged(rows[first].model, sign * static_cast<int>(last - first), sign * tokens);
  }
}

// Wall clocks step back.
absl::Duration Elapsed(absl::Time from, absl::Time to) { return std::max(to - from, absl::ZeroDuration()); }

// Takes what is cancelled or past its deadline out of the queue; the others keep their order.
std::vector<Dropped> TakeDead(std::deque<Waiting>& queue, absl::Time now) {
  std::vector<Dropped> dead;
  auto kept = queue.begin();
  for (auto it = queue.begin(); it != queue.end(); ++it) {
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
  queue.erase(kept, queue.end());
  return dead;
}

// Takes the rows that leave now.
std::vector<Waiting> TakeBatch(std::deque<Waiting>& queue, const BatchPolicyOptions& policy) {
  std::vector<QueuedRow> view(std::min<size_t>(queue.size(), Batcher::kLookAheadRows));
  for (size_t i = 0; i < view.size(); ++i) view[i] = {queue[i].model, queue[i].tokens};
  const std::vector<int> leaving = NextBatch(view, policy);
  std::vector<Waiting> batch;
  if (leaving.empty()) return batch;
  batch.reserve(leaving.size());
  for (int i : leaving) batch.push_back(std::move(queue[i]));
  // The rows passed over move up to the last that left: the rest of the queue, however long, is not touched.
  size_t end = static_cast<size_t>(leaving.back()) + 1;
  size_t to = end;
  for (size_t from = end; from-- > 0;) {
    if (queue[from].row != nullptr) queue[--to] = std::move(queue[from]);
  }
  queue.erase(queue.begin(), queue.begin() + static_cast<ptrdiff_t>(to));
  return batch;
}

}  // namespace

struct Batcher::Impl {
  Impl(std::vector<ServedModel> served, const Options& opts) : models(std::move(served)), options(opts) {}

  // The runner's thread. It alone touches the queue, so sweeping and choosing need no lock: Submit hands over through
  // inbox, and counts of what waits are kept beside it.
  void Run();

  // Each returns when the rows have been answered.
  void Drop(std::vector<Dropped> dropped, absl::Time now);
  void RunBatch(std::vector<Waiting> batch);

  // The waiters that fit together now, oldest first.
  std::vector<Waiter> TakeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  bool HasRoom(int64_t tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return tokens <= options.max_queue_tokens - waiting_tokens;
  }

  const std::vector<ServedModel> models;
  const Options options;

  mutable absl::Mutex mu;
  absl::CondVar work;     // the runner may have something to do
  absl::CondVar stopped;  // the runner has ended
  bool stopping ABSL_GUARDED_BY(mu) = false;
  bool ended ABSL_GUARDED_BY(mu) = false;
  std::vector<Waiting> inbox ABSL_GUARDED_BY(mu);  // submitted, not yet seen by the runner
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mu);
  int64_t waiting_tokens ABSL_GUARDED_BY(mu) = 0;  // of inbox and the runner's queue
  int64_t running_tokens ABSL_GUARDED_BY(mu) = 0;
  absl::Time running_since ABSL_GUARDED_BY(mu);
  int64_t pending_rows ABSL_GUARDED_BY(mu) = 0;
  // Decayed sums over the batches that ran; their quotient is the speed. Batches so weigh by how long they ran.
  double measured_tokens ABSL_GUARDED_BY(mu) = 0;
  double measured_seconds ABSL_GUARDED_BY(mu) = 0;

  std::thread runner;
};

void Batcher::Impl::Run() {
  std::deque<Waiting> queue;
  for (;;) {
    std::vector<Waiting> arrived;
    bool stop = false;
    {
      absl::MutexLock lock(&mu);
      // A waiter that fits is a reason to run: one woken before may have left its room unused, and with nothing in the
      // queue no batch will come to wake the next.
      while (!stopping && inbox.empty() && queue.empty() && (waiters.empty() || !HasRoom(waiters.front().tokens))) {
        work.Wait(&mu);
      }
      arrived.swap(inbox);
      stop = stopping;
    }
    std::move(arrived.begin(), arrived.end(), std::back_inserter(queue));

    const absl::Time now = options.clock->Now();
    std::vector<Dropped> dropped;
    std::vector<Waiting> batch;
    if (stop) {
      for (Waiting& waiting : queue) dropped.push_back({std::move(waiting), DropReason::kDrain});
      queue.clear();
    } else {
      dropped = TakeDead(queue, now);
      batch = TakeBatch(queue, options.policy);
    }

    std::vector<Waiter> woken;
    {
      absl::MutexLock lock(&mu);
      for (const Dropped& d : dropped) waiting_tokens -= d.waiting.tokens;
      pending_rows -= static_cast<int64_t>(dropped.size());
      for (const Waiting& waiting : batch) {
        waiting_tokens -= waiting.tokens;
        running_tokens += waiting.tokens;
      }
      running_since = now;
      // Before the batch runs, so that what the waiters submit is here when it ends.
      woken = TakeWaiters();
    }
    CountWaiting(batch, -1, options.metrics);
    Drop(std::move(dropped), now);
    for (Waiter& waiter : woken) {
      waiter.room();
      waiter.room = nullptr;
    }
    if (!batch.empty()) RunBatch(std::move(batch));

    if (stop) {
      absl::MutexLock lock(&mu);
      ended = true;
      stopped.SignalAll();
      return;
    }
  }
}

std::vector<Waiter> Batcher::Impl::TakeWaiters() {
  std::vector<Waiter> woken;
  int64_t room = options.max_queue_tokens - waiting_tokens;
  while (!waiters.empty() && (stopping || waiters.front().tokens <= room)) {
    room -= waiters.front().tokens;
    woken.push_back(std::move(waiters.front()));
    waiters.pop_front();
  }
  return woken;
}

void Batcher::Impl::Drop(std::vector<Dropped> dropped, absl::Time now) {
  for (const Dropped& d : dropped) {
    options.metrics->QueueChanged(d.waiting.model, -1, -d.waiting.tokens);
    options.metrics->Dropped(d.reason);
  }
  for (Dropped& d : dropped) {
    d.waiting.row->done({.status = StatusOf(d.reason),
                         .result = {},
                         .queue = Elapsed(d.waiting.submitted, now),
                         .compute = absl::ZeroDuration()});
    d.waiting.row.reset();
  }
}

void Batcher::Impl::RunBatch(std::vector<Waiting> batch) {
  const int model = batch.front().model;
  std::vector<Row> rows;
  rows.reserve(batch.size());
  int64_t tokens = 0;
  for (const Waiting& waiting : batch) {
    const PendingRow& row = *waiting.row;
    rows.push_back({row.ids, row.type_ids, row.mode, row.chunk_tokens, row.output});
    tokens += waiting.tokens;
  }
  std::vector<RowAnswer> answers(batch.size());
  std::vector<RowResult> results(batch.size());

  const absl::Time started = options.clock->Now();
  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].queue = Elapsed(batch[b].submitted, started);
    options.metrics->LeftQueue(model, answers[b].queue);
  }
  const absl::Status status = models[model].encoder->Encode(rows, absl::MakeSpan(results));
  const absl::Duration compute = Elapsed(started, options.clock->Now());

  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].compute = compute;
    answers[b].status = status;
    if (!status.ok()) continue;
    options.metrics->SequenceEnded(model, rows[b].mode, batch[b].tokens);
    if (AllFinite(results[b].values)) {
      answers[b].result = std::move(results[b]);
    } else {
      answers[b].status = absl::InternalError("the model's answer to this input holds NaN or infinity");
      options.metrics->BadRow(model);
    }
  }
  options.metrics->BatchEnded(model, static_cast<int>(batch.size()), tokens, compute);
  {
    absl::MutexLock lock(&mu);
    running_tokens -= tokens;
    pending_rows -= static_cast<int64_t>(batch.size());
    if (status.ok()) {  // a device that fails at once is not fast
      measured_tokens = kSpeedMemory * measured_tokens + static_cast<double>(tokens);
      measured_seconds = kSpeedMemory * measured_seconds + absl::ToDoubleSeconds(compute);
    }
  }
  for (size_t b = 0; b < batch.size(); ++b) {
    batch[b].row->done(std::move(answers[b]));
    batch[b].row.reset();
  }
}

Batcher::Batcher(std::vector<ServedModel> models, const Options& options)
    : impl_(std::make_unique<Impl>(std::move(models), options)) {
  impl_->runner = std::thread([impl = impl_.get()] { impl->Run(); });
}

Batcher::~Batcher() {
  Stop();
  impl_->runner.join();
}

absl::Status Batcher::Submit(std::vector<PendingRow> rows) {
  if (rows.empty()) return absl::OkStatus();
  const absl::Time now = impl_->options.clock->Now();
  const int64_t max_queue_tokens = impl_->options.max_queue_tokens;
  std::vector<Waiting> arriving;
  arriving.reserve(rows.size());
  int64_t tokens = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    PendingRow& row = rows[i];
    if (row.model < 0 || row.model >= static_cast<int>(impl_->models.size())) {
      return absl::InvalidArgumentError(absl::StrCat("rows[", i, "].model: no model ", row.model));
    }
    if (row.ids.empty()) return absl::InvalidArgumentError(absl::StrCat("rows[", i, "].ids: empty"));
    if (!row.type_ids.empty() && row.type_ids.size() != row.ids.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows[", i, "].type_ids: ", row.type_ids.size(), " for ", row.ids.size(), " ids"));
    }
    const int64_t row_tokens = static_cast<int64_t>(row.ids.size());
    tokens += row_tokens;
    arriving.push_back({.model = row.model,
                        .tokens = row_tokens,
                        .submitted = now,
                        .deadline = row.deadline,
                        .cancelled = row.cancelled.get(),
                        .row = std::make_unique<PendingRow>(std::move(row))});
  }
  if (tokens > max_queue_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("inputs: ", tokens, " tokens in one call, the limit is ",
                                                   max_queue_tokens, " (max_queue_tokens)"));
  }

  absl::MutexLock lock(&impl_->mu);
  if (impl_->stopping) return absl::UnavailableError("server is draining");
  if (!impl_->HasRoom(tokens)) {
    return absl::ResourceExhaustedError(absl::StrCat("queue full: ", impl_->waiting_tokens, " tokens wait, ", tokens,
                                                     " more would pass the limit of ", max_queue_tokens,
                                                     " (max_queue_tokens)"));
  }
  // Gauges rise before the runner can see the rows, so that they never read below zero.
  CountWaiting(arriving, 1, impl_->options.metrics);
  impl_->waiting_tokens += tokens;
  impl_->pending_rows += static_cast<int64_t>(arriving.size());
  std::move(arriving.begin(), arriving.end(), std::back_inserter(impl_->inbox));
  impl_->work.Signal();
  return absl::OkStatus();
}

void Batcher::WhenRoom(int64_t tokens, std::function<void()> room) {
  {
    absl::MutexLock lock(&impl_->mu);
    const bool never_fits = tokens > impl_->options.max_queue_tokens;
    const bool has_turn = impl_->waiters.empty() && impl_->HasRoom(tokens);
    if (!impl_->stopping && !never_fits && !has_turn) {
      impl_->waiters.push_back({tokens, std::move(room)});
      return;
    }
  }
  room();
}

absl::Duration Batcher::EstimatedWait() const {
  const absl::Time now = impl_->options.clock->Now();
  absl::MutexLock lock(&impl_->mu);
  if (impl_->measured_tokens <= 0 || impl_->measured_seconds <= 0) return absl::ZeroDuration();
  const double seconds_per_token = impl_->measured_seconds / impl_->measured_tokens;
  const absl::Duration waiting = absl::Seconds(static_cast<double>(impl_->waiting_tokens) * seconds_per_token);
  const absl::Duration running = absl::Seconds(static_cast<double>(impl_->running_tokens) * seconds_per_token);
  return waiting + std::max(running - Elapsed(impl_->running_since, now), absl::ZeroDuration());
}

int64_t Batcher::num_pending_rows() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->pending_rows;
}

void Batcher::Stop() {
  absl::MutexLock lock(&impl_->mu);
  impl_->stopping = true;
  impl_->work.Signal();
  while (!impl_->ended) impl_->stopped.Wait(&impl_->mu);
}

}  // namespace lion
