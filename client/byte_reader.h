// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_BYTE_READER_H_
#define LION_CLIENT_BYTE_READER_H_

// Buffered reading of a file, pipe or terminal, by byte or by line, in constant memory. A UTF-8 byte order mark at the
// very beginning is skipped.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lion::client {

// One thread.
class ByteReader {
 public:
  // fd is borrowed. interrupted (may be null): once true, a read that a signal cut short is the end.
  explicit ByteReader(int fd, const std::atomic<bool>* interrupted = nullptr);

  // The next byte, or -1 at the end.
  int Get() { return at_ < end_ || Fill() ? static_cast<unsigned char>(buffer_[at_++]) : -1; }
  // The same without taking it.
  int Peek() { return at_ < end_ || Fill() ? static_cast<unsigned char>(buffer_[at_]) : -1; }

  // The next line without its "\n" or "\r\n"; false at the end. A last line without a newline counts; nothing after the
  // last newline is no line. Of a line longer than max_bytes the rest is dropped and *too_long set.
  bool ReadLine(std::string* line, int64_t max_bytes, bool* too_long);

  int64_t bytes_read() const { return bytes_before_buffer_ + static_cast<int64_t>(at_); }
  // Not OK once reading failed; that was the end then.
  const absl::Status& status() const { return status_; }

 private:
  bool Fill();

  const int fd_;
  const std::atomic<bool>* const interrupted_;
  std::vector<char> buffer_;
  size_t at_ = 0;
  size_t end_ = 0;
  int64_t bytes_before_buffer_ = 0;
  bool started_ = false;
  bool ended_ = false;
  absl::Status status_;
};

}  // namespace lion::client

#endif  // LION_CLIENT_BYTE_READER_H_
