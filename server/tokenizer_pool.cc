// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tokenizer_pool.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace lion {

struct TokenizerPool::Impl {
  static constexpr int64_t kHelper = -1;

  struct Piece {
    int64_t bytes;  // kHelper: part of a ForEach
    std::function<void()> work;
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

  // Puts a helper of loop behind what waits. It holds no text of its own and counts for nothing.
  void QueueHelper(std::shared_ptr<Loop> loop) ABSL_LOCKS_EXCLUDED(mu);

  struct Waiter {
    int64_t bytes;
    std::function<void()> room;
  };

  // A pool thread: runs pieces until there are none and the pool ends.
  void Run();

  // A piece larger than the limit fits where nothing else is pending.
  static bool Fits(int64_t bytes, int64_t pieces, int64_t taken, int64_t limit) {
    return pieces == 0 || bytes <= limit - taken;
  }
  bool FrontWaiterFits() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return !waiters.empty() && Fits(waiters.front().bytes, pending_pieces, pending_bytes, max_pending_bytes);
  }
  // The waiters that fit together now, oldest first.
  std::vector<Waiter> TakeWaiters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  int64_t max_pending_bytes = 0;
  absl::Mutex mu;
  absl::CondVar changed;
  bool ending ABSL_GUARDED_BY(mu) = false;
  int64_t pending_pieces ABSL_GUARDED_BY(mu) = 0;  // waiting or running
  int64_t pending_bytes ABSL_GUARDED_BY(mu) = 0;
  std::deque<Piece> queue ABSL_GUARDED_BY(mu);
  std::deque<Waiter> waiters ABSL_GUARDED_BY(mu);
  std::vector<std::thread> threads;
  ParallelFor parallel;
};

void TokenizerPool::Impl::QueueHelper(std::shared_ptr<Loop> loop) {
  absl::MutexLock lock(&mu);
  queue.push_back({kHelper, [this, loop = std::move(loop)] {
                     if (loop->Step()) QueueHelper(loop);
                   }});
  changed.Signal();
}

void TokenizerPool::Impl::Run() {
  for (;;) {
    Piece piece;
    std::vector<Waiter> woken;
    {
      absl::MutexLock lock(&mu);
      // A waiter that fits is a reason to run: one woken before may have left its room unused, and with nothing pending
      // no piece will end to wake the next.
      while (queue.empty() && !FrontWaiterFits() && !ending) changed.Wait(&mu);
      woken = TakeWaiters();
      if (woken.empty()) {
        if (queue.empty()) return;
        piece = std::move(queue.front());
        queue.pop_front();
      }
    }
    for (Waiter& waiter : woken) {
      waiter.room();
      waiter.room = nullptr;
    }
    if (!woken.empty()) continue;
    piece.work();
    piece.work = nullptr;  // the text it holds is gone before its bytes are free again
    if (piece.bytes == kHelper) continue;
    absl::MutexLock lock(&mu);
    pending_bytes -= piece.bytes;
    --pending_pieces;
  }
}

std::vector<TokenizerPool::Impl::Waiter> TokenizerPool::Impl::TakeWaiters() {
  std::vector<Waiter> woken;
  int64_t pieces = pending_pieces;
  int64_t taken = pending_bytes;
  while (!waiters.empty() && Fits(waiters.front().bytes, pieces, taken, max_pending_bytes)) {
    taken += waiters.front().bytes;
    ++pieces;
    woken.push_back(std::move(waiters.front()));
    waiters.pop_front();
  }
  return woken;
}

TokenizerPool::TokenizerPool(const Options& options) : impl_(std::make_unique<Impl>()) {
  impl_->max_pending_bytes = options.max_pending_bytes;
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

absl::Status TokenizerPool::Submit(int64_t bytes, std::function<void()> work) {
  bytes = std::max<int64_t>(bytes, 0);
  absl::MutexLock lock(&impl_->mu);
  if (!Impl::Fits(bytes, impl_->pending_pieces, impl_->pending_bytes, impl_->max_pending_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("tokenizer queue full: ", impl_->pending_bytes,
                                                     " bytes of text wait, ", bytes, " more would pass the limit of ",
                                                     impl_->max_pending_bytes));
  }
  impl_->pending_bytes += bytes;
  ++impl_->pending_pieces;
  impl_->queue.push_back({bytes, std::move(work)});
  impl_->changed.Signal();
  return absl::OkStatus();
}

void TokenizerPool::WhenRoom(int64_t bytes, std::function<void()> room) {
  bytes = std::max<int64_t>(bytes, 0);
  {
    absl::MutexLock lock(&impl_->mu);
    if (!impl_->waiters.empty() ||
        !Impl::Fits(bytes, impl_->pending_pieces, impl_->pending_bytes, impl_->max_pending_bytes)) {
      impl_->waiters.push_back({bytes, std::move(room)});
      return;
    }
  }
  room();
}

void TokenizerPool::ForEach(size_t n, const std::function<void(size_t)>& body) {
  const auto loop = std::make_shared<Impl::Loop>();
  loop->n = n;
  loop->body = &body;
  const size_t helpers = std::min(n, impl_->threads.size());
  for (size_t i = 1; i < helpers; ++i) impl_->QueueHelper(loop);
  while (loop->Step()) {
  }
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
