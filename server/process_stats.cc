// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace lion {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// When the machine was started, in seconds since the epoch.
std::optional<double> BootTime() {
  for (absl::string_view line : absl::StrSplit(ReadFile("/proc/stat"), '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return std::nullopt;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  const double ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);

  // proc(5): the second field is the program's name in brackets, and may itself hold blanks and brackets. The rest is
  // counted from behind the last bracket: fields[0] is field 3.
  const std::string stat = ReadFile("/proc/self/stat");
  const size_t bracket = stat.rfind(") ");
  if (bracket != std::string::npos) {
    const std::vector<absl::string_view> fields = absl::StrSplit(absl::string_view(stat).substr(bracket + 2), ' ');
    auto field = [&fields](size_t number) -> std::optional<int64_t> {
      int64_t value = 0;
      if (number - 3 >= fields.size() || !absl::SimpleAtoi(fields[number - 3], &value)) return std::nullopt;
      return value;
    };
    const std::optional<int64_t> user = field(14), system = field(15), start = field(22), pages = field(24);
    if (user && system) stats.cpu_seconds = static_cast<double>(*user + *system) / ticks_per_second;
    const std::optional<double> boot = BootTime();
    if (start && boot) stats.start_time_seconds = *boot + static_cast<double>(*start) / ticks_per_second;
    stats.virtual_memory_bytes = field(23);
    if (pages) stats.resident_memory_bytes = *pages * page_bytes;
  }

  std::error_code error;
  const std::filesystem::directory_iterator fds("/proc/self/fd", error);
  // One of them is the listing's own.
  if (!error) stats.open_fds = std::distance(begin(fds), end(fds)) - 1;
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  const int64_t physical_pages = sysconf(_SC_PHYS_PAGES);
  if (physical_pages > 0) stats.physical_memory_bytes = physical_pages * page_bytes;
  return stats;
}

}  // namespace lion
