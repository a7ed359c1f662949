// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/row_check.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/model.h"

namespace lion {
namespace {

// The complaint about what goes in, or empty.
std::string WrongText(const TextConfig& config, const Row& row) {
  if (!row.pixels.empty() || row.image_tokens != 0) return "has pixels, the model takes ids";
  const auto L = static_cast<int64_t>(row.ids.size());
  if (L == 0) return "has no ids";
  if (config.max_positions > 0 && L > config.max_positions) {
    return absl::StrCat(L, " tokens, the model has ", config.max_positions, " positions");
  }
  if (!row.type_ids.empty() && row.type_ids.size() != row.ids.size()) {
    return absl::StrCat(row.type_ids.size(), " type ids for ", L, " ids");
  }
  for (uint32_t id : row.ids) {
    if (id >= config.vocab_size) {
      return absl::StrCat("id ", id, " is not below the vocabulary size ", config.vocab_size);
    }
  }
  for (uint32_t id : row.type_ids) {
    if (id >= config.type_vocab_size) return absl::StrCat("type id ", id, " is not below ", config.type_vocab_size);
  }
  return "";
}

std::string WrongImage(const ImageConfig& config, const Row& row) {
  if (!row.ids.empty() || !row.type_ids.empty()) return "has ids, the model takes pixels";
  if (row.pixels.empty()) return "has no pixels";
  const auto n = static_cast<int64_t>(row.pixels.size());
  const auto S = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(n) / kImageChannels)));
  if (kImageChannels * S * S != n) return absl::StrCat(n, " pixel values are not 3 x S x S");
  if (S % config.patch_size != 0) {
    return absl::StrCat("S ", S, " is not a multiple of the patch size ", config.patch_size);
  }
  if (config.positions && S != config.image_size) {
    return absl::StrCat("S ", S, ", the model's positions are for ", config.image_size);
  }
  if (row.image_tokens != ImageTokens(S, config.patch_size)) {
    return absl::StrCat("image_tokens ", row.image_tokens, ", S ", S, " has ", ImageTokens(S, config.patch_size));
  }
  return "";
}

}  // namespace

absl::Status CheckRows(const ModelConfig& config, bool classifies, absl::Span<const Row> rows) {
  for (size_t b = 0; b < rows.size(); ++b) {
    const Row& row = rows[b];
    auto bad = [b](const auto&... what) {
      return absl::InvalidArgumentError(absl::StrCat("rows[", b, "]: ", what...));
    };
    const auto* text = std::get_if<TextConfig>(&config);
    const std::string wrong = text != nullptr ? WrongText(*text, row) : WrongImage(std::get<ImageConfig>(config), row);
    if (!wrong.empty()) return bad(wrong);
    const int64_t L = row.num_tokens();
    if (row.mode == ComputeMode::kParallel && L > kMaxParallelTokens) {
      return bad(L, " tokens in the parallel form, which takes ", kMaxParallelTokens);
    }
    if (row.chunk_tokens < 0 || row.chunk_tokens > kMaxChunkTokens) {
      return bad("chunk_tokens ", row.chunk_tokens, " is not from 0 to ", kMaxChunkTokens);
    }
    if (row.output == RowOutput::kLogits && !classifies) return bad("the model has no classifier");
    if (row.output == RowOutput::kWindows && !row.window_starts.empty()) {
      if (row.window_starts.front() != 0) return bad("window_starts begins at ", row.window_starts.front(), ", not 0");
      for (size_t w = 1; w < row.window_starts.size(); ++w) {
        if (row.window_starts[w] > row.window_starts[w - 1]) continue;
        return bad("window_starts[", w, "] is not above the one before");
      }
      if (row.window_starts.back() >= L) {
        return bad("a window starts at ", row.window_starts.back(), " of ", L, " tokens");
      }
    } else if (row.output == RowOutput::kWindows) {
      if (row.window_tokens < 1) return bad("window_tokens ", row.window_tokens, " is below 1");
      if (row.window_stride < 1 || row.window_stride > row.window_tokens) {
        return bad("window_stride ", row.window_stride, " is not from 1 to window_tokens ", row.window_tokens);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace lion
