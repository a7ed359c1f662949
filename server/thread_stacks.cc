// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// No thread of this process gets a stack below 1 MiB, whatever a library asks for.
//
// Why: civetweb, which serves /metrics, asks for 100 KiB. glibc takes a thread's copy of every thread_local of the
// libraries loaded at start out of its stack, and those of cuBLASLt and LibTorch together are 120 KiB. Without this,
// pthread_create answers EINVAL there, and civetweb says that it cannot bind its port.
//
// How: this definition comes before libc's, since lion-server exports it (see CMakeLists.txt), and calls libc's.
// Address space is all that it costs: untouched pages of a stack are no memory.

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t bytes) noexcept {
  constexpr size_t kMinBytes = 1 << 20;
  using Function = int (*)(pthread_attr_t*, size_t);
  static const auto libc = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return libc == nullptr ? EINVAL : libc(attributes, std::max(bytes, kMinBytes));
}
