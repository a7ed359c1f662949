// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_CLOCK_H_
#define LION_SERVER_CLOCK_H_

// The one place that reads time, so that tests can move it by hand (tests/fakes/fake_clock.h).

#include "absl/time/time.h"

namespace lion {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;

  // The machine's clock; never destroyed.
  static Clock* Real();
};

}  // namespace lion

#endif  // LION_SERVER_CLOCK_H_
