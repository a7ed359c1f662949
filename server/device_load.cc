// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/device_load.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace lion {
namespace {

// How much of the past each new batch keeps in the measured speed.
constexpr double kSpeedMemory = 0.8;

// Wall clocks step back.
absl::Duration Elapsed(absl::Time from, absl::Time to) { return std::max(to - from, absl::ZeroDuration()); }

}  // namespace

void DeviceLoad::BatchStarted(int device, int64_t tokens, absl::Time now) {
  Device& d = devices_[device];
  if (d.num_batches == 0) d.since = now;
  ++d.num_batches;
  d.tokens += tokens;
}

void DeviceLoad::BatchEnded(int device, int64_t tokens, bool measures, absl::Time now) {
  Device& d = devices_[device];
  --d.num_batches;
  d.tokens -= tokens;
  if (measures) {
    measured_tokens_ = kSpeedMemory * measured_tokens_ + static_cast<double>(tokens);
    measured_seconds_ = kSpeedMemory * measured_seconds_ + absl::ToDoubleSeconds(Elapsed(d.since, now));
  }
  d.since = now;
}

void DeviceLoad::Lose(int device) {
  devices_[device].lost = true;
  --num_left_;
}

bool DeviceLoad::IsFreer(int a, int b) const {
  const auto key = [this](int i) { return std::make_tuple(devices_[i].num_batches, devices_[i].tokens, i); };
  return key(a) < key(b);
}

absl::Duration DeviceLoad::Wait(int64_t waiting_tokens, absl::Time now) const {
  if (measured_tokens_ <= 0 || measured_seconds_ <= 0 || num_left_ == 0) return absl::ZeroDuration();
  const double seconds_per_token = measured_seconds_ / measured_tokens_;
  std::vector<absl::Duration> busy;
  for (const Device& d : devices_) {
    if (d.lost) continue;
    const absl::Duration running = absl::Seconds(static_cast<double>(d.tokens) * seconds_per_token);
    busy.push_back(d.num_batches == 0 ? absl::ZeroDuration()
                                      : std::max(running - Elapsed(d.since, now), absl::ZeroDuration()));
  }
  return TimeUntilFree(absl::Seconds(static_cast<double>(waiting_tokens) * seconds_per_token), std::move(busy));
}

absl::Duration TimeUntilFree(absl::Duration waiting, std::vector<absl::Duration> busy) {
  std::sort(busy.begin(), busy.end());
  // The n that are free first share the work, if they end it before the next would be free.
  absl::Duration sum = waiting;
  for (size_t n = 1; n <= busy.size(); ++n) {
    sum += busy[n - 1];
    const absl::Duration end = sum / static_cast<int64_t>(n);
    if (n == busy.size() || end <= busy[n]) return end;
  }
  return waiting;
}

}  // namespace lion
