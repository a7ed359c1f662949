// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// server/thread_stacks.cc, linked here as into lion-server: /metrics is served although this program has more
// thread-local storage than the stacks that civetweb asks for.

#include <vector>

#include "gtest/gtest.h"
#include "server/metrics.h"

namespace lion {
namespace {

thread_local char storage[128 << 10];  // cuBLASLt's and LibTorch's together

TEST(ThreadStacksTest, MetricsAreServedBesideMuchThreadLocalStorage) {
  storage[0] = 1;
  Metrics metrics({});
  const absl::StatusOr<int> port = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_GT(*port, 0);
}

}  // namespace
}  // namespace lion
