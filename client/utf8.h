// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_UTF8_H_
#define LION_CLIENT_UTF8_H_

// Just enough UTF-8: texts travel as protobuf strings, and a server refuses a whole call for one bad byte in one of
// them.

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace lion::client {

// The offset of the first byte that is not well-formed UTF-8 (overlong forms, surrogates and what lies beyond U+10FFFF
// are not); text.size() if there is none.
size_t FirstInvalidUtf8(absl::string_view text);

// At most max_chars code points of text on one line: control characters become spaces, what is cut off becomes "…".
std::string Preview(absl::string_view text, size_t max_chars);

}  // namespace lion::client

#endif  // LION_CLIENT_UTF8_H_
