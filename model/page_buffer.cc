// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/page_buffer.h"

#include <sys/mman.h>

#include <new>

namespace lion {

constexpr size_t kPage = 4096;
constexpr size_t kLargePage = size_t{2} << 20;

void PageBuffer::Grow(size_t bytes) {
  if (size_ >= bytes) return;
  Free();  // nothing is worth copying
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = data;
  size_ = bytes;
  if (bytes >= kLargePage) madvise(data_, size_, MADV_HUGEPAGE);  // a wish: without it all is well, but slower
}

void PageBuffer::Free() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace lion
