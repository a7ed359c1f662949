// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_HTTP_ENDPOINT_H_
#define LION_SERVER_HTTP_ENDPOINT_H_

// HTTP for those who do not speak gRPC: OpenAI's /v1/embeddings and /v1/models, /v1/classify beside them, /health.
// docs/http.md is its manual.
//
// Every request becomes the same Call as over gRPC (http_exchange.h); here are routes, connections and bytes. One
// thread of libmicrohttpd's moves them; a connection whose answer is being made is suspended and watched for its
// caller's leaving (peer_watch.h).

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/service_context.h"
#include "server/tls.h"

namespace lion {

class HttpEndpoint {
 public:
  struct Options {
    std::string listen;                           // "HOST:PORT" or "[IPV6]:PORT"; port 0 = any
    TlsFiles tls;                                 // empty = plain text; client_ca must be empty
    std::function<bool()> serving;                // what /health says; any time, on the endpoint's thread
    unsigned max_connections = 1024;              // more are closed as they come
    unsigned idle_seconds = 30;                   // then a connection on which nothing moves is closed
    int64_t max_held_bytes = int64_t{256} << 20;  // of bodies and answers; then larger bodies get 429
  };

  // Listens until destruction. context is borrowed. INVALID_ARGUMENT if listen is no address, or libmicrohttpd does not
  // take the certificate; UNAVAILABLE naming it if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Create(const ServiceContext* context, Options options);

  // Closes the port. Waits for requests that are being answered: the gate must have cut its calls before, and what ends
  // them be alive still.
  ~HttpEndpoint();

  // The real one.
  int port() const;

 private:
  struct Impl;
  explicit HttpEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_HTTP_ENDPOINT_H_
