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

#include "absl/status/status.h"

namespace lion {

// Calls fn; an exception becomes RESOURCE_EXHAUSTED (no memory) or INTERNAL with its first line.
absl::Status Caught(const std::function<void()>& fn);

class ComputePool {
 public:
  struct Options {
    int num_threads = 0;  // 0 = one a core that this process may use
    // Added to the workers' nice value (19 at most in sum), so that the process's other threads get a core when they
    // want one, though these keep all of them busy. Costs nothing while nobody else wants it.
    int nice = 0;
  };

  explicit ComputePool(const Options& options);
  ~ComputePool();  // waits for the workers to end; no Run may be in progress
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  // Calls fn(worker, i) for every i in [0, n), 0 <= worker < num_threads(), each i once, in no stated order, and
  // returns when all have returned. What fn wrote is visible after Run. n <= 0 does nothing.
  // What fn throws (ATen and oneDNN do) ends that call alone; the first becomes the result, as Caught says it.
  // Threads: any, one Run at a time (others wait). fn must not call Run.
  absl::Status Run(int n, const std::function<void(int worker, int i)>& fn);

  int num_threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_MODEL_COMPUTE_POOL_H_
