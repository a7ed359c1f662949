// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_SINK_H_
#define LION_CLIENT_SINK_H_

// Where a writer's bytes go: a file, or standard output.

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lion::client {

// Buffered; one thread. Errors name the file and are the system's.
class Sink {
 public:
  Sink() = default;
  // A file is closed, and what a full disk would say then is lost: Close says it.
  ~Sink();
  Sink(Sink&& other) noexcept;
  Sink& operator=(Sink&&) = delete;

  // Creates or empties path; empty = out, which is borrowed.
  static absl::StatusOr<Sink> Open(const std::string& path, std::FILE* out);

  absl::Status Write(absl::string_view bytes);
  // Writes over the file's beginning.
  absl::Status Patch(absl::string_view bytes);
  absl::Status Flush();
  // Flush, and waits until the disk has it. Of a file.
  absl::Status Sync();
  // Of standard output: Flush. Once; nothing else afterwards.
  absl::Status Close();

 private:
  absl::Status Error() const;

  std::FILE* file_ = nullptr;
  bool owned_ = false;
  std::string name_;
};

}  // namespace lion::client

#endif  // LION_CLIENT_SINK_H_
