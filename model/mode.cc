// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/model.h"

namespace lion {

ComputeMode ResolveMode(std::optional<ComputeMode> asked, int64_t num_tokens, int parallel_max_tokens) {
  if (asked.has_value()) return *asked;
  return num_tokens <= parallel_max_tokens ? ComputeMode::kParallel : ComputeMode::kChunked;
}

}  // namespace lion
