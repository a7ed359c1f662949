// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_memory.h"

#include <cstring>

#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

thread_local int64_t device_bytes = 0;

}  // namespace

int64_t DeviceBytesOfThisThread() { return device_bytes; }

template <CudaPlace place>
absl::StatusOr<CudaBuffer<place>> CudaBuffer<place>::Allocate(int64_t bytes) {
  CudaBuffer buffer;
  if (bytes == 0) return buffer;
  absl::Status status;
  if constexpr (place == CudaPlace::kDevice) {
    status = cuda::CudaStatus(cudaMalloc(&buffer.data_, bytes), absl::StrCat("cudaMalloc of ", bytes, " bytes"));
    if (status.ok()) {
      buffer.bytes_ = bytes;
      device_bytes += bytes;
    }
    if (status.ok()) status = cuda::CudaStatus(cudaMemset(buffer.data_, 0, bytes), "cudaMemset");
    // The memory may be used on a stream that does not wait for the default one.
    if (status.ok()) status = cuda::CudaStatus(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  } else {
    status =
        cuda::CudaStatus(cudaMallocHost(&buffer.data_, bytes), absl::StrCat("cudaMallocHost of ", bytes, " bytes"));
    if (status.ok()) std::memset(buffer.data_, 0, bytes);
  }
  if (!status.ok()) {
    cudaGetLastError();  // or the next launch would report it again
    return status;
  }
  buffer.bytes_ = bytes;
  return buffer;
}

template <CudaPlace place>
void CudaBuffer<place>::Free() {
  if (data_ == nullptr) return;
  // Errors here belong to work that was already reported.
  if constexpr (place == CudaPlace::kDevice) {
    device_bytes -= bytes_;
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

template class CudaBuffer<CudaPlace::kDevice>;
template class CudaBuffer<CudaPlace::kPinnedHost>;

absl::StatusOr<DeviceBuffer> Upload(const void* data, int64_t bytes) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(bytes);
  if (!buffer.ok() || bytes == 0) return buffer;
  const absl::Status status =
      cuda::CudaStatus(cudaMemcpy(buffer->data(), data, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  if (!status.ok()) return status;
  return buffer;
}

}  // namespace lion
