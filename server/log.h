// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_LOG_H_
#define LION_SERVER_LOG_H_

// The server's own lines: to stderr, one write a line, so that lines of several threads never mix and nothing is lost
// in a buffer when the process ends.
//
// Text: "2026-01-31T12:00:00.000Z INFO message name=value". JSON: {"time":"...","level":"info","message":"...",
// "name":"value"}. Nothing that a caller sent is logged. All functions are thread-safe.

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace lion {

enum class LogFormat { kText, kJson };
enum class LogLevel { kInfo, kWarning, kError };

// For the whole process; kText until called.
void SetLogFormat(LogFormat format);

struct LogField {
  std::string name;
  std::string value;
  bool is_number = false;  // JSON shows value as it stands
};

void LogInfo(absl::string_view message);
void LogWarning(absl::string_view message);
void LogError(absl::string_view message);
void LogEvent(LogLevel level, absl::string_view message, const std::vector<LogField>& fields);

// One line, its newline included. Newlines inside message become spaces in text, \n in JSON; bytes that are not UTF-8
// become U+FFFD in JSON.
std::string FormatLogLine(LogFormat format, absl::Time time, LogLevel level, absl::string_view message,
                          const std::vector<LogField>& fields = {});

// Sends what gRPC itself logs through the functions above, so that with JSON every line is an object, at most so many a
// second (a stranger who fails a handshake makes it write a line); and silences protobuf, which would log a line for
// every message of a caller that is not UTF-8.
void RouteLibraryLogs();

}  // namespace lion

#endif  // LION_SERVER_LOG_H_
