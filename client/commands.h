// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_COMMANDS_H_
#define LION_CLIENT_COMMANDS_H_

// What lion-client's commands do. main.cc adds only the process around it.

#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

namespace lion::client {

// Where a command reads and writes; all borrowed.
struct Streams {
  int in_fd = 0;
  std::FILE* out = stdout;
  std::FILE* err = stderr;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  const std::atomic<bool>* interrupted = nullptr;  // may be null; true = finish what is in flight and stop
};

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // an input or a call failed
inline constexpr int kExitUsage = 2;   // a wrong command line

// Runs one command line (without the program's name) and returns the exit code.
int RunCommandLine(const std::vector<std::string>& arguments, const Streams& streams);

}  // namespace lion::client

#endif  // LION_CLIENT_COMMANDS_H_
