// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/flags.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "model/model.h"
#include "server/api_keys.h"
#include "server/build_info.h"
#include "server/status_map.h"
#include "server/tls.h"
#include "server/validate.h"

ABSL_FLAG(std::string, listen, lion::FlagValues().listen, "HOST:PORT of gRPC; port 0 = any free one");
ABSL_FLAG(std::string, metrics_listen, lion::FlagValues().metrics_listen,
          "HOST:PORT of Prometheus' /metrics; port 0 = any free one");
ABSL_FLAG(
    std::string, http_listen, lion::FlagValues().http_listen,
    "HOST:PORT of HTTP (OpenAI's /v1/embeddings, /v1/classify, /v1/models, /health); port 0 = any free one; empty "
    "= none");
ABSL_FLAG(
    std::string, device, lion::FlagValues().device,
    "auto (every GPU, else the CPU) | cpu | cuda (every GPU) | a list like cuda:0,cuda:1: each serves every model, "
    "all from one queue");
ABSL_FLAG(std::string, dtype, lion::FlagValues().dtype,
          "precision of the products: auto (bfloat16 on a GPU, and on a CPU where it is measured faster, else float32) "
          "| float32 | bfloat16 | float16 | "
          "int8 | fp8");
ABSL_FLAG(std::string, mode, lion::FlagValues().mode,
          "form of rows whose caller leaves it to us: auto (by length) | parallel | chunked | recurrent");
ABSL_FLAG(
    int64_t, parallel_max_tokens, lion::FlagValues().parallel_max_tokens,
    "longest row that runs parallel in mode auto, at most 16384; 0 = measured once at start-up, out of 64, 128, 256, "
    "512, 1024");
ABSL_FLAG(int64_t, chunk_tokens, lion::FlagValues().chunk_tokens,
          "tokens of a chunk where a caller names none, 1 to 128; 0 = a constant of the device");
ABSL_FLAG(int64_t, max_batch_tokens, lion::FlagValues().max_batch_tokens,
          "size to which a batch is filled; a longer row travels alone; 0 = 16384 on the CPU, on a GPU what its free "
          "memory allows: a model takes an equal share of what is free among those still to be loaded, in the order "
          "given");
ABSL_FLAG(int64_t, max_sequence_tokens, lion::FlagValues().max_sequence_tokens,
          "longest row; never above a model's absolute positions; 0 = 131072");
ABSL_FLAG(int64_t, max_queue_tokens, lion::FlagValues().max_queue_tokens,
          "tokens that may wait, all models together, and of one call; 0 = the larger of 1048576 and 8 * "
          "max_sequence_tokens");
ABSL_FLAG(int64_t, max_queue_mib, lion::FlagValues().max_queue_mib,
          "text that may wait for the tokenizer's threads, in MiB; 0 = 256");
ABSL_FLAG(int64_t, max_inputs, lion::FlagValues().max_inputs, "inputs of a call; 0 = 1024");
ABSL_FLAG(int64_t, max_message_mib, lion::FlagValues().max_message_mib,
          "largest incoming message in MiB, at most 2047; 0 = 64");
ABSL_FLAG(
    int64_t, max_memory_mib, lion::FlagValues().max_memory_mib,
    "what long rows that were taken may need together, in MiB; 0 = three quarters of the memory that is free once "
    "the models are loaded, on GPUs what is free on the one that has least");
ABSL_FLAG(
    int64_t, max_image_pixels, lion::FlagValues().max_image_pixels,
    "width times height of an encoded picture; a larger one is refused before it is decoded, which takes up to 11 "
    "bytes a pixel on each tokenizer thread; 0 = 50000000");
ABSL_FLAG(int64_t, max_connection_calls, lion::FlagValues().max_connection_calls,
          "calls at once on one connection, streams too; the next wait in their client; 0 = 4096");
ABSL_FLAG(absl::Duration, max_connection_idle, lion::FlagValues().max_connection_idle,
          "a connection without a call is closed after this long; 0 = never");
ABSL_FLAG(absl::Duration, max_connection_age, lion::FlagValues().max_connection_age,
          "a connection is told to end after this long, give or take a tenth; 0 = never");
ABSL_FLAG(absl::Duration, max_connection_age_grace, lion::FlagValues().max_connection_age_grace,
          "how long its calls may then take before they are cut; 0 = as long as they like");
ABSL_FLAG(int64_t, max_connection_memory_mib, lion::FlagValues().max_connection_memory_mib,
          "what gRPC may hold for all connections and incoming messages, in MiB; 0 = the larger of 1024 and 16 * "
          "max_message_mib");
ABSL_FLAG(
    absl::Duration, keepalive_interval, lion::FlagValues().keepalive_interval,
    "a connection whose calls are silent for this long is asked for a sign of life, and closed without one; 0 = 5m");
ABSL_FLAG(absl::Duration, min_ping_interval, lion::FlagValues().min_ping_interval,
          "clients that ping more often than this are sent away; 0 = 10s");
ABSL_FLAG(int64_t, compute_threads, lion::FlagValues().compute_threads, "threads of the encoder; 0 = one a core");
ABSL_FLAG(int64_t, tokenizer_threads, lion::FlagValues().tokenizer_threads,
          "threads of the tokenizer; 0 = one for two cores");
ABSL_FLAG(std::string, tls_cert, lion::FlagValues().tls_cert,
          "PEM file of the server's certificate chain; empty = no TLS");
ABSL_FLAG(std::string, tls_key, lion::FlagValues().tls_key, "PEM file of its private key");
ABSL_FLAG(std::string, tls_client_ca, lion::FlagValues().tls_client_ca,
          "PEM file of the authority that callers' certificates must come from; empty = callers need none");
ABSL_FLAG(std::string, api_key_file, lion::FlagValues().api_key_file,
          "lines 'NAME SHA256HEX', # comments: who may call with 'authorization: Bearer KEY'; empty = everybody");
ABSL_FLAG(absl::Duration, reload_interval, lion::FlagValues().reload_interval,
          "how often keys and certificates are looked at, and read again where their files have changed, as at SIGHUP; "
          "0 = 10s");
ABSL_FLAG(bool, watch_models, lion::FlagValues().watch_models,
          "look at model directories too, and load a changed one beside the version that serves, as at SIGHUP");
ABSL_FLAG(absl::Duration, drain_delay, lion::FlagValues().drain_delay,
          "after SIGTERM, how long calls are served as before while health says NOT_SERVING");
ABSL_FLAG(absl::Duration, drain_timeout, lion::FlagValues().drain_timeout,
          "from SIGTERM, when calls that are still running are cut; 0 = 30s");
ABSL_FLAG(std::string, log_format, lion::FlagValues().log_format, "text | json");

namespace lion {
namespace {

constexpr int64_t kDefaultMaxSequenceTokens = 131072;
constexpr int64_t kDefaultMaxQueueTokens = 1 << 20;
constexpr int64_t kDefaultMaxQueueMib = 256;
constexpr int64_t kDefaultMaxInputs = 1024;
constexpr int64_t kDefaultMaxMessageMib = 64;
constexpr int64_t kMaxMessageMib = 2047;  // gRPC counts a message's bytes in an int
constexpr int64_t kMaxMemoryMib = int64_t{1} << 30;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();  // the wire counts tokens in 32 bits
constexpr int64_t kMaxQueueTokens = int64_t{1} << 40;
constexpr int64_t kMaxImagePixels = int64_t{1} << 31;
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxInputs = 1 << 20;
constexpr int64_t kMaxConnectionCalls = 1 << 20;
constexpr int64_t kMaxConnectionMemoryMib = int64_t{1} << 24;
constexpr int64_t kDefaultConnectionMemoryMib = 1024;
constexpr absl::Duration kMaxDuration = absl::Hours(24 * 24);  // gRPC counts milliseconds in an int

absl::Status Bad(absl::string_view flag, absl::string_view value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": ", allowed));
}

// 0 <= value <= largest.
absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t largest) {
  if (value >= 0 && value <= largest) return absl::OkStatus();
  return Bad(flag, absl::StrCat(value), absl::StrCat("takes 1 to ", largest, ", or 0 for its default"));
}

int64_t OrDefault(int64_t value, int64_t if_zero) { return value == 0 ? if_zero : value; }

absl::Status CheckAddress(absl::string_view flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  const absl::string_view port =
      colon == std::string::npos ? absl::string_view() : absl::string_view(address).substr(colon + 1);
  int number = -1;
  const bool digits = !port.empty() && std::all_of(port.begin(), port.end(), absl::ascii_isdigit);
  // [::1] has colons and no port.
  if (colon == std::string::npos || colon == 0 || !digits || !absl::SimpleAtoi(port, &number) || number > 65535) {
    return Bad(flag, address, "takes HOST:PORT, the port 0 to 65535");
  }
  return absl::OkStatus();
}

// The devices to serve on: "cpu" alone, or some of cuda:0 ... cuda:(num_cuda_devices - 1).
absl::StatusOr<std::vector<std::string>> CheckDevices(const std::string& flag, int num_cuda_devices) {
  constexpr char kTakes[] = "takes auto, cpu, cuda (every GPU), or a list like cuda:0,cuda:1";
  std::vector<std::string> all;
  for (int i = 0; i < num_cuda_devices; ++i) all.push_back(absl::StrCat("cuda:", i));
  if (flag == "cpu" || (flag == "auto" && all.empty())) return std::vector<std::string>{"cpu"};
  if (flag == "auto") return all;

  std::vector<int> indices;
  const std::vector<absl::string_view> names = absl::StrSplit(flag, ',');
  for (absl::string_view name : names) {
    if (name == "cuda" && names.size() == 1) continue;
    if (name == "cpu" || name == "cuda" || name == "auto") {
      return Bad("device", flag, absl::StrCat(name, " stands alone; ", kTakes));
    }
    int index = 0;
    absl::string_view digits = name;
    if (!absl::ConsumePrefix(&digits, "cuda:") || digits.empty() ||
        !std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit) || !absl::SimpleAtoi(digits, &index)) {
      return Bad("device", flag, kTakes);
    }
    if (std::find(indices.begin(), indices.end(), index) != indices.end()) {
      return Bad("device", flag, absl::StrCat("cuda:", index, " is named twice"));
    }
    indices.push_back(index);
  }
  if (num_cuda_devices < 0) return Bad("device", flag, "this build has no CUDA; it takes auto, cpu");
  if (all.empty()) return Bad("device", flag, "no GPU is to be seen; it takes auto, cpu");
  if (indices.empty()) return all;
  std::vector<std::string> devices;
  for (int index : indices) {
    if (index >= num_cuda_devices) {
      return Bad("device", flag, absl::StrCat("there is no cuda:", index, "; it takes ", absl::StrJoin(all, ", ")));
    }
    devices.push_back(all[index]);
  }
  return devices;
}

absl::StatusOr<DType> CheckDTypeFlag(const std::string& name, DeviceKind kind) {
  if (name == "auto") return kind == DeviceKind::kCuda ? DType::kBFloat16 : DType::kFloat32;
  const std::optional<DType> dtype = ParseDType(name);
  if (!dtype.has_value()) return Bad("dtype", name, "takes auto, float32, bfloat16, float16, int8, fp8");
  if (absl::Status status = CheckDType(*dtype, kind); !status.ok()) return Bad("dtype", name, status.message());
  return *dtype;
}

bool IsModelName(absl::string_view name) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), allowed);
}

// The last folder of a path, "." and trailing slashes resolved.
std::string FolderName(const std::string& directory) {
  std::error_code ignored;
  std::filesystem::path path = std::filesystem::absolute(directory, ignored).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

absl::StatusOr<std::vector<ModelSpec>> CheckModels(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    return absl::InvalidArgumentError("no model given: lion-server [flags] [NAME=]MODEL_DIR [[NAME=]MODEL_DIR ...]");
  }
  std::vector<ModelSpec> models;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    ModelSpec model;
    model.directory = equals == std::string::npos ? argument : argument.substr(equals + 1);
    if (model.directory.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model ", argument, ": names no directory; it is [NAME=]MODEL_DIR"));
    }
    model.name = equals == std::string::npos ? FolderName(argument) : argument.substr(0, equals);
    if (!IsModelName(model.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("model ", argument, ": the name ", Quoted(model.name),
                       " is not 1 to 64 of A-Z a-z 0-9 . _ -; give another with NAME=", model.directory));
    }
    if (model.name == "unknown") {
      return absl::InvalidArgumentError(
          absl::StrCat("model ", argument,
                       ": the name unknown is what metrics call no model; give another with NAME=", model.directory));
    }
    for (const ModelSpec& other : models) {
      if (other.name == model.name) {
        return absl::InvalidArgumentError(absl::StrCat("model ", argument, ": the name ", model.name,
                                                       " is given twice; give another with NAME=", model.directory));
      }
    }
    models.push_back(std::move(model));
  }
  return models;
}

// What --help calls this file, and all that it shows.
constexpr char kProgram[] = "lion-server";
bool IsOurFile(absl::string_view file) { return file == kProgram; }

}  // namespace

FlagValues ParseFlags(int argc, char** argv, std::vector<std::string>* models) {
  absl::SetProgramUsageMessage(
      "serves LION text encoders over gRPC.\n\n  lion-server [flags] [NAME=]MODEL_DIR [[NAME=]MODEL_DIR ...]\n\nThe "
      "first "
      "model is the default; NAME is the folder's unless given. Flags can also come from a file: --flagfile=FILE.");
  absl::FlagsUsageConfig usage;
  usage.contains_helpshort_flags = &IsOurFile;
  usage.contains_help_flags = &IsOurFile;
  usage.contains_helppackage_flags = &IsOurFile;
  usage.normalize_filename = [](absl::string_view file) {
    return absl::EndsWith(file, "server/flags.cc") ? std::string(kProgram) : std::string(file);
  };
  usage.version_string = [] {
    return absl::StrCat("lion-server ", std::string(BuildVersion()), " (", std::string(BuildCommit()), ")\n");
  };
  absl::SetFlagsUsageConfig(usage);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  models->assign(rest.begin() + 1, rest.end());

  FlagValues flags;
  flags.listen = absl::GetFlag(FLAGS_listen);
  flags.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  flags.http_listen = absl::GetFlag(FLAGS_http_listen);
  flags.device = absl::GetFlag(FLAGS_device);
  flags.dtype = absl::GetFlag(FLAGS_dtype);
  flags.mode = absl::GetFlag(FLAGS_mode);
  flags.parallel_max_tokens = absl::GetFlag(FLAGS_parallel_max_tokens);
  flags.chunk_tokens = absl::GetFlag(FLAGS_chunk_tokens);
  flags.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  flags.max_sequence_tokens = absl::GetFlag(FLAGS_max_sequence_tokens);
  flags.max_queue_tokens = absl::GetFlag(FLAGS_max_queue_tokens);
  flags.max_queue_mib = absl::GetFlag(FLAGS_max_queue_mib);
  flags.max_inputs = absl::GetFlag(FLAGS_max_inputs);
  flags.max_message_mib = absl::GetFlag(FLAGS_max_message_mib);
  flags.max_memory_mib = absl::GetFlag(FLAGS_max_memory_mib);
  flags.max_image_pixels = absl::GetFlag(FLAGS_max_image_pixels);
  flags.max_connection_calls = absl::GetFlag(FLAGS_max_connection_calls);
  flags.max_connection_idle = absl::GetFlag(FLAGS_max_connection_idle);
  flags.max_connection_age = absl::GetFlag(FLAGS_max_connection_age);
  flags.max_connection_age_grace = absl::GetFlag(FLAGS_max_connection_age_grace);
  flags.max_connection_memory_mib = absl::GetFlag(FLAGS_max_connection_memory_mib);
  flags.keepalive_interval = absl::GetFlag(FLAGS_keepalive_interval);
  flags.min_ping_interval = absl::GetFlag(FLAGS_min_ping_interval);
  flags.compute_threads = absl::GetFlag(FLAGS_compute_threads);
  flags.tokenizer_threads = absl::GetFlag(FLAGS_tokenizer_threads);
  flags.tls_cert = absl::GetFlag(FLAGS_tls_cert);
  flags.tls_key = absl::GetFlag(FLAGS_tls_key);
  flags.tls_client_ca = absl::GetFlag(FLAGS_tls_client_ca);
  flags.api_key_file = absl::GetFlag(FLAGS_api_key_file);
  flags.reload_interval = absl::GetFlag(FLAGS_reload_interval);
  flags.watch_models = absl::GetFlag(FLAGS_watch_models);
  flags.drain_delay = absl::GetFlag(FLAGS_drain_delay);
  flags.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  flags.log_format = absl::GetFlag(FLAGS_log_format);
  return flags;
}

absl::StatusOr<ServerConfig> CheckFlags(const FlagValues& flags, const std::vector<std::string>& models, int num_cores,
                                        int num_cuda_devices) {
  ServerConfig config;
  // First, so that what else is refused is said in the format asked for.
  if (flags.log_format == "json") {
    config.log_format = LogFormat::kJson;
  } else if (flags.log_format != "text") {
    return Bad("log_format", flags.log_format, "takes text, json");
  }

  const struct {
    const char* flag;
    int64_t value;
    int64_t largest;
  } ranges[] = {
      {"parallel_max_tokens", flags.parallel_max_tokens, kMaxParallelTokens},
      {"chunk_tokens", flags.chunk_tokens, kMaxChunkTokens},
      {"max_batch_tokens", flags.max_batch_tokens, kMaxTokens},
      {"max_sequence_tokens", flags.max_sequence_tokens, kMaxTokens},
      {"max_queue_tokens", flags.max_queue_tokens, kMaxQueueTokens},
      {"max_queue_mib", flags.max_queue_mib, kMaxMemoryMib},
      {"max_inputs", flags.max_inputs, kMaxInputs},
      {"max_message_mib", flags.max_message_mib, kMaxMessageMib},
      {"max_memory_mib", flags.max_memory_mib, kMaxMemoryMib},
      {"max_image_pixels", flags.max_image_pixels, kMaxImagePixels},
      {"max_connection_calls", flags.max_connection_calls, kMaxConnectionCalls},
      {"max_connection_memory_mib", flags.max_connection_memory_mib, kMaxConnectionMemoryMib},
      {"compute_threads", flags.compute_threads, kMaxThreads},
      {"tokenizer_threads", flags.tokenizer_threads, kMaxThreads},
  };
  for (const auto& range : ranges) {
    if (absl::Status status = CheckRange(range.flag, range.value, range.largest); !status.ok()) return status;
  }
  if (absl::Status status = CheckAddress("listen", flags.listen); !status.ok()) return status;
  if (absl::Status status = CheckAddress("metrics_listen", flags.metrics_listen); !status.ok()) return status;
  if (!flags.http_listen.empty()) {
    if (absl::Status status = CheckAddress("http_listen", flags.http_listen); !status.ok()) return status;
    if (!flags.tls_client_ca.empty()) {
      return Bad(
          "http_listen", flags.http_listen,
          "HTTP asks callers for no certificate, as --tls_client_ca wants: put a proxy before it, or leave one out");
    }
  }
  absl::StatusOr<std::vector<std::string>> devices = CheckDevices(flags.device, num_cuda_devices);
  if (!devices.ok()) return devices.status();
  config.devices = *std::move(devices);
  const DeviceKind kind = config.devices.front() == "cpu" ? DeviceKind::kCpu : DeviceKind::kCuda;
  absl::StatusOr<DType> dtype = CheckDTypeFlag(flags.dtype, kind);
  if (!dtype.ok()) return dtype.status();
  config.dtype = *dtype;
  config.measure_dtype = flags.dtype == "auto" && kind == DeviceKind::kCpu;
  Server::Options& server = config.server;
  if (flags.mode != "auto") {
    server.limits.default_mode = ParseComputeMode(flags.mode);
    if (!server.limits.default_mode.has_value()) {
      return Bad("mode", flags.mode, "takes auto, parallel, chunked, recurrent");
    }
  }
  const struct {
    const char* flag;
    absl::Duration value;
  } durations[] = {
      {"max_connection_idle", flags.max_connection_idle},
      {"max_connection_age", flags.max_connection_age},
      {"max_connection_age_grace", flags.max_connection_age_grace},
      {"keepalive_interval", flags.keepalive_interval},
      {"min_ping_interval", flags.min_ping_interval},
  };
  for (const auto& duration : durations) {
    const bool too_short = duration.value != absl::ZeroDuration() && duration.value < absl::Milliseconds(1);
    if (too_short || duration.value > kMaxDuration) {
      return Bad(duration.flag, absl::FormatDuration(duration.value), "takes 1ms to 576h, or 0 for its default");
    }
  }
  if (flags.max_connection_memory_mib != 0 &&
      flags.max_connection_memory_mib < 4 * OrDefault(flags.max_message_mib, kDefaultMaxMessageMib)) {
    return Bad("max_connection_memory_mib", absl::StrCat(flags.max_connection_memory_mib),
               absl::StrCat("takes 4 messages at least: --max_message_mib is ",
                            OrDefault(flags.max_message_mib, kDefaultMaxMessageMib)));
  }
  if (flags.reload_interval < absl::ZeroDuration()) {
    return Bad("reload_interval", absl::FormatDuration(flags.reload_interval),
               "takes more than 0s, or 0 for its default");
  }
  if (flags.drain_delay < absl::ZeroDuration()) {
    return Bad("drain_delay", absl::FormatDuration(flags.drain_delay), "takes 0s or more");
  }
  if (flags.drain_timeout < absl::ZeroDuration()) {
    return Bad("drain_timeout", absl::FormatDuration(flags.drain_timeout), "takes more than 0s, or 0 for its default");
  }

  config.parallel_max_tokens = static_cast<int>(flags.parallel_max_tokens);
  config.chunk_tokens = static_cast<int>(flags.chunk_tokens);
  config.max_batch_tokens = flags.max_batch_tokens;
  config.max_sequence_tokens = OrDefault(flags.max_sequence_tokens, kDefaultMaxSequenceTokens);
  const int64_t max_queue_tokens =
      OrDefault(flags.max_queue_tokens, std::max(kDefaultMaxQueueTokens, 8 * config.max_sequence_tokens));
  if (config.max_sequence_tokens > max_queue_tokens) {
    if (flags.max_sequence_tokens != 0) {
      return Bad("max_sequence_tokens", absl::StrCat(flags.max_sequence_tokens),
                 absl::StrCat("such a row could never wait: --max_queue_tokens is ", max_queue_tokens));
    }
    config.max_sequence_tokens = max_queue_tokens;
  }
  server.listen = flags.listen;
  server.metrics_listen = flags.metrics_listen;
  server.http_listen = flags.http_listen;
  server.limits.max_queue_tokens = max_queue_tokens;
  server.limits.max_request_tokens = max_queue_tokens;
  server.max_tokenizer_bytes = OrDefault(flags.max_queue_mib, kDefaultMaxQueueMib) << 20;
  server.limits.max_inputs = static_cast<int>(OrDefault(flags.max_inputs, kDefaultMaxInputs));
  server.limits.max_message_bytes = OrDefault(flags.max_message_mib, kDefaultMaxMessageMib) << 20;
  server.limits.max_image_pixels = OrDefault(flags.max_image_pixels, kDefaultMaxImagePixels);
  server.max_memory_bytes = flags.max_memory_mib << 20;
  ConnectionLimits& connections = server.connections;
  const auto or_default = [](absl::Duration value, absl::Duration if_zero) {
    return value == absl::ZeroDuration() ? if_zero : value;
  };
  connections.max_calls = static_cast<int>(OrDefault(flags.max_connection_calls, connections.max_calls));
  connections.max_idle = or_default(flags.max_connection_idle, absl::InfiniteDuration());
  connections.max_age = or_default(flags.max_connection_age, absl::InfiniteDuration());
  connections.max_age_grace = or_default(flags.max_connection_age_grace, absl::InfiniteDuration());
  connections.max_memory_bytes = OrDefault(flags.max_connection_memory_mib,
                                           std::max(kDefaultConnectionMemoryMib, server.limits.max_message_bytes >> 16))
                                 << 20;
  connections.keepalive_interval = or_default(flags.keepalive_interval, connections.keepalive_interval);
  connections.min_ping_interval = or_default(flags.min_ping_interval, connections.min_ping_interval);
  server.drain_delay = flags.drain_delay;
  server.drain_timeout = flags.drain_timeout == absl::ZeroDuration() ? FlagValues().drain_timeout : flags.drain_timeout;
  config.compute_threads = static_cast<int>(OrDefault(flags.compute_threads, std::max(num_cores, 1)));
  server.tokenizer_threads = static_cast<int>(OrDefault(flags.tokenizer_threads, std::max(num_cores / 2, 1)));

  absl::StatusOr<TlsFiles> tls = TlsFiles::Read(flags.tls_cert, flags.tls_key, flags.tls_client_ca);
  if (!tls.ok()) return tls.status();
  server.tls = *std::move(tls);
  if (!flags.api_key_file.empty()) {
    absl::StatusOr<ApiKeys> keys = ApiKeys::ReadFile(flags.api_key_file);
    if (!keys.ok()) {
      return absl::Status(keys.status().code(), absl::StrCat("--api_key_file: ", keys.status().message()));
    }
    server.api_keys = *std::move(keys);
  }
  absl::StatusOr<std::vector<ModelSpec>> specs = CheckModels(models);
  if (!specs.ok()) return specs.status();
  config.models = *std::move(specs);
  Reloader::Options& reloading = config.reloading;
  reloading.api_key_file = flags.api_key_file;
  reloading.tls_cert = flags.tls_cert;
  reloading.tls_key = flags.tls_key;
  reloading.tls_client_ca = flags.tls_client_ca;
  for (const ModelSpec& model : config.models) reloading.model_directories.push_back(model.directory);
  reloading.interval =
      flags.reload_interval == absl::ZeroDuration() ? FlagValues().reload_interval : flags.reload_interval;
  reloading.watch_models = flags.watch_models;
  return config;
}

}  // namespace lion
