// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_CLOCK_H_
#define LION_CLIENT_CLOCK_H_

// The one place where the client reads time.

#include "absl/time/time.h"

namespace lion::client {

// Time since some fixed moment; never steps back, whatever happens to the machine's clock. Thread-safe.
absl::Duration SteadyNow();

}  // namespace lion::client

#endif  // LION_CLIENT_CLOCK_H_
