// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_METRICS_ENDPOINT_H_
#define LION_SERVER_METRICS_ENDPOINT_H_

// The HTTP side of /metrics: one thread of libmicrohttpd's that answers GET and HEAD of /metrics with a text,
// everything else with 404 or 405.
//
// Why not prometheus-cpp's own Exposer: its web server, civetweb, asks for thread stacks of 100 KiB. glibc takes the
// thread-local storage of all libraries out of them, cuBLASLt's alone is 94 KiB, and no thread starts.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lion {

class MetricsEndpoint {
 public:
  // Listens on "HOST:PORT" or "[IPV6]:PORT" (port 0 = any) until destruction. text is called on the endpoint's thread,
  // once a request; it must not throw. INVALID_ARGUMENT if address is none; UNAVAILABLE naming it and why, if it cannot
  // be bound or another socket listens there.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Create(const std::string& address,
                                                                 std::function<std::string()> text);

  // Closes the port and ends the thread: at once, whoever is connected.
  ~MetricsEndpoint();

  // The real one.
  int port() const;

 private:
  struct Impl;
  explicit MetricsEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_METRICS_ENDPOINT_H_
