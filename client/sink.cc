// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/sink.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lion::client {

Sink::~Sink() {
  if (owned_) std::fclose(file_);
}

Sink::Sink(Sink&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)),
      owned_(std::exchange(other.owned_, false)),
      name_(std::move(other.name_)) {}

absl::StatusOr<Sink> Sink::Open(const std::string& path, std::FILE* out) {
  Sink sink;
  sink.name_ = path.empty() ? "standard output" : path;
  sink.owned_ = !path.empty();
  sink.file_ = sink.owned_ ? std::fopen(path.c_str(), "wb") : out;
  if (sink.file_ == nullptr) {
    sink.owned_ = false;
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot write"));
  }
  return sink;
}

absl::Status Sink::Write(absl::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size()) return absl::OkStatus();
  return Error();
}

absl::Status Sink::Patch(absl::string_view bytes) {
  if (std::fseek(file_, 0, SEEK_SET) != 0) return Error();
  return Write(bytes);
}

absl::Status Sink::Flush() { return std::fflush(file_) == 0 ? absl::OkStatus() : Error(); }

absl::Status Sink::Sync() {
  const absl::Status flushed = Flush();
  if (!flushed.ok()) return flushed;
  return fsync(fileno(file_)) == 0 ? absl::OkStatus() : Error();
}

absl::Status Sink::Close() {
  if (!owned_) return Flush();
  owned_ = false;
  return std::fclose(std::exchange(file_, nullptr)) == 0 ? absl::OkStatus() : Error();
}

absl::Status Sink::Error() const { return absl::ErrnoToStatus(errno, absl::StrCat(name_, ": cannot write")); }

}  // namespace lion::client
