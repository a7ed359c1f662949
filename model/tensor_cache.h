// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_TENSOR_CACHE_H_
#define LION_MODEL_TENSOR_CACHE_H_

// Memory for what products return, kept by the worker that made it.
//
// oneDNN's operators allocate their result at every call, a megabyte or two; from malloc that is fresh pages each time,
// which cost as much as a good part of the product. So ATen's CPU allocator is replaced, once a process, by one that
// gives the threads that asked for it their own last few large blocks again; all else comes from malloc.

namespace lion {

// Replaces ATen's CPU allocator. Thread-safe, does it once.
void InstallTensorCache();

// From now on this thread keeps the large blocks it frees, kMaxCachedBlocks at most, until it ends.
void UseTensorCacheOnThisThread();

inline constexpr int kMaxCachedBlocks = 6;

}  // namespace lion

#endif  // LION_MODEL_TENSOR_CACHE_H_
