// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_CONNECTIONS_H_
#define LION_SERVER_CONNECTIONS_H_

// What one connection may take, and how many files the process may have open for connections.
//
// gRPC 1.51 has no limit on the number of connections: an idle one costs a file and some tens of kilobytes. Who needs
// such a limit puts Envoy in front (docs/operations.md).

#include <cstdint>

#include "absl/time/time.h"
#include "grpcpp/server_builder.h"

namespace lion {

struct ConnectionLimits {
  int max_calls = 4096;  // at once, unary and streams; the next wait in their client
  // A connection without a call is closed after this long; its client opens another when it calls.
  absl::Duration max_idle = absl::InfiniteDuration();
  // A connection is told to end (GOAWAY) after this long, give or take a tenth, and its calls have max_age_grace to
  // finish: clients ask DNS again, so new replicas get their share.
  absl::Duration max_age = absl::InfiniteDuration();
  absl::Duration max_age_grace = absl::InfiniteDuration();
  // What gRPC may hold for all connections and incoming messages. Near it idle connections are closed and less is read;
  // at it calls are refused.
  int64_t max_memory_bytes = int64_t{1} << 30;
  // A connection with calls that has been silent this long is asked for a sign of life; without one within
  // keepalive_timeout it is closed, and its calls are cancelled. One without calls is left to max_idle.
  absl::Duration keepalive_interval = absl::Minutes(5);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  // Clients that ask the server more often than this, with or without calls, are sent away (ENHANCE_YOUR_CALM).
  absl::Duration min_ping_interval = absl::Seconds(10);
};

void Apply(const ConnectionLimits& limits, grpc::ServerBuilder* builder);

// Raises the soft limit on open files to the hard one. The limit in force then; -1 if it cannot be read.
int64_t RaiseOpenFiles();

}  // namespace lion

#endif  // LION_SERVER_CONNECTIONS_H_
