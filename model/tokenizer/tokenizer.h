// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_TOKENIZER_TOKENIZER_H_
#define LION_MODEL_TOKENIZER_TOKENIZER_H_

// Text to ids: the Hugging Face tokenizers crate, as a C++ class. Equal to the crate's Python binding in ids, types,
// tokens and spans.
//
// Cost: linear in the text, also beyond a limit, since tokens are counted there (but see stop_at_limit). Memory: what a
// limit cuts off is not kept, and BERT's tokenizers take text in pieces of 64 KiB, cut before white space, punctuation
// and (where they are words of their own) ideographs, so that only the result grows with the text: 16 MiB of "." and a
// limit of 512 need some 50 MiB. A single word of many letters and digits is too long to be anything but the unknown
// token, and its middle is not looked at; of other characters (emoji) it is one piece and needs some 60 bytes a byte of
// it for the length of the call. Others of BERT's kind (words end at white space) are cut at ASCII white space alone,
// and all others not at all; between two cuts they need up to 500 bytes a byte ("....").
//
// Threads: with EncodeOptions::parallel a long text's pieces are tokenized beside each other. Cuts change no token, so
// the result is the same.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lion {

// Half open, in bytes of the UTF-8 text given (of the text of a pair that the token is from). Special tokens have 0, 0.
struct ByteSpan {
  uint32_t start = 0;
  uint32_t end = 0;
};

// Half open, in tokens of an encoding.
struct TokenRange {
  size_t begin = 0;
  size_t end = 0;
};

struct Encoding {
  std::vector<uint32_t> ids;
  std::vector<uint32_t> type_ids;   // as many as ids
  std::vector<ByteSpan> spans;      // as many as ids; empty unless asked for
  std::vector<std::string> tokens;  // as many as ids; empty unless asked for
  // ids.size() before truncation, special tokens included. With stop_at_limit only known to be above the limit where
  // it is.
  size_t untruncated_tokens = 0;
  TokenRange texts[2];  // the tokens of the text, and of the pair's second; special tokens are in neither
  bool truncated() const { return untruncated_tokens > ids.size(); }
};

// Calls body(i) once for each i below n, on any threads, and returns when all calls have returned.
using ParallelFor = std::function<void(size_t n, const std::function<void(size_t)>& body)>;

// Which end goes when there are too many tokens. Special tokens are kept; a pair loses from the longer text first.
enum class TruncationSide { kRight, kLeft };

class Tokenizer {
 public:
  struct EncodeOptions {
    // 0 = never truncate. A limit below the number of special tokens is INVALID_ARGUMENT.
    size_t max_tokens = 0;
    TruncationSide side = TruncationSide::kRight;
    // Stops reading one text that is cut on the right soon after the limit: untruncated_tokens is no count then.
    bool stop_at_limit = false;
    bool spans = false;
    bool tokens = false;
    // For texts of 256 KiB and more; null = all on the calling thread. Borrowed for the call.
    const ParallelFor* parallel = nullptr;
  };

  // Reads a tokenizer.json. Truncation and padding that the file itself asks for are switched off: limits are the
  // server's. Errors: NOT_FOUND, INVALID_ARGUMENT (naming the file and the crate's complaint; also for what is not a
  // regular file, and for a post-processor that does not use each text exactly once).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Open(const std::string& path);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Encodes one text, or a pair, with the special tokens that the tokenizer adds. The empty text is valid and gives the
  // special tokens alone (or no ids at all where there are none). Special tokens written out in a text become those
  // tokens. INVALID_ARGUMENT: text that is not UTF-8 (naming the byte) or is 4 GiB or more, a limit that is too low.
  // INTERNAL: the crate fails or panics. Thread-safe, never blocks on another call, starts no threads of its own, never
  // throws.
  absl::StatusOr<Encoding> Encode(std::string_view text, std::optional<std::string_view> pair,
                                  const EncodeOptions& options) const;

  // Ids are below this (added tokens included).
  size_t vocab_size() const;

  // How many special tokens are added to one text, and to a pair.
  size_t num_special_tokens(bool pair) const;

 private:
  explicit Tokenizer(void* handle);
  void* handle_;
};

}  // namespace lion

#endif  // LION_MODEL_TOKENIZER_TOKENIZER_H_
