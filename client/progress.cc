// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/clock.h"
#include "client/outputs.h"

namespace lion::client {
namespace {

constexpr int kBarCells = 20;
constexpr absl::Duration kDelay = absl::Seconds(1);
constexpr absl::Duration kInterval = absl::Milliseconds(100);

// "56.7" below a hundred, else "1,234".
std::string Rate(int64_t count, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  const double rate = seconds > 0 ? static_cast<double>(count) / seconds : 0;
  return rate < 100 ? absl::StrFormat("%.1f", rate) : WithCommas(std::llround(rate));
}

std::string Clock(absl::Duration left) {
  const int64_t seconds = absl::ToInt64Seconds(left + absl::Milliseconds(500));
  if (seconds >= 3600) return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
  return absl::StrFormat("%02d:%02d", seconds / 60, seconds % 60);
}

}  // namespace

std::string FormatProgress(const ProgressState& state, absl::Duration elapsed) {
  std::string line;
  const bool known = state.total_bytes > 0;
  const double share =
      known ? std::clamp(static_cast<double>(state.done_bytes) / static_cast<double>(state.total_bytes), 0.0, 1.0) : 0;
  if (known) {
    const size_t full = static_cast<size_t>(share * kBarCells);
    // Rounded down: 100% is said when it is true.
    absl::StrAppendFormat(&line, "[%s%s] %3d%%  ", std::string(full, '#'), std::string(kBarCells - full, '-'),
                          static_cast<int>(share * 100));
  }
  absl::StrAppend(&line, WithCommas(state.rows), " rows  ", Rate(state.rows, elapsed), " rows/s  ",
                  Rate(state.tokens, elapsed), " tokens/s");
  if (known && share > 0) absl::StrAppend(&line, "  ETA ", Clock(elapsed * ((1 - share) / share)));
  if (state.failed_rows > 0) absl::StrAppend(&line, "  ", WithCommas(state.failed_rows), " failed");
  return line;
}

std::string FormatSummary(const ProgressState& state, absl::Duration elapsed) {
  return absl::StrCat(WithCommas(state.rows), state.rows == 1 ? " row, " : " rows, ", WithCommas(state.tokens),
                      " tokens in ", absl::StrFormat("%.1f", absl::ToDoubleSeconds(elapsed)), " s (",
                      Rate(state.rows, elapsed), " rows/s, ", Rate(state.tokens, elapsed), " tokens/s)",
                      state.failed_rows > 0 ? absl::StrCat(", ", WithCommas(state.failed_rows), " failed") : "");
}

ProgressBar::ProgressBar(std::FILE* terminal, bool enabled)
    : terminal_(terminal), enabled_(enabled), start_(SteadyNow()), next_draw_(start_ + kDelay) {}

void ProgressBar::Update(const ProgressState& state) {
  if (!enabled_) return;
  const absl::Duration now = SteadyNow();
  if (now < next_draw_) return;
  next_draw_ = now + kInterval;
  drawn_ = visible_ = true;
  std::fprintf(terminal_, "\r\x1b[K%s", FormatProgress(state, now - start_).c_str());
  std::fflush(terminal_);
}

void ProgressBar::Clear() {
  if (!visible_) return;
  visible_ = false;
  std::fputs("\r\x1b[K", terminal_);
  std::fflush(terminal_);
}

void ProgressBar::Finish(const ProgressState& state) {
  Clear();
  if (drawn_) std::fprintf(terminal_, "%s\n", FormatSummary(state, SteadyNow() - start_).c_str());
}

}  // namespace lion::client
