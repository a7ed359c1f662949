// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CROSSOVER_CACHE_H_
#define LION_MODEL_CROSSOVER_CACHE_H_

// Measured crossovers, kept between processes: a restart on the same machine chooses the same forms, and so the same
// bits, without --parallel_max_tokens.
//
// A text file of lines "crossover key", key being all that the measurement depends on. Nothing here is fatal: what
// cannot be read is measured, what cannot be written is measured again next time. Processes may share the file; the
// last writer's line counts.

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace lion {

class CrossoverCache {
 public:
  // path: the file; made with its folder when first written. Empty = nothing is kept.
  explicit CrossoverCache(std::string path) : path_(std::move(path)) {}

  // $XDG_CACHE_HOME/lion-serve/crossovers, ~/.cache/lion-serve/crossovers where the former is not set, empty where
  // neither is known.
  static std::string DefaultPath();

  // The crossover kept for the key; nullopt if there is none, or one that is not of kCrossoverChoices.
  std::optional<int> Find(absl::string_view key) const;
  // Replaces the key's line. key: one line, not empty.
  void Keep(absl::string_view key, int crossover) const;

 private:
  std::string path_;
};

}  // namespace lion

#endif  // LION_MODEL_CROSSOVER_CACHE_H_
