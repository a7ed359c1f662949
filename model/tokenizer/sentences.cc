// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/tokenizer/sentences.h"

#include <string>

#include "absl/status/status.h"
#include "model/rust/lion_hf.h"

namespace lion {

absl::StatusOr<std::vector<uint32_t>> SentenceStarts(std::string_view text) {
  const LionHfText given = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
  LionHfOffsets found = {};
  char* error = nullptr;
  if (const int32_t code = lion_hf_sentence_starts(&given, &found, &error); code != LION_HF_OK) {
    const std::string message = error;
    lion_hf_error_free(error);
    if (code == LION_HF_INVALID_ARGUMENT) return absl::InvalidArgumentError(message);
    return absl::InternalError(message);
  }
  std::vector<uint32_t> starts(found.offsets, found.offsets + found.size);
  lion_hf_offsets_free(&found);
  return starts;
}

}  // namespace lion
