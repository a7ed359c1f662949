// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The batcher under many threads, with devices that are lost on the way.

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "server/batcher.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {
namespace {

struct StressCase {
  const char* name;
  std::vector<std::optional<int>> lost_after;  // one a device: the batches after which it is lost
  bool stop_early = false;
  int max_concurrent_batches = 1;
  std::optional<uint32_t> lose_id = std::nullopt;  // a row that loses every device it runs on
};

class BatcherStressTest : public testing::TestWithParam<StressCase> {};

INSTANTIATE_TEST_SUITE_P(Devices, BatcherStressTest,
                         testing::ValuesIn(std::vector<StressCase>{
                             {"One", {std::nullopt}},
                             {"OneStopped", {std::nullopt}, true},
                             {"OneWithTwoBatches", {std::nullopt}, false, 2},
                             {"Three", {std::nullopt, std::nullopt, std::nullopt}, false, 2},
                             {"ThreeStopped", {std::nullopt, std::nullopt, std::nullopt}, true, 2},
                             {"FirstLostAtOnce", {0, std::nullopt}, false, 2},
                             {"TwoOfThreeLost", {20, 40, std::nullopt}, false, 2},
                             {"TwoLostTogether", {30, 30, std::nullopt}, false, 4},
                             {"LostAndStopped", {30, std::nullopt}, true, 2},
                             {"AllLost", {30, 60}, false, 2},
                             {"AllLostAtOnce", {0, 0}, false, 2},
                             {"AllLostAndStopped", {60, 90}, true, 3},
                             {"Poison", {std::nullopt, std::nullopt, std::nullopt, std::nullopt}, false, 2, 15},
                         }),
                         [](const auto& param) { return std::string(param.param.name); });

// Many threads, random lengths, models, cancels, deadlines and refusals, lost devices and a stop in the middle: every
// row that was taken is answered exactly once, no other ever, and every count returns to where it was.
TEST_P(BatcherStressTest, EveryTakenRowIsAnsweredExactlyOnce) {
  constexpr int kThreads = 4, kCalls = 300;
  const StressCase& c = GetParam();
  const bool all_lost = c.lose_id.has_value() || std::none_of(c.lost_after.begin(), c.lost_after.end(),
                                                              [](const auto& after) { return !after.has_value(); });
  std::vector<std::unique_ptr<FakeEncoder>> encoders;
  ServedModel a, b;
  a.name = "a";
  b.name = "b";
  a.info.max_batch_tokens = 64;
  a.info.devices.clear();
  for (size_t i = 0; i < c.lost_after.size(); ++i) {
    const std::string device = absl::StrCat("fake:", i);
    encoders.push_back(
        std::make_unique<FakeEncoder>(FakeEncoder::Options{.nan_id = 13,
                                                           .fail_id = 14,
                                                           .device = device,
                                                           .lost_after = c.lost_after[i],
                                                           .lose_id = c.lose_id,
                                                           .max_concurrent_batches = c.max_concurrent_batches}));
    a.encoders.push_back(encoders.back().get());
    a.info.devices.push_back(device);
  }
  b.info = a.info;
  b.encoders = a.encoders;
  {
    Metrics metrics({a, b});
    FakeClock clock;
    struct Outcome {
      std::atomic<int> answers = 0;
      bool taken = false;  // by the thread that submits
    };
    std::vector<std::vector<Outcome>> outcomes;
    outcomes.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) outcomes.emplace_back(kCalls * 4);
    std::atomic<int> ok = 0, dropped = 0, failed = 0, rooms = 0, asked = 0, lost = 0;
    {
      Batcher batcher({a, b}, {.max_queue_tokens = 256,
                               .clock = &clock,
                               .metrics = &metrics,
                               .on_device_lost = [&lost](const LostDevice&) { ++lost; }});
      std::vector<std::thread> threads;
      threads.reserve(kThreads);
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
          std::mt19937 random(static_cast<uint32_t>(t));
          std::vector<std::shared_ptr<std::atomic<bool>>> flags;
          for (int call = 0; call < kCalls; ++call) {
            auto cancelled = std::make_shared<std::atomic<bool>>(random() % 8 == 0);
            flags.push_back(cancelled);
            std::vector<PendingRow> rows(1 + random() % 4);
            int64_t tokens = 0;
            for (size_t r = 0; r < rows.size(); ++r) {
              PendingRow& row = rows[r];
              row.model = static_cast<int>(random() % 2);
              row.ids.assign(1 + random() % 40, 1);
              row.ids[0] = random() % 200;  // 13 gives NaN, 14 fails the batch
              row.cancelled = cancelled;
              if (random() % 8 == 0) row.deadline = clock.Now() + absl::Microseconds(random() % 3);
              Outcome& outcome = outcomes[t][call * 4 + r];
              row.done = [&](const RowAnswer& answer) {
                ++outcome.answers;
                switch (answer.status.code()) {
                  case absl::StatusCode::kOk:
                    ++ok;
                    break;
                  case absl::StatusCode::kInternal:
                    ++failed;
                    break;
                  default:
                    ++dropped;
                }
              };
              tokens += static_cast<int64_t>(row.ids.size());
            }
            const size_t num_rows = rows.size();
            const absl::Status status = batcher.Submit(std::move(rows));
            for (size_t r = 0; r < num_rows; ++r) outcomes[t][call * 4 + r].taken = status.ok();
            if (absl::IsResourceExhausted(status)) {
              ++asked;
              absl::Notification room;
              batcher.WhenRoom(tokens, [&] {
                ++rooms;
                room.Notify();
              });
              room.WaitForNotification();
            }
            clock.Advance(absl::Microseconds(1));
            flags[random() % flags.size()]->store(true);
            if (c.stop_early && t == 0 && call == kCalls / 2) batcher.Stop();
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      batcher.Stop();
      EXPECT_EQ(batcher.num_pending_rows(), 0);
    }
    int taken = 0;
    for (const std::vector<Outcome>& of_thread : outcomes) {
      for (const Outcome& outcome : of_thread) {
        taken += outcome.taken;
        ASSERT_EQ(outcome.answers, outcome.taken ? 1 : 0);
      }
    }
    EXPECT_EQ(ok + failed + dropped, taken);
    EXPECT_LE(lost, static_cast<int>(c.lost_after.size()));
    if (!all_lost) {
      EXPECT_GT(ok, 0);
      EXPECT_GT(dropped, 0);
    }
    if (!all_lost && !c.stop_early) {
      EXPECT_EQ(lost, std::count_if(c.lost_after.begin(), c.lost_after.end(),
                                    [](const auto& after) { return after.has_value(); }));
    }
    EXPECT_EQ(rooms, asked);
    double counted_dropped = 0;
    for (absl::string_view line : absl::StrSplit(metrics.Text(), '\n')) {
      if (absl::StartsWith(line, "lion_queue_sequences{") || absl::StartsWith(line, "lion_queue_tokens{")) {
        EXPECT_TRUE(absl::EndsWith(line, "} 0")) << line;
      }
      double value = 0;
      if (absl::StartsWith(line, "lion_dropped_total{") && absl::SimpleAtod(line.substr(line.rfind(' ')), &value)) {
        counted_dropped += value;
      }
    }
    EXPECT_EQ(counted_dropped, dropped);
  }
}

}  // namespace
}  // namespace lion
