// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_EXECUTOR_H_
#define LION_SERVER_EXECUTOR_H_

// Threads that end calls: they build answers, serialise them and hand them to gRPC, so that neither the device's runner
// nor gRPC's polling threads do.
//
// The queue has no limit of its own: each piece of work belongs to a call that was let in, and those are bounded.

#include <functional>
#include <memory>

namespace lion {

class Executor {
 public:
  explicit Executor(int num_threads);
  ~Executor();  // runs what was taken, then ends; no Run may be in progress

  // First come, first served, on one of the threads. work must not throw; it may call Run. Thread-safe, never blocks.
  void Run(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_EXECUTOR_H_
