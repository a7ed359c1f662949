// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/call_log.h"

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

// "name=value" of each field.
std::vector<std::string> Said(const EndedCall& call, int64_t suppressed = 0) {
  std::vector<std::string> said;
  for (const LogField& field : FieldsOf(call, "text", suppressed)) said.push_back(field.name + "=" + field.value);
  return said;
}

TEST(CallLogTest, AFloodIsThinnedAndCounted) {
  CallLog log;
  absl::Time now = absl::FromUnixSeconds(1000);
  const auto refused = absl::StatusCode::kUnauthenticated;
  for (int i = 0; i < CallLog::kBurst; ++i) EXPECT_EQ(log.MayWrite(refused, now), 0) << i;
  for (int i = 0; i < 7; ++i) EXPECT_EQ(log.MayWrite(refused, now), std::nullopt);
  EXPECT_EQ(log.MayWrite(absl::StatusCode::kInternal, now), 0) << "another code is not hidden by it";
  now += absl::Seconds(1 / CallLog::kLinesASecond);
  EXPECT_EQ(log.MayWrite(refused, now), 7);
  EXPECT_EQ(log.MayWrite(refused, now), std::nullopt);
  now -= absl::Hours(1);  // the clock was set back
  EXPECT_EQ(log.MayWrite(refused, now), std::nullopt);
  now += absl::Hours(2);
  EXPECT_EQ(log.MayWrite(refused, now), 2);
  EXPECT_EQ(log.MayWrite(refused, now), 0);
}

TEST(CallLogTest, ALineSaysWhatEnded) {
  EndedCall call;
  call.rpc = Rpc::kEmbed;
  call.status = absl::InvalidArgumentError("inputs[3].text: 200 tokens, the limit is 64");
  call.duration = absl::Microseconds(1234);
  call.trace =
      TraceContext{.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736", .parent_id = "00f067aa0ba902b7", .sampled = true};
  EXPECT_EQ(Said(call, 3),
            (std::vector<std::string>{"rpc=Embed", "model=text", "code=INVALID_ARGUMENT", "field=inputs[3].text",
                                      "duration_ms=1.2", "trace_id=4bf92f3577b34da6a3ce929d0e0e4736",
                                      "parent_id=00f067aa0ba902b7", "suppressed=3"}));
}

TEST(CallLogTest, NothingOfACallersTextIsSaid) {
  for (const char* message : {"no such model 'my secret': there are a, b", "My secret: is here", "secret", ": secret",
                              "a field with blanks: secret", ""}) {
    EndedCall call;
    call.status = absl::NotFoundError(message);
    for (const std::string& field : Said(call)) EXPECT_EQ(field.find("secret"), std::string::npos) << field;
    EXPECT_EQ(Said(call).size(), 4) << message;
  }
}

TEST(CallLogTest, FaultsAreErrorsAndCallersMistakesAreNot) {
  EXPECT_EQ(LevelOf(absl::StatusCode::kInternal), LogLevel::kError);
  EXPECT_EQ(LevelOf(absl::StatusCode::kUnavailable), LogLevel::kWarning);
  EXPECT_EQ(LevelOf(absl::StatusCode::kResourceExhausted), LogLevel::kWarning);
  EXPECT_EQ(LevelOf(absl::StatusCode::kInvalidArgument), LogLevel::kInfo);
  EXPECT_EQ(LevelOf(absl::StatusCode::kCancelled), LogLevel::kInfo);
}

}  // namespace
}  // namespace lion
