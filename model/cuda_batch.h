// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_BATCH_H_
#define LION_MODEL_CUDA_BATCH_H_

// A batch for a CUDA device, planned on the host: what it counts, where its arrays lie in the device's buffers, and
// what goes up. Plain arithmetic on plain structs: no CUDA call is made here, and none is needed to test it.
//
//   CudaBatch batch;
//   PlanBatch(shape, rows, &batch);                      // once a batch
//   CudaLayout layout = ArrangeBatch(shape, batch.counts);
//   FillUpload(shape, batch, layout, pinned);            // pinned: layout.upload_bytes
//   ... the device computes; answers come down ...
//   TakeAnswers(shape, batch, layout, answers, results);
//
// Three buffers: what is uploaded (ids, the attention's plan, the heads' rows), what is worked on, what comes down.
// Letters as in LION's formulas: T packed tokens, H heads of D columns, E the width of x, FF of the feed-forward part;
// a p behind one is its stored, padded width. Functions are thread-safe as long as no two write into one object.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/config.h"
#include "model/encoder.h"
#include "model/kernels/cuda/attention_launch.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {

// What a vector leaves through.
enum CudaHead { kPooledHead = 0, kClassifiedHead = 1, kNumCudaHeads = 2 };

// A model's widths, as they are and as the device stores them: E and FF padded to multiples of 16, a head to 32, 64 or
// 128 columns. Heads' widths are known once their weights are (model/cuda_weights.h).
struct CudaShape {
  Variant variant = Variant::kLit;
  cuda::ElementType type = cuda::ElementType::kBFloat16;  // of x and the products
  int64_t element = 2;                                    // its bytes
  bool fp8 = false;        // the products' operands are e4m3; x, what is added to it, q, k, v and y are of the type
  bool y_float32 = false;  // float16 with layer_norm_after: y is fp32 until it is normalised
  int chunk_tokens = cuda::kChunkTokens;  // C where a row names none
  bool positions = false;                 // a text model that adds absolute positions
  // Of an image encoder (kernels/cuda/image_launch.h); 0 and 1 of text.
  bool image = false;
  int64_t patch = 0;        // p: pixels a side
  int64_t patch_width = 0;  // 3 p p, and stored
  int64_t patch_width_p = 0;
  int64_t num_paths = 1;         // P
  bool classifies_mean = false;  // logits are made from the mean over the rows, not from row 0
  int64_t E = 0;
  int64_t Ep = 0;
  int64_t H = 0;
  int64_t D = 0;
  int64_t Dp = 0;
  int64_t FF = 0;
  int64_t FFp = 0;
  int64_t max_head_width = 0;                 // the widest vector on its way through the heads, stored
  int64_t answer_width[kNumCudaHeads] = {};   // of what a head gives
  int64_t answer_stride[kNumCudaHeads] = {};  // the same, stored

  // Heads that attention runs over: a picture's have their row sums beside them, on every path.
  int64_t attention_heads() const { return image ? 2 * num_paths * H : H; }
  // Gates of a token in a layer.
  int64_t num_gates() const { return variant == Variant::kS ? num_paths * H : 0; }
};

// The shape of a model without Dense or classifier.
CudaShape MakeCudaShape(const ModelConfig& config, DType dtype, int chunk_tokens);

// How much of everything a batch has, or at most has.
struct CudaCounts {
  int64_t T = 0;
  int64_t segments = 0;
  int64_t runs = 0;
  int64_t states = 0;
  int64_t token_blocks = 0;
  int64_t token_rows = 0;  // tokens that are answers themselves
  int64_t blocks[kNumCudaHeads] = {};
  int64_t rows[kNumCudaHeads] = {};
  int64_t groups[kNumCudaHeads] = {};
  bool plain = false;  // AttentionParams' member of the same name
  // Of a batch that runs in steps (model/cuda_document.h); 0 elsewhere.
  int64_t tile = 0;            // tokens that there is room for where only a tile's are needed at a time; 0 = T
  int64_t span = 0;            // tokens that there is room for in q, k, v and y; 0 = T
  int64_t slices = 0;          // for which the attention's kernels are launched one by one
  int64_t again_segments = 0;  // whose sums are made twice
  int64_t again_states = 0;    // of a slice's, at most
};

// One batch. Borrows the rows it was planned from.
struct CudaBatch {
  absl::Span<const Row> rows;
  CudaCounts counts;
  cuda::AttentionPlan plan;
  std::vector<cuda::TokenBlock> token_blocks;
  // Vectors that leave through the same head.
  struct Group {
    std::vector<cuda::TokenBlock> blocks;
    std::vector<cuda::PooledRow> rows;
    std::vector<cuda::BlockGroup> groups;
    std::vector<size_t> indices;       // into CudaBatch::rows
    std::vector<int64_t> num_vectors;  // of each of them: a row has several where it is cut into windows
  };
  Group groups[kNumCudaHeads];
  // Of a batch that runs in steps (model/cuda_document.h).
  std::vector<int32_t> slice_counts;  // (slices, 2): what AttentionParams::counts reads for a slice
  std::vector<cuda::Segment> again;   // plan.segments with states that count from their slice's first
};

// Replaces *batch. Rows are valid (model/row_check.h); of their ids only the number is read.
//
// Windows are means like any other: of the sums of blocks that start at the window's first token, or, where that makes
// fewer of them, of blocks that windows share. Those start at multiples of g = gcd(window_tokens, window_stride), which
// all windows' borders are. Where windows overlap so much that each would add up many of those, blocks are summed in
// groups as long as a window (cuda::BlockGroup). A window as long as its row has the bits of kPooledMean, and so has
// the vector of with_document, whose blocks are its own. No row has more blocks, or more vectors, than tokens but for
// those.
void PlanBatch(const CudaShape& shape, absl::Span<const Row> rows, CudaBatch* batch);

// The tokens of a batch for whose parts there is room (MaxCounts): its own, and the blocks of with_document.
int64_t TokensOfRoom(absl::Span<const Row> rows);

// No batch of T tokens (TokensOfRoom) exceeds this in anything.
CudaCounts MaxCounts(const CudaShape& shape, int64_t T);

// A CUDA graph's launches are fixed, the plan that they read is not: one graph serves every batch that counts no more
// of anything than its bucket. Tokens past the batch's own are padding.
struct CudaBucket {
  int64_t T = 0;
  int64_t segments = 0;
  int64_t runs = 0;  // 0 = no row of the batch passes states
  int64_t states = 0;
};

// The buckets of up to max_tokens tokens, in the order in which ChooseBucket looks: by T, those without states first.
std::vector<CudaBucket> MakeBuckets(int64_t max_tokens);

// The index of the first bucket that serves a batch of these counts; -1 where none does, or a row takes attention's
// plain kernel.
int ChooseBucket(absl::Span<const CudaBucket> buckets, const CudaCounts& counts);

// counts with what EnqueueForward reads of them raised to the bucket's, the same for every batch in the bucket. What
// the heads read stays the batch's own.
CudaCounts InBucket(const CudaBucket& bucket, CudaCounts counts);

// Offsets in bytes into the three buffers, each a multiple of 256, and their sizes. What a forward pass reads lies
// before what the heads read, so its offsets depend on counts' T, segments, runs and states alone.
struct CudaLayout {
  int64_t T = 0;  // tokens that there is room for
  // Uploaded.
  int64_t ids = 0;
  int64_t type_ids = 0;
  int64_t positions = 0;
  int64_t pixels = 0;  // of pictures: (T, 3 p p) fp32, each picture's from its first token on
  int64_t segments = 0;
  int64_t runs = 0;
  int64_t plan_counts = 0;  // int32: number of segments, number of runs
  int64_t slice_counts = 0;
  int64_t again_segments = 0;
  int64_t token_blocks = 0;
  int64_t blocks[kNumCudaHeads] = {};
  int64_t rows[kNumCudaHeads] = {};
  int64_t groups[kNumCudaHeads] = {};
  int64_t upload_bytes = 0;
  // Of pictures, ids, type_ids and positions are a token's index in its picture, that picture's first token, and its
  // patches a side.
  // Worked on. Arrays whose lives do not meet share a place: {qkv, path_qkv, path_y, y, plain_y, y_fp8}, {hidden},
  // {patches} and {sums, vectors}; in
  // a batch that runs in steps, hidden, normal_y and y_fp8 have places of their own. t is the number of tokens in a
  // tile, s in a span: both T but in steps.
  int64_t x = 0;           // (T, Ep)
  int64_t sum = 0;         // (t, Ep): x and what a product adds to it, before LayerNorm
  int64_t log_a = 0;       // (T, gates) fp32
  int64_t path_log_a = 0;  // pictures: (T, attention's heads) fp32
  int64_t normed = 0;      // pictures: (T, Ep), LayerNorm(x)
  int64_t states = 0;
  int64_t again_states = 0;
  int64_t qkv = 0;       // (s, 3, H, Dp)
  int64_t path_qkv = 0;  // pictures: (T, 3, attention's heads, Dp)
  int64_t path_y = 0;    // pictures: (T, attention's heads, Dp), fp32 with y_float32
  int64_t y = 0;         // (s, H, Dp), fp32 with y_float32; of pictures of the type always
  int64_t plain_y = 0;   // (s, attention's heads, Dp) fp32, where a row takes attention's plain kernel
  int64_t normal_y = 0;  // (t, H, Dp): y_float32's y after its LayerNorm; where q was but in steps
  int64_t hidden = 0;    // (t, FFp), e4m3 with fp8
  int64_t patches = 0;   // pictures: (T, patch_width_p)
  int64_t x_fp8 = 0;     // fp8: (T, Ep) e4m3, and their scales (T)
  int64_t x_scales = 0;
  int64_t y_fp8 = 0;  // fp8: (t, H, Dp) e4m3, and their scales (t)
  int64_t y_scales = 0;
  int64_t sums = 0;         // (blocks, Ep) fp32
  int64_t prefixes = 0;     // the same, where there are groups; in the place of vectors[1]
  int64_t vectors[2] = {};  // (rows, max_head_width) fp32, in turn
  int64_t work_bytes = 0;
  // Downloaded, fp32.
  int64_t tokens = 0;                   // (token_rows, E)
  int64_t answers[kNumCudaHeads] = {};  // (rows, answer_stride)
  int64_t answer_bytes = 0;

  int64_t device_bytes() const { return upload_bytes + work_bytes + answer_bytes; }
};

// The sizes of the three buffers.
struct CudaBytes {
  int64_t upload = 0;
  int64_t work = 0;
  int64_t answers = 0;
};

// Room for a batch of these counts, or for any that does not exceed them. T is at least 1.
CudaLayout ArrangeBatch(const CudaShape& shape, const CudaCounts& counts);

// Enough for any batch of at most T tokens, in any rows, forms and outputs.
CudaBytes BytesForTokens(const CudaShape& shape, int64_t T);

// The largest multiple of kTokenStep, at most kMaxDerivedTokens, whose buffers fit into bytes of device memory with
// num_slots batches in flight, which share what is worked on. 0 = not even kTokenStep tokens fit.
inline constexpr int64_t kTokenStep = 1024;
inline constexpr int64_t kMaxDerivedTokens = 65536;  // batches beyond it gain nothing
int64_t TokensForBytes(const CudaShape& shape, int num_slots, int64_t bytes);

// Writes what goes up into to (layout.upload_bytes). The layout has room for batch.counts; ids of padding are 0. Of
// pictures without pixels, which only a measurement makes, there is nothing to write but where their tokens stand.
void FillUpload(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, char* to);

// Fills results[b] for every row b from what came down (layout.answer_bytes).
void TakeAnswers(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, const char* from,
                 absl::Span<RowResult> results);

}  // namespace lion

#endif  // LION_MODEL_CUDA_BATCH_H_
