// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/batcher.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <iterator>
#include <limits>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "model/postprocess.h"
#include "server/batch_policy.h"
#include "server/device_load.h"

namespace lion {
namespace {

constexpr int64_t kReservedShare = 8;  // of the queue, the part for callers of whom nothing waits: 1 / this

struct Waiter {
  int64_t tokens;
  int64_t room_tokens;  // must be free: its own, and what is kept for others
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

// Whether a row of that model is long: on every device, as any may take it.
bool RunsInSteps(const ServedModel& model, int64_t tokens) {
  return std::any_of(model.encoders.begin(), model.encoders.end(), [tokens](const Encoder* encoder) {
    return encoder->max_unstepped_tokens() > 0 && tokens > encoder->max_unstepped_tokens();
  });
}

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

  // What a runner found to do.
  struct Choice {
    bool ended = false;  // never again
    bool lost = false;   // not on this device
    std::vector<DroppedRow> dropped;
    std::vector<WaitingRow> batch;
    std::vector<Waiter> woken;
    absl::Time now;
  };

  class StepControl;

  Impl(std::vector<ServedModel> served, const Options& opts)
      : models(std::move(served)),
        options(opts),
        device_names(models.front().info.devices),
        queue(BatchBudgets(models)),
        num_long(models.front().encoders.size()),
        load(static_cast<int>(models.front().encoders.size()), static_cast<int>(models.size())) {}

  const std::string& DeviceName(int device) const { return device_names[device]; }

  // A runner's thread.
  void Run(Runner* runner);
  // Waits for something to do and does it; false = never again.
  bool RunOnce(Runner* runner);
  // In the pause of a long row on that runner: runs one batch of rows up to max_row_tokens, if any waits.
  bool RunNested(Runner* runner, int64_t max_row_tokens);
  // The sweeper's thread.
  void SweepAll();

  Choice Choose(Runner* runner, const RowQueue::Fits& fits);
  // Drops and wakes what was chosen.
  void Settle(Choice* choice);

  // Each returns when its rows have been answered, or are in the queue again.
  void Drop(std::vector<DroppedRow> dropped, absl::Time now);
  void RunBatch(Runner* runner, std::vector<WaitingRow> batch);
  void Retry(Runner* runner, std::vector<WaitingRow> batch, DeviceLoad::Ended ended, const absl::Status& status);

  // What a row that is dropped gets.
  absl::Status StatusOf(DropReason reason, const char* doing) const;
  // Nothing is taken any more.
  bool Ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return stopping || load.num_left() == 0; }
  absl::Status WhyEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return load.num_left() == 0 ? last_loss : absl::UnavailableError("server is draining");
  }
  bool HasRoom(int64_t tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return tokens <= options.max_queue_tokens - waiting_tokens;
  }
  int64_t WaitingOf(uint64_t caller) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto it = waiting_of.find(caller);
    return it == waiting_of.end() ? 0 : it->second;
  }
  // Counts rows that wait, or (sign -1) no longer do.
  void CountRow(const WaitingRow& row, int sign) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  bool MayTakeLong(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return num_long[device] < std::max(1, runners_of_device[device] - 1);
  }
  // A waiter that fits is work too: one woken before may have left its room unused, and with nothing in the queue no
  // batch will come to wake the next.
  bool HasWork(int device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return waiting_rows > waiting_long_rows || (waiting_long_rows > 0 && MayTakeLong(device)) ||
           (!waiters.empty() && HasRoom(waiters.front().room_tokens));
  }
  // Calls the free runner whose device has least to do, if any is free that may do what waits.
  void CallRunner() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Calls those of a device, or with -1 all, so that they see that it is over.
  void CallAll(int device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // The waiters that fit together now, oldest first.
  std::vector<Waiter> TakeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // An entry is written while no row of it is here (Replace): whoever takes a row from the inbox sees it whole.
  std::vector<ServedModel> models;
  const Options options;
  const std::vector<std::string> device_names;

  // Held by the thread that chooses. Submit hands over through inbox, and counts of what waits are kept beside it, so
  // that callers never wait for a sweep of the queue. Before mu.
  absl::Mutex choosing;
  RowQueue queue ABSL_GUARDED_BY(choosing);

  mutable absl::Mutex mu ABSL_ACQUIRED_AFTER(choosing);
  absl::CondVar stopped;       // num_threads has become 0
  absl::CondVar sweep_wanted;  // or it has ended
  bool stopping ABSL_GUARDED_BY(mu) = false;
  bool sweep ABSL_GUARDED_BY(mu) = false;             // somebody has gone since the last one began
  int num_threads ABSL_GUARDED_BY(mu) = 0;            // that have not ended: runners and the sweeper
  std::vector<Runner*> idle ABSL_GUARDED_BY(mu);      // waiting and not called
  std::vector<WaitingRow> inbox ABSL_GUARDED_BY(mu);  // submitted, not yet in queue
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mu);
  int64_t next_number ABSL_GUARDED_BY(mu) = 0;
  // Rises before the rows can be seen: who reads it and then looks has missed nothing that it counts.
  std::atomic<int64_t> num_submits = 0;
  // Of inbox and queue.
  int64_t waiting_rows ABSL_GUARDED_BY(mu) = 0;
  int64_t waiting_tokens ABSL_GUARDED_BY(mu) = 0;
  int64_t waiting_long_rows ABSL_GUARDED_BY(mu) = 0;                     // of waiting_rows
  std::unordered_map<uint64_t, int64_t> waiting_of ABSL_GUARDED_BY(mu);  // tokens of each caller, none of them 0
  int64_t pending_rows ABSL_GUARDED_BY(mu) = 0;
  std::vector<int> num_long ABSL_GUARDED_BY(mu);  // running on each device
  DeviceLoad load ABSL_GUARDED_BY(mu);
  absl::Status last_loss ABSL_GUARDED_BY(mu);  // OK until a device is lost

  std::vector<int> runners_of_device;
  std::vector<std::unique_ptr<Runner>> runners;  // as made
  std::thread sweeper;
};

// What happens between the steps of one long row.
class Batcher::Impl::StepControl : public EncodeControl {
 public:
  StepControl(Impl* impl, Runner* runner, const WaitingRow* waiting, absl::Time now)
      : impl_(*impl), runner_(runner), waiting_(*waiting), resumed_(now) {}

  absl::Status BetweenSteps(int64_t tokens_done, int64_t tokens_total) override {
    Worked(Now());
    stop_reason_ = WhyStop();
    if (stop_reason_.has_value()) return absl::CancelledError("stopped");
    if (waiting_.row->progress != nullptr) waiting_.row->progress(tokens_done, tokens_total);
    {
      absl::MutexLock lock(&impl_.mu);
      impl_.load.Progressed(runner_->device, tokens_done - tokens_done_);
    }
    tokens_done_ = tokens_done;
    if (impl_.models[waiting_.model].encoders[runner_->device]->runs_nested_batches()) RunOthers();
    resumed_ = Now();
    others_from_ = resumed_ + share_.UntilPause();
    return absl::OkStatus();
  }

  // Its fields change in BetweenSteps alone, while no thread of the encoder's is in a step.
  bool WantsPause() const override {
    return impl_.num_submits.load(std::memory_order_relaxed) != looked_at_ && Now() >= others_from_;
  }

  // The row's own time, until now.
  absl::Duration Worked(absl::Time now) {
    const absl::Duration step = Elapsed(resumed_, now);
    resumed_ = now;
    share_.Worked(step);
    return worked_ += step;
  }
  // Set if the row was stopped.
  std::optional<DropReason> stop_reason() const { return stop_reason_; }
  int64_t tokens_done() const { return tokens_done_; }

 private:
  absl::Time Now() const { return impl_.options.clock->Now(); }

  void RunOthers() {
    looked_at_ = kNobodyLooked;
    while (share_.MayRunOthers()) {
      const int64_t so_far = impl_.num_submits.load(std::memory_order_relaxed);
      const absl::Time from = Now();
      if (!impl_.RunNested(runner_, waiting_.tokens / kNestedRowShare)) {
        looked_at_ = so_far;  // of what has come until now nothing wants a pause
        return;
      }
      share_.OthersRan(Elapsed(from, Now()));
    }
  }

  std::optional<DropReason> WhyStop() const {
    if (waiting_.cancelled != nullptr && waiting_.cancelled->load(std::memory_order_acquire)) {
      return DropReason::kCancelled;
    }
    if (Now() >= waiting_.deadline) return DropReason::kDeadline;
    absl::MutexLock lock(&impl_.mu);
    return impl_.stopping ? std::make_optional(DropReason::kDrain) : std::nullopt;
  }

  Impl& impl_;
  Runner* runner_;
  const WaitingRow& waiting_;
  StepShare share_;
  static constexpr int64_t kNobodyLooked = -1;
  int64_t looked_at_ = kNobodyLooked;              // Impl::num_submits when nothing was found that may run
  absl::Time others_from_ = absl::InfinitePast();  // before, the row has the device to itself
  absl::Time resumed_;
  absl::Duration worked_;
  int64_t tokens_done_ = 0;
  std::optional<DropReason> stop_reason_;
};

void Batcher::Impl::Run(Runner* runner) {
  while (RunOnce(runner)) {
  }
  absl::MutexLock lock(&mu);
  if (--num_threads == 0) stopped.SignalAll();
}

void Batcher::Impl::CountRow(const WaitingRow& row, int sign) {
  waiting_rows += sign;
  waiting_tokens += sign * row.tokens;
  if (row.alone) waiting_long_rows += sign;
  const auto it = waiting_of.try_emplace(row.caller, 0).first;
  it->second += sign * row.tokens;
  if (it->second == 0) waiting_of.erase(it);
}

Batcher::Impl::Choice Batcher::Impl::Choose(Runner* runner, const RowQueue::Fits& fits) {
  Choice choice;
  absl::MutexLock choose(&choosing);
  RowQueue::Fits fitting = fits;
  {
    absl::MutexLock lock(&mu);
    queue.Append(std::exchange(inbox, {}));
    choice.ended = Ended();
    choice.lost = runner != nullptr && !choice.ended && load.lost(runner->device);
    if (choice.lost) {
      if (runner->called) CallRunner();  // somebody else has to do what it was called for
      return choice;
    }
    if (runner != nullptr) {
      runner->called = false;
      // In a pause the length alone decides: the long row that pauses does nothing.
      if (fits.max_row_tokens == std::numeric_limits<int64_t>::max()) fitting.alone = MayTakeLong(runner->device);
    }
  }
  choice.now = options.clock->Now();
  if (choice.ended) {
    choice.dropped = queue.TakeAll();
  } else {
    choice.dropped = queue.TakeDead(choice.now);
    if (runner != nullptr) choice.batch = queue.TakeBatch(fitting);
  }
  absl::MutexLock lock(&mu);
  for (const DroppedRow& d : choice.dropped) CountRow(d.waiting, -1);
  for (const WaitingRow& row : choice.batch) CountRow(row, -1);
  pending_rows -= static_cast<int64_t>(choice.dropped.size());
  if (!choice.batch.empty()) {
    const bool is_long = choice.batch.front().alone;
    num_long[runner->device] += is_long ? 1 : 0;
    load.BatchStarted(runner->device, SumTokens(choice.batch), is_long, choice.now);
  }
  // Before the batch runs, so that what the waiters submit is here when it ends.
  choice.woken = TakeWaiters();
  if (waiting_rows > 0) CallRunner();  // for what did not fit
  return choice;
}

void Batcher::Impl::Settle(Choice* choice) {
  CountWaiting(choice->batch, -1, options.metrics);
  Drop(std::move(choice->dropped), choice->now);
  for (Waiter& waiter : choice->woken) {
    waiter.room();
    waiter.room = nullptr;
  }
}

bool Batcher::Impl::RunOnce(Runner* runner) {
  {
    absl::MutexLock lock(&mu);
    while (!Ended() && !load.lost(runner->device) && !HasWork(runner->device)) {
      idle.push_back(runner);
      runner->wake.Wait(&mu);
      idle.erase(std::remove(idle.begin(), idle.end(), runner), idle.end());
    }
  }
  Choice choice = Choose(runner, {});
  if (choice.lost) return false;
  Settle(&choice);
  if (!choice.batch.empty()) RunBatch(runner, std::move(choice.batch));
  return !choice.ended;
}

bool Batcher::Impl::RunNested(Runner* runner, int64_t max_row_tokens) {
  {
    absl::MutexLock lock(&mu);
    // At the end the runner's own loop has the rest.
    if (Ended() || load.lost(runner->device) || waiting_rows == 0) return false;
  }
  Choice choice = Choose(runner, {.max_row_tokens = max_row_tokens, .alone = true});
  Settle(&choice);
  if (choice.batch.empty()) return false;
  RunBatch(runner, std::move(choice.batch));
  return true;
}

void Batcher::Impl::SweepAll() {
  for (bool ended = false; !ended;) {
    {
      absl::MutexLock lock(&mu);
      while (!sweep && !Ended()) sweep_wanted.Wait(&mu);
      sweep = false;
      if (Ended()) break;
    }
    Choice choice = Choose(nullptr, {});
    Settle(&choice);
    ended = choice.ended;
  }
  absl::MutexLock lock(&mu);
  if (--num_threads == 0) stopped.SignalAll();
}

void Batcher::Impl::CallRunner() {
  auto freest = idle.end();
  for (auto it = idle.begin(); it != idle.end(); ++it) {
    if (!HasWork((*it)->device)) continue;
    if (freest == idle.end() || load.IsFreer((*it)->device, (*freest)->device)) freest = it;
  }
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
  sweep_wanted.Signal();
}

std::vector<Waiter> Batcher::Impl::TakeWaiters() {
  std::vector<Waiter> woken;
  const bool all = Ended();
  int64_t room = options.max_queue_tokens - waiting_tokens;
  while (!waiters.empty() && (all || waiters.front().room_tokens <= room)) {
    room -= waiters.front().tokens;
    woken.push_back(std::move(waiters.front()));
    waiters.pop_front();
  }
  return woken;
}

absl::Status Batcher::Impl::StatusOf(DropReason reason, const char* doing) const {
  switch (reason) {
    case DropReason::kCancelled:
      return absl::CancelledError(absl::StrCat("the caller cancelled while the row ", doing));
    case DropReason::kDeadline:
      return absl::DeadlineExceededError(absl::StrCat("the deadline passed while the row ", doing));
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
    d.waiting.row->done({.status = StatusOf(d.reason, "waited"),
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
    rows.push_back({row.ids, row.type_ids, row.mode, row.chunk_tokens, row.output, row.window_tokens, row.window_stride,
                    row.pixels, row.image_tokens});
    rows.back().window_starts = row.window_starts;
    rows.back().with_document = row.with_document;
  }
  std::vector<RowAnswer> answers(batch.size());
  std::vector<RowResult> results(batch.size());
  const absl::Time started = options.clock->Now();
  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].queue = Elapsed(batch[b].submitted, started);
    options.metrics->LeftQueue(model, answers[b].queue);
  }
  Encoder* encoder = models[model].encoders[runner->device];
  const bool is_long = batch.front().alone;
  StepControl control(this, runner, &batch.front(), started);
  const absl::Status status = encoder->Encode(rows, absl::MakeSpan(results), is_long ? &control : nullptr);
  const absl::Time end = options.clock->Now();
  const int64_t tokens = SumTokens(batch);
  // What others ran between its steps is theirs.
  const absl::Duration compute = is_long ? control.Worked(end) : Elapsed(started, end);
  DeviceLoad::Ended ended = {.model = model,
                             .tokens = tokens - control.tokens_done(),
                             .is_long = is_long,
                             .started = started,
                             .measured_tokens = status.ok() ? tokens : 0,
                             .worked = std::nullopt};
  if (encoder->runs_nested_batches()) ended.worked = compute;
  const std::optional<DropReason> stopped_by = control.stop_reason();
  if (!stopped_by.has_value() && absl::IsUnavailable(status)) return Retry(runner, std::move(batch), ended, status);

  for (size_t b = 0; b < batch.size(); ++b) {
    answers[b].compute = compute;
    answers[b].status = stopped_by.has_value() ? StatusOf(*stopped_by, "ran") : status;
    if (stopped_by.has_value()) options.metrics->Dropped(*stopped_by);
    if (!status.ok()) continue;
    options.metrics->SequenceEnded(model, rows[b].mode, batch[b].tokens);
    const int64_t values = std::min(batch[b].row->normalized_values, results[b].width);
    if (!AllFinite(results[b].values)) {
      answers[b].status = absl::InternalError("the model's answer to this input holds NaN or infinity");
    } else if (values > 0 && AnyZeroVector(results[b].values, results[b].width, values)) {
      answers[b].status =
          absl::InternalError("the model's answer to this input is a vector of zeros: it has no direction");
    } else {
      answers[b].result = std::move(results[b]);
      continue;
    }
    options.metrics->BadRow(model);
  }
  options.metrics->BatchEnded(model, static_cast<int>(batch.size()), tokens, compute);
  {
    absl::MutexLock lock(&mu);
    num_long[runner->device] -= is_long ? 1 : 0;
    load.BatchEnded(runner->device, ended, end);
    pending_rows -= static_cast<int64_t>(batch.size());
    if (is_long && waiting_long_rows > 0) CallRunner();  // a long row may follow
  }
  for (size_t b = 0; b < batch.size(); ++b) {
    batch[b].row->done(std::move(answers[b]));
    batch[b].row.reset();
  }
}

void Batcher::Impl::Retry(Runner* runner, std::vector<WaitingRow> batch, DeviceLoad::Ended ended,
                          const absl::Status& status) {
  const absl::Time now = options.clock->Now();
  LostDevice lost = {.name = DeviceName(runner->device), .status = status};
  bool news = false;  // several batches may have been on the device
  {
    absl::MutexLock lock(&mu);
    num_long[runner->device] -= ended.is_long ? 1 : 0;
    load.BatchEnded(runner->device, ended, now);
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
    for (const WaitingRow& row : again) CountRow(row, 1);
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
    impl_->runners_of_device.push_back(at_once);
    for (int i = 0; i < at_once; ++i) {
      impl_->runners.push_back(std::make_unique<Impl::Runner>());
      impl_->runners.back()->device = static_cast<int>(device);
    }
  }
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->num_threads = static_cast<int>(impl_->runners.size()) + 1;
  }
  for (const auto& runner : impl_->runners) {
    runner->thread = std::thread([impl = impl_.get(), runner = runner.get()] { impl->Run(runner); });
  }
  impl_->sweeper = std::thread([impl = impl_.get()] { impl->SweepAll(); });
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
  impl_->sweeper.join();
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
    if (row.ids.empty() && row.image_tokens == 0) {
      return absl::InvalidArgumentError(absl::StrCat("rows[", i, "].ids: empty"));
    }
    if (row.image_tokens < 0 || row.pixels.empty() != (row.image_tokens == 0) ||
        row.pixels.empty() == row.ids.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("rows[", i, "].pixels: ", row.pixels.size(), " for ",
                                                     row.image_tokens, " tokens beside ", row.ids.size(), " ids"));
    }
    if (!row.type_ids.empty() && row.type_ids.size() != row.ids.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows[", i, "].type_ids: ", row.type_ids.size(), " for ", row.ids.size(), " ids"));
    }
    WaitingRow& waiting = arriving.emplace_back();
    waiting.model = row.model;
    waiting.tokens = row.image_tokens > 0 ? row.image_tokens : static_cast<int64_t>(row.ids.size());
    waiting.submitted = now;
    waiting.deadline = row.deadline;
    waiting.cancelled = row.cancelled.get();
    waiting.caller = row.caller;
    waiting.alone = RunsInSteps(impl_->models[row.model], waiting.tokens);
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
  const uint64_t caller = arriving.front().caller;
  if (const int64_t own = caller == 0 ? 0 : impl_->WaitingOf(caller);
      own > 0 && !impl_->HasRoom(tokens + max_queue_tokens / kReservedShare)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("queue full: ", impl_->waiting_tokens, " tokens wait, ", own, " of them yours; ", tokens,
                     " more would take of what is kept for others, ", max_queue_tokens / kReservedShare, " of ",
                     max_queue_tokens, " (max_queue_tokens)"));
  }
  // Gauges rise before a runner can see the rows, so that they never read below zero.
  CountWaiting(arriving, 1, impl_->options.metrics);
  for (WaitingRow& waiting : arriving) {
    waiting.number = impl_->next_number++;
    impl_->CountRow(waiting, 1);
  }
  impl_->pending_rows += static_cast<int64_t>(arriving.size());
  impl_->num_submits.fetch_add(1, std::memory_order_relaxed);
  std::move(arriving.begin(), arriving.end(), std::back_inserter(impl_->inbox));
  impl_->CallRunner();
  return absl::OkStatus();
}

void Batcher::WhenRoom(int64_t tokens, std::function<void()> room, uint64_t caller) {
  const int64_t limit = impl_->options.max_queue_tokens;
  // What Submit asks for at most, so that who is called finds it.
  const int64_t room_tokens = caller == 0 ? tokens : std::min(tokens + limit / kReservedShare, std::max(limit, tokens));
  {
    absl::MutexLock lock(&impl_->mu);
    const bool has_turn = impl_->waiters.empty() && impl_->HasRoom(room_tokens);
    if (!impl_->Ended() && tokens <= limit && !has_turn) {
      impl_->waiters.push_back({tokens, room_tokens, std::move(room)});
      return;
    }
  }
  room();
}

absl::Duration Batcher::EstimatedWait() const {
  const absl::Time now = impl_->options.clock->Now();
  absl::MutexLock lock(&impl_->mu);
  return impl_->load.Wait(impl_->waiting_tokens, /*behind_long=*/false, now);
}

Batcher::Estimate Batcher::EstimateCall(int model, uint64_t caller, int64_t tokens, int64_t longest_row) const {
  const bool is_long = RunsInSteps(impl_->models[model], longest_row);
  const absl::Time now = impl_->options.clock->Now();
  absl::MutexLock lock(&impl_->mu);
  const int64_t own = impl_->WaitingOf(caller);
  int64_t ahead = own;
  for (const auto& [other, waiting] : impl_->waiting_of) {
    if (other != caller) ahead += std::min(waiting, own + tokens);
  }
  // Its rows may be divided among the devices, but not one of them.
  const int64_t share = tokens / std::max(impl_->load.num_left(), 1);
  return {.wait = impl_->load.LeastWait(ahead, is_long, now),
          .compute = impl_->load.Compute(model, std::max(longest_row, share))};
}

void Batcher::Sweep() {
  absl::MutexLock lock(&impl_->mu);
  impl_->sweep = true;
  impl_->sweep_wanted.Signal();
}

int64_t Batcher::num_pending_rows() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->pending_rows;
}

void Batcher::Stop() {
  absl::MutexLock lock(&impl_->mu);
  impl_->stopping = true;
  impl_->CallAll(-1);
  while (impl_->num_threads > 0) impl_->stopped.Wait(&impl_->mu);
}

}  // namespace lion
