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

#include "absl/strings/str_cat.h"
#include "server/clock.h"

namespace lion {
namespace {

std::atomic<LogFormat> g_format{LogFormat::kText};

void Write(LogLevel level, absl::string_view message) {
  const std::string line = FormatLogLine(g_format.load(), Clock::Real()->Now(), level, message);
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + written, line.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody reads: there is no place left to complain to
    written += static_cast<size_t>(n);
  }
}

void FromGrpc(gpr_log_func_args* args) {
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kInfo;
  Write(level, absl::StrCat("grpc: ", args->message));
}

}  // namespace

void SetLogFormat(LogFormat format) { g_format.store(format); }
void LogInfo(absl::string_view message) { Write(LogLevel::kInfo, message); }
void LogWarning(absl::string_view message) { Write(LogLevel::kWarning, message); }
void LogError(absl::string_view message) { Write(LogLevel::kError, message); }

std::string FormatLogLine(LogFormat format, absl::Time time, LogLevel level, absl::string_view message) {
  const std::string stamp = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  if (format == LogFormat::kJson) {
    const char* name = level == LogLevel::kInfo ? "info" : level == LogLevel::kWarning ? "warning" : "error";
    const nlohmann::ordered_json line = {{"time", stamp}, {"level", name}, {"message", std::string(message)}};
    return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  const char* name = level == LogLevel::kInfo ? "INFO" : level == LogLevel::kWarning ? "WARNING" : "ERROR";
  std::string text(message);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return absl::StrCat(stamp, " ", name, " ", text, "\n");
}

void RouteLibraryLogs() {
  gpr_set_log_function(&FromGrpc);
  google::protobuf::SetLogHandler(nullptr);
}

}  // namespace lion
