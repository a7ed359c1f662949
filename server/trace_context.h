// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TRACE_CONTEXT_H_
#define LION_SERVER_TRACE_CONTEXT_H_

// W3C Trace Context, level 1: the metadata entry `traceparent: 00-<trace id>-<parent id>-<flags>` of a caller.

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace lion {

struct TraceContext {
  std::string trace_id;   // 32 lower-case hexadecimal digits, not all 0
  std::string parent_id;  // 16 of them: the caller's span
  bool sampled = false;   // the caller records this trace
};

// nullopt for anything that is not a traceparent by the standard: other lengths, capitals, zero ids, version ff. Of a
// later version what version 00 has is read. What is returned is hexadecimal digits, so it is safe in a log.
std::optional<TraceContext> ParseTraceParent(absl::string_view header);

}  // namespace lion

#endif  // LION_SERVER_TRACE_CONTEXT_H_
