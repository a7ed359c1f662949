// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BUILD_INFO_H_
#define LION_SERVER_BUILD_INFO_H_

// What this binary was built from.

#include <string_view>

namespace lion {

std::string_view BuildVersion();  // the project's version, "0.1.0"
std::string_view BuildCommit();   // the first 12 digits of the commit; "unknown" outside a git checkout

}  // namespace lion

#endif  // LION_SERVER_BUILD_INFO_H_
