// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/partial_file.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lion::client {

absl::StatusOr<std::unique_ptr<PartialFile>> PartialFile::Create(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status there = std::filesystem::status(path, error);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is there and is no file"));
  }
  // Beside what a link leads to: on the disk that it was meant for.
  std::string real = path;
  if (std::filesystem::exists(there)) {
    const std::filesystem::path canonical = std::filesystem::canonical(path, error);
    if (!error) real = canonical.string();
  }
  std::string partial_path = absl::StrCat(real, ".partial");
  absl::StatusOr<Sink> sink = Sink::Open(partial_path, nullptr);
  if (!sink.ok()) return sink.status();
  return std::unique_ptr<PartialFile>(new PartialFile(*std::move(sink), std::move(real), std::move(partial_path)));
}

PartialFile::PartialFile(Sink sink, std::string path, std::string partial_path)
    : sink_(std::move(sink)), path_(std::move(path)), partial_path_(std::move(partial_path)) {}

PartialFile::~PartialFile() {
  if (!done_) std::remove(partial_path_.c_str());
}

absl::Status PartialFile::Publish() {
  // Else a machine that loses power may have the name and not the bytes.
  absl::Status status = sink_.Sync();
  if (status.ok()) status = sink_.Close();
  if (!status.ok()) return status;
  if (std::rename(partial_path_.c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(partial_path_, ": cannot be renamed to ", path_));
  }
  done_ = true;
  return absl::OkStatus();
}

absl::Status PartialFile::Keep() {
  const absl::Status status = sink_.Close();
  done_ = status.ok();
  return status;
}

}  // namespace lion::client
