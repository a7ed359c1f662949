// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_PARTIAL_FILE_H_
#define LION_CLIENT_PARTIAL_FILE_H_

// A file that bears its name only once it is whole. Until then it is NAME.partial beside it, and a file that was there
// under the name stays as it is.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/sink.h"

namespace lion::client {

// One thread. Errors name the partial file and are the system's.
class PartialFile {
 public:
  // Creates or empties the partial file. INVALID_ARGUMENT if the name is there and is no file (a folder, a device, a
  // pipe): such cannot be replaced by one. Where it is a link, what it leads to is replaced.
  static absl::StatusOr<std::unique_ptr<PartialFile>> Create(const std::string& path);
  // Removes it, unless it was published or kept.
  ~PartialFile();

  absl::Status Write(absl::string_view bytes) { return sink_.Write(bytes); }

  // It is whole: puts it on the disk and gives it its name. Once; nothing else afterwards.
  absl::Status Publish();
  // It will not become whole, and is worth keeping as it is, under partial_path. Once; nothing else afterwards.
  absl::Status Keep();

  const std::string& partial_path() const { return partial_path_; }

 private:
  PartialFile(Sink sink, std::string path, std::string partial_path);

  Sink sink_;
  const std::string path_;
  const std::string partial_path_;
  bool done_ = false;
};

}  // namespace lion::client

#endif  // LION_CLIENT_PARTIAL_FILE_H_
