// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/status_map.h"

#include <string>

#include "gtest/gtest.h"

namespace lion {
namespace {

TEST(StatusMapTest, EveryCodeHasItsRow) {
  const struct {
    absl::StatusCode from;
    grpc::StatusCode to;
  } rows[] = {
      {absl::StatusCode::kOk, grpc::StatusCode::OK},
      {absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED},
      {absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN},
      {absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
      {absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
      {absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND},
      {absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
      {absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
      {absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
      {absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
      {absl::StatusCode::kAborted, grpc::StatusCode::ABORTED},
      {absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE},
      {absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED},
      {absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL},
      {absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
      {absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS},
      {absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED},
      {static_cast<absl::StatusCode>(77), grpc::StatusCode::UNKNOWN},
  };
  for (const auto& row : rows) EXPECT_EQ(ToGrpcCode(row.from), row.to) << static_cast<int>(row.from);
}

TEST(StatusMapTest, MessagesTravelAndLongOnesAreCutBetweenCharacters) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError("model: none"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "model: none");
  std::string text = "x";
  for (int i = 0; i < 2000; ++i) text += "\u00e9";
  v1::RowError error;
  ToRowError(absl::InternalError(text), &error);
  EXPECT_EQ(error.code(), 13);
  EXPECT_EQ(error.message().size(), 1999 + 3);  // 1 + 999 characters of two bytes, "..."
  EXPECT_EQ(ToGrpcStatus(absl::InternalError(text)).error_message(), error.message());
}

TEST(QuotedTest, ShowsWhatACallerSentSafely) {
  EXPECT_EQ(Quoted("lamb"), "'lamb'");
  EXPECT_EQ(Quoted("a\n\xff"), "'a\\n\\xff'");
  EXPECT_EQ(Quoted(std::string(100, 'y')), "'" + std::string(64, 'y') + "...'");
}

}  // namespace
}  // namespace lion
