// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/executor.h"

#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lion {

struct Executor::Impl {
  void Work() {
    for (;;) {
      std::function<void()> work;
      {
        absl::MutexLock lock(&mu);
        while (queue.empty() && !ending) changed.Wait(&mu);
        if (queue.empty()) return;
        work = std::move(queue.front());
        queue.pop_front();
      }
      work();
    }
  }

  absl::Mutex mu;
  absl::CondVar changed;
  std::deque<std::function<void()>> queue ABSL_GUARDED_BY(mu);
  bool ending ABSL_GUARDED_BY(mu) = false;
  std::vector<std::thread> threads;
};

Executor::Executor(int num_threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 0; i < num_threads; ++i) impl_->threads.emplace_back([impl = impl_.get()] { impl->Work(); });
}

Executor::~Executor() {
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->ending = true;
    impl_->changed.SignalAll();
  }
  for (std::thread& thread : impl_->threads) thread.join();
}

void Executor::Run(std::function<void()> work) {
  absl::MutexLock lock(&impl_->mu);
  impl_->queue.push_back(std::move(work));
  impl_->changed.Signal();
}

}  // namespace lion
