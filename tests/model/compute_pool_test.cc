// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/compute_pool.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lion {
namespace {

TEST(ComputePoolTest, CallsEveryIndexOnce) {
  ComputePool pool({.num_threads = 3});
  EXPECT_EQ(pool.num_threads(), 3);
  for (int n : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> calls(n);
    std::atomic<bool> worker_in_range = true;
    const absl::Status status = pool.Run(n, [&](int worker, int i) {
      if (worker < 0 || worker >= 3) worker_in_range = false;
      ++calls[i];
    });
    EXPECT_TRUE(status.ok()) << status;
    for (const std::atomic<int>& c : calls) EXPECT_EQ(c, 1);
    EXPECT_TRUE(worker_in_range);
  }
  EXPECT_TRUE(pool.Run(-1, [](int, int) { ADD_FAILURE(); }).ok());
}

TEST(ComputePoolTest, AnExceptionEndsOneCallAndBecomesTheResult) {
  ComputePool pool({.num_threads = 2});
  std::atomic<int> calls = 0;
  const absl::Status thrown = pool.Run(10, [&](int, int i) {
    ++calls;
    if (i == 3) throw std::runtime_error("no such primitive\nat a place");
  });
  EXPECT_EQ(thrown, absl::InternalError("no such primitive"));
  EXPECT_EQ(calls, 10);
  EXPECT_EQ(pool.Run(1, [](int, int) { throw std::bad_alloc(); }), absl::ResourceExhaustedError("out of memory"));
  EXPECT_TRUE(pool.Run(1, [](int, int) {}).ok());
}

TEST(ComputePoolTest, ZeroThreadsMeansOneACore) {
  ComputePool pool({.num_threads = 0});
  EXPECT_GE(pool.num_threads(), 1);
}

TEST(ComputePoolTest, WorkersMayComeAfterTheOthers) {
  const int own = getpriority(PRIO_PROCESS, 0);
  for (int nice : {0, 3, 40}) {
    ComputePool pool({.num_threads = 1, .nice = nice});
    int found = -100;
    EXPECT_TRUE(pool.Run(1, [&found](int, int) { found = getpriority(PRIO_PROCESS, 0); }).ok());
    EXPECT_EQ(found, std::min(own + nice, 19));
  }
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own);
}

TEST(ComputePoolTest, RunsFromManyThreadsTakeTurns) {
  ComputePool pool({.num_threads = 2});
  std::atomic<int> inside = 0;
  std::atomic<int> total = 0;
  std::atomic<bool> overlapped = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int r = 0; r < 50; ++r) {
        std::atomic<int> mine = 0;
        const absl::Status status = pool.Run(5, [&](int, int) {
          // Two workers may be inside, but of one Run only: marks of another Run would show here.
          const int before = inside.exchange(t + 1);
          if (before != 0 && before != t + 1) overlapped = true;
          ++mine;
          ++total;
          inside = 0;
        });
        EXPECT_TRUE(status.ok());
        EXPECT_EQ(mine, 5);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(total, 4 * 50 * 5);
  EXPECT_FALSE(overlapped);
}

}  // namespace
}  // namespace lion
