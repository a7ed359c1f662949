// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/log.h"

#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"

namespace lion {
namespace {

const absl::Time kTime = absl::UnixEpoch() + absl::Milliseconds(1500);

TEST(LogTest, TextIsOneLine) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, kTime, LogLevel::kWarning, "two\nlines"),
            "1970-01-01T00:00:01.500Z WARNING two lines\n");
}

TEST(LogTest, JsonIsOneObjectALine) {
  const std::string line = FormatLogLine(LogFormat::kJson, kTime, LogLevel::kInfo, "a \"quoted\"\nline \xff");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const nlohmann::json parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed.at("time"), "1970-01-01T00:00:01.500Z");
  EXPECT_EQ(parsed.at("level"), "info");
  EXPECT_EQ(parsed.at("message"), "a \"quoted\"\nline \xef\xbf\xbd");
  EXPECT_EQ(parsed.size(), 3);
}

TEST(LogTest, FieldsStandBehindTheMessage) {
  const std::vector<LogField> fields = {{"rpc", "Embed"}, {"duration_ms", "1.5", true}};
  EXPECT_EQ(FormatLogLine(LogFormat::kText, kTime, LogLevel::kInfo, "call failed", fields),
            "1970-01-01T00:00:01.500Z INFO call failed rpc=Embed duration_ms=1.5\n");
  const auto parsed =
      nlohmann::json::parse(FormatLogLine(LogFormat::kJson, kTime, LogLevel::kInfo, "call failed", fields));
  EXPECT_EQ(parsed.at("rpc"), "Embed");
  EXPECT_EQ(parsed.at("duration_ms"), 1.5);
  EXPECT_EQ(parsed.size(), 5);
}

}  // namespace
}  // namespace lion
