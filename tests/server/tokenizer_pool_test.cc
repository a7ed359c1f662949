// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tokenizer_pool.h"

#include <atomic>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TokenizerPoolTest, RunsInOrderOffTheCallersThread) {
  std::vector<int> order;  // one pool thread writes it; its end is the pool's
  const std::thread::id here = std::this_thread::get_id();
  {
    TokenizerPool pool({.num_threads = 1});
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(pool.Submit(1,
                              [&order, here, i] {
                                EXPECT_NE(std::this_thread::get_id(), here);
                                order.push_back(i);
                              })
                      .ok());
    }
  }
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
}

TEST(TokenizerPoolTest, FewerThanOneThreadIsOne) {
  absl::Notification ran;
  TokenizerPool pool({.num_threads = 0});
  ASSERT_TRUE(pool.Submit(0, [&ran] { ran.Notify(); }).ok());
  ran.WaitForNotification();
}

TEST(TokenizerPoolTest, PiecesRunAtOnceOnSeveralThreads) {
  absl::Notification first, second;
  TokenizerPool pool({.num_threads = 2});
  // Each waits for the other: one thread alone would never end.
  ASSERT_TRUE(pool.Submit(1,
                          [&] {
                            first.Notify();
                            second.WaitForNotification();
                          })
                  .ok());
  ASSERT_TRUE(pool.Submit(1,
                          [&] {
                            second.Notify();
                            first.WaitForNotification();
                          })
                  .ok());
}

TEST(TokenizerPoolTest, RefusesBytesAboveTheLimitAndFreesThem) {
  absl::Notification hold, freed;
  std::atomic<int> ran = 0;
  TokenizerPool pool({.num_threads = 1, .max_pending_bytes = 100});
  ASSERT_TRUE(pool.Submit(60,
                          [&] {
                            hold.WaitForNotification();
                            ++ran;
                          })
                  .ok());
  ASSERT_TRUE(pool.Submit(40, [&] { ++ran; }).ok());  // exactly the limit
  const absl::Status refused = pool.Submit(1, [] { FAIL() << "refused work ran"; });
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(),
            "tokenizer queue full: 100 bytes of text wait, 1 more would pass the limit of 100 (max_queue_mib)");
  EXPECT_FALSE(pool.Submit(std::numeric_limits<int64_t>::max(), [] {}).ok());  // and no overflow
  ASSERT_TRUE(pool.Submit(0, [&] { freed.Notify(); }).ok());
  hold.Notify();
  freed.WaitForNotification();  // by then the one thread has given both back
  EXPECT_EQ(ran, 2);
  EXPECT_TRUE(pool.Submit(100, [] {}).ok());
}

TEST(TokenizerPoolTest, APieceLargerThanTheLimitIsTakenAlone) {
  absl::Notification hold, done;
  TokenizerPool pool({.num_threads = 1, .max_pending_bytes = 10});
  ASSERT_TRUE(pool.Submit(1000, [&] { hold.WaitForNotification(); }).ok());
  EXPECT_FALSE(pool.Submit(1000, [] {}).ok());
  EXPECT_FALSE(pool.Submit(1, [] {}).ok());
  hold.Notify();
}

TEST(TokenizerPoolTest, WhatWorkHoldsIsGoneWhenItsBytesAreFree) {
  auto text = std::make_shared<int>(7);
  std::weak_ptr<int> watch = text;
  absl::Notification checked;
  TokenizerPool pool({.num_threads = 1});
  ASSERT_TRUE(pool.Submit(1, [text = std::move(text)] {}).ok());
  ASSERT_TRUE(pool.Submit(1,
                          [&] {
                            EXPECT_TRUE(watch.expired());
                            checked.Notify();
                          })
                  .ok());
  checked.WaitForNotification();
}

TEST(TokenizerPoolTest, WorkMaySubmitAlsoWhileThePoolEnds) {
  std::atomic<int> ran = 0;
  {
    TokenizerPool pool({.num_threads = 2});
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(pool.Submit(1,
                              [&pool, &ran] {
                                ++ran;
                                ASSERT_TRUE(pool.Submit(1, [&ran] { ++ran; }).ok());
                              })
                      .ok());
    }
  }
  EXPECT_EQ(ran, 200);
}

TEST(TokenizerPoolTest, WhenRoomCallsAtOnceIfThereIsRoom) {
  TokenizerPool pool({.num_threads = 1, .max_pending_bytes = 10});
  int called = 0;  // on this thread
  pool.WhenRoom(10, [&called] { ++called; });
  pool.WhenRoom(1000, [&called] { ++called; });  // alone it fits
  EXPECT_EQ(called, 2);
}

TEST(TokenizerPoolTest, WhenRoomWakesInOrderAsManyAsFit) {
  std::vector<int> woken;  // by the one pool thread; its end is the pool's
  absl::Notification hold;
  {
    TokenizerPool pool({.num_threads = 1, .max_pending_bytes = 10});
    ASSERT_TRUE(pool.Submit(10, [&hold] { hold.WaitForNotification(); }).ok());
    for (int i : {0, 1, 2}) {
      pool.WhenRoom(6, [&pool, &woken, i] {
        woken.push_back(i);
        ASSERT_TRUE(pool.Submit(6, [&woken, i] { woken.push_back(10 + i); }).ok());
      });
    }
    hold.Notify();
  }
  // Two do not fit together: each runs before the next is woken.
  EXPECT_THAT(woken, ElementsAre(0, 10, 1, 11, 2, 12));
}

TEST(TokenizerPoolTest, AWaiterThatLeavesItsRoomUnusedDoesNotStrandTheNext) {
  absl::Notification hold, second;
  TokenizerPool pool({.num_threads = 1, .max_pending_bytes = 10});
  ASSERT_TRUE(pool.Submit(10, [&hold] { hold.WaitForNotification(); }).ok());
  pool.WhenRoom(10, [] {});  // its caller has gone
  pool.WhenRoom(10, [&second] { second.Notify(); });
  EXPECT_FALSE(second.HasBeenNotified());
  hold.Notify();
  second.WaitForNotification();  // though nothing is left to end
}

// A pool of one thread, which a test holds while it submits.
class TokenizerTurnsTest : public testing::Test {
 protected:
  ~TokenizerTurnsTest() override {
    if (!go_on_.HasBeenNotified()) go_on_.Notify();
  }
  void SetUp() override {
    ASSERT_TRUE(pool_
                    .Submit(0,
                            [this] {
                              held_.Notify();
                              go_on_.WaitForNotification();
                            })
                    .ok());
    held_.WaitForNotification();
  }

  absl::Status Submit(const char* name, int64_t bytes, uint64_t caller) {
    return pool_.Submit(
        bytes, [this, name] { order_.emplace_back(name); }, caller);
  }
  // In which order they ran. Ends the pool.
  std::vector<std::string> Order() {
    go_on_.Notify();
    owned_.reset();  // waits for what was taken, which may submit more: hence not by pool_'s own pointer
    return order_;
  }

  FakeClock clock_;
  absl::Notification held_, go_on_;
  std::vector<std::string> order_;  // the pool's thread writes it; its end is the pool's
  std::unique_ptr<TokenizerPool> owned_ = std::make_unique<TokenizerPool>(
      TokenizerPool::Options{.num_threads = 1, .max_pending_bytes = 8000, .clock = &clock_});
  TokenizerPool& pool_ = *owned_;
};

TEST_F(TokenizerTurnsTest, CallersHaveEqualSharesOfBytes) {
  for (const char* name : {"a1", "a2", "a3"}) ASSERT_TRUE(Submit(name, 1000, 1).ok());
  for (const char* name : {"b1", "b2", "b3", "b4", "b5", "b6"}) ASSERT_TRUE(Submit(name, 100, 2).ok());
  ASSERT_TRUE(Submit("c1", 1000, 3).ok());
  EXPECT_THAT(Order(), ElementsAre("a1", "b1", "c1", "b2", "b3", "b4", "b5", "a2", "b6", "a3"));
}

TEST_F(TokenizerTurnsTest, WhoComesLaterHasNothingToMakeUpFor) {
  ASSERT_TRUE(Submit("a1", 1000, 1).ok());
  ASSERT_TRUE(pool_
                  .Submit(
                      1000,
                      [this] {
                        order_.emplace_back("a2");
                        ASSERT_TRUE(Submit("b1", 500, 2).ok());
                        ASSERT_TRUE(Submit("b2", 1000, 2).ok());
                        ASSERT_TRUE(Submit("b3", 1000, 2).ok());
                      },
                      1)
                  .ok());
  ASSERT_TRUE(Submit("a3", 1000, 1).ok());
  ASSERT_TRUE(Submit("a4", 1000, 1).ok());
  EXPECT_THAT(Order(), ElementsAre("a1", "a2", "b1", "b2", "a3", "b3", "a4"));
}

TEST_F(TokenizerTurnsTest, TheLastEighthIsForCallersOfWhomNothingIsPending) {
  ASSERT_TRUE(Submit("a1", 6000, 1).ok());
  ASSERT_TRUE(Submit("a2", 1000, 1).ok());
  const absl::Status refused = Submit("a3", 1, 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("of which 1000 are kept for callers with none"));
  bool called = false;
  pool_.WhenRoom(
      1, [&called] { called = true; }, 1);
  EXPECT_FALSE(called);
  EXPECT_TRUE(Submit("b1", 900, 2).ok());
  EXPECT_FALSE(Submit("b2", 1, 2).ok());
  EXPECT_TRUE(Submit("c1", 100, 3).ok());
  EXPECT_FALSE(Submit("d1", 1, 4).ok());
  EXPECT_THAT(Order(), ElementsAre("a1", "b1", "c1", "a2"));
  EXPECT_TRUE(called);
}

// A long piece has half of its thread or more, and shorter ones do not wait for its end.
TEST_F(TokenizerTurnsTest, ALongPieceLetsShortOnesIn) {
  const auto part = [this](const char* name, int ms) {
    order_.emplace_back(name);
    clock_.Advance(absl::Milliseconds(ms));
    pool_.LetOthersIn();
  };
  ASSERT_TRUE(pool_
                  .Submit(
                      800,
                      [this, part] {
                        part("a1", 10);
                        ASSERT_TRUE(Submit("too long", 101, 3).ok());
                        ASSERT_TRUE(pool_
                                        .Submit(
                                            100,
                                            [this] {
                                              order_.emplace_back("b1");
                                              clock_.Advance(absl::Milliseconds(25));
                                              pool_.LetOthersIn();  // its own eighth is too little for b2
                                            },
                                            2)
                                        .ok());
                        ASSERT_TRUE(Submit("b2", 100, 2).ok());
                        part("a2", 10);
                        part("a3", 14);
                        part("a4", 1);
                        part("a5", 1);
                      },
                      1)
                  .ok());
  EXPECT_THAT(Order(), ElementsAre("a1", "a2", "b1", "a3", "a4", "b2", "a5", "too long"));
}

TEST_F(TokenizerTurnsTest, ForEachLetsShortOnesInOnItsOwnThread) {
  ASSERT_TRUE(pool_
                  .Submit(
                      800,
                      [this] {
                        pool_.ForEach(3, [this](size_t i) {
                          order_.push_back(std::to_string(i));
                          if (i == 0) {
                            ASSERT_TRUE(Submit("short", 100, 2).ok());
                          }
                        });
                      },
                      1)
                  .ok());
  EXPECT_THAT(Order(), ElementsAre("0", "short", "1", "2"));
}

TEST(TokenizerPoolTest, LettingOthersInIsNothingOnOtherThreads) {
  TokenizerPool pool({.num_threads = 1});
  TokenizerPool other({.num_threads = 1});
  pool.LetOthersIn();
  absl::Notification done;
  ASSERT_TRUE(pool.Submit(1000,
                          [&] {
                            other.LetOthersIn();
                            done.Notify();
                          })
                  .ok());
  done.WaitForNotification();
}

TEST(TokenizerPoolTest, ManyCallersAreForgotten) {
  std::atomic<int> ran = 0;
  {
    TokenizerPool pool({.num_threads = 2});
    for (uint64_t caller = 1; caller <= 20000; ++caller) {
      ASSERT_TRUE(pool.Submit(
                          1, [&ran] { ++ran; }, caller)
                      .ok());
    }
  }
  EXPECT_EQ(ran, 20000);
}

TEST(TokenizerPoolTest, ManyThreadsEachTakenPieceRunsOnce) {
  std::atomic<int> taken = 0, refused = 0, ran = 0;
  {
    TokenizerPool pool({.num_threads = 3, .max_pending_bytes = 50});
    std::vector<std::thread> callers;
    callers.reserve(4);
    for (int t = 0; t < 4; ++t) {
      callers.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          const absl::Status status = pool.Submit(i % 7, [&ran] { ++ran; });
          ++(status.ok() ? taken : refused);
          if (!status.ok()) {
            EXPECT_THAT(std::string(status.message()), HasSubstr("limit of 50"));
          }
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  EXPECT_EQ(taken + refused, 8000);
  EXPECT_EQ(ran, taken);
}

TEST(TokenizerPoolTest, ForEachCallsEachIndexOnce) {
  TokenizerPool pool({.num_threads = 3});
  std::vector<std::atomic<int>> calls(1000);
  pool.ForEach(calls.size(), [&calls](size_t i) { ++calls[i]; });
  for (const auto& n : calls) EXPECT_EQ(n, 1);
  pool.ForEach(0, [](size_t) { FAIL(); });
  pool.parallel()(1, [&calls](size_t i) { ++calls[i]; });
  EXPECT_EQ(calls[0], 2);
}

// From every pool thread at once: no thread waits for another to become free.
TEST(TokenizerPoolTest, ForEachFromThePoolsOwnThreads) {
  std::atomic<int> calls = 0;
  {
    TokenizerPool pool({.num_threads = 2});
    for (int t = 0; t < 4; ++t) {
      ASSERT_TRUE(pool.Submit(1, [&] { pool.ForEach(50, [&calls](size_t) { ++calls; }); }).ok());
    }
  }
  EXPECT_EQ(calls, 200);
}

TEST(TokenizerPoolTest, ForEachRunsOnSeveralThreads) {
  TokenizerPool pool({.num_threads = 2});
  absl::Notification both;
  std::atomic<int> inside = 0;
  // Each of the two waits for the other: one thread alone would never end.
  pool.ForEach(2, [&](size_t) {
    if (++inside == 2) both.Notify();
    both.WaitForNotification();
  });
}

// A helper takes its turn behind what was submitted meanwhile.
TEST(TokenizerPoolTest, ForEachLetsOthersIn) {
  TokenizerPool pool({.num_threads = 2});
  absl::Notification ran;
  pool.ForEach(1000, [&](size_t i) {
    if (i == 0) {
      ASSERT_TRUE(pool.Submit(1, [&ran] { ran.Notify(); }).ok());
      ran.WaitForNotification();  // on the other thread, long before the end
    }
  });
  EXPECT_TRUE(ran.HasBeenNotified());
}

}  // namespace
}  // namespace lion
