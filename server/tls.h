// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TLS_H_
#define LION_SERVER_TLS_H_

// The files of --tls_cert, --tls_key and --tls_client_ca, read and checked before they are used: gRPC itself would only
// say that it cannot bind. And the credentials made of them, whose certificates can be replaced while the port is open.

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"

namespace lion {

struct TlsFiles {
  std::string cert;       // PEM, the chain; empty = no TLS
  std::string key;        // PEM, of cert
  std::string client_ca;  // PEM; empty = clients need no certificate

  // Reads the three paths ("" = none). Errors, each naming flag and path: NOT_FOUND for what cannot be read,
  // INVALID_ARGUMENT for what is no certificate or key, a key that is not the certificate's, cert without key or the
  // reverse, client_ca without both.
  static absl::StatusOr<TlsFiles> Read(const std::string& cert_path, const std::string& key_path,
                                       const std::string& client_ca_path);

  // INVALID_ARGUMENT naming the date if the server's certificate has expired at now; OK without TLS.
  absl::Status CheckNotExpired(absl::Time now) const;
};

// The certificates in force. gRPC asks for them at each handshake, so new ones count from the next connection on;
// connections that are open stay as they are. Thread-safe. Outlives the server that uses its credentials.
class LiveTls {
 public:
  // Whether there is TLS, and whether clients need a certificate, is decided here for good.
  explicit LiveTls(TlsFiles files);
  ~LiveTls();

  // files: checked (TlsFiles::Read), of the same kind as the first.
  void Set(TlsFiles files);

  // Once, for one port. TLS if there is a certificate, else plain text.
  std::shared_ptr<grpc::ServerCredentials> Credentials();

 private:
  class TlsCredentials;

  mutable absl::Mutex mu_;
  TlsFiles files_ ABSL_GUARDED_BY(mu_);
  int version_ ABSL_GUARDED_BY(mu_) = 1;
  // gRPC's core asks them for as long as the port is open, and its C++ layer drops them once it is.
  std::shared_ptr<grpc::ServerCredentials> credentials_;
};

}  // namespace lion

#endif  // LION_SERVER_TLS_H_
