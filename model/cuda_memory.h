// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_MEMORY_H_
#define LION_MODEL_CUDA_MEMORY_H_

// What CUDA hands out, owned: memory on the device, memory pinned on the host for copies that the device makes by
// itself, streams and events.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace lion {

enum class CudaPlace { kDevice, kPinnedHost };

// An array of bytes, 256-byte aligned, zero at first; empty where bytes is 0. Belongs to the device that was current
// when it was made; freeing waits for that device. Movable.
template <CudaPlace place>
class CudaBuffer {
 public:
  // RESOURCE_EXHAUSTED naming the call where memory ran out.
  static absl::StatusOr<CudaBuffer> Allocate(int64_t bytes);

  CudaBuffer() = default;
  ~CudaBuffer() { Free(); }
  CudaBuffer(CudaBuffer&& other) noexcept { *this = std::move(other); }
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  // What lies at an offset in bytes.
  template <class T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + offset);
  }

 private:
  void Free();
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

using DeviceBuffer = CudaBuffer<CudaPlace::kDevice>;
using PinnedBuffer = CudaBuffer<CudaPlace::kPinnedHost>;

// A copy of host memory on the device. Blocks until it is there.
absl::StatusOr<DeviceBuffer> Upload(const void* data, int64_t bytes);

// Device memory that the calling thread has allocated through DeviceBuffer, less what it has freed: the difference of
// two readings is what the code between them keeps.
int64_t DeviceBytesOfThisThread();

// A stream or an event, destroyed with this object; empty at first. Movable.
template <class T, cudaError_t (*kDestroy)(T)>
class CudaHandle {
 public:
  CudaHandle() = default;
  ~CudaHandle() {
    if (handle_ != nullptr) kDestroy(handle_);  // errors belong to work that was already reported
  }
  CudaHandle(CudaHandle&& other) noexcept { *this = std::move(other); }
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  T get() const { return handle_; }
  // Where CUDA puts a new one; the object is empty.
  T* out() { return &handle_; }

 private:
  T handle_ = nullptr;
};

using CudaStream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using CudaEvent = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using CudaGraph = CudaHandle<cudaGraph_t, cudaGraphDestroy>;
using CudaGraphExec = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;

}  // namespace lion

#endif  // LION_MODEL_CUDA_MEMORY_H_
