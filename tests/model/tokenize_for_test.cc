// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Tokenizes what tokenizer_parity_test.py sends: `tokenize_for_test TOKENIZER_JSON`.
//
// Standard input is a row of requests: uint32 max_tokens, uint32 side (0 right, 1 left), uint32 number of texts (1 or
// 2), then for each text uint32 bytes and the bytes; integers in this machine's order. Each is answered by one line of
// JSON.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace {

bool ReadBytes(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

bool ReadText(std::string* text) {
  uint32_t bytes = 0;
  if (!ReadBytes(&bytes, sizeof(bytes))) return false;
  text->resize(bytes);
  return ReadBytes(text->data(), bytes);
}

bool SameSpans(const std::vector<lion::ByteSpan>& a, const std::vector<lion::ByteSpan>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const lion::ByteSpan& x, const lion::ByteSpan& y) {
    return x.start == y.start && x.end == y.end;
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenize_for_test TOKENIZER_JSON\n");
    return 2;
  }
  const auto tokenizer = lion::Tokenizer::Open(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  uint32_t head[3];  // max_tokens, side, texts
  while (ReadBytes(head, sizeof(head))) {
    std::string text, pair;
    if (!ReadText(&text) || (head[2] == 2 && !ReadText(&pair))) {
      std::fprintf(stderr, "a request is cut short\n");
      return 1;
    }
    lion::Tokenizer::EncodeOptions options;
    options.max_tokens = head[0];
    options.side = head[1] == 0 ? lion::TruncationSide::kRight : lion::TruncationSide::kLeft;
    options.spans = true;
    options.tokens = true;
    const std::optional<std::string_view> second = head[2] == 2 ? std::optional<std::string_view>(pair) : std::nullopt;
    const auto full = (*tokenizer)->Encode(text, second, options);
    // On other threads, the last part first: neither may show.
    const lion::ParallelFor backwards = [](size_t n, const std::function<void(size_t)>& body) {
      std::vector<std::thread> threads;
      for (size_t i = n; i > 0; --i) threads.emplace_back([&body, i] { body(i - 1); });
      for (std::thread& thread : threads) thread.join();
    };
    options.parallel = &backwards;
    const auto split = (*tokenizer)->Encode(text, second, options);
    options.spans = false;
    options.tokens = false;
    const auto bare = (*tokenizer)->Encode(text, second, options);
    nlohmann::json answer;
    if (!full.ok()) {
      answer = {{"error", full.status().ToString()}};
    } else {
      answer = {{"ids", full->ids},
                {"type_ids", full->type_ids},
                {"tokens", full->tokens},
                {"untruncated", full->untruncated_tokens},
                // What is not asked for must not change the rest.
                {"bare_is_equal", bare.ok() && bare->ids == full->ids && bare->type_ids == full->type_ids &&
                                      bare->untruncated_tokens == full->untruncated_tokens && bare->spans.empty() &&
                                      bare->tokens.empty()},
                {"split_is_equal", split.ok() && split->ids == full->ids && split->type_ids == full->type_ids &&
                                       split->untruncated_tokens == full->untruncated_tokens &&
                                       SameSpans(split->spans, full->spans) && split->tokens == full->tokens}};
      auto& spans = answer["spans"] = nlohmann::json::array();
      for (const lion::ByteSpan& span : full->spans) spans.push_back({span.start, span.end});
    }
    std::printf("%s\n", answer.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}
