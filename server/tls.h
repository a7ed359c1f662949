// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TLS_H_
#define LION_SERVER_TLS_H_

// The files of --tls_cert, --tls_key and --tls_client_ca, read and checked at start-up: gRPC itself would only say that
// it cannot bind.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
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
};

// TLS if there is a certificate, else plain text.
std::shared_ptr<grpc::ServerCredentials> MakeCredentials(const TlsFiles& files);

}  // namespace lion

#endif  // LION_SERVER_TLS_H_
