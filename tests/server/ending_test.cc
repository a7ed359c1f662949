// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// How the process ends: exit codes and the lines that say why, around a whole server with fake devices.

#include "server/ending.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

// Two devices that are lost after 1 and 3 batches, and the thread that waits for the end as main does.
class EndingTest : public testing::Test {
 protected:
  EndingTest() {
    testing::internal::CaptureStderr();
    Server::Options options = TestServerOptions();
    options.drain_delay = absl::ZeroDuration();
    options.on_device_lost = ending_.WatchDevices(2);
    server_ = std::make_unique<TestServer>(std::move(options), std::vector<Encoder*>{&first_, &second_});
    server_->Open();
    waiter_ = std::thread([this] { end_ = DrainAtEnd(server_->operator->(), &ending_); });
  }
  ~EndingTest() override {
    ending_.Announce(Ending::Cause::kSignal);
    if (waiter_.joinable()) waiter_.join();
  }

  static FakeEncoder::Options LostAfter(const char* device, int batches) {
    FakeEncoder::Options options = TestEncoderOptions();
    options.device = device;
    options.lost_after = batches;
    return options;
  }

  grpc::Status Embed() {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    return server_->stub()->Embed(&context, EmbedIds({1}), &response);
  }

  ProcessEnd WaitForEnd() {
    waiter_.join();
    return end_;
  }

  // The log's lines without their times, but for those of the calls that failed.
  static std::vector<std::string> Log() {
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty())) {
      if (absl::StrContains(line, " call failed ")) continue;
      if (absl::StrContains(line, " INFO ") || absl::StrContains(line, " ERROR ") || absl::StrContains(line, " WARN")) {
        lines.emplace_back(line.substr(line.find(' ') + 1));
      }
    }
    return lines;
  }

  Ending ending_;
  FakeEncoder first_{LostAfter("fake:0", 1)};
  FakeEncoder second_{LostAfter("fake:1", 3)};
  std::unique_ptr<TestServer> server_;
  ProcessEnd end_;
  std::thread waiter_;
};

TEST_F(EndingTest, TheLossOfTheLastDeviceEndsTheProcessWithOne) {
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Embed().ok()) << i;
  EXPECT_FALSE(ending_.no_device());
  const grpc::Status status = Embed();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("is lost: cudaStreamSynchronize"));
  const ProcessEnd end = WaitForEnd();
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_TRUE(end.at_once);
  const std::vector<std::string> log = Log();
  ASSERT_EQ(log.size(), 4) << testing::PrintToString(log);
  EXPECT_EQ(log[0], "ERROR fake:0 is lost: cudaStreamSynchronize: unspecified launch failure; 1 of 2 devices left");
  EXPECT_EQ(log[1], "ERROR fake:1 is lost: cudaStreamSynchronize: unspecified launch failure; no device is left");
  EXPECT_EQ(log[2], "INFO draining");
  EXPECT_EQ(log[3], "ERROR stopped: no device was left to serve on");
}

TEST_F(EndingTest, ASignalEndsItWithZeroThoughADeviceWasLost) {
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Embed().ok()) << i;
  ending_.Announce(Ending::Cause::kSignal);
  const ProcessEnd end = WaitForEnd();
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_FALSE(end.at_once);
  const std::vector<std::string> log = Log();
  ASSERT_EQ(log.size(), 3) << testing::PrintToString(log);
  EXPECT_THAT(log[0], EndsWith("1 of 2 devices left"));
  EXPECT_EQ(log[2], "INFO drained: every call was answered");
}

TEST(EndingOrderTest, ALossInTheDrainStillCounts) {
  Ending ending;
  ending.Announce(Ending::Cause::kSignal);
  const absl::Time first = ending.Wait();
  EXPECT_FALSE(ending.no_device());
  ending.Announce(Ending::Cause::kNoDevice);
  EXPECT_TRUE(ending.no_device());
  EXPECT_EQ(ending.Wait(), first);
}

}  // namespace
}  // namespace lion
