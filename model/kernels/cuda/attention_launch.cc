// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/attention_launch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/attention_kernels.h"

namespace lion::cuda {
namespace {

constexpr int64_t kParallelSegment = 2 * kChunkTokens;
// Rows from here on have segments of kMaxSegmentTokens: half the states, and enough segments all the same.
constexpr int64_t kLongRow = 8192;

}  // namespace

AttentionPlan PlanAttention(absl::Span<const PlanRow> rows, bool masked) {
  AttentionPlan plan;
  int64_t row_start = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const PlanRow& row = rows[r];
    const bool parallel = row.mode == ComputeMode::kParallel && masked;
    const bool recurrent = row.mode == ComputeMode::kRecurrent;
    int64_t length = row.L > kLongRow ? kMaxSegmentTokens : kSegmentTokens;
    if (parallel) length = kParallelSegment;
    if (recurrent) length = row.L;
    const int64_t count = (row.L + length - 1) / length;
    const bool passes_states = count > 1 && !parallel;
    if (recurrent) plan.plain = true;
    if (passes_states) plan.runs.push_back({plan.num_states, static_cast<int32_t>(count)});
    for (int64_t s = 0; s < count; ++s) {
      Segment segment;
      segment.start = static_cast<int32_t>(row_start + s * length);
      segment.length = static_cast<int32_t>(std::min(length, row.L - s * length));
      segment.row_start = static_cast<int32_t>(row_start);
      segment.row_length = static_cast<int32_t>(row.L);
      segment.state = passes_states ? plan.num_states++ : -1;
      segment.mode = static_cast<int32_t>(row.mode);
      segment.chunk = row.chunk_tokens > 0 ? row.chunk_tokens : kChunkTokens;
      segment.row = static_cast<int32_t>(r);
      segment.index = static_cast<int32_t>(s);
      segment.count = static_cast<int32_t>(count);
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
  const bool half = p.type == ElementType::kFloat16;
  if (p.y_float32 && !half) return absl::InvalidArgumentError("attention: y_float32 is for float16");
  if (p.type != ElementType::kFloat32 && (p.plain || (half && p.D == 128)) && !p.y_float32 && p.plain_y == nullptr) {
    return absl::InvalidArgumentError("attention: no memory for plain_y");
  }
  if (p.max_segments == 0) return absl::OkStatus();
  if (p.T < 1) return absl::InvalidArgumentError("attention: T is the number of tokens that qkv holds, at least 1");
  LaunchFailure failure;
  if (p.type != ElementType::kFloat32) {
    if (p.max_runs > 0) {
      EnqueueTensorKernel(TensorKernel::kSums, p, stream, &failure);
      EnqueueTensorKernel(TensorKernel::kScan, p, stream, &failure);
    }
    EnqueueTensorKernel(TensorKernel::kOutputs, p, stream, &failure);
  }
  if (failure.error == cudaSuccess && (p.plain || p.type == ElementType::kFloat32)) {
    EnqueuePlainAttention(p, stream, &failure);
  }
  if (failure.error != cudaSuccess) {
    return absl::InternalError(absl::StrCat(failure.call, ": ", cudaGetErrorString(failure.error)));
  }
  return absl::OkStatus();
}

}  // namespace lion::cuda
