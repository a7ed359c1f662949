// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_LAUNCH_H_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_LAUNCH_H_

// LION's bidirectional linear attention for all rows and heads of a packed batch on a CUDA device.
//
// The formula and the three forms are those of kernels/cpu/attention.h, whose reference is this kernel's too. A batch
// is cut on the host into segments of one row (PlanAttention); one launch covers rows of mixed lengths and forms. Rows
// of up to kSegmentTokens tokens need one kernel; longer ones pass fp32 states between segments through device memory:
// their sums (kernel 1), their prefixes in both directions (kernel 2), then the outputs (kernel 3).
//
// 16-bit types run on tensor cores: products in the operands' type with fp32 accumulation, decays, sums and states in
// fp32. Chunks have 64 tokens there, whatever chunk_tokens says; LION-LIT has no masks, and its parallel form is its
// chunked one. fp32, and the recurrent form in any type, take a plain kernel: exact and slow (chunks above 64 run as
// 64). A row's bits depend on the row alone: segments and chunks start at its own token 0 and combine in order, without
// atomics. A row's NaN and infinities stay in it.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/kernels/cuda/attention_params.h"
#include "model/types.h"

namespace lion::cuda {

struct PlanRow {
  int64_t L = 0;  // at least 1
  ComputeMode mode = ComputeMode::kChunked;
  int chunk_tokens = 0;  // 0 = kChunkTokens
};

struct AttentionPlan {
  std::vector<Segment> segments;
  std::vector<StateRun> runs;
  int num_states = 0;  // segments that pass states
  bool plain = false;  // AttentionParams::plain for launches that serve this plan alone
};

// Cuts rows, packed in this order, into segments. O(segments). masked: false for LION-LIT alone.
AttentionPlan PlanAttention(absl::Span<const PlanRow> rows, bool masked = true);

// Bytes of AttentionParams::states.
int64_t AttentionStateBytes(int num_states, int H, int D);

// All pointers are device memory, 16-byte aligned. For use in a CUDA graph too. INVALID_ARGUMENT for what the struct
// does not allow; INTERNAL with the CUDA call's name.
absl::Status LaunchAttention(const AttentionParams& params, cudaStream_t stream);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_LAUNCH_H_
