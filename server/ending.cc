// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/ending.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/clock.h"
#include "server/log.h"

namespace lion {

void Ending::Announce(Cause cause) {
  absl::MutexLock lock(&mu_);
  no_device_ |= cause == Cause::kNoDevice;
  if (time_.has_value()) return;
  time_ = Clock::Real()->Now();
  announced_.SignalAll();
}

absl::Time Ending::Wait() {
  absl::MutexLock lock(&mu_);
  while (!time_.has_value()) announced_.Wait(&mu_);
  return *time_;
}

bool Ending::no_device() const {
  absl::MutexLock lock(&mu_);
  return no_device_;
}

std::function<void(const LostDevice&)> Ending::WatchDevices(int num_devices) {
  return [this, num_devices](const LostDevice& lost) {
    const std::string rest = lost.num_left == 0 ? std::string("no device is left")
                                                : absl::StrCat(lost.num_left, " of ", num_devices, " devices left");
    LogError(absl::StrCat(lost.status.message(), "; ", rest));
    if (lost.num_left == 0) Announce(Cause::kNoDevice);
  };
}

ProcessEnd DrainAtEnd(Server* server, Ending* ending) {
  const absl::Time since = ending->Wait();
  LogInfo("draining");
  const bool clean = server->Drain(since);
  if (ending->no_device()) {
    LogError("stopped: no device was left to serve on");
    return {.exit_code = 1, .at_once = true};
  }
  if (!clean) {
    LogWarning("drained: --drain_timeout passed, calls that were still running were answered UNAVAILABLE");
    return {.exit_code = 0, .at_once = true};
  }
  LogInfo("drained: every call was answered");
  return {};
}

}  // namespace lion
