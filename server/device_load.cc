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

void DeviceLoad::Measured::Add(int64_t more_tokens, absl::Duration more) {
  tokens = kSpeedMemory * tokens + static_cast<double>(more_tokens);
  seconds = kSpeedMemory * seconds + absl::ToDoubleSeconds(more);
}

int DeviceLoad::SizeOf(int64_t tokens) {
  int size = 0;
  while (size + 1 < kNumSizes && tokens >> (size + 1) > 0) ++size;
  return size;
}

double DeviceLoad::LeastSecondsPerToken() const {
  double least = 0;
  for (const auto& sizes : speeds_) {
    for (const Measured& measured : sizes) {
      const double seconds = measured.SecondsPerToken();
      if (seconds > 0 && (least == 0 || seconds < least)) least = seconds;
    }
  }
  return least;
}

void DeviceLoad::BatchStarted(int device, int64_t tokens, bool is_long, absl::Time now) {
  Device& d = devices_[device];
  if (d.num_batches == 0) d.since = now;
  ++d.num_batches;
  d.tokens += tokens;
  if (!is_long) return;
  ++d.num_long;
  d.long_tokens += tokens;
}

void DeviceLoad::Progressed(int device, int64_t tokens) {
  devices_[device].tokens -= tokens;
  devices_[device].long_tokens -= tokens;
}

void DeviceLoad::BatchEnded(int device, const Ended& batch, absl::Time now) {
  Device& d = devices_[device];
  --d.num_batches;
  d.tokens -= batch.tokens;
  if (batch.is_long) {
    --d.num_long;
    d.long_tokens -= batch.tokens;
  }
  // A long row beside which others ended, on a device that runs them at once, had an unknown part of it.
  const bool known = !batch.is_long || batch.worked.has_value() || d.since <= batch.started;
  if (batch.measured_tokens > 0 && known) {
    const absl::Duration took = batch.worked.value_or(Elapsed(std::max(d.since, batch.started), now));
    all_.Add(batch.measured_tokens, took);
    speeds_[batch.model][SizeOf(batch.measured_tokens)].Add(batch.measured_tokens, took);
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

absl::Duration DeviceLoad::WaitAt(double seconds_per_token, int64_t waiting_tokens, bool behind_long,
                                  absl::Time now) const {
  if (seconds_per_token <= 0 || num_left_ == 0) return absl::ZeroDuration();
  std::vector<absl::Duration> busy;
  bool shared = true;  // every device with a long row
  for (const Device& d : devices_) {
    if (d.lost) continue;
    shared &= d.num_long > 0;
    const int64_t tokens = behind_long ? d.tokens : d.tokens - d.long_tokens;
    const int num_batches = behind_long ? d.num_batches : d.num_batches - d.num_long;
    const absl::Duration running = absl::Seconds(static_cast<double>(tokens) * seconds_per_token);
    busy.push_back(num_batches == 0 ? absl::ZeroDuration()
                                    : std::max(running - Elapsed(d.since, now), absl::ZeroDuration()));
  }
  const int share = shared && !behind_long ? 2 : 1;
  return TimeUntilFree(absl::Seconds(static_cast<double>(share * waiting_tokens) * seconds_per_token), std::move(busy));
}

absl::Duration DeviceLoad::Compute(int model, int64_t tokens) const {
  // The nearest size seen, of those within a factor of four or so; of two as near, the larger.
  const int size = SizeOf(tokens);
  for (int s : {size, size + 1, size - 1, size + 2, size - 2}) {
    if (s < 0 || s >= kNumSizes || speeds_[model][s].tokens <= 0) continue;
    return absl::Seconds(static_cast<double>(tokens) * speeds_[model][s].SecondsPerToken());
  }
  return absl::ZeroDuration();
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
