// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_PROGRESS_H_
#define LION_CLIENT_PROGRESS_H_

// A line on the terminal for work that takes longer than a second: how much is done, how fast, how long still.

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/time/time.h"

namespace lion::client {

struct ProgressState {
  int64_t rows = 0;  // answered, failed ones included
  int64_t failed_rows = 0;
  int64_t tokens = 0;
  int64_t done_bytes = 0;    // of the input
  int64_t total_bytes = -1;  // -1 = unknown: no bar and no ETA
};

// "[########------------]  42%  1,234 rows  56.7 rows/s  1,200 tokens/s  ETA 00:42  3 failed"
std::string FormatProgress(const ProgressState& state, absl::Duration elapsed);

// "1,234 rows, 56,789 tokens in 21.8 s (56.7 rows/s, 2,605 tokens/s), 3 failed"
std::string FormatSummary(const ProgressState& state, absl::Duration elapsed);

// Draws the line; one thread. Silent for the first second, and always where enabled is false.
class ProgressBar {
 public:
  // terminal is borrowed.
  ProgressBar(std::FILE* terminal, bool enabled);

  void Update(const ProgressState& state);
  // Removes the line so that something else can be printed; the next Update draws it again.
  void Clear();
  // Replaces the line by a summary, if it was ever drawn.
  void Finish(const ProgressState& state);

 private:
  std::FILE* const terminal_;
  const bool enabled_;
  const absl::Duration start_;
  absl::Duration next_draw_;
  bool drawn_ = false;
  bool visible_ = false;
};

}  // namespace lion::client

#endif  // LION_CLIENT_PROGRESS_H_
