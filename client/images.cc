// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/images.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace lion::client {
namespace {

namespace fs = std::filesystem;

bool IsPicture(const fs::directory_entry& entry) {
  const std::string suffix = absl::AsciiStrToLower(entry.path().extension().string());
  std::error_code error;
  return (suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".webp") &&
         entry.is_regular_file(error);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> FindImages(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    fs::recursive_directory_iterator it(path, error);
    for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
      if (IsPicture(*it)) found.push_back(it->path().string());
    }
    if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
    if (found.empty()) {
      return absl::NotFoundError(absl::StrCat(path, ": holds no picture (.jpg, .jpeg, .png, .webp)"));
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

}  // namespace lion::client
