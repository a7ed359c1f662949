// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_PAGE_BUFFER_H_
#define LION_MODEL_PAGE_BUFFER_H_

// Memory for activations, straight from the kernel.

#include <cstddef>
#include <cstdint>
#include <utility>

namespace lion {

// An aligned array that only grows, zero where it was never written. Large pages where the kernel has them: a long
// row's buffers are made and dropped with it. Not thread-safe.
class PageBuffer {
 public:
  PageBuffer() = default;
  ~PageBuffer() { Free(); }
  PageBuffer(PageBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PageBuffer& operator=(PageBuffer&&) = delete;

  // Room for n elements, 64-byte aligned; what it held is lost if it has to grow. Throws bad_alloc.
  template <class T>
  T* Get(int64_t n) {
    Grow(static_cast<size_t>(n) * sizeof(T));
    return static_cast<T*>(data_);
  }

  size_t size_bytes() const { return size_; }
  void Free();

 private:
  void Grow(size_t bytes);

  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lion

#endif  // LION_MODEL_PAGE_BUFFER_H_
