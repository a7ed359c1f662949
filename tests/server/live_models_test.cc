// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/live_models.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "gtest/gtest.h"

namespace lion {
namespace {

ServedModels Versions(const std::string& version, std::shared_ptr<void> owner = nullptr) {
  ServedModel model;
  model.name = "text";
  model.info.version = version;
  model.owner = std::move(owner);
  return {model};
}

TEST(LiveModelsTest, WhoHoldsASetKeepsIt) {
  LiveModels live(Versions("one"));
  const auto held = live.Get();
  live.Set(Versions("two"));
  EXPECT_EQ(held->front().info.version, "one");
  EXPECT_EQ(live.Get()->front().info.version, "two");
}

TEST(LiveModelsTest, AnOldSetGoesWithItsLastHolder) {
  auto owner = std::make_shared<int>(0);
  const std::weak_ptr<int> alive = owner;
  LiveModels live(Versions("one", std::move(owner)));
  auto held = live.Get();
  live.Set(Versions("two"));
  EXPECT_FALSE(live.WaitForOldCalls(absl::ZeroDuration()));
  EXPECT_FALSE(alive.expired());
  std::thread last([&held] { held.reset(); });
  EXPECT_TRUE(live.WaitForOldCalls(absl::InfiniteDuration()));
  EXPECT_TRUE(alive.expired());
  last.join();
}

TEST(LiveModelsTest, NobodyIsWaitedForWhoHoldsTheNewest) {
  LiveModels live(Versions("one"));
  EXPECT_TRUE(live.WaitForOldCalls(absl::ZeroDuration()));
  live.Set(Versions("two"));
  const auto held = live.Get();
  EXPECT_TRUE(live.WaitForOldCalls(absl::ZeroDuration()));
}

}  // namespace
}  // namespace lion
