// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/build_info.h"

namespace lion {

// Both are given to this file alone (server/CMakeLists.txt), so that a new commit compiles one file anew.
std::string_view BuildVersion() { return LION_VERSION; }
std::string_view BuildCommit() { return LION_COMMIT; }

}  // namespace lion
