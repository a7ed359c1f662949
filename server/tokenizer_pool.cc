// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tokenizer_pool.h"

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace lion {

struct TokenizerPool::Impl {
  struct Piece {
    int64_t bytes;
    std::function<void()> work;
  };

  // A pool thread: runs pieces until there are none and the pool ends.
  void Run();

  int64_t max_pending_bytes = 0;
  absl::Mutex mu;
  absl::CondVar changed;
  bool ending ABSL_GUARDED_BY(mu) = false;
  int64_t pending_pieces ABSL_GUARDED_BY(mu) = 0;  // waiting or running
  int64_t pending_bytes ABSL_GUARDED_BY(mu) = 0;
  std::deque<Piece> queue ABSL_GUARDED_BY(mu);
  std::vector<std::thread> threads;
};

void TokenizerPool::Impl::Run() {
  for (;;) {
    Piece piece;
    {
      absl::MutexLock lock(&mu);
      while (queue.empty() && !ending) changed.Wait(&mu);
      if (queue.empty()) return;
      piece = std::move(queue.front());
      queue.pop_front();
    }
    piece.work();
    piece.work = nullptr;  // the text it holds is gone before its bytes are free again
    absl::MutexLock lock(&mu);
    pending_bytes -= piece.bytes;
    --pending_pieces;
  }
}

TokenizerPool::TokenizerPool(const Options& options) : impl_(std::make_unique<Impl>()) {
  impl_->max_pending_bytes = options.max_pending_bytes;
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
  if (impl_->pending_pieces > 0 && bytes > impl_->max_pending_bytes - impl_->pending_bytes) {
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

}  // namespace lion
