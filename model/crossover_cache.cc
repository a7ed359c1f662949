// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/crossover_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/model.h"

namespace lion {
namespace {

constexpr size_t kMaxLines = 1000;  // the oldest go first

std::vector<std::string> Lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; lines.size() < kMaxLines && std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The key of a line "crossover key"; empty if it is not one.
absl::string_view KeyOf(absl::string_view line) {
  const size_t space = line.find(' ');
  return space == absl::string_view::npos ? absl::string_view() : line.substr(space + 1);
}

}  // namespace

std::string CrossoverCache::DefaultPath() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return absl::StrCat(cache, "/lion-serve/crossovers");
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return absl::StrCat(home, "/.cache/lion-serve/crossovers");
  return "";
}

std::optional<int> CrossoverCache::Find(absl::string_view key) const {
  if (path_.empty()) return std::nullopt;
  for (const std::string& line : Lines(path_)) {
    int crossover = 0;
    if (KeyOf(line) != key || !absl::SimpleAtoi(line.substr(0, line.find(' ')), &crossover)) continue;
    const auto* end = std::end(kCrossoverChoices);
    if (std::find(std::begin(kCrossoverChoices), end, crossover) != end) return crossover;
  }
  return std::nullopt;
}

void CrossoverCache::Keep(absl::string_view key, int crossover) const {
  if (path_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
  if (error) return;
  std::vector<std::string> lines = Lines(path_);
  lines.erase(std::remove_if(lines.begin(), lines.end(), [key](const auto& line) { return KeyOf(line) == key; }),
              lines.end());
  lines.push_back(absl::StrCat(crossover, " ", key));
  // Readers see the old file or the new one.
  const std::string written = absl::StrCat(path_, ".", getpid());
  {
    std::ofstream file(written, std::ios::trunc);
    const size_t first = lines.size() > kMaxLines ? lines.size() - kMaxLines : 0;
    for (size_t i = first; i < lines.size(); ++i) file << lines[i] << "\n";
    file.flush();
    if (file) std::filesystem::rename(written, path_, error);
    if (file && !error) return;
  }
  std::filesystem::remove(written, error);
}

}  // namespace lion
