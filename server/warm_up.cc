// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/warm_up.h"

#include <algorithm>
#include <deque>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "model/model.h"

namespace lion {

absl::Status WarmUp(const ServedModel& model, std::optional<ComputeMode> default_mode) {
  const int64_t max_batch_tokens = model.info.max_batch_tokens;
  const bool parallel_only = default_mode == ComputeMode::kParallel;
  const int64_t longest =
      parallel_only ? std::min(model.max_sequence_tokens, kMaxParallelTokens) : model.max_sequence_tokens;
  const int64_t half = std::max<int64_t>(max_batch_tokens / 2, 1);
  const int64_t long_row = std::min(half, longest);
  const int64_t short_row = std::clamp<int64_t>(model.info.parallel_max_tokens, 1, longest);

  std::vector<uint32_t> ids(std::max(long_row, short_row));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint32_t>(i % model.info.vocab_size);
  std::vector<Row> rows;
  const auto add = [&](int64_t tokens, RowOutput output) {
    rows.push_back({.ids = absl::MakeConstSpan(ids).first(tokens),
                    .type_ids = {},
                    .mode = ResolveMode(default_mode, tokens, model.info.parallel_max_tokens),
                    .chunk_tokens = 0,
                    .output = output});
  };
  int64_t left = max_batch_tokens;
  if (model.info.classifies) {
    add(1, RowOutput::kLogits);
    --left;
  }
  for (int64_t taken = 0; taken < half && left > 0; taken += long_row) {
    add(std::min(long_row, left), RowOutput::kPooledMean);
    left -= long_row;
  }
  for (; left > 0; left -= short_row) add(std::min(short_row, left), RowOutput::kPooledMean);

  struct Run {
    size_t device;
    absl::Status status;
  };
  std::deque<Run> runs;  // they stay where they are
  std::vector<std::thread> threads;
  for (size_t device = 0; device < model.encoders.size(); ++device) {
    for (int i = 0; i < model.encoders[device]->max_concurrent_batches(); ++i) {
      Run& run = runs.emplace_back(Run{device, absl::OkStatus()});
      threads.emplace_back([&rows, &run, encoder = model.encoders[device]] {
        std::vector<RowResult> results(rows.size());
        run.status = encoder->Encode(rows, absl::MakeSpan(results));
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& [device, status] : runs) {
    if (status.ok()) continue;
    return absl::Status(status.code(), absl::StrCat("model ", model.name, ": warm-up on ", model.info.devices[device],
                                                    " failed: ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace lion
