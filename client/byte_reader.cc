// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/byte_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lion::client {
namespace {
constexpr size_t kBufferBytes = 256 << 10;
constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";
}  // namespace

ByteReader::ByteReader(int fd, const std::atomic<bool>* interrupted)
    : fd_(fd), interrupted_(interrupted), buffer_(kBufferBytes) {}

bool ByteReader::Fill() {
  if (ended_) return false;
  bytes_before_buffer_ += static_cast<int64_t>(end_);
  at_ = end_ = 0;
  // The first fill waits for three bytes, so that a mark is never seen in part.
  const size_t wanted = started_ ? 1 : 3;
  while (end_ < wanted) {
    const ssize_t got = read(fd_, buffer_.data() + end_, buffer_.size() - end_);
    if (got > 0) {
      end_ += static_cast<size_t>(got);
      if (!started_ && std::memchr(buffer_.data(), '\n', end_) != nullptr) break;  // a terminal's first short line
      continue;
    }
    if (got < 0 && errno == EINTR && (interrupted_ == nullptr || !interrupted_->load())) continue;
    if (got < 0 && errno != EINTR) status_ = absl::ErrnoToStatus(errno, "cannot read");
    ended_ = true;
    break;
  }
  if (!started_ && end_ >= 3 && std::memcmp(buffer_.data(), kByteOrderMark, 3) == 0) at_ = 3;
  started_ = true;
  return at_ < end_ || (!ended_ && Fill());
}

bool ByteReader::ReadLine(std::string* line, int64_t max_bytes, bool* too_long) {
  line->clear();
  *too_long = false;
  if (Peek() < 0) return false;
  bool found = false;
  while (!found && (at_ < end_ || Fill())) {
    const char* begin = buffer_.data() + at_;
    const char* newline = static_cast<const char*>(std::memchr(begin, '\n', end_ - at_));
    found = newline != nullptr;
    const size_t take = found ? static_cast<size_t>(newline - begin) : end_ - at_;
    const size_t room = static_cast<size_t>(std::max<int64_t>(max_bytes + 1 - static_cast<int64_t>(line->size()), 0));
    line->append(begin, std::min(take, room));  // one byte over the limit, which may be the "\r"
    *too_long = *too_long || take > room;
    at_ += take + (found ? 1 : 0);
  }
  if (found && !*too_long && !line->empty() && line->back() == '\r') line->pop_back();
  if (static_cast<int64_t>(line->size()) > max_bytes) {
    line->resize(static_cast<size_t>(max_bytes));
    *too_long = true;
  }
  return true;
}

}  // namespace lion::client
