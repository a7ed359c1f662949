// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_slot.h"

#include <utility>

#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

constexpr int kSpins = 7000;  // queries of an event before sleeping: about two milliseconds

}  // namespace

absl::Status CudaBuffers::Allocate(const CudaBytes& bytes) {
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(bytes.upload), &upload));
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(bytes.work), &work));
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(bytes.answers), &answers));
  LION_RETURN_IF_ERROR(cuda::Assign(PinnedBuffer::Allocate(bytes.upload), &host_upload));
  return cuda::Assign(PinnedBuffer::Allocate(bytes.answers), &host_answers);
}

bool Fits(const CudaLayout& layout, const CudaBuffers& ends, const DeviceBuffer& work) {
  return layout.upload_bytes <= ends.upload.bytes() && layout.work_bytes <= work.bytes() &&
         layout.answer_bytes <= ends.answers.bytes();
}

absl::Status CudaSlot::Create(const CudaBytes& bytes) {
  LION_RETURN_IF_ERROR(buffers.Allocate({bytes.upload, 0, bytes.answers}));
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaStreamCreateWithFlags(copies.out(), cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  const std::pair<CudaEvent*, unsigned> events[] = {{&uploaded, cudaEventDisableTiming},
                                                    {&started, cudaEventDefault},
                                                    {&computed, cudaEventDefault},
                                                    {&done, cudaEventDisableTiming | cudaEventBlockingSync}};
  for (const auto& [event, flags] : events) {
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventCreateWithFlags(event->out(), flags), "cudaEventCreateWithFlags"));
  }
  return absl::OkStatus();
}

absl::Status WaitForCuda(cudaEvent_t event) {
  for (int i = 0; i < kSpins; ++i) {
    const cudaError_t error = cudaEventQuery(event);
    if (error != cudaErrorNotReady) {
      if (i > 0) cudaGetLastError();  // "not ready" must not be found by the next launch's check
      return cuda::CudaStatus(error, "cudaEventQuery");
    }
  }
  cudaGetLastError();
  return cuda::CudaStatus(cudaEventSynchronize(event), "cudaEventSynchronize");
}

}  // namespace lion
