// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ROWS_LAUNCH_H_
#define LION_MODEL_KERNELS_CUDA_ROWS_LAUNCH_H_

// What happens to the rows of activations between the matrix products on a CUDA device: embeddings, LayerNorm, gates
// and the rounding to e4m3 fused into one pass over a row, GELU, means, conversions. The formulas are those of
// kernels/cpu/rows.h.
//
// Letters as in LION's formulas: T packed tokens, H heads, E the width of x. Stored widths W are multiples of 16;
// columns past the true width are zero and stay zero, and no mean or variance counts them. Arithmetic and sums are
// fp32, each sum in an order that depends on W alone; there are no atomics: a row's bits depend on the row alone. All
// bound by memory traffic: 16-byte accesses, one warp a row. Reference: kernels/cpu/rows_reference.h.
//
// All pointers are device memory, 16-byte aligned; functions enqueue and never synchronise. Errors: INVALID_ARGUMENT
// for what the structs do not allow, INTERNAL for a launch that failed.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion::cuda {

// The widest row that LayerNorm takes.
inline constexpr int kMaxNormWidth = 8192;
// Rows of one block of a mean's sum.
inline constexpr int kMeanBlockRows = 64;

// LayerNorm's own part. Column c counts if (c & column_mask) < true_width: column_mask -1 for a row that is padded at
// its end, D - 1 for heads that are each padded to D (a power of two).
struct NormParams {
  const float* gamma = nullptr;  // (W), zero in columns that do not count
  const float* beta = nullptr;   // (W), likewise
  float eps = 0;
  int32_t column_mask = -1;
  int32_t true_width = 0;
  int32_t num_true = 0;  // columns that count
};

// The decays of text LION-S, from the normalised row before it is rounded to its type: log_a (T, H) =
// log(1 - sigmoid(w . x + b) + 1e-7), never above 0, in the two halves of kernels/cpu/rows.h.
struct GateParams {
  int H = 0;                      // 0 = no gates
  const float* weight = nullptr;  // PackGates' layout
  const float* bias = nullptr;    // (H)
  float* log_a = nullptr;         // (T, H)
};

// weight (H, E) in the order in which a warp reads it: 256 columns of a head at a time, zero past E.
std::vector<float> PackGates(const float* weight, int64_t H, int64_t E);

// Rows in e4m3, for products in fp8: values (T, W) times scales (T) is what they stand for. A row's scale is its
// largest magnitude over 448 (kMinFp8Largest over 448 for a row of zeros), so that nothing is cut off; each value is
// rounded to the nearest. A row with a NaN or an infinity keeps a NaN.
struct Fp8Rows {
  uint8_t* values = nullptr;  // null = not wanted
  float* scales = nullptr;
};
inline constexpr float kFp8Max = 448;
inline constexpr float kMinFp8Largest = 1e-30f;

// x (T, W) = LayerNorm(words[id] + types[type_id] (+ positions[position])), then the gates. 1 pass: T (2 to 4) W
// elements.
struct EmbedParams {
  ElementType type = ElementType::kBFloat16;  // of x
  int64_t T = 0;
  int W = 0;
  const uint32_t* ids = nullptr;          // (T)
  const uint32_t* type_ids = nullptr;     // (T)
  const uint32_t* positions = nullptr;    // (T); null = the model has no absolute positions
  const float* words = nullptr;           // (vocab_size, W); the tables are fp32
  const float* types = nullptr;           // (type_vocab_size, W)
  const float* position_table = nullptr;  // (max_positions, W)
  NormParams norm;
  GateParams gates;
  void* x = nullptr;
  Fp8Rows fp8;  // the same rows, from fp32
};
absl::Status LaunchEmbed(const EmbedParams& params, cudaStream_t stream);

// out (T, W) = LayerNorm(x), then the gates of the layer that reads it next. 2 T W elements.
struct LayerNormParams {
  ElementType type = ElementType::kBFloat16;  // of x and out
  int64_t T = 0;
  int W = 0;
  const void* x = nullptr;
  bool x_float32 = false;  // x is fp32, out float16: for what float16 does not hold before it is normalised
  NormParams norm;
  GateParams gates;
  void* out = nullptr;  // may be x; null = only the e4m3 rows are wanted
  Fp8Rows fp8;          // the same rows, from fp32
};
absl::Status LaunchLayerNorm(const LayerNormParams& params, cudaStream_t stream);

// The e4m3 rows of x (T, W) as they are. 1.5 T W elements.
struct QuantizeParams {
  ElementType type = ElementType::kBFloat16;  // no other
  int64_t T = 0;
  int W = 0;
  const void* x = nullptr;
  Fp8Rows fp8;
};
absl::Status LaunchQuantize(const QuantizeParams& params, cudaStream_t stream);

// x (n) = x/2 * (1 + erf(x / sqrt 2)) in place, erf as the CPU's rational function; n is a multiple of 16. 2 n
// elements.
absl::Status LaunchGelu(ElementType type, void* x, int64_t n, cudaStream_t stream);

// x (n) = tanh(x), fp32.
absl::Status LaunchTanh(float* x, int64_t n, cudaStream_t stream);

// Up to kMeanBlockRows tokens of one row.
struct TokenBlock {
  int32_t start = 0;  // its first token in the packed batch
  int32_t count = 0;
  int64_t out = 0;  // LaunchTokens: the row of out that its first token goes to
};

// A vector to be made: the mean over count tokens, whose sums are blocks [first_block, first_block + num_blocks). A
// single token's mean is the token itself, bit for bit.
struct PooledRow {
  int32_t first_block = 0;
  int32_t num_blocks = 0;
  int32_t count = 0;
  // 0 = the blocks are added up in order. Else they are at most a group's number, and the first one's group, which ends
  // here, or the next one ends with them: two sums suffice.
  int32_t group_end = 0;
};

// Consecutive blocks that many overlapping means share: they are summed once from the group's start to each of them,
// and once from each of them to the group's end, so that a mean of any length costs the same.
struct BlockGroup {
  int32_t first_block = 0;
  int32_t num_blocks = 0;
};

// pooled (num_rows, W) fp32: means of x (T, W) in blocks of kMeanBlockRows tokens from the row's start, then the
// blocks' sums in order or by groups. sums, prefixes: (num_blocks, W) fp32, scratch; prefixes for groups alone.
struct PoolParams {
  ElementType type = ElementType::kBFloat16;
  int W = 0;
  const void* x = nullptr;
  const TokenBlock* blocks = nullptr;  // (num_blocks)
  int num_blocks = 0;
  const PooledRow* rows = nullptr;  // (num_rows)
  int num_rows = 0;
  const BlockGroup* groups = nullptr;  // (num_groups)
  int num_groups = 0;
  float* sums = nullptr;
  float* prefixes = nullptr;
  float* pooled = nullptr;
};
absl::Status LaunchPool(const PoolParams& params, cudaStream_t stream);

// out (*, E) fp32, dense: the first E columns of the blocks' tokens of x (T, W).
struct TokensParams {
  ElementType type = ElementType::kBFloat16;
  int W = 0;
  int E = 0;
  const void* x = nullptr;
  const TokenBlock* blocks = nullptr;  // (num_blocks)
  int num_blocks = 0;
  float* out = nullptr;
};
absl::Status LaunchTokens(const TokensParams& params, cudaStream_t stream);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ROWS_LAUNCH_H_
