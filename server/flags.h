// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_FLAGS_H_
#define LION_SERVER_FLAGS_H_

// The command line: what was typed (FlagValues), checked and made into what the process is built from (ServerConfig).
// No other file knows a flag.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/types.h"
#include "server/log.h"
#include "server/reloader.h"
#include "server/server.h"

namespace lion {

// As typed; docs/operations.md and --help say what each means. 0 and "" are the defaults shown there.
struct FlagValues {
  std::string listen = "0.0.0.0:50051";
  std::string metrics_listen = "0.0.0.0:9464";
  std::string http_listen;  // empty = no HTTP
  std::string device = "auto";
  std::string dtype = "auto";
  std::string mode = "auto";
  int64_t parallel_max_tokens = 0;
  int64_t chunk_tokens = 0;
  int64_t max_batch_tokens = 0;
  int64_t max_sequence_tokens = 0;
  int64_t max_queue_tokens = 0;
  int64_t max_queue_mib = 0;
  int64_t max_inputs = 0;
  int64_t max_message_mib = 0;
  int64_t max_memory_mib = 0;
  int64_t max_image_pixels = 0;
  int64_t max_connection_calls = 0;
  absl::Duration max_connection_idle = absl::ZeroDuration();
  absl::Duration max_connection_age = absl::ZeroDuration();
  absl::Duration max_connection_age_grace = absl::ZeroDuration();
  int64_t max_connection_memory_mib = 0;
  absl::Duration keepalive_interval = absl::Minutes(5);
  absl::Duration min_ping_interval = absl::Seconds(10);
  int64_t compute_threads = 0;
  int64_t tokenizer_threads = 0;
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;
  std::string api_key_file;
  absl::Duration reload_interval = absl::Seconds(10);
  bool watch_models = false;
  absl::Duration drain_delay = absl::ZeroDuration();
  absl::Duration drain_timeout = absl::Seconds(30);
  std::string log_format = "text";
};

struct ModelSpec {
  std::string name;
  std::string directory;
};

struct ServerConfig {
  Server::Options server;
  Reloader::Options reloading;                 // all but load_model
  std::vector<ModelSpec> models;               // at least one
  std::vector<std::string> devices = {"cpu"};  // or "cuda:N" ..., each once
  DType dtype = DType::kFloat32;
  bool measure_dtype = false;       // --dtype=auto on the CPU: bfloat16 instead where it is faster (model/cpu_dtype.h)
  int64_t max_batch_tokens = 0;     // 0 = what the device takes
  int chunk_tokens = 0;             // 0 = the device's constant
  int parallel_max_tokens = 0;      // 0 = to be measured
  int64_t max_sequence_tokens = 0;  // a model's own positions may allow less
  int compute_threads = 1;
  LogFormat log_format = LogFormat::kText;
};

// Parses the command line with absl, which ends the process (exit code 1) at a flag it does not know or cannot read,
// and after --help or --version. models: the positional arguments.
FlagValues ParseFlags(int argc, char** argv, std::vector<std::string>* models);

// Pure but for reading the files of TLS and keys. num_cores: those that the process may use. num_cuda_devices: as
// NumCudaDevices (model/model.h) counts them, -1 where the build has no CUDA. INVALID_ARGUMENT or NOT_FOUND, one line
// that names the flag and what it takes.
absl::StatusOr<ServerConfig> CheckFlags(const FlagValues& flags, const std::vector<std::string>& models, int num_cores,
                                        int num_cuda_devices = -1);

}  // namespace lion

#endif  // LION_SERVER_FLAGS_H_
