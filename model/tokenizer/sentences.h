// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_TOKENIZER_SENTENCES_H_
#define LION_MODEL_TOKENIZER_SENTENCES_H_

// Where the sentences of a text start, by Unicode's rules (UAX 29) with one difference: a line's end alone ends no
// sentence, since texts are broken into lines; an empty line does. Rules know no abbreviations: "Mr. Smith" are two.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lion {

// The byte of each sentence's first character, in rising order; the first is 0. Blanks belong to the sentence before
// them. Of the empty text none. Linear in the text, whose size it needs again for the length of the call.
// INVALID_ARGUMENT: no UTF-8, 4 GiB or more. Thread-safe, never throws.
absl::StatusOr<std::vector<uint32_t>> SentenceStarts(std::string_view text);

}  // namespace lion

#endif  // LION_MODEL_TOKENIZER_SENTENCES_H_
