// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_CLIENT_H_
#define LION_CLIENT_CLIENT_H_

// A connection to a LION server: typed calls, blocking or not, with deadlines, retries, TLS and an API key.
//
// Calls are retried by gRPC itself under the published service config (client/service_config.h). Rows that fail alone
// inside a call that succeeds are the caller's; client/pipeline.h retries those and keeps several calls in flight.
//
//   absl::StatusOr<std::unique_ptr<Client>> client = Client::Create({.target = "127.0.0.1:50051"});
//   lion::v1::EmbedRequest request;
//   request.add_inputs()->set_text("a cat sits on the mat");
//   absl::StatusOr<lion::v1::EmbedResponse> response = (*client)->Embed(request);
//   // response->results(0).vectors(0).values()

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpc/health/v1/health.pb.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

struct ConnectOptions {
  std::string target = "127.0.0.1:50051";  // HOST:PORT, or any gRPC target (dns:///…, unix:…, ipv4:A:P,B:P)
  bool tls = false;                        // true: TLS, by the system's authorities unless tls_ca names others
  std::string tls_ca = {};                 // PEM file of the authorities that signed the server; implies tls
  std::string tls_cert = {};               // PEM files of our own certificate and key, for servers that ask for one:
  std::string tls_key = {};                // both or neither; imply tls
  std::string tls_server_name = {};        // the name in the server's certificate; empty = the target's. Implies tls
  std::string api_key = {};                // sent as "authorization: Bearer KEY"; empty = none
  absl::Duration deadline = absl::Seconds(60);  // of each call, its retries included; > 0, infinite = none
  bool retry = true;                            // false: a call is tried once (for measuring)
};

// Whether these options ask for TLS: by any of the tls options.
bool UsesTls(const ConnectOptions& options);

// True for a failure that another attempt may mend: UNAVAILABLE, or RESOURCE_EXHAUSTED unless the server said that
// waiting cannot help (pushback -1).
bool MayRetry(const absl::Status& status);

// "INVALID_ARGUMENT" for kInvalidArgument, and so on.
std::string CodeName(absl::StatusCode code);

// Thread-safe. A call that could not be made at all (nobody listens) is UNAVAILABLE.
class Client {
 public:
  // Called exactly once, on a thread of gRPC's: must not block and must not destroy the client.
  using Done = std::function<void(absl::Status)>;

  // Connects lazily: a wrong address shows at the first call. INVALID_ARGUMENT for options that make no sense,
  // NOT_FOUND for a TLS file that cannot be read, each naming the option.
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ConnectOptions& options);

  // Cancels what is in flight (their done is called with CANCELLED) and waits for it.
  ~Client();

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Blocking calls.
  absl::StatusOr<v1::EmbedResponse> Embed(const v1::EmbedRequest& request);
  absl::StatusOr<v1::ClassifyResponse> Classify(const v1::ClassifyRequest& request);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request);
  absl::StatusOr<v1::ListModelsResponse> ListModels();
  // message is called on this thread with each message of the answer, in order; false cancels the call (CANCELLED). Not
  // OK may come after vectors have: then they are not all of them.
  absl::Status EmbedDocument(const v1::EmbedDocumentRequest& request,
                             const std::function<bool(const v1::EmbedDocumentResponse&)>& message);

  // The same without blocking. request and response are borrowed until done has been called.
  void EmbedAsync(const v1::EmbedRequest* request, v1::EmbedResponse* response, Done done);
  void ClassifyAsync(const v1::ClassifyRequest* request, v1::ClassifyResponse* response, Done done);
  void TokenizeAsync(const v1::TokenizeRequest* request, v1::TokenizeResponse* response, Done done);

  // What grpc.health.v1 says of a service: "" is the process, "lion.v1.EncoderService" its readiness. Asked on a
  // channel of its own, once, without retries, so that the answer is that of this moment. NOT_FOUND for a service that
  // the server does not know.
  absl::StatusOr<grpc::health::v1::HealthCheckResponse::ServingStatus> Health(const std::string& service);

  // Cancels every call in flight; later calls are not affected.
  void CancelAll();

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion::client

#endif  // LION_CLIENT_CLIENT_H_
