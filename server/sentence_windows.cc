// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/sentence_windows.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "model/tokenizer/sentences.h"

namespace lion {
namespace {

// The first token that begins at or behind each byte of `starts`, for those that there are. The text's own start is no
// place to cut.
void AddTokens(absl::Span<const uint32_t> starts, absl::Span<const ByteSpan> spans, const TokenRange& tokens,
               std::vector<uint32_t>* places) {
  size_t t = tokens.begin;
  for (const uint32_t start : starts) {
    if (start == 0) continue;
    while (t < tokens.end && spans[t].start < start) ++t;
    if (t == tokens.end) return;
    places->push_back(static_cast<uint32_t>(t));
  }
}

// The last place in (start, end]. *next: how many are up to end; both only rise.
std::optional<int64_t> LastPlace(absl::Span<const uint32_t> places, int64_t start, int64_t end, size_t* next) {
  while (*next < places.size() && places[*next] <= end) ++*next;
  if (*next == 0 || places[*next - 1] <= start) return std::nullopt;
  return places[*next - 1];
}

}  // namespace

absl::Status AddCutPlaces(std::string_view text, absl::Span<const ByteSpan> spans, const TokenRange& tokens,
                          CutPlaces* places) {
  const absl::StatusOr<std::vector<uint32_t>> sentences = SentenceStarts(text);
  if (!sentences.ok()) return sentences.status();
  AddTokens(*sentences, spans, tokens, &places->sentences);
  std::vector<uint32_t> lines;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n', end + 1)) {
    lines.push_back(static_cast<uint32_t>(end + 1));
  }
  AddTokens(lines, spans, tokens, &places->lines);
  return absl::OkStatus();
}

std::vector<uint32_t> CutWindows(const CutPlaces& places, int64_t L, int64_t size) {
  std::vector<uint32_t> starts = {0};
  size_t next_sentence = 0;
  size_t next_line = 0;
  for (int64_t start = 0; L - start > size; starts.push_back(static_cast<uint32_t>(start))) {
    const std::optional<int64_t> sentence = LastPlace(places.sentences, start, start + size, &next_sentence);
    const std::optional<int64_t> line = LastPlace(places.lines, start, start + size, &next_line);
    start = sentence.has_value() ? *sentence : line.value_or(start + size);
  }
  return starts;
}

}  // namespace lion
