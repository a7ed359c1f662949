// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_MAPPED_FILE_H_
#define LION_MODEL_MAPPED_FILE_H_

// A regular file in memory, read-only: how this project reads what may be large.
//
// The file must not be cut short while it is mapped (reading past its new end raises SIGBUS): replace model files by
// renaming new ones into place.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lion {

class MappedFile {
 public:
  // Never blocks on what is not a regular file (a FIFO, a device). Errors, each naming path: NOT_FOUND;
  // INVALID_ARGUMENT for a directory or another special file, or one that cannot be read or mapped.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Valid as long as this object. data() begins at a page and is null exactly if the file is empty.
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const uint8_t* data, size_t size);
  const std::string path_;
  const uint8_t* const data_;
  const size_t size_;
};

}  // namespace lion

#endif  // LION_MODEL_MAPPED_FILE_H_
