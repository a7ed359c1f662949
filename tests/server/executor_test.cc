// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/executor.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

TEST(ExecutorTest, OneThreadKeepsTheOrder) {
  std::vector<int> order;
  {
    Executor executor(1);
    for (int i = 0; i < 100; ++i) executor.Run([&order, i] { order.push_back(i); });
  }
  ASSERT_EQ(order.size(), 100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
}

TEST(ExecutorTest, EndsOnlyWhenAllHasRunAndWorkMayAddWork) {
  std::atomic<int> ran = 0;
  {
    Executor executor(3);
    for (int i = 0; i < 50; ++i) {
      executor.Run([&executor, &ran] { executor.Run([&ran] { ++ran; }); });
    }
    absl::Notification last;
    executor.Run([&] { executor.Run([&] { last.Notify(); }); });
    last.WaitForNotification();
  }
  EXPECT_EQ(ran, 50);
}

TEST(ExecutorTest, RunsOnAnotherThread) {
  std::thread::id id;
  {
    Executor executor(1);
    executor.Run([&id] { id = std::this_thread::get_id(); });
  }
  EXPECT_NE(id, std::this_thread::get_id());
}

}  // namespace
}  // namespace lion
