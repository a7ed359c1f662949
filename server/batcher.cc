// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batcher.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "model/postprocess.h"
#include "server/device_load.h"

namespace lion {
namespace {

struct Waiter {
  int64_t tokens;
  std::function<void()> room;
};

// Counts rows into the queue's gauges (sign 1) or out of them (-1), one change for each run of the same model.
void CountWaiting(const std::vector<WaitingRow>& rows, int sign, Metrics* metrics) {
  for (size_t first = 0, last = 0; first < rows.size(); first = last) {
    int64_t tokens = 0;
    for (; last < rows.size() && rows[last].model == rows[first].model; ++last) tokens += rows[last].tokens;
    metrics->QueueChanged(rows[first].model, sign * static_cast<int>(last - first), sign * tokens);
  }
}

int64_t SumTokens(const std::vector<WaitingRow>& rows) {
  int64_t tokens = 0;
  for (const WaitingRow& row : rows) tokens += row.tokens;
  return tokens;
}

// Wall clocks step back.
absl::Duration Elapsed(absl::Time from, absl::Time to) { return std::max(to - from, absl::ZeroDuration()); }

std::vector<int64_t> BatchBudgets(const std::vector<ServedModel>& models) {
  std::vector<int64_t> budgets;
  budgets.reserve(models.size());
  for (const ServedModel& model : models) budgets.push_back(model.info.max_batch_tokens);
  return budgets;
}

}  // namespace

struct Batcher::Impl {
  // One thread that takes batches for one device.
  struct Runner {
    int device = 0;
    absl::CondVar wake;
    bool called = false;  // by CallRunner, and has not looked for work since; guarded by mu
    std::thread thread;
  };

  Impl(std::vector<ServedModel> served, const Options& opts)
      : models(std::move(served)),
        options(opts),
        device_names(models.front().info.devices),
        queue(BatchBudgets(models)),
        load(static_cast<int>(models.front().encoders.size())) {}

  const std::string& DeviceName(int device) const { return device_names[device]; }

  // A runner's thread.
  void Run(Runner* runner);
  // Waits for something to do and does it; false = never again.
  bool RunOnce(Runner* runner);

  // Each returns when its rows have been answered, or are in the queue again.
  void Drop(std::vector<DroppedRow> dropped, absl::Time now);
  void RunBatch(Runner* runner, std::vector<WaitingRow> batch);
  void Retry(Runner* runner, std::vector<WaitingRow> batch, const absl::Status& status);

  // What a row that is dropped gets.
  absl::Status StatusOf(DropReason reason) const;
  // Nothing is taken any more.
  bool Ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return stopping || load.num_left() == 0; }
  absl::Status WhyEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return load.num_left() == 0 ? last_loss : absl::UnavailableError("server is draining");
  }
  bool HasRoom(int64_t tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return tokens <= options.max_queue_tokens - waiting_tokens;
  }
  // A waiter that fits is work too: one woken before may have left its room unused, and with nothing in the queue no
  // batch will come to wake the next.
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return waiting_rows > 0 || (!waiters.empty() && HasRoom(waiters.front().tokens));
  }
  // Calls the free runner whose device has least to do, if any is free.
  void CallRunner() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Calls those of a device, or with -1 all, so that they see that it is over.
  void CallAll(int device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // The waiters that fit together now, oldest first.
  std::vector<Waiter> TakeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // An entry is written while no row of it is here (Replace): whoever takes a row from the inbox sees it whole.
  std::vector<ServedModel> models;
  const Options options;
  const std::vector<std::string> device_names;

  // Held by the runner that chooses. Submit hands over through inbox, and counts of what waits are kept beside it, so
  // that callers never wait for a sweep of the queue. Before mu.
  absl::Mutex choosing;
  RowQueue queue ABSL_GUARDED_BY(choosing);

  mutable absl::Mutex mu ABSL_ACQUIRED_AFTER(choosing);
  absl::CondVar stopped;  // num_runners has become 0
  bool stopping ABSL_GUARDED_BY(mu) = false;
  int num_runners ABSL_GUARDED_BY(mu) = 0;            // threads that have not ended
  std::vector<Runner*> idle ABSL_GUARDED_BY(mu);      // waiting and not called
  std::vector<WaitingRow> inbox ABSL_GUARDED_BY(mu);  // submitted, not yet in queue
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mu);
  int64_t next_number ABSL_GUARDED_BY(mu) = 0;
  int64_t waiting_rows ABSL_GUARDED_BY(mu) = 0;  // of inbox and queue
  int64_t waiting_tokens ABSL_GUARDED_BY(mu) = 0;
  int64_t pending_rows ABSL_GUARDED_BY(mu) = 0;
  DeviceLoad load ABSL_GUARDED_BY(mu);
  absl::Status last_loss ABSL_GUARDED_BY(mu);  // OK until a device is lost

  std::vector<std::unique_ptr<Runner>> runners;  // as made
};

void Batcher::Impl::Run(Runner* runner) {
  while (RunOnce(runner)) {
  }
  absl::MutexLock lock(&mu);
  if (--num_runners == 0) stopped.SignalAll();
}

bool Batcher::Impl::RunOnce(Runner* runner) {
  {
    absl::MutexLock lock(&mu);
    while (!Ended() && !load.lost(runner->device) && !HasWork()) {
      idle.push_back(runner);
      runner->wake.Wait(&mu);
      idle.erase(std::remove(idle.begin(), idle.end(), runner), idle.end());
    }
  }

  bool ended = false;
  std::vector<DroppedRow> dropped;
  std::vector<WaitingRow> batch;
  std::vector<Waiter> woken;
  absl::Time now;
  {
    absl::MutexLock choose(&choosing);
    {
      absl::MutexLock lock(&mu);
      queue.Append(std::exchange(inbox, {}));
      ended = Ended();
      if (!ended && load.lost(runner->device)) {
        if (runner->called) CallRunner();  // somebody else has to do what it was called for
        return false;
      }
      runner->called = false;
    }
    now = options.clock->Now();
    if (ended) {
      dropped = queue.TakeAll();
    } else {
      dropped = queue.TakeDead(now);
      batch = queue.TakeBatch();
    }
    absl::MutexLock lock(&mu);
    for (const DroppedRow& d : dropped) waiting_tokens -= d.waiting.tokens;
    pending_rows -= static_cast<int64_t>(dropped.size());
    waiting_rows -= static_cast<int64_t>(dropped.size() + batch.size());
    if (!batch.empty()) {
      const int64_t tokens = SumTokens(batch);
      waiting_tokens -= tokens;
      load.BatchStarted(runner->device, tokens, now);
    }
    // Before the batch runs, so that what the waiters submit is here when it ends.
    woken = TakeWaiters();
    if (waiting_rows > 0) CallRunner();  // for what did not fit
  }
  CountWaiting(batch, -1, options.metrics);
  Drop(std::move(dropped), now);
  for (Waiter& waiter : woken) {
    waiter.room();
    waiter.room = nullptr;
  }
  if (!batch.empty()) RunBatch(runner, std::move(batch));
  return !ended;
}

void Batcher::Impl::CallRunner() {
  const auto freest = std::min_element(idle.begin(), idle.end(), [this](const Runner* a, const Runner* b) {
    mu.AssertHeld();
    return load.IsFreer(a->device, b->device);
  });
  if (freest == idle.end()) return;
  (*freest)->called = true;
  (*freest)->wake.Signal();
  idle.erase(freest);
}

void Batcher::Impl::CallAll(int device) {
  std::vector<Runner*> others;
  for (Runner* runner : idle) {
    if (device < 0 || runner->device == device) {
      runner->wake.Signal();
    } else {
      others.push_back(runner);
    }
  }
  idle = std::move(others);
}

std::vector<Waiter> Batcher::Impl::TakeWaiters() {
  std::vector<Waiter> woken;
  const bool all = Ended();
  int64_t room = options.max_queue_tokens - waiting_tokens;
  while (!waiters.empty() && (all || waiters.front().tokens <= room)) {
    room -= waiters.front().tokens;
    woken.push_back(std::move(waiters.front()));
    waiters.pop_front();
  }
  return woken;
}

absl::Status Batcher::Impl::StatusOf(DropReason reason) const {
  switch (reason) {
    case DropReason::kCancelled:
      return absl::CancelledError("the caller cancelled while the row waited");
    case DropReason::kDeadline:
      return absl::DeadlineExceededError("the deadline passed while the row waited");
    case DropReason::kDrain:
      break;
  }
  absl::MutexLock lock(&mu);
  return WhyEnded();
}

void Batcher::Impl::Drop(std::vector<DroppedRow> dropped, absl::Time now) {
  for (const DroppedRow& d : dropped) {
    options.metrics->QueueChanged(d.waiting.model, -1, -d.waiting.tokens);
    options.metrics->Dropped(d.reason);
  }
  for (DroppedRow& d : dropped) {
    d.waiting.row->done({.status = StatusOf(d.reason),
                         .result = {},
                         .queue = Elapsed(d.waiting.submitted, now),
                         .compute = absl::ZeroDuration()});
    d.waiting.row.reset();
  }
}

void Batcher::Impl::RunBatch(Runner* runner, std::vector<WaitingRow> batch) {
  const int model = batch.front().model;
  std::vector<Row> rows;
  rows.reserve(batch.size());
  for (const WaitingRow& waiting : batch) {
    const PendingRow& row = *waiting.row;
    rows.push_back(
        {row.ids, row.type_ids, row.mode, row.chunk_tokens, row.output, row.window_tokens, row.window_stride});
  }
  std::vector<RowAnswer> answers(batch.size());
  std::vector<RowResult> results(batch.size());
  const absl::Time started = options.clock->Now();
  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].queue = Elapsed(batch[b].submitted, started);
    options.metrics->LeftQueue(model, answers[b].queue);
  }
  const absl::Status status = models[model].encoders[runner->device]->Encode(rows, absl::MakeSpan(results));
  if (absl::IsUnavailable(status)) return Retry(runner, std::move(batch), status);
  const absl::Time ended = options.clock->Now();

  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].compute = Elapsed(started, ended);
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
  const int64_t tokens = SumTokens(batch);
  options.metrics->BatchEnded(model, static_cast<int>(batch.size()), tokens, Elapsed(started, ended));
  {
    absl::MutexLock lock(&mu);
    load.BatchEnded(runner->device, tokens, /*measures=*/status.ok(), ended);
    pending_rows -= static_cast<int64_t>(batch.size());
  }
  for (size_t b = 0; b < batch.size(); ++b) {
    batch[b].row->done(std::move(answers[b]));
    batch[b].row.reset();
  }
}

void Batcher::Impl::Retry(Runner* runner, std::vector<WaitingRow> batch, const absl::Status& status) {
  const int64_t tokens = SumTokens(batch);
  const absl::Time now = options.clock->Now();
  LostDevice lost = {.name = DeviceName(runner->device), .status = status};
  bool news = false;  // several batches may have been on the device
  {
    absl::MutexLock lock(&mu);
    load.BatchEnded(runner->device, tokens, /*measures=*/false, now);
    news = !load.lost(runner->device);
    if (news) {
      load.Lose(runner->device);
      last_loss = status;
      // The others of this device have no more to do, and where it was the last one nobody has.
      CallAll(load.num_left() == 0 ? -1 : runner->device);
    }
    lost.num_left = load.num_left();
  }
  if (news) {
    options.metrics->DeviceLost(runner->device);
    if (options.on_device_lost != nullptr) options.on_device_lost(lost);
  }

  std::vector<WaitingRow> again, given_up;
  for (WaitingRow& row : batch) {
    const bool poisonous = ++row.num_lost_devices >= kMaxLostDevices && lost.num_left > 0;
    (poisonous ? given_up : again).push_back(std::move(row));
  }
  if (!again.empty()) {
    CountWaiting(again, 1, options.metrics);
    absl::MutexLock choose(&choosing);
    absl::MutexLock lock(&mu);
    if (!Ended()) options.metrics->BatchRetried();
    waiting_rows += static_cast<int64_t>(again.size());
    waiting_tokens += SumTokens(again);
    queue.PutBack(std::move(again));
    CallRunner();
  }
  if (given_up.empty()) return;
  {
    absl::MutexLock lock(&mu);
    pending_rows -= static_cast<int64_t>(given_up.size());
  }
  for (WaitingRow& row : given_up) {
    row.row->done(
        {.status = absl::InternalError(absl::StrCat("given up after ", row.num_lost_devices,
                                                    " devices were lost running it, the last: ", status.message())),
         .result = {},
         .queue = Elapsed(row.submitted, now),
         .compute = absl::ZeroDuration()});
    row.row.reset();
  }
}

Batcher::Batcher(std::vector<ServedModel> models, const Options& options)
    : impl_(std::make_unique<Impl>(std::move(models), options)) {
  for (size_t device = 0; device < impl_->models.front().encoders.size(); ++device) {
    int at_once = impl_->models.front().encoders[device]->max_concurrent_batches();
    for (const ServedModel& model : impl_->models) {
      at_once = std::min(at_once, model.encoders[device]->max_concurrent_batches());
    }
    for (int i = 0; i < at_once; ++i) {
      impl_->runners.push_back(std::make_unique<Impl::Runner>());
      impl_->runners.back()->device = static_cast<int>(device);
    }
  }
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->num_runners = static_cast<int>(impl_->runners.size());
  }
  for (const auto& runner : impl_->runners) {
    runner->thread = std::thread([impl = impl_.get(), runner = runner.get()] { impl->Run(runner); });
  }
  // Or the first rows would go to whoever starts first.
  const auto all_idle = [impl = impl_.get()] {
    impl->mu.AssertHeld();
    return impl->idle.size() == impl->runners.size();
  };
  absl::MutexLock lock(&impl_->mu);
  impl_->mu.Await(absl::Condition(&all_idle));
}

Batcher::~Batcher() {
  Stop();
  for (const auto& runner : impl_->runners) runner->thread.join();
}

void Batcher::Replace(int index, ServedModel model) {
  ServedModel before;  // released outside the lock
  absl::MutexLock lock(&impl_->mu);
  before = std::exchange(impl_->models[index], std::move(model));
}

absl::Status Batcher::Submit(std::vector<PendingRow> rows) {
  if (rows.empty()) return absl::OkStatus();
  const absl::Time now = impl_->options.clock->Now();
  const int64_t max_queue_tokens = impl_->options.max_queue_tokens;
  std::vector<WaitingRow> arriving;
  arriving.reserve(rows.size());
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
    WaitingRow& waiting = arriving.emplace_back();
    waiting.model = row.model;
    waiting.tokens = static_cast<int64_t>(row.ids.size());
    waiting.submitted = now;
    waiting.deadline = row.deadline;
    waiting.cancelled = row.cancelled.get();
    waiting.row = std::make_unique<PendingRow>(std::move(row));
  }
  const int64_t tokens = SumTokens(arriving);
  if (tokens > max_queue_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("inputs: ", tokens, " tokens in one call, the limit is ",
                                                   max_queue_tokens, " (max_queue_tokens)"));
  }

  absl::MutexLock lock(&impl_->mu);
  if (impl_->Ended()) return impl_->WhyEnded();
  if (!impl_->HasRoom(tokens)) {
    return absl::ResourceExhaustedError(absl::StrCat("queue full: ", impl_->waiting_tokens, " tokens wait, ", tokens,
                                                     " more would pass the limit of ", max_queue_tokens,
                                                     " (max_queue_tokens)"));
  }
  // Gauges rise before a runner can see the rows, so that they never read below zero.
  CountWaiting(arriving, 1, impl_->options.metrics);
  for (WaitingRow& waiting : arriving) waiting.number = impl_->next_number++;
  impl_->waiting_tokens += tokens;
  impl_->waiting_rows += static_cast<int64_t>(arriving.size());
  impl_->pending_rows += static_cast<int64_t>(arriving.size());
  std::move(arriving.begin(), arriving.end(), std::back_inserter(impl_->inbox));
  impl_->CallRunner();
  return absl::OkStatus();
}

void Batcher::WhenRoom(int64_t tokens, std::function<void()> room) {
  {
    absl::MutexLock lock(&impl_->mu);
    const bool never_fits = tokens > impl_->options.max_queue_tokens;
    const bool has_turn = impl_->waiters.empty() && impl_->HasRoom(tokens);
    if (!impl_->Ended() && !never_fits && !has_turn) {
      impl_->waiters.push_back({tokens, std::move(room)});
      return;
    }
  }
  room();
}

absl::Duration Batcher::EstimatedWait() const {
  const absl::Time now = impl_->options.clock->Now();
  absl::MutexLock lock(&impl_->mu);
  return impl_->load.Wait(impl_->waiting_tokens, now);
}

int64_t Batcher::num_pending_rows() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->pending_rows;
}

void Batcher::Stop() {
  absl::MutexLock lock(&impl_->mu);
  impl_->stopping = true;
  impl_->CallAll(-1);
  while (impl_->num_runners > 0) impl_->stopped.Wait(&impl_->mu);
}

}  // namespace lion
