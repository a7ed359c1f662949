// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_STATUS_MAP_H_
#define LION_SERVER_STATUS_MAP_H_

// The one table between absl::Status, which everything below the wire speaks, and gRPC's codes, which travel.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"
#include "lion/v1/encoder.pb.h"

namespace lion {

// What is not in gRPC's list becomes UNKNOWN.
grpc::StatusCode ToGrpcCode(absl::StatusCode code);

// The message is cut to 2,000 bytes (gRPC sends it in a header, and headers have a limit).
grpc::Status ToGrpcStatus(const absl::Status& status);

// The same for a row, or for one message of a stream. status must not be OK.
void ToRowError(const absl::Status& status, v1::RowError* error);

// A caller's string, fit to be shown in a message: escaped to printable ASCII, at most 64 bytes of it.
std::string Quoted(absl::string_view text);

}  // namespace lion

#endif  // LION_SERVER_STATUS_MAP_H_
