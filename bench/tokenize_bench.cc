// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// How long a large text's tokens take: in one piece on one thread, and divided among several.
//
//   build/release/bin/tokenize_bench --megabytes=50 --threads=2
//
// The text is made of the demo's, its paragraphs in random order. Seconds by the clock, the best of --rounds, the ways
// by turns; with spans, as documents want them. Beside them where its sentences start (windows.boundary SENTENCE).
// Checked: both ways give the same ids and spans. Exits 1 otherwise.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_split.h"
#include "model/tokenizer/sentences.h"
#include "model/tokenizer/tokenizer.h"

ABSL_FLAG(std::string, tokenizer, "demo/model/tokenizer.json", "a tokenizer.json");
ABSL_FLAG(std::string, text, "demo/texts/long.txt", "what the text is made of");
ABSL_FLAG(int, megabytes, 50, "of text");
ABSL_FLAG(int, threads, 2, "that share it");
ABSL_FLAG(int, rounds, 3, "each way");
ABSL_FLAG(bool, short, false, "2 MB once: to see that it runs");

namespace {

std::string MakeText(const std::string& source, size_t bytes) {
  const std::vector<std::string> paragraphs = absl::StrSplit(source, "\n\n", absl::SkipEmpty());
  std::mt19937 random(1);
  std::string text;
  while (text.size() < bytes) text += paragraphs[random() % paragraphs.size()] + "\n\n";
  return text;
}

template <typename Work>
double Seconds(Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool SameSpans(const lion::Encoding& a, const lion::Encoding& b) {
  const auto same = [](const lion::ByteSpan& x, const lion::ByteSpan& y) {
    return x.start == y.start && x.end == y.end;
  };
  return std::equal(a.spans.begin(), a.spans.end(), b.spans.begin(), b.spans.end(), same);
}

int Run() {
  const bool is_short = absl::GetFlag(FLAGS_short);
  const int num_threads = absl::GetFlag(FLAGS_threads);
  const auto tokenizer = lion::Tokenizer::Open(absl::GetFlag(FLAGS_tokenizer));
  std::ifstream file(absl::GetFlag(FLAGS_text));
  const std::string source((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!tokenizer.ok() || source.empty()) {
    std::fprintf(stderr, "%s\n", tokenizer.ok() ? "--text: nothing to read" : tokenizer.status().ToString().c_str());
    return 1;
  }
  const std::string text = MakeText(source, static_cast<size_t>(is_short ? 2 : absl::GetFlag(FLAGS_megabytes)) << 20);
  const lion::ParallelFor parallel = [num_threads](size_t n, const std::function<void(size_t)>& body) {
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t i = next++; i < n; i = next++) body(i);
    };
    std::vector<std::thread> threads;
    for (int t = 1; t < num_threads; ++t) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  };
  lion::Encoding encodings[2];
  double best[2] = {1e9, 1e9};
  double best_sentences = 1e9;
  size_t num_sentences = 0;
  for (int round = 0; round < (is_short ? 1 : absl::GetFlag(FLAGS_rounds)); ++round) {
    for (int way : {0, 1}) {
      lion::Tokenizer::EncodeOptions options;
      options.spans = true;
      if (way == 1) options.parallel = &parallel;
      best[way] = std::min(best[way], Seconds([&] {
                             auto encoding = (*tokenizer)->Encode(text, std::nullopt, options);
                             if (encoding.ok()) encodings[way] = *std::move(encoding);
                           }));
    }
    best_sentences = std::min(best_sentences, Seconds([&] {
                                const auto starts = lion::SentenceStarts(text);
                                if (starts.ok()) num_sentences = starts->size();
                              }));
  }
  const auto megabytes = static_cast<double>(text.size()) / (1 << 20);
  const auto tokens = static_cast<double>(encodings[0].ids.size());
  std::printf(
      "%.0f MB, %.1f M tokens: one thread %.2f s (%.1f MB/s, %.2f M tokens/s), %d threads %.2f s (%.2f times)\n",
      megabytes, tokens / 1e6, best[0], megabytes / best[0], tokens / best[0] / 1e6, num_threads, best[1],
      best[0] / best[1]);
  std::printf("%zu sentences: %.2f s\n", num_sentences, best_sentences);
  if (encodings[0].ids.empty() || encodings[0].ids != encodings[1].ids || !SameSpans(encodings[0], encodings[1])) {
    std::fprintf(stderr, "the two ways give different tokens\n");
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return Run();
}
