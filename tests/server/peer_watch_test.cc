// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/peer_watch.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

struct Pair {
  Pair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0); }
  ~Pair() {
    close(fds[0]);
    if (fds[1] >= 0) close(fds[1]);
  }
  void Leave() {
    close(fds[1]);
    fds[1] = -1;
  }
  int fds[2];
};

TEST(PeerWatchTest, TellsOnceThatAPeerHasGone) {
  PeerWatch watch;
  Pair leaves, stays, half;
  absl::Notification gone, half_gone;
  std::atomic<int> others = 0;
  const uint64_t first = watch.Begin(leaves.fds[0], [&] { gone.Notify(); });  // Notify twice would crash
  const uint64_t second = watch.Begin(stays.fds[0], [&] { ++others; });
  const uint64_t third = watch.Begin(half.fds[0], [&] { half_gone.Notify(); });
  ASSERT_EQ(write(stays.fds[1], "data is no leaving", 4), 4);
  leaves.Leave();
  gone.WaitForNotification();
  shutdown(half.fds[1], SHUT_WR);
  half_gone.WaitForNotification();
  EXPECT_EQ(others, 0);
  for (uint64_t id : {first, second, third}) watch.End(id);
}

TEST(PeerWatchTest, TellsNothingAfterTheEndAndOfAPeerThatHasGoneBefore) {
  PeerWatch watch;
  Pair ended, before;
  std::atomic<int> calls = 0;
  watch.End(watch.Begin(ended.fds[0], [&] { ++calls; }));
  ended.Leave();
  before.Leave();
  absl::Notification gone;
  const uint64_t id = watch.Begin(before.fds[0], [&] { gone.Notify(); });
  gone.WaitForNotification();  // what is told in order has been told
  watch.End(id);
  EXPECT_EQ(calls, 0);
}

TEST(PeerWatchTest, EndsWithWatchesInPlace) {
  Pair pair;
  {
    PeerWatch watch;
    watch.Begin(pair.fds[0], [] {});
  }
  pair.Leave();
}

}  // namespace
}  // namespace lion
