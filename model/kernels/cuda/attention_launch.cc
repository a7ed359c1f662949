// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/attention_launch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lion::cuda {

AttentionPlan PlanAttention(absl::Span<const PlanRow> rows) {
  AttentionPlan plan;
  int64_t row_start = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const PlanRow& row = rows[r];
    const int chunk = row.chunk_tokens > 0 ? row.chunk_tokens : kChunkTokens;
    const int64_t count = (row.L + kSegmentTokens - 1) / kSegmentTokens;
    // The parallel form needs no states, and the plain kernel keeps its own.
    const bool passes_states = count > 1 && row.mode == ComputeMode::kChunked && chunk == kChunkTokens;
    if (row.L > kChunkTokens) plan.only_one_tile = false;
    if (row.mode == ComputeMode::kRecurrent || (row.mode == ComputeMode::kChunked && chunk != kChunkTokens)) {
      plan.plain = true;
    }
    if (passes_states) {
      StateRun run;
      run.first = plan.num_states;
      run.count = static_cast<int32_t>(count);
      plan.runs.push_back(run);
    }
    for (int64_t s = 0; s < count; ++s) {
      Segment segment;
      segment.start = static_cast<int32_t>(row_start + s * kSegmentTokens);
      segment.length = static_cast<int32_t>(std::min<int64_t>(kSegmentTokens, row.L - s * kSegmentTokens));
      segment.row_start = static_cast<int32_t>(row_start);
      segment.row_length = static_cast<int32_t>(row.L);
      segment.state = passes_states ? plan.num_states++ : -1;
      segment.mode = static_cast<int32_t>(row.mode);
      segment.chunk = chunk;
      segment.row = static_cast<int32_t>(r);
      plan.segments.push_back(segment);
    }
    row_start += row.L;
  }
  return plan;
}

int64_t AttentionStateBytes(int num_states, int H, int D) {
  // For each segment and head: the forward and the backward state, and the product of the segment's decays.
  return static_cast<int64_t>(num_states) * H * (2 * static_cast<int64_t>(D) * D + 1) *
         static_cast<int64_t>(sizeof(float));
}

absl::Status LaunchAttention(const AttentionParams& p, cudaStream_t stream) {
  if (p.D != 32 && p.D != 64 && p.D != 128) {
    return absl::InvalidArgumentError(absl::StrCat("attention: heads of ", p.D, " columns, stored are 32, 64 or 128"));
  }
  if (p.H < 1 || p.max_segments < 0 || (p.max_runs > 0 && p.states == nullptr)) {
    return absl::InvalidArgumentError("attention: no heads, or no memory for the states");
  }
  if (p.type != ElementType::kFloat32 && (p.plain || p.D == 128) && p.plain_y == nullptr) {
    return absl::InvalidArgumentError("attention: no memory for plain_y");
  }
  if (p.max_segments == 0) return absl::OkStatus();
  const char* call = "";
  const cudaError_t error = EnqueueAttention(p, stream, &call);
  if (error != cudaSuccess) return absl::InternalError(absl::StrCat(call, ": ", cudaGetErrorString(error)));
  return absl::OkStatus();
}

}  // namespace lion::cuda
