// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_graphs.h"

#include <utility>

#include "model/kernels/cuda/cuda_status.h"

namespace lion {

absl::StatusOr<CudaGraphs> CudaGraphs::Capture(const CudaLayers& layers, absl::Span<const CudaBucket> buckets,
                                               char* upload, char* work, cudaStream_t stream) {
  CudaGraphs graphs;
  for (const CudaBucket& bucket : buckets) {
    CudaRun run;
    run.counts = InBucket(bucket, CudaCounts());
    run.layout = ArrangeBatch(layers.shape(), run.counts);
    run.upload = upload;
    run.work = work;
    run.stream = stream;
    LION_RETURN_IF_ERROR(layers.EnqueueForward(run));
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));

    // Other threads may allocate meanwhile: for other models, on other devices.
    LION_RETURN_IF_ERROR(
        cuda::CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"));
    const absl::Status enqueued = layers.EnqueueForward(run);
    CudaGraph graph;
    const absl::Status captured = cuda::CudaStatus(cudaStreamEndCapture(stream, graph.out()), "cudaStreamEndCapture");
    LION_RETURN_IF_ERROR(enqueued);
    LION_RETURN_IF_ERROR(captured);
    CudaGraphExec executable;
    LION_RETURN_IF_ERROR(
        cuda::CudaStatus(cudaGraphInstantiate(executable.out(), graph.get(), 0), "cudaGraphInstantiate"));
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaGraphUpload(executable.get(), stream), "cudaGraphUpload"));
    graphs.graphs_.push_back(std::move(executable));
  }
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  return graphs;
}

absl::Status CudaGraphs::Launch(int bucket, cudaStream_t stream) const {
  return cuda::CudaStatus(cudaGraphLaunch(graphs_[bucket].get(), stream), "cudaGraphLaunch");
}

}  // namespace lion
