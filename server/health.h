// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_HEALTH_H_
#define LION_SERVER_HEALTH_H_

// grpc.health.v1: "" says that the process is alive, a named service whether it is ready to serve.
//
// Our own and not gRPC's, because that one learns of a service only after the port is open: a probe in between would be
// told that there is no such service.

#include <memory>
#include <string>

#include "grpcpp/impl/service_type.h"

namespace lion {

class HealthService {
 public:
  // "" is SERVING from here on; the service named is known, and NOT_SERVING.
  explicit HealthService(const std::string& name);
  ~HealthService();

  // To be registered with one server, which must be gone before this.
  grpc::Service* service();

  // Of the named service. Tells everybody who watches. Thread-safe, never blocks.
  void SetServing(bool serving);
  bool serving() const;

  // Ends every Watch with UNAVAILABLE, those that come later too: without this a server's shutdown waits for them.
  // Check goes on. Thread-safe, never blocks.
  void EndWatches();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_HEALTH_H_
