// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_steps.h"

#include <algorithm>

#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

constexpr int kMaxFlight = 64;  // steps

}  // namespace

void Precedence::Add(int n) {
  absl::MutexLock lock(&mu_);
  batches_ += n;
}

void Precedence::GiveWay(absl::Duration max_wait) {
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(
                           +[](int* batches) { return *batches == 0; }, &batches_),
                       max_wait);
}

int NextFlight(int steps, double milliseconds) {
  if (milliseconds < kShortFlightMs) return std::min(2 * steps, kMaxFlight);
  if (milliseconds > kLongFlightMs) return std::max(steps / 2, 1);
  return steps;
}

absl::Status CudaSteps::Create() {
  // The lowest there is: batches have the highest (model/cuda_encoder.cc).
  int lowest = 0;
  int highest = 0;
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange"));
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamCreateWithPriority(stream_.out(), cudaStreamNonBlocking, lowest),
                                        "cudaStreamCreateWithPriority"));
  for (Flight& flight : flights_) {
    for (CudaEvent* event : {&flight.begin, &flight.end}) {
      LION_RETURN_IF_ERROR(
          cuda::CudaStatus(cudaEventCreateWithFlags(event->out(), cudaEventBlockingSync), "cudaEventCreateWithFlags"));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaSteps::Run(const Document& document, absl::Mutex* enqueue_mu, Precedence* precedence,
                            EncodeControl* control, absl::Duration* busy) {
  for (Flight& flight : flights_) flight.steps = 0;
  *busy = absl::ZeroDuration();
  absl::Status status = RunSteps(document, enqueue_mu, precedence, control, busy);
  if (status.ok()) return status;
  const absl::Status drained = cuda::CudaStatus(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  cudaGetLastError();
  // Tells a lost device from a call that failed, whoever made the status.
  if (absl::IsUnavailable(drained) && !absl::IsUnavailable(status)) return absl::UnavailableError(status.message());
  return status;
}

absl::Status CudaSteps::RunSteps(const Document& document, absl::Mutex* enqueue_mu, Precedence* precedence,
                                 EncodeControl* control, absl::Duration* busy) {
  const DocumentPlan& plan = document.plan;
  const CudaRun& run = document.run;
  const auto num_embed = static_cast<int64_t>(plan.embed.size());
  const auto num_layer = static_cast<int64_t>(plan.layer.size());
  const int64_t total = num_embed + num_layer * static_cast<int64_t>(document.layers.num_layers());
  auto enqueue = [&](int64_t index) -> absl::Status {
    const bool embeds = index < num_embed;
    const DocumentStep& step = embeds ? plan.embed[index] : plan.layer[(index - num_embed) % num_layer];
    const auto layer = static_cast<size_t>(embeds ? 0 : (index - num_embed) / num_layer);
    for (const DocumentWork& work : step) LION_RETURN_IF_ERROR(document.layers.EnqueueWork(run, plan, work, layer));
    return absl::OkStatus();
  };
  auto record = [&run](const CudaEvent& event) {
    return cuda::CudaStatus(cudaEventRecord(event.get(), run.stream), "cudaEventRecord");
  };
  auto wait = [busy](const Flight& flight, double* milliseconds) -> absl::Status {
    float elapsed = 0;
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventSynchronize(flight.end.get()), "cudaEventSynchronize"));
    LION_RETURN_IF_ERROR(
        cuda::CudaStatus(cudaEventElapsedTime(&elapsed, flight.begin.get(), flight.end.get()), "cudaEventElapsedTime"));
    *milliseconds = elapsed;
    *busy += absl::Milliseconds(elapsed);
    return absl::OkStatus();
  };

  const int64_t T = run.counts.T;
  int64_t enqueued = 0;
  int64_t done = 0;
  int size = 1;
  double milliseconds = 0;
  bool finished = false;
  for (int64_t f = 0; !finished; ++f) {
    Flight& flight = flights_[f % kFlightsAhead];
    if (flight.steps > 0) {
      LION_RETURN_IF_ERROR(wait(flight, &milliseconds));
      done += flight.steps;
      size = NextFlight(flight.steps, milliseconds);
      if (control != nullptr) {
        const double share = static_cast<double>(done) / static_cast<double>(total);
        const auto tokens = static_cast<int64_t>(static_cast<double>(T) * share);
        LION_RETURN_IF_ERROR(control->BetweenSteps(std::clamp<int64_t>(tokens, 1, T - 1), T));
      }
    }
    precedence->GiveWay(kMaxWait);
    absl::MutexLock lock(enqueue_mu);
    LION_RETURN_IF_ERROR(record(flight.begin));
    if (f == 0) LION_RETURN_IF_ERROR(document.begin());
    flight.steps = static_cast<int>(std::min<int64_t>(size, total - enqueued));
    finished = flight.steps == 0;  // the last flight has no steps
    for (int i = 0; i < flight.steps; ++i) LION_RETURN_IF_ERROR(enqueue(enqueued++));
    if (finished) LION_RETURN_IF_ERROR(document.finish());
    LION_RETURN_IF_ERROR(record(flight.end));
  }
  for (const Flight& flight : flights_) LION_RETURN_IF_ERROR(wait(flight, &milliseconds));
  return absl::OkStatus();
}

}  // namespace lion
