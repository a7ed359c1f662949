// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_COMPUTE_POOL_H_
#define LION_MODEL_COMPUTE_POOL_H_

// The worker threads that all CPU models of a process share: one a core, each with ATen's own threading switched off.
//
// ATen's parallel ops spin between calls and keep one OpenMP pool for every calling thread, so here whole pieces of
// work go to single-threaded workers and no OpenMP runs at all. Threads other than these call no ATen.

#include <functional>
#include <memory>

namespace lion {

class ComputePool {
 public:
  struct Options {
    int num_threads = 0;  // 0 = one a core that this process may use
  };

  explicit ComputePool(const Options& options);
  ~ComputePool();  // waits for the workers to end; no Run may be in progress
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  // Calls fn(worker, i) for every i in [0, n), 0 <= worker < num_threads(), each i once, in no stated order, and
  // returns when all have returned. What fn wrote is visible after Run. n <= 0 does nothing. Threads: any, one Run at a
  // time (others wait). fn must not throw, and must not call Run.
  void Run(int n, const std::function<void(int worker, int i)>& fn);

  int num_threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_MODEL_COMPUTE_POOL_H_
