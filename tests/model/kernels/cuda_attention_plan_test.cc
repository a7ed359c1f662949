// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What attention_launch.h does on the host: the plan, and what a launch refuses. No device is needed.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/cuda/attention_launch.h"

namespace lion::cuda {
namespace {

using testing::HasSubstr;

TEST(CudaAttentionPlanTest, CutsRowsIntoSegments) {
  const AttentionPlan plan = PlanAttention({PlanRow{1, ComputeMode::kChunked, 0},
                                            {512, ComputeMode::kChunked, 100},
                                            {513, ComputeMode::kChunked, 0},
                                            {300, ComputeMode::kParallel, 0},
                                            {2000, ComputeMode::kRecurrent, 0},
                                            {8193, ComputeMode::kChunked, 0}});
  EXPECT_TRUE(plan.plain);
  std::vector<std::vector<int>> got;
  for (const Segment& s : plan.segments) {
    got.push_back({s.start, s.length, s.row_start, s.row_length, s.state, s.row, s.index, s.count});
  }
  std::vector<std::vector<int>> expected = {{0, 1, 0, 1, -1, 0, 0, 1},           {1, 512, 1, 512, -1, 1, 0, 1},
                                            {513, 512, 513, 513, 0, 2, 0, 2},    {1025, 1, 513, 513, 1, 2, 1, 2},
                                            {1026, 128, 1026, 300, -1, 3, 0, 3}, {1154, 128, 1026, 300, -1, 3, 1, 3},
                                            {1282, 44, 1026, 300, -1, 3, 2, 3},  {1326, 2000, 1326, 2000, -1, 4, 0, 1}};
  for (int s = 0; s < 9; ++s) {
    expected.push_back({3326 + 1024 * s, s < 8 ? 1024 : 1, 3326, 8193, 2 + s, 5, s, 9});
  }
  EXPECT_EQ(got, expected);
  ASSERT_EQ(plan.runs.size(), 2U);
  EXPECT_EQ(plan.runs[0].first, 0);
  EXPECT_EQ(plan.runs[0].count, 2);
  EXPECT_EQ(plan.runs[1].first, 2);
  EXPECT_EQ(plan.runs[1].count, 9);
  EXPECT_EQ(plan.num_states, 11);
}

TEST(CudaAttentionPlanTest, ARowWithoutMasksIsChunkedInItsParallelFormToo) {
  const AttentionPlan plan = PlanAttention({PlanRow{1200, ComputeMode::kParallel, 0}}, false);
  EXPECT_EQ(plan.segments.size(), 3U);
  EXPECT_EQ(plan.num_states, 3);
  EXPECT_FALSE(plan.plain);
}

TEST(CudaAttentionPlanTest, StatesStayWithinWhatIsReservedForThem) {
  for (int64_t L : {513, 1000, 1024, 1025, 8192, 8193, 9000, 100000}) {
    const AttentionPlan plan = PlanAttention({PlanRow{L, ComputeMode::kChunked, 0}});
    EXPECT_LE(plan.num_states, L / kSegmentTokens * 2) << L;
  }
  EXPECT_EQ(PlanAttention({PlanRow{kSegmentTokens, ComputeMode::kChunked, 0}}).num_states, 0);
}

TEST(CudaAttentionLaunchTest, RefusesWhatTheStructDoesNotAllow) {
  float memory[4] = {};
  AttentionParams good;
  good.H = 2;
  good.D = 64;
  good.T = 10;
  good.max_segments = 0;
  good.plain = false;
  EXPECT_TRUE(LaunchAttention(good, nullptr).ok());
  const auto expect = [&](const std::function<void(AttentionParams*)>& change, const std::string& message) {
    AttentionParams bad = good;
    change(&bad);
    const absl::Status status = LaunchAttention(bad, nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  expect([](AttentionParams* p) { p->D = 48; }, "heads of 48 columns");
  expect([](AttentionParams* p) { p->H = 0; }, "no heads");
  expect([](AttentionParams* p) { p->max_runs = 1; }, "no memory for the states");
  expect([](AttentionParams* p) { p->plain = true; }, "no memory for plain_y");
  expect([](AttentionParams* p) { p->type = ElementType::kFloat16, p->D = 128; }, "no memory for plain_y");
  expect([](AttentionParams* p) { p->y_float32 = true; }, "y_float32 is for float16");
  expect([&](AttentionParams* p) { p->max_segments = 1, p->T = 0, p->states = memory; }, "T is the number of tokens");
}

}  // namespace
}  // namespace lion::cuda
