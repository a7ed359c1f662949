// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/tokenizer/tokenizer.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/mapped_file.h"
#include "model/rust/lion_hf.h"

namespace lion {
namespace {

// Takes error over.
absl::Status ToStatus(int32_t code, const std::string& context, char* error) {
  const std::string message = absl::StrCat(context, error);
  lion_hf_error_free(error);
  if (code == LION_HF_INVALID_ARGUMENT) return absl::InvalidArgumentError(message);
  return absl::InternalError(message);
}

const LionHfTokenizer* Get(const void* handle) { return static_cast<const LionHfTokenizer*>(handle); }

LionHfText ToText(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// LionHfThreads::run over the ParallelFor that context points to.
void RunParallel(void* context, size_t n, void (*body)(void* argument, size_t i), void* argument) {
  (*static_cast<const ParallelFor*>(context))(n, [body, argument](size_t i) { body(argument, i); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  LionHfTokenizer* handle = nullptr;
  char* error = nullptr;
  if (const int32_t code = lion_hf_tokenizer_open((*file)->data(), (*file)->size(), &handle, &error)) {
    // Also where the crate panicked: it is the file that made it.
    return ToStatus(LION_HF_INVALID_ARGUMENT, absl::StrCat(path, ": ", code == LION_HF_INTERNAL ? "not usable: " : ""),
                    error);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle));
}

Tokenizer::Tokenizer(void* handle) : handle_(handle) {}

Tokenizer::~Tokenizer() { lion_hf_tokenizer_free(static_cast<LionHfTokenizer*>(handle_)); }

absl::StatusOr<Encoding> Tokenizer::Encode(std::string_view text, std::optional<std::string_view> pair,
                                           const EncodeOptions& options) const {
  const LionHfText first = ToText(text);
  const LionHfText second = ToText(pair.value_or(std::string_view()));
  LionHfEncodeOptions wanted = {};
  wanted.max_tokens = options.max_tokens;
  wanted.keep_end = options.side == TruncationSide::kLeft;
  wanted.want_spans = options.spans;
  wanted.want_tokens = options.tokens;
  wanted.stop_at_limit = options.stop_at_limit;
  const LionHfThreads threads = {RunParallel, const_cast<ParallelFor*>(options.parallel)};
  if (options.parallel != nullptr) wanted.threads = &threads;
  LionHfEncoding encoded = {};
  char* error = nullptr;
  const int32_t code =
      lion_hf_tokenizer_encode(Get(handle_), &first, pair.has_value() ? &second : nullptr, &wanted, &encoded, &error);
  if (code != LION_HF_OK) return ToStatus(code, code == LION_HF_INTERNAL ? "the tokenizer failed: " : "", error);

  Encoding encoding;
  encoding.ids.assign(encoded.ids, encoded.ids + encoded.size);
  encoding.type_ids.assign(encoded.type_ids, encoded.type_ids + encoded.size);
  if (options.spans) {
    encoding.spans.reserve(encoded.size);
    for (size_t i = 0; i < encoded.size; ++i) encoding.spans.push_back({encoded.spans[i].start, encoded.spans[i].end});
  }
  if (options.tokens) {
    encoding.tokens.reserve(encoded.size);
    size_t begin = 0;
    for (size_t i = 0; i < encoded.size; ++i) {
      encoding.tokens.emplace_back(encoded.tokens + begin, encoded.token_ends[i] - begin);
      begin = encoded.token_ends[i];
    }
  }
  encoding.untruncated_tokens = encoded.untruncated_size;
  for (int i = 0; i < 2; ++i) encoding.texts[i] = {encoded.texts[i].begin, encoded.texts[i].end};
  lion_hf_encoding_free(&encoded);
  return encoding;
}

size_t Tokenizer::vocab_size() const { return lion_hf_tokenizer_vocab_size(Get(handle_)); }

size_t Tokenizer::num_special_tokens(bool pair) const {
  return lion_hf_tokenizer_num_special_tokens(Get(handle_), pair);
}

}  // namespace lion
