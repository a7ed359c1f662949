// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "bench/cuda_events.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "model/kernels/cuda/cuda_status.h"

namespace lion::bench {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

void Require(cudaError_t error) { Require(cuda::CudaStatus(error, "CUDA")); }

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

StageTimer::~StageTimer() {
  for (const Mark& mark : marks_) cudaEventDestroy(mark.event);
}

void StageTimer::Record(const char* stage, cudaStream_t stream) {
  if (used_ == marks_.size()) {
    marks_.emplace_back();
    Require(cudaEventCreate(&marks_.back().event));
  }
  marks_[used_].stage = stage;
  Require(cudaEventRecord(marks_[used_].event, stream));
  ++used_;
}

std::map<std::string, double> StageTimer::Take() {
  std::map<std::string, double> times;
  if (used_ >= 2) {
    float milliseconds = 0;
    for (size_t i = 0; i + 1 < used_; ++i) {
      Require(cudaEventElapsedTime(&milliseconds, marks_[i].event, marks_[i + 1].event));
      times[marks_[i].stage] += milliseconds;
    }
    Require(cudaEventElapsedTime(&milliseconds, marks_.front().event, marks_[used_ - 1].event));
    times[""] = milliseconds;
  }
  used_ = 0;
  return times;
}

}  // namespace lion::bench
