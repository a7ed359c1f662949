// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: a byte of options, a byte for the limit in tokens, then text; a pair's texts are divided by the first byte
// 0xFF.
//
// Whatever the bytes: text that is not UTF-8 is INVALID_ARGUMENT; else ids are of the vocabulary, no more than the
// limit, spans lie in order inside the text and on borders of characters, and cut on the right, one text gives the
// beginning of what it gives uncut.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace {

using lion::Encoding;
using lion::Tokenizer;

std::unique_ptr<Tokenizer> OpenTokenizer(const std::string& path) {
  auto tokenizer = Tokenizer::Open(LION_SOURCE_DIR "/" + path);
  FUZZ_CHECK(tokenizer.ok(), tokenizer.status().ToString());
  return *std::move(tokenizer);
}

bool OnBorder(std::string_view text, uint32_t at) {
  return at <= text.size() && (at == text.size() || (static_cast<uint8_t>(text[at]) & 0xC0) != 0x80);
}

void CheckSpans(const Encoding& encoding, std::string_view text, const std::optional<std::string_view>& pair) {
  FUZZ_CHECK(encoding.spans.size() == encoding.ids.size(), "a span for each id");
  for (size_t t = 0; t < encoding.ids.size(); ++t) {
    const auto [start, end] = encoding.spans[t];
    FUZZ_CHECK(start <= end, "a span backwards");
    // Which text a span is of is the type's business; it must at least fit one of them.
    const bool fits = OnBorder(text, start) && OnBorder(text, end);
    const bool fits_pair = pair.has_value() && OnBorder(*pair, start) && OnBorder(*pair, end);
    FUZZ_CHECK(fits || fits_pair, "span " + std::to_string(start) + ", " + std::to_string(end));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Tokenizer> small = OpenTokenizer("tests/model/testdata/tokenizer.json");
  static const std::unique_ptr<Tokenizer> demo = OpenTokenizer("demo/model/tokenizer.json");
  if (size < 2) return 0;
  const uint8_t flags = data[0];
  const Tokenizer& tokenizer = (flags & 1) != 0 ? *demo : *small;
  Tokenizer::EncodeOptions options;
  options.max_tokens = data[1];
  options.side = (flags & 2) != 0 ? lion::TruncationSide::kLeft : lion::TruncationSide::kRight;
  options.spans = (flags & 4) != 0;
  options.tokens = (flags & 8) != 0;
  std::string_view text = lion::AsText(data + 2, size - 2);
  std::optional<std::string_view> pair;
  if (const size_t at = text.find('\xFF'); at != std::string_view::npos) {
    pair = text.substr(at + 1);
    text = text.substr(0, at);
  }

  const absl::StatusOr<Encoding> encoding = tokenizer.Encode(text, pair, options);
  if (!encoding.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(encoding.status()), encoding.status().ToString());
    lion::CheckOneLine(encoding.status());
    return 0;
  }
  const size_t num_special = tokenizer.num_special_tokens(pair.has_value());
  FUZZ_CHECK(encoding->type_ids.size() == encoding->ids.size(), "a type for each id");
  FUZZ_CHECK(encoding->ids.size() >= std::min(num_special, encoding->untruncated_tokens), "special tokens stay");
  FUZZ_CHECK(encoding->untruncated_tokens >= encoding->ids.size(), "more than there were");
  FUZZ_CHECK(options.max_tokens == 0 || encoding->ids.size() <= options.max_tokens, "above the limit");
  FUZZ_CHECK(!options.tokens || encoding->tokens.size() == encoding->ids.size(), "a token for each id");
  for (const uint32_t id : encoding->ids) FUZZ_CHECK(id < tokenizer.vocab_size(), std::to_string(id));
  if (options.spans) CheckSpans(*encoding, text, pair);

  options.max_tokens = 0;
  const absl::StatusOr<Encoding> whole = tokenizer.Encode(text, pair, options);
  FUZZ_CHECK(whole.ok(), whole.status().ToString());
  FUZZ_CHECK(whole->ids.size() == encoding->untruncated_tokens, "the count of what was cut off");
  if (!encoding->truncated()) {
    FUZZ_CHECK(whole->ids == encoding->ids, "nothing was cut, and it differs");
  } else if (!pair.has_value() && options.side == lion::TruncationSide::kRight && encoding->ids.size() > 1) {
    // [CLS] text … [SEP]: all but the last token are the beginning.
    FUZZ_CHECK(std::equal(encoding->ids.begin(), encoding->ids.end() - 1, whole->ids.begin()), "not the beginning");
    FUZZ_CHECK(encoding->ids.back() == whole->ids.back(), "another end");
  }
  return 0;
}
