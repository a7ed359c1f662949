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

namespace {

// The rows of a text model's batch, over ids, which they share.
std::vector<Row> TextRows(const ServedModel& model, std::optional<ComputeMode> default_mode,
                          std::vector<uint32_t>* shared_ids) {
  const int64_t max_batch_tokens = model.info.max_batch_tokens;
  const bool parallel_only = default_mode == ComputeMode::kParallel;
  const int64_t longest =
      parallel_only ? std::min(model.max_sequence_tokens, kMaxParallelTokens) : model.max_sequence_tokens;
  const int64_t half = std::max<int64_t>(max_batch_tokens / 2, 1);
  const int64_t long_row = std::min(half, longest);
  const int64_t short_row = std::clamp<int64_t>(model.info.parallel_max_tokens, 1, longest);

  std::vector<uint32_t>& ids = *shared_ids;
  ids.resize(std::max(long_row, short_row));
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
  return rows;
}

// The rows of an image model's batch: as many as fit, and at least one, of the size that it was trained on, or of the
// largest that max_sequence_tokens allows. They share pixels.
std::vector<Row> ImageRows(const ServedModel& model, std::optional<ComputeMode> default_mode,
                           std::vector<float>* pixels) {
  const ModelInfo& info = model.info;
  int64_t S = info.image_size;
  while (!info.image_size_fixed && S > info.patch_size && ImageTokens(S, info.patch_size) > model.max_sequence_tokens) {
    S -= info.patch_size;
  }
  pixels->assign(kImageChannels * S * S, 0.5f);
  Row row;
  row.pixels = *pixels;
  row.image_tokens = ImageTokens(S, info.patch_size);
  row.mode = ResolveMode(default_mode, row.image_tokens, info.parallel_max_tokens);
  std::vector<Row> rows(std::max<int64_t>(info.max_batch_tokens / row.image_tokens, 1), row);
  if (info.classifies) rows.front().output = RowOutput::kLogits;
  return rows;
}

}  // namespace

absl::Status WarmUp(const ServedModel& model, std::optional<ComputeMode> default_mode) {
  std::vector<uint32_t> ids;
  std::vector<float> pixels;
  const std::vector<Row> rows =
      model.info.input == "image" ? ImageRows(model, default_mode, &pixels) : TextRows(model, default_mode, &ids);

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
