// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/clock.h"

#include "absl/time/clock.h"

namespace lion {
namespace {

// Wall time, because deadlines arrive as wall time. It may step: whoever subtracts two readings clamps at 0.
class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace

Clock* Clock::Real() {
  static RealClock* clock = new RealClock();  // leaked: threads may read it while the process ends
  return clock;
}

}  // namespace lion
