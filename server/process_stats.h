// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_PROCESS_STATS_H_
#define LION_SERVER_PROCESS_STATS_H_

// What the kernel says of this process and its machine, read from /proc.

#include <cstdint>
#include <optional>

namespace lion {

// Each value is empty where the kernel does not tell (no /proc).
struct ProcessStats {
  std::optional<double> cpu_seconds;         // user and system
  std::optional<double> start_time_seconds;  // since the epoch
  std::optional<int64_t> resident_memory_bytes;
  std::optional<int64_t> virtual_memory_bytes;
  std::optional<int64_t> open_fds;
  std::optional<int64_t> max_fds;                // the soft limit
  std::optional<int64_t> physical_memory_bytes;  // of the machine
};

// Takes some tens of microseconds. Thread-safe.
ProcessStats ReadProcessStats();

}  // namespace lion

#endif  // LION_SERVER_PROCESS_STATS_H_
