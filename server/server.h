// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_SERVER_H_
#define LION_SERVER_SERVER_H_

// The whole service around models that are loaded: ports, queue, threads, health, metrics, and the drain at the end.
//
//   absl::StatusOr<std::unique_ptr<Server>> server = Server::Create(options, models);   // ports are open, NOT_SERVING
//   absl::Status warm = (*server)->WarmUp();
//   (*server)->Open();                                                                   // SERVING
//   ... a signal ...
//   (*server)->Drain(time_of_the_signal);
//
// While it serves, keys, certificates and models can be replaced (Set..., ReplaceModel); reloader.h does.
//
// Threads: Create, WarmUp, Open, Drain and destruction on one thread; WarmUp and Drain block. What replaces, on one
// other thread, not during destruction.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/api_keys.h"
#include "server/batcher.h"
#include "server/clock.h"
#include "server/connections.h"
#include "server/live_models.h"
#include "server/metrics.h"
#include "server/tls.h"
#include "server/validate.h"

namespace lion {

// The service's name, in health and on the wire.
inline constexpr char kServiceName[] = "lion.v1.EncoderService";

class Server {
 public:
  struct Options {
    std::string listen = "0.0.0.0:50051";         // HOST:PORT; port 0 = any
    std::string metrics_listen = "0.0.0.0:9464";  // the same
    std::string http_listen;                      // the same (http_endpoint.h); empty = no HTTP
    ServiceLimits limits;                         // but max_queue_bytes and max_memory_bytes, which come from below
    int64_t max_memory_bytes = 0;                 // of long rows together (memory_budget.h); 0 = DefaultMemoryBytes
    ConnectionLimits connections;
    int tokenizer_threads = 1;
    int64_t max_tokenizer_bytes = int64_t{256} << 20;  // text and encoded pictures that wait for them or are in work
    TlsFiles tls;                                      // empty = plain text
    std::optional<ApiKeys> api_keys;                   // nullopt = everybody may call
    absl::Duration drain_delay;                        // after the signal calls are served for this long
    absl::Duration drain_timeout = absl::Seconds(30);  // from the signal; then what is left is cut
    absl::Duration last_answers = absl::Seconds(1);    // the least that answers on their way get to arrive
    absl::Duration refusal_time = absl::Milliseconds(500);  // new calls are answered UNAVAILABLE for at least this long
    // As Batcher's, after health has been set: without a device kServiceName is NOT_SERVING, and what comes is answered
    // UNAVAILABLE; Drain is then to be called. Null = nobody is told.
    std::function<void(const LostDevice&)> on_device_lost = nullptr;
    Clock* clock = Clock::Real();
  };

  // Opens the ports: "" is SERVING, kServiceName NOT_SERVING, calls get UNAVAILABLE. models: at least one, the first
  // is the default; what they borrow must outlive the server. UNAVAILABLE naming the address if a port cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Create(Options options, ServedModels models);

  // As Drain with no time left, if Drain has not been called. Waits for a batch that runs.
  ~Server();

  // Runs every model at its max_batch_tokens, on every device. Before Open.
  absl::Status WarmUp();

  // Calls are served from here on, and health says so.
  void Open();

  // The order matters: gRPC's Shutdown under load cancels calls that cross its GOAWAY, so it comes when nobody is left.
  // 1. kServiceName turns NOT_SERVING, "" stays. 2. For drain_delay calls are served as before. 3. New calls and new
  // stream messages get UNAVAILABLE, for at least refusal_time, until nothing is in flight. 4. When drain_timeout has
  // passed since signalled, what is left gets UNAVAILABLE and is counted. 5. gRPC is shut down: answers that are on
  // their way to slow readers have until drain_timeout to arrive, and last_answers at least.
  // Without a device there is nothing to wait for in 2. True if nothing was cut. After false a batch may still run, and
  // destruction would wait for it.
  bool Drain(absl::Time signalled);

  // From here on these keys count. Only where Options::api_keys had some.
  void SetApiKeys(ApiKeys keys);

  // From the next connection on. files: checked, of the same kind as Options::tls.
  void SetTls(TlsFiles files);

  // What is served now.
  std::shared_ptr<const ServedModels> models() const;

  // Warms model up beside the version that serves, then lets it take that one's place: calls that come from here on
  // reach it, those that have begun end on the old one. index: into models(); the name stays. Blocks for the warm-up.
  // Whatever fails, the old version serves on: FAILED_PRECONDITION where calls still run on a version before the one
  // that serves, INVALID_ARGUMENT for other devices, or the warm-up's error.
  absl::Status ReplaceModel(int index, ServedModel model);

  // Frees versions that no call needs any more. False if there are some that a call still needs.
  bool ReleaseOldModels();

  // With the real ports: "127.0.0.1:50051".
  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  const std::string& http_address() const { return http_address_; }  // empty = no HTTP

  Metrics* metrics();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
  std::string address_;
  std::string metrics_address_;
  std::string http_address_;
};

}  // namespace lion

#endif  // LION_SERVER_SERVER_H_
