// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_SLOT_H_
#define LION_MODEL_CUDA_SLOT_H_

// What a batch in flight has for itself: its buffers, its stream for copies, its events, its graphs. Who takes a slot
// and when is the encoder's business (model/cuda_encoder.h).

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "model/cuda_batch.h"
#include "model/cuda_graphs.h"
#include "model/cuda_memory.h"

namespace lion {

// Both ends of a batch, on the device and pinned on the host, and what it is worked on in.
struct CudaBuffers {
  DeviceBuffer upload;
  DeviceBuffer work;  // empty where batches share it
  DeviceBuffer answers;
  PinnedBuffer host_upload;
  PinnedBuffer host_answers;

  // Replaces all of them. RESOURCE_EXHAUSTED naming the call; some are there then, and some are not.
  absl::Status Allocate(const CudaBytes& bytes);

  int64_t device_bytes() const { return upload.bytes() + work.bytes() + answers.bytes(); }
};

// Whether a batch of this layout finds room.
bool Fits(const CudaLayout& layout, const CudaBuffers& ends, const DeviceBuffer& work);

struct CudaSlot {
  CudaBuffers buffers;  // without what is worked on
  CudaGraphs graphs;
  CudaStream copies;
  CudaEvent uploaded;
  CudaEvent started;   // kernels; this one and the next are timed
  CudaEvent computed;  // kernels
  CudaEvent done;      // the answers are on the host
  CudaBatch batch;

  // Everything but graphs and batch, on the current device. Errors name the call.
  absl::Status Create(const CudaBytes& bytes);
};

// Returns once the event has happened: awake for about two milliseconds, since a short batch is not to wait for an
// interrupt, then asleep, since a long one is not to keep a core busy. What CUDA says of the work before the event.
absl::Status WaitForCuda(cudaEvent_t event);

}  // namespace lion

#endif  // LION_MODEL_CUDA_SLOT_H_
