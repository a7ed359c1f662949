// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/base/const_init.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/clock.h"

namespace lion {
namespace {

std::atomic<LogFormat> g_format{LogFormat::kText};

// What gRPC may write: a burst, then so many lines a second.
constexpr int kGrpcBurst = 100;
constexpr absl::Duration kGrpcInterval = absl::Milliseconds(200);

void Write(LogLevel level, absl::string_view message, const std::vector<LogField>& fields = {}) {
  const std::string line = FormatLogLine(g_format.load(), Clock::Real()->Now(), level, message, fields);
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + written, line.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody reads: there is no place left to complain to
    written += static_cast<size_t>(n);
  }
}

// Whether gRPC may write a line now; how many it could not since the last.
bool GrpcMayWrite(int64_t* suppressed) {
  static absl::Mutex mu(absl::kConstInit);
  static absl::Time next = absl::InfinitePast();  // when the bucket is full again, if nothing is written
  static int64_t left_out = 0;
  const absl::Time now = Clock::Real()->Now();
  absl::MutexLock lock(&mu);
  next = std::max(next, now);
  if (next - now > kGrpcBurst * kGrpcInterval) {
    ++left_out;
    return false;
  }
  next += kGrpcInterval;
  *suppressed = std::exchange(left_out, 0);
  return true;
}

void FromGrpc(gpr_log_func_args* args) {
  int64_t suppressed = 0;
  if (!GrpcMayWrite(&suppressed)) return;
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kInfo;
  Write(level, absl::StrCat("grpc: ", args->message),
        suppressed == 0 ? std::vector<LogField>()
                        : std::vector<LogField>{{"suppressed", absl::StrCat(suppressed), true}});
}

}  // namespace

void SetLogFormat(LogFormat format) { g_format.store(format); }
void LogInfo(absl::string_view message) { Write(LogLevel::kInfo, message); }
void LogWarning(absl::string_view message) { Write(LogLevel::kWarning, message); }
void LogError(absl::string_view message) { Write(LogLevel::kError, message); }
void LogEvent(LogLevel level, absl::string_view message, const std::vector<LogField>& fields) {
  Write(level, message, fields);
}

std::string FormatLogLine(LogFormat format, absl::Time time, LogLevel level, absl::string_view message,
                          const std::vector<LogField>& fields) {
  const std::string stamp = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  if (format == LogFormat::kJson) {
    const char* name = level == LogLevel::kInfo ? "info" : level == LogLevel::kWarning ? "warning" : "error";
    nlohmann::ordered_json line = {{"time", stamp}, {"level", name}, {"message", std::string(message)}};
    for (const LogField& field : fields) {
      line[field.name] =
          field.is_number ? nlohmann::ordered_json::parse(field.value) : nlohmann::ordered_json(field.value);
    }
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  const char* name = level == LogLevel::kInfo ? "INFO" : level == LogLevel::kWarning ? "WARNING" : "ERROR";
  std::string text(message);
  for (const LogField& field : fields) absl::StrAppend(&text, " ", field.name, "=", field.value);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return absl::StrCat(stamp, " ", name, " ", text, "\n");
}

void RouteLibraryLogs() {
  gpr_set_log_function(&FromGrpc);
  google::protobuf::SetLogHandler(nullptr);
}

}  // namespace lion
