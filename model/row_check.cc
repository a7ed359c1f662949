// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/row_check.h"

#include "absl/strings/str_cat.h"
#include "model/model.h"

namespace lion {

absl::Status CheckRows(const TextConfig& config, bool classifies, absl::Span<const Row> rows) {
  for (size_t b = 0; b < rows.size(); ++b) {
    const Row& row = rows[b];
    auto bad = [b](const auto&... what) {
      return absl::InvalidArgumentError(absl::StrCat("rows[", b, "]: ", what...));
    };
    const auto L = static_cast<int64_t>(row.ids.size());
    if (L == 0) return bad("has no ids");
    if (config.max_positions > 0 && L > config.max_positions) {
      return bad(L, " tokens, the model has ", config.max_positions, " positions");
    }
    if (row.mode == ComputeMode::kParallel && L > kMaxParallelTokens) {
      return bad(L, " tokens in the parallel form, which takes ", kMaxParallelTokens);
    }
    if (row.chunk_tokens < 0 || row.chunk_tokens > kMaxChunkTokens) {
      return bad("chunk_tokens ", row.chunk_tokens, " is not from 0 to ", kMaxChunkTokens);
    }
    if (!row.type_ids.empty() && row.type_ids.size() != row.ids.size()) {
      return bad(row.type_ids.size(), " type ids for ", L, " ids");
    }
    for (uint32_t id : row.ids) {
      if (id >= config.vocab_size) return bad("id ", id, " is not below the vocabulary size ", config.vocab_size);
    }
    for (uint32_t id : row.type_ids) {
      if (id >= config.type_vocab_size) return bad("type id ", id, " is not below ", config.type_vocab_size);
    }
    if (row.output == RowOutput::kLogits && !classifies) return bad("the model has no classifier");
    if (row.output == RowOutput::kWindows) {
      if (row.window_tokens < 1) return bad("window_tokens ", row.window_tokens, " is below 1");
      if (row.window_stride < 1 || row.window_stride > row.window_tokens) {
        return bad("window_stride ", row.window_stride, " is not from 1 to window_tokens ", row.window_tokens);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace lion
