// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/trace_context.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpan[] = "00f067aa0ba902b7";

TEST(TraceContextTest, WhatTheStandardShows) {
  const auto context = ParseTraceParent(absl::StrCat("00-", kTrace, "-", kSpan, "-01"));
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_id, kTrace);
  EXPECT_EQ(context->parent_id, kSpan);
  EXPECT_TRUE(context->sampled);
  EXPECT_FALSE(ParseTraceParent(absl::StrCat("00-", kTrace, "-", kSpan, "-00"))->sampled);
  EXPECT_TRUE(ParseTraceParent(absl::StrCat("00-", kTrace, "-", kSpan, "-0b"))->sampled);
}

TEST(TraceContextTest, ALaterVersionIsReadAsFarAsItIsKnown) {
  EXPECT_TRUE(ParseTraceParent(absl::StrCat("cc-", kTrace, "-", kSpan, "-01")).has_value());
  EXPECT_TRUE(ParseTraceParent(absl::StrCat("cc-", kTrace, "-", kSpan, "-01-what-comes")).has_value());
  EXPECT_FALSE(ParseTraceParent(absl::StrCat("cc-", kTrace, "-", kSpan, "-01.what-comes")).has_value());
}

TEST(TraceContextTest, AnythingElseIsNone) {
  const std::string cases[] = {
      "",
      "00",
      std::string(55, '-'),
      absl::StrCat("ff-", kTrace, "-", kSpan, "-01"),
      absl::StrCat("0x-", kTrace, "-", kSpan, "-01"),
      absl::StrCat("00-", kTrace, "-", kSpan, "-01-more"),
      absl::StrCat("00-", kTrace, "-", kSpan, "-0"),
      absl::StrCat("00-", kTrace, "-", kSpan, "-zz"),
      absl::StrCat("00_", kTrace, "-", kSpan, "-01"),
      absl::StrCat("00-", std::string(32, '0'), "-", kSpan, "-01"),
      absl::StrCat("00-", kTrace, "-", std::string(16, '0'), "-01"),
      absl::StrCat("00-", std::string(32, 'A'), "-", kSpan, "-01"),
      absl::StrCat("00-", std::string("\"},{\"x\":\"4bf92f3577b34da6a3ce92"), "-", kSpan, "-01"),
  };
  for (const std::string& header : cases) EXPECT_FALSE(ParseTraceParent(header).has_value()) << header;
}

}  // namespace
}  // namespace lion
