// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_LISTEN_SOCKET_H_
#define LION_SERVER_LISTEN_SOCKET_H_

// A TCP socket that listens, for the HTTP ports (gRPC opens its own): bound here, so that what is wrong with an address
// can be said in words.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lion {

struct ListenSocket {
  int fd = -1;   // non-blocking; the caller's to close
  int port = 0;  // the real one
};

// Listens on the first of address's meanings: "HOST:PORT" or "[IPV6]:PORT", port 0 = any. Messages begin with name
// ("metrics"). INVALID_ARGUMENT if address is none; UNAVAILABLE naming it and why, if it cannot be bound or another
// socket listens there.
absl::StatusOr<ListenSocket> ListenOn(absl::string_view name, const std::string& address);

}  // namespace lion

#endif  // LION_SERVER_LISTEN_SOCKET_H_
