// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/utf8.h"

#include <cstdint>

namespace lion::client {
namespace {

// Length of the well-formed character at the head of text; 0 if there is none. Unicode 15, table 3-7.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto in = [&](size_t i, uint8_t low, uint8_t high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const uint8_t head = byte(0);
  if (head < 0x80) return 1;
  if (head >= 0xC2 && head <= 0xDF) return in(1, 0x80, 0xBF) ? 2 : 0;
  if (head >= 0xE0 && head <= 0xEF) {
    const uint8_t low = head == 0xE0 ? 0xA0 : 0x80;
    const uint8_t high = head == 0xED ? 0x9F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (head >= 0xF0 && head <= 0xF4) {
    const uint8_t low = head == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = head == 0xF4 ? 0x8F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

}  // namespace

size_t FirstInvalidUtf8(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t bytes = CharacterBytes(text.substr(at));
    if (bytes == 0) return at;
    at += bytes;
  }
  return at;
}

std::string Preview(absl::string_view text, size_t max_chars) {
  std::string line;
  size_t chars = 0;
  for (size_t at = 0; at < text.size(); ++chars) {
    size_t bytes = CharacterBytes(text.substr(at));
    if (chars == max_chars) return line + "…";
    const uint8_t head = static_cast<uint8_t>(text[at]);
    if (bytes == 0) {
      line += "\xEF\xBF\xBD";  // U+FFFD
      bytes = 1;
    } else if (head < 0x20 || head == 0x7F ||
               (bytes == 2 && head == 0xC2 && static_cast<uint8_t>(text[at + 1]) < 0xA0)) {
      line += ' ';
    } else {
      line.append(text.data() + at, bytes);
    }
    at += bytes;
  }
  return line;
}

}  // namespace lion::client
