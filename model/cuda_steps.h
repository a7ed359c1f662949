// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_STEPS_H_
#define LION_MODEL_CUDA_STEPS_H_

// A document's steps (model/cuda_document.h) in time: on a stream of low priority, a few tenths of a millisecond ahead
// of the device, giving way to batches that are shorter, and asking the caller between steps whether to go on.
//
// One flight after the other is enqueued: one step, or several where the model is small and a step takes less time than
// the host does for it. At most kFlightsAhead are under way. Before the next one: 1. the oldest has come to its end,
// for which the thread sleeps; 2. the caller's EncodeControl is asked; 3. no shorter batch is in flight, or the
// document has waited kMaxWait for them: it always gets on, and they mostly find the device free but for two flights.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "model/cuda_document.h"
#include "model/cuda_layers.h"
#include "model/cuda_memory.h"
#include "model/encoder.h"

namespace lion {

// The batches that a document gives way to. Thread-safe.
class Precedence {
 public:
  // While an object of this class lives, a batch is in flight.
  class Batch {
   public:
    explicit Batch(Precedence* precedence) : precedence_(*precedence) { precedence_.Add(1); }
    ~Batch() { precedence_.Add(-1); }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

   private:
    Precedence& precedence_;
  };

  // Returns once no batch is in flight, at once if there is none, at the latest after max_wait.
  void GiveWay(absl::Duration max_wait);

 private:
  void Add(int n);

  absl::Mutex mu_;
  int batches_ ABSL_GUARDED_BY(mu_) = 0;
};

// How many steps the next flight has, after one of `steps` that took so long: as many as take between kShortFlight and
// kLongFlight, 1 to 64.
inline constexpr double kShortFlightMs = 0.15;
inline constexpr double kLongFlightMs = 0.5;
int NextFlight(int steps, double milliseconds);

// One document at a time.
class CudaSteps {
 public:
  static constexpr int kFlightsAhead = 2;
  static constexpr absl::Duration kMaxWait = absl::Milliseconds(2);

  // The stream and the events, on the current device. Errors name the call.
  absl::Status Create();

  cudaStream_t stream() const { return stream_.get(); }

  // What runs. begin and finish enqueue what goes before and after the steps, on run.stream, which is stream().
  struct Document {
    const CudaLayers& layers;
    const DocumentPlan& plan;
    const CudaRun& run;
    std::function<absl::Status()> begin;
    std::function<absl::Status()> finish;
  };

  // Enqueues all of it and waits until it has run. enqueue_mu is held while a flight is enqueued. control may be null;
  // it is asked with the tokens of the whole batch. What it says ends the document: after any error what is under way,
  // at most kFlightsAhead flights, is waited for, so that the buffers are free. *busy: how long the flights ran.
  absl::Status Run(const Document& document, absl::Mutex* enqueue_mu, Precedence* precedence, EncodeControl* control,
                   absl::Duration* busy);

 private:
  struct Flight {
    CudaEvent begin;
    CudaEvent end;
    int steps = 0;
  };
  absl::Status RunSteps(const Document& document, absl::Mutex* enqueue_mu, Precedence* precedence,
                        EncodeControl* control, absl::Duration* busy);

  CudaStream stream_;
  Flight flights_[kFlightsAhead];
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_STEPS_H_
