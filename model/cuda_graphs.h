// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_GRAPHS_H_
#define LION_MODEL_CUDA_GRAPHS_H_

// Forward passes of small batches as CUDA graphs, one a bucket (cuda_batch.h): a hundred kernels start as one launch,
// which is what a small batch's time would otherwise go into. The kernels are those of larger batches, so the bits are
// the same. A graph is bound to the buffers that it was captured on, which must stay where they are.

#include <cuda_runtime_api.h>

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/cuda_batch.h"
#include "model/cuda_layers.h"
#include "model/cuda_memory.h"

namespace lion {

class CudaGraphs {
 public:
  // Captures every bucket's EnqueueForward on the given device buffers, whose upload part is zeros: each is run once
  // before that, so that no kernel is loaded during a capture. Blocks until done: a few milliseconds a bucket. Errors
  // name the call.
  static absl::StatusOr<CudaGraphs> Capture(const CudaLayers& layers, absl::Span<const CudaBucket> buckets,
                                            char* upload, char* work, cudaStream_t stream);

  // Enqueues the graph of buckets[bucket]. Any stream, one launch at a time.
  absl::Status Launch(int bucket, cudaStream_t stream) const;

 private:
  std::vector<CudaGraphExec> graphs_;  // one a bucket
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_GRAPHS_H_
