// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_SENTENCE_WINDOWS_H_
#define LION_SERVER_SENTENCE_WINDOWS_H_

// Windows that end where sentences do (WINDOW_BOUNDARY_SENTENCE). Pure functions.
//
// Windows stand end to end over all tokens of a row. Each takes as many whole sentences as size_tokens has room for. A
// sentence that does not fit is cut at the last line's end that fits, and where there is none after size_tokens.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/tokenizer/tokenizer.h"

namespace lion {

// Tokens at which something starts, in rising order; anything outside [1, L) is ignored.
struct CutPlaces {
  std::vector<uint32_t> sentences;
  std::vector<uint32_t> lines;
};

// Adds the places of one text, whose tokens are `tokens` of spans. A token that only begins before a place is not cut:
// the place is then at the next one. Errors as SentenceStarts.
absl::Status AddCutPlaces(std::string_view text, absl::Span<const ByteSpan> spans, const TokenRange& tokens,
                          CutPlaces* places);

// Where the windows of a row of L tokens start (Row::window_starts). L and size at least 1.
std::vector<uint32_t> CutWindows(const CutPlaces& places, int64_t L, int64_t size);

}  // namespace lion

#endif  // LION_SERVER_SENTENCE_WINDOWS_H_
