// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/tensor_cache.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace lion {
namespace {

constexpr size_t kMinBytes = 64 << 10;  // below it malloc is fast
constexpr size_t kMaxBytes = 64 << 20;  // above it a product's time hides the pages'
constexpr size_t kAlign = 64;

// Stands before a block's data: ATen hands back nothing but the data's address.
struct alignas(kAlign) Header {
  size_t size = 0;  // of the data
};

char* DataOf(Header* header) { return reinterpret_cast<char*>(header + 1); }
Header* HeaderOf(void* data) { return static_cast<Header*>(data) - 1; }

struct ThreadCache {
  bool on = false;
  std::vector<Header*> blocks;
  ~ThreadCache() {
    on = false;
    for (Header* block : blocks) std::free(block);
  }
};

thread_local ThreadCache cache;

bool Kept(size_t size) { return cache.on && size >= kMinBytes && size <= kMaxBytes; }

void Free(void* data) {
  if (data == nullptr) return;
  Header* block = HeaderOf(data);
  if (!Kept(block->size)) return std::free(block);
  cache.blocks.push_back(block);
  if (cache.blocks.size() <= kMaxCachedBlocks) return;
  // The one that was freed first has not been asked for since.
  std::free(cache.blocks.front());
  cache.blocks.erase(cache.blocks.begin());
}

Header* Allocate(size_t n) {
  if (Kept(n)) {
    auto best = cache.blocks.end();
    for (auto it = cache.blocks.begin(); it != cache.blocks.end(); ++it) {
      // A block of several times the size would be missed by the one it fits.
      const bool fits = (*it)->size >= n && (*it)->size <= 2 * n;
      if (fits && (best == cache.blocks.end() || (*it)->size < (*best)->size)) best = it;
    }
    if (best != cache.blocks.end()) {
      Header* block = *best;
      cache.blocks.erase(best);
      return block;
    }
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlign, sizeof(Header) + n) != 0) throw std::bad_alloc();
  auto* block = new (memory) Header;
  block->size = n;
  return block;
}

class CachingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    const c10::Device device(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, nullptr, &Free, device};
    void* data = DataOf(Allocate(n));
    return {data, data, &Free, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &Free; }

  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};

}  // namespace

void InstallTensorCache() {
  // Never destroyed, like ATen's own: tensors may outlive everything.
  static const bool installed = [] {
    c10::SetCPUAllocator(new CachingAllocator, /*priority=*/1);
    return true;
  }();
  static_cast<void>(installed);
}

void UseTensorCacheOnThisThread() { cache.on = true; }

}  // namespace lion
