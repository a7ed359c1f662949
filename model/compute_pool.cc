// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/compute_pool.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "model/tensor_cache.h"

namespace lion {
namespace {

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace

absl::Status Caught(const std::function<void()>& fn) {
  try {
    fn();
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return absl::InternalError(what.substr(0, what.find('\n')));
  }
}

struct ComputePool::Impl {
  absl::Mutex run_mu;  // one Run at a time

  absl::Mutex mu;
  const std::function<void(int, int)>* fn ABSL_GUARDED_BY(mu) = nullptr;
  int next ABSL_GUARDED_BY(mu) = 0;         // the first index nobody has taken
  int end ABSL_GUARDED_BY(mu) = 0;          // one past the last index of this Run
  int running ABSL_GUARDED_BY(mu) = 0;      // calls of fn in progress
  absl::Status status ABSL_GUARDED_BY(mu);  // of this Run
  bool stopping ABSL_GUARDED_BY(mu) = false;
  int nice = 0;
  std::vector<std::thread> threads;

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return stopping || next < end; }
  bool Finished() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return next == end && running == 0; }

  void Work(int worker) {
    // Of this thread alone, on Linux. Upwards it is always allowed; -1 may be a value, so the error is not looked at.
    if (nice > 0) setpriority(PRIO_PROCESS, 0, std::min(getpriority(PRIO_PROCESS, 0) + nice, 19));
    at::set_num_threads(1);                      // this thread's own products run on this thread alone
    at::globalContext().setFlushDenormal(true);  // decays underflow by design; subnormal products cost a hundredfold
    c10::InferenceMode inference;
    UseTensorCacheOnThisThread();
    mu.Lock();
    while (true) {
      mu.Await(absl::Condition(this, &Impl::HasWork));
      if (next == end) break;  // stopping
      const int i = next++;
      ++running;
      const auto* call = fn;
      mu.Unlock();
      const absl::Status result = Caught([&] { (*call)(worker, i); });
      mu.Lock();
      if (status.ok()) status = result;
      --running;
    }
    mu.Unlock();
  }
};

ComputePool::ComputePool(const Options& options) : impl_(std::make_unique<Impl>()) {
  InstallTensorCache();
  const int n = options.num_threads > 0 ? options.num_threads : UsableCores();
  impl_->nice = options.nice;
  impl_->threads.reserve(n);
  for (int worker = 0; worker < n; ++worker) {
    impl_->threads.emplace_back([impl = impl_.get(), worker] { impl->Work(worker); });
  }
}

ComputePool::~ComputePool() {
  {
    absl::MutexLock lock(&impl_->mu);
    impl_->stopping = true;
  }
  for (std::thread& thread : impl_->threads) thread.join();
}

absl::Status ComputePool::Run(int n, const std::function<void(int, int)>& fn) {
  if (n <= 0) return absl::OkStatus();
  absl::MutexLock run(&impl_->run_mu);
  absl::MutexLock lock(&impl_->mu);
  impl_->fn = &fn;
  impl_->next = 0;
  impl_->end = n;
  impl_->status = absl::OkStatus();
  impl_->mu.Await(absl::Condition(impl_.get(), &Impl::Finished));
  return impl_->status;
}

int ComputePool::num_threads() const { return static_cast<int>(impl_->threads.size()); }

}  // namespace lion
