// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_PARAMS_H_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_PARAMS_H_

// What the attention kernels read: plain structs, no library of the host's.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace lion::cuda {

// A row of more tokens passes states between segments through device memory; no segment of such a row but the last is
// shorter.
inline constexpr int kSegmentTokens = 512;
inline constexpr int kMaxSegmentTokens = 1024;
// C of the chunked form on this device: a tile of the tensor cores.
inline constexpr int kChunkTokens = 64;

enum class ElementType : int32_t { kFloat32, kBFloat16, kFloat16 };

// One segment of one row. All counts are tokens.
struct Segment {
  int32_t start = 0;      // of the segment in the packed batch
  int32_t length = 0;     // 1 ... kMaxSegmentTokens; a recurrent row is one segment
  int32_t row_start = 0;  // of its row in the packed batch
  int32_t row_length = 0;
  int32_t state = -1;            // its index among the segments that pass states; -1 = none passes to it
  int32_t mode = 0;              // ComputeMode
  int32_t chunk = kChunkTokens;  // C of kChunked
  int32_t row = 0;
  int32_t index = 0;  // among its row's segments
  int32_t count = 1;  // segments of its row
};

// The segments of one row that pass states, for the prefix kernel.
struct StateRun {
  int32_t first = 0;  // state index of the row's first segment
  int32_t count = 0;  // at least 2
};

struct AttentionParams {
  ElementType type = ElementType::kBFloat16;  // of q, k, v and y
  int H = 0;
  int D = 0;                  // stored width of a head: 32, 64 or 128; columns past the true width are zero
  float scale = 1;            // 1 / sqrt(true width)
  int64_t T = 0;              // tokens that qkv has memory for, at least those of the plan
  const void* qkv = nullptr;  // (T, 3, H, D): q, k, v of a token side by side
  // log a, each in [-80, 0]. (T, H) for LION-S; (H) for LION-D with log_a_token_stride 0; null = LION-LIT.
  const float* log_a = nullptr;
  int64_t log_a_token_stride = 0;
  // (T, H, D), of the type. What lies in it between is of no use: the kernels keep states there until they write y. In
  // float16 a y beyond 65,504 becomes infinity; scores and states that y is made of stay right well beyond that.
  void* y = nullptr;
  bool y_float32 = false;  // with kFloat16: y is fp32, for what normalises it
  // The plan on the device. Grids are max_segments * H and max_runs * H; blocks past the counts exit, so that one CUDA
  // graph serves every plan within the maxima.
  const Segment* segments = nullptr;
  const StateRun* runs = nullptr;
  const int32_t* counts = nullptr;  // {number of segments, number of runs}
  int max_segments = 0;
  int max_runs = 0;
  int max_states = 0;
  // A row of a plan that these launches are to serve may be recurrent; false leaves the plain kernel out.
  bool plain = true;
  // Where the plain kernel adds up y before it rounds it: (T, H, D). Used in 16-bit types if plain is set, and in
  // kFloat16 with D = 128; not where y is fp32.
  float* plain_y = nullptr;
  void* states = nullptr;  // AttentionStateBytes(max_states, H, D); null if max_runs is 0
};

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_PARAMS_H_
