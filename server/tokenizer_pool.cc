// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tokenizer_pool.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <iterator>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/batch_policy.h"

namespace lion {

struct TokenizerPool::Impl {
  static constexpr int64_t kHelper = -1;
  static constexpr int64_t kPieceCost = 128;    // of a piece without a byte: those are not free either
  static constexpr int64_t kReservedShare = 8;  // of the limit, the part for callers of whom nothing is pending: 1 / it
  static constexpr size_t kMaxRememberedCallers = 4096;

  struct Piece {
    int64_t bytes = 0;  // kHelper: part of a ForEach
    uint64_t caller = 0;
    int64_t number = 0;  // they came in this order
    std::function<void()> work;
  };

  struct Caller {
    std::deque<Piece> waiting;
    double served = 0;          // bytes of text whose turn has come; never below `served_now` when its next one comes
    int64_t pending_bytes = 0;  // waiting or running
    int64_t pending_pieces = 0;
  };

  // One ForEach. Its caller waits for it, so body lives while an index is left; helpers may look in later.
  struct Loop {
    size_t n;
    const std::function<void(size_t)>* body;
    std::atomic<size_t> next = 0;
    absl::Mutex mu;
    size_t done ABSL_GUARDED_BY(mu) = 0;

    // Runs the next index; false if there is none left.
    bool Step() {
      const size_t i = next.fetch_add(1);
      if (i >= n) return false;
      (*body)(i);
      absl::MutexLock lock(&mu);
      ++done;
      return true;
    }
  };

  struct Waiter {
    int64_t bytes;
    int64_t kept_bytes;  // must be left to others
    std::function<void()> room;
  };

  // The piece that a pool thread runs; one inside another where others were let in.
  struct Running {
    Impl* pool;
    int64_t bytes;
    uint64_t caller;
    absl::Time resumed;
    StepShare share;
  };
  static thread_local Running* running;

  // A pool thread: runs pieces until there are none and the pool ends.
  void Run();
  void RunPiece(Piece piece) ABSL_LOCKS_EXCLUDED(mu);
  // Puts a helper of loop among what waits. It holds no text of its own and counts for nothing.
  void QueueHelper(std::shared_ptr<Loop> loop, uint64_t caller) ABSL_LOCKS_EXCLUDED(mu);

  void Add(Piece piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // The next one in turn, of those with at most max_bytes and no helpers among them if that is told.
  std::optional<Piece> Take(std::optional<int64_t> max_bytes = std::nullopt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  void ForgetCallers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // What a piece of that caller must leave to others.
  int64_t KeptBytes(uint64_t caller) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto it = callers.find(caller);
    const bool pending = caller != 0 && it != callers.end() && it->second.pending_bytes > 0;
    return pending ? max_pending_bytes / kReservedShare : 0;
  }
  // A piece larger than the limit fits where nothing else is pending.
  bool Fits(int64_t bytes, int64_t kept_bytes, int64_t pieces, int64_t taken) const {
    return pieces == 0 || bytes <= max_pending_bytes - kept_bytes - taken;
  }
  bool FrontWaiterFits() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return !waiters.empty() && Fits(waiters.front().bytes, waiters.front().kept_bytes, pending_pieces, pending_bytes);
  }
  // The waiters that fit together now, oldest first.
  std::vector<Waiter> TakeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  int64_t max_pending_bytes = 0;
  Clock* clock = nullptr;
  absl::Mutex mu;
  absl::CondVar changed;
  bool ending ABSL_GUARDED_BY(mu) = false;
  int64_t next_number ABSL_GUARDED_BY(mu) = 0;
  int64_t pending_pieces ABSL_GUARDED_BY(mu) = 0;  // waiting or running, without helpers
  int64_t pending_bytes ABSL_GUARDED_BY(mu) = 0;
  std::unordered_map<uint64_t, Caller> callers ABSL_GUARDED_BY(mu);
  // Those with something waiting: what each has been served, the number of its first piece, who it is.
  std::set<std::tuple<double, int64_t, uint64_t>> turns ABSL_GUARDED_BY(mu);
  double served_now ABSL_GUARDED_BY(mu) = 0;  // where one that comes now begins
  size_t forget_above ABSL_GUARDED_BY(mu) = kMaxRememberedCallers;
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mu);
  std::vector<std::thread> threads;
  ParallelFor parallel;
};

thread_local TokenizerPool::Impl::Running* TokenizerPool::Impl::running = nullptr;

void TokenizerPool::Impl::QueueHelper(std::shared_ptr<Loop> loop, uint64_t caller) {
  Piece piece;
  piece.bytes = kHelper;
  piece.caller = caller;
  piece.work = [this, loop = std::move(loop), caller] {
    if (loop->Step()) QueueHelper(loop, caller);
  };
  absl::MutexLock lock(&mu);
  Add(std::move(piece));
}

void TokenizerPool::Impl::Add(Piece piece) {
  Caller& caller = callers[piece.caller];
  piece.number = next_number++;
  if (piece.bytes != kHelper) {
    ++pending_pieces;
    pending_bytes += piece.bytes;
    ++caller.pending_pieces;
    caller.pending_bytes += piece.bytes;
  }
  if (caller.waiting.empty()) {
    caller.served = std::max(caller.served, served_now);
    turns.emplace(caller.served, piece.number, piece.caller);
  }
  caller.waiting.push_back(std::move(piece));
  changed.Signal();
}

std::optional<TokenizerPool::Impl::Piece> TokenizerPool::Impl::Take(std::optional<int64_t> max_bytes) {
  for (auto turn = turns.begin(); turn != turns.end(); ++turn) {
    const auto [served, unused, id] = *turn;
    Caller& caller = callers[id];
    const Piece& first = caller.waiting.front();
    if (max_bytes.has_value() && (first.bytes == kHelper || first.bytes > *max_bytes)) continue;
    turns.erase(turn);
    Piece piece = std::move(caller.waiting.front());
    caller.waiting.pop_front();
    served_now = std::max(served_now, served);
    // The bytes of a ForEach count with the piece that called it.
    if (piece.bytes != kHelper) caller.served += static_cast<double>(piece.bytes + kPieceCost);
    if (!caller.waiting.empty()) turns.emplace(caller.served, caller.waiting.front().number, id);
    return piece;
  }
  return std::nullopt;
}

void TokenizerPool::Impl::ForgetCallers() {
  if (pending_pieces == 0 && turns.empty()) {
    callers.clear();
    served_now = 0;
  }
  if (callers.size() <= forget_above) return;
  for (auto it = callers.begin(); it != callers.end();) {
    const bool idle = it->second.pending_pieces == 0 && it->second.waiting.empty();
    it = idle ? callers.erase(it) : std::next(it);
  }
  forget_above = std::max(kMaxRememberedCallers, 2 * callers.size());  // or each piece would look at all
}

void TokenizerPool::Impl::RunPiece(Piece piece) {
  Running here = {this, piece.bytes, piece.caller, clock->Now(), {}};
  Running* const outer = std::exchange(running, &here);
  piece.work();
  piece.work = nullptr;  // the text it holds is gone before its bytes are free again
  running = outer;
  if (piece.bytes == kHelper) return;
  absl::MutexLock lock(&mu);
  pending_bytes -= piece.bytes;
  --pending_pieces;
  Caller& caller = callers[piece.caller];
  caller.pending_bytes -= piece.bytes;
  --caller.pending_pieces;
  ForgetCallers();
}

void TokenizerPool::Impl::Run() {
  for (;;) {
    std::optional<Piece> piece;
    std::vector<Waiter> woken;
    {
      absl::MutexLock lock(&mu);
      // A waiter that fits is a reason to run: one woken before may have left its room unused, and with nothing pending
      // no piece will end to wake the next.
      while (turns.empty() && !FrontWaiterFits() && !ending) changed.Wait(&mu);
      woken = TakeWaiters();
      if (woken.empty()) {
        piece = Take();
        if (!piece.has_value()) return;
      }
    }
    for (Waiter& waiter : woken) {
      waiter.room();
      waiter.room = nullptr;
    }
    if (piece.has_value()) RunPiece(*std::move(piece));
  }
}

std::vector<TokenizerPool::Impl::Waiter> TokenizerPool::Impl::TakeWaiters() {
  std::vector<Waiter> woken;
  int64_t pieces = pending_pieces;
  int64_t taken = pending_bytes;
  while (!waiters.empty() && Fits(waiters.front().bytes, waiters.front().kept_bytes, pieces, taken)) {
    taken += waiters.front().bytes;
    ++pieces;
    woken.push_back(std::move(waiters.front()));
    waiters.pop_front();
  }
  return woken;
}

TokenizerPool::TokenizerPool(const Options& options) : impl_(std::make_unique<Impl>()) {
  impl_->max_pending_bytes = options.max_pending_bytes;
  impl_->clock = options.clock;
  impl_->parallel = [this](size_t n, const std::function<void(size_t)>& body) { ForEach(n, body); };
  for (int i = 0; i < std::max(options.num_threads, 1); ++i) {
    impl_->threads.emplace_back([impl = impl_.get()] { impl->Run(); });
  }
}

TokenizerPool::~TokenizerPool() {
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->ending = true;
    impl_->changed.SignalAll();
  }
  for (std::thread& thread : impl_->threads) thread.join();
}

absl::Status TokenizerPool::Submit(int64_t bytes, std::function<void()> work, uint64_t caller) {
  bytes = std::max<int64_t>(bytes, 0);
  absl::MutexLock lock(&impl_->mu);
  const int64_t kept_bytes = impl_->KeptBytes(caller);
  if (!impl_->Fits(bytes, kept_bytes, impl_->pending_pieces, impl_->pending_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tokenizer queue full: ", impl_->pending_bytes, " bytes of text wait, ", bytes,
                     " more would pass the limit of ", impl_->max_pending_bytes, " (max_queue_mib)",
                     kept_bytes > 0 ? absl::StrCat(", of which ", kept_bytes, " are kept for callers with none") : ""));
  }
  Impl::Piece piece;
  piece.bytes = bytes;
  piece.caller = caller;
  piece.work = std::move(work);
  impl_->Add(std::move(piece));
  return absl::OkStatus();
}

void TokenizerPool::WhenRoom(int64_t bytes, std::function<void()> room, uint64_t caller) {
  bytes = std::max<int64_t>(bytes, 0);
  {
    absl::MutexLock lock(&impl_->mu);
    const int64_t kept_bytes = impl_->KeptBytes(caller);
    if (!impl_->waiters.empty() || !impl_->Fits(bytes, kept_bytes, impl_->pending_pieces, impl_->pending_bytes)) {
      impl_->waiters.push_back({bytes, kept_bytes, std::move(room)});
      return;
    }
  }
  room();
}

void TokenizerPool::LetOthersIn() {
  Impl::Running* const here = Impl::running;
  if (here == nullptr || here->pool != impl_.get()) return;
  const Clock& clock = *impl_->clock;
  // Wall clocks step back.
  const auto since = [&clock](absl::Time from) { return std::max(clock.Now() - from, absl::ZeroDuration()); };
  here->share.Worked(since(here->resumed));
  while (here->share.MayRunOthers()) {
    std::optional<Impl::Piece> piece;
    {
      absl::MutexLock lock(&impl_->mu);
      piece = impl_->Take(here->bytes / kNestedShare);
    }
    if (!piece.has_value()) break;
    const absl::Time from = clock.Now();
    impl_->RunPiece(*std::move(piece));
    here->share.OthersRan(since(from));
  }
  here->resumed = clock.Now();
}

void TokenizerPool::ForEach(size_t n, const std::function<void(size_t)>& body) {
  const auto loop = std::make_shared<Impl::Loop>();
  loop->n = n;
  loop->body = &body;
  const size_t helpers = std::min(n, impl_->threads.size());
  const Impl::Running* const here = Impl::running;
  const uint64_t caller = here != nullptr && here->pool == impl_.get() ? here->caller : 0;
  for (size_t i = 1; i < helpers; ++i) impl_->QueueHelper(loop, caller);
  while (loop->Step()) LetOthersIn();
  const auto all_done = [&loop = *loop] {
    loop.mu.AssertHeld();
    return loop.done == loop.n;
  };
  absl::MutexLock lock(&loop->mu);
  loop->mu.Await(absl::Condition(&all_done));
}

const ParallelFor& TokenizerPool::parallel() const { return impl_->parallel; }

int TokenizerPool::num_threads() const { return static_cast<int>(impl_->threads.size()); }

}  // namespace lion
