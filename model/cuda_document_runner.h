// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_DOCUMENT_RUNNER_H_
#define LION_MODEL_CUDA_DOCUMENT_RUNNER_H_

// Runs batches above max_batch_tokens in steps: their buffers, the form that these leave room for, and one batch's way
// from ids to answers. What a step is, is model/cuda_document.h's; when it runs, model/cuda_steps.h's.
//
// Buffers are taken for a batch and given back after it if they are large; smaller ones are kept for the next one,
// until kKeepFor batches that did not need them have run since.

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/cuda_document.h"
#include "model/cuda_layers.h"
#include "model/cuda_slot.h"
#include "model/cuda_steps.h"
#include "model/encoder.h"

namespace lion {

class CudaDocumentRunner {
 public:
  static constexpr int kKeepFor = 64;
  static constexpr int64_t kKeepShare = 8;  // what is above an eighth of the budget is large

  struct Options {
    int device = 0;
    CudaLayers* layers = nullptr;
    absl::Mutex* enqueue_mu = nullptr;  // held while kernels are enqueued
    const std::function<void(const char* stage, cudaStream_t stream)>* on_stage = nullptr;
  };

  // On the current device, before anything runs; what options point to outlives the object. Errors name the call.
  absl::Status Create(const Options& options);

  // Lets the form kKept take a share, in (0, 1], of what the device has left: once, when all else has been made.
  absl::Status SetBudget(double share);

  // Encoder::Encode for rows that are valid, on the current device; a second one waits for the first. *busy: how long
  // its kernels ran. RESOURCE_EXHAUSTED naming both numbers where even the smallest form finds no memory; what control
  // says; UNAVAILABLE where the device is lost.
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control,
                      absl::Duration* busy);

  // Bytes that a planned batch would take: in the form kKept if they are within the budget, else in the smallest.
  // Encode takes as many, or fewer where even those within the budget are not free. Any thread.
  int64_t EstimateBytes(const CudaBatch& batch) const;

  // Called after a batch that did not need this.
  void GiveBack();

  // Of all buffers now. Any thread.
  int64_t device_bytes() const { return bytes_.load(std::memory_order_relaxed); }

  // The batches that documents give way to.
  Precedence& precedence() { return precedence_; }

 private:
  DocumentForm ChooseForm(const CudaBatch& batch, int64_t bytes) const;
  absl::StatusOr<int64_t> Available() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Reserve(const CudaLayout& layout, int64_t available) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Free() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Run(const CudaLayout& layout, const DocumentPlan& plan, const CudaBatch& batch, EncodeControl* control,
                   absl::Duration* busy) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Options options_;
  int64_t budget_ = 0;
  Precedence precedence_;

  absl::Mutex mu_;  // held from a batch's planning to its answers
  CudaSteps steps_ ABSL_GUARDED_BY(mu_);
  CudaBuffers buffers_ ABSL_GUARDED_BY(mu_);
  std::atomic<int64_t> bytes_{0};   // of buffers_, for readers without the lock
  std::atomic<int> unused_for_{0};  // batches since buffers_ were used
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_DOCUMENT_RUNNER_H_
