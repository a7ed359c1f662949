// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_BENCH_CUDA_EVENTS_H_
#define LION_BENCH_CUDA_EVENTS_H_

// What the CUDA benchmarks measure time with: events between the stages of a stream's work, and medians.

#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lion::bench {

// Ends the program with the status if it is an error: a benchmark has nothing to say after one.
void Require(const absl::Status& status);
void Require(cudaError_t error);

// Of at least one value.
double Median(std::vector<double> values);

// The stages of the work on one stream, timed by events between them. One thread.
class StageTimer {
 public:
  ~StageTimer();

  // What is enqueued from here on belongs to the stage, until the next Record. The last one only marks the end.
  void Record(const char* stage, cudaStream_t stream);

  // Milliseconds a stage since the last Take, summed over its occurrences; "" is all of it. The stream must have
  // reached the last event. Empty after fewer than two records.
  std::map<std::string, double> Take();

 private:
  struct Mark {
    const char* stage = "";
    cudaEvent_t event = nullptr;
  };
  std::vector<Mark> marks_;  // kept, for the next round
  size_t used_ = 0;
};

}  // namespace lion::bench

#endif  // LION_BENCH_CUDA_EVENTS_H_
