// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/gate.h"

#include <memory>
#include <thread>

#include "gtest/gtest.h"

namespace lion {
namespace {

struct FakeCall : InFlightCall {
  void OnDrain() override { ++num_drains; }
  void Cut() override { ++num_cuts; }
  int num_drains = 0;
  int num_cuts = 0;
};

TEST(GateTest, NobodyEntersBeforeOpenOrAfterStartDraining) {
  Gate gate;
  const auto call = std::make_shared<FakeCall>();
  EXPECT_EQ(gate.Enter(call), absl::UnavailableError("server is loading"));
  gate.Open();
  EXPECT_TRUE(gate.Enter(call).ok());
  EXPECT_EQ(gate.num_inside(), 1);
  gate.StartDraining();
  EXPECT_EQ(gate.Enter(std::make_shared<FakeCall>()), absl::UnavailableError("server is draining"));
  gate.Open();  // too late
  EXPECT_EQ(gate.state(), Gate::State::kDraining);
  gate.Leave(call.get());
  EXPECT_EQ(gate.num_inside(), 0);
}

TEST(GateTest, ThoseInsideAreToldAndThoseWhoLeftAreNot) {
  Gate gate;
  gate.Open();
  const auto stays = std::make_shared<FakeCall>();
  const auto leaves = std::make_shared<FakeCall>();
  ASSERT_TRUE(gate.Enter(stays).ok());
  ASSERT_TRUE(gate.Enter(leaves).ok());
  gate.Leave(leaves.get());
  gate.StartDraining();
  gate.CutAll();
  EXPECT_EQ(stays->num_drains, 1);
  EXPECT_EQ(stays->num_cuts, 1);
  EXPECT_EQ(leaves->num_drains, 0);
  EXPECT_EQ(leaves->num_cuts, 0);
}

TEST(GateTest, WaitUntilEmptyEndsWhenTheLastLeavesOrTimeIsUp) {
  Gate gate;
  EXPECT_TRUE(gate.WaitUntilEmpty(absl::ZeroDuration()));
  gate.Open();
  const auto call = std::make_shared<FakeCall>();
  ASSERT_TRUE(gate.Enter(call).ok());
  EXPECT_FALSE(gate.WaitUntilEmpty(absl::ZeroDuration()));
  std::thread leaver([&] { gate.Leave(call.get()); });
  EXPECT_TRUE(gate.WaitUntilEmpty(absl::InfiniteDuration()));
  leaver.join();
}

}  // namespace
}  // namespace lion
