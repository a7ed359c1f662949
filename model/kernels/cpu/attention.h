// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ATTENTION_H_
#define LION_MODEL_KERNELS_CPU_ATTENTION_H_

// LION's bidirectional linear attention for one head of one sequence, in its three exact forms.
//
//   y_i = scale * sum_j (q_i . k_j) * M_ij * v_j          i, j in [0, L)
//   M_ij = prod_{t=j}^{i-1} a_t (j < i),  prod_{t=i+1}^{j} a_t (j > i),  1 (j = i)         a_t = exp(log_a[t])
//
// kParallel   O(L^2 D): blocks of 64 x 64 of M, never all of it. Between blocks M factors into a decay to the block's
// end,
//             the product of whole blocks between, and a decay from the block's start.
// kChunked    O(L (C + D) D): the parallel form inside chunks of C tokens; a D x D state passes between them, once in
//             each direction: F_{c+1} = A_c F_c + sum_j (prod_{t=j}^{e-1} a_t) k_j v_j^T, and B_c its mirror image.
// kRecurrent  O(L D^2): the chunked form with C = 1, one token at a time; its memory is the state alone.
// LION-LIT (no log_a) has M = 1: chunked and recurrent sum one state and apply it to every q.
//
// Arithmetic is fp32 whatever the type of q, k and v, except on matrix tiles (attention_amx.h). Decays are exponentials
// of differences of sums over at most 64 tokens, made in fp64, so every exponent is <= 0 and keeps its digits; longer
// spans multiply block decays, and so do the rows of M inside a block. Every sum runs in the order of the tokens, from
// the row's own token 0 (and its end): a row's bits depend on nothing outside it.
//
// Bound by the products' FMA throughput.
// Reference: attention_reference.h. Runs on the widest of SSE4, AVX2, AVX-512 that the CPU has.

#include <cstdint>
#include <string>
#include <vector>

#include "model/types.h"

namespace lion {

// To be raised when the forms' speeds change against each other: crossovers measured before are then forgotten.
inline constexpr int kAttentionRevision = 3;

// The instruction set in use, by Highway's name; "+AMX" where matrix tiles take bfloat16.
std::string AttentionTarget();

// Tokens of a block of M, and the most that a decay's sum runs over.
inline constexpr int kAttentionBlock = 64;

struct AttentionParams {
  int64_t L = 0;            // tokens, >= 1
  int D = 0;                // width of the head, 1 ... kMaxHeadWidth
  int value_width = 0;      // columns of v and y where they are more than D, at most kMaxValueWidth; 0 = D
  float scale = 1;          // 1 / sqrt(D)
  bool bfloat16 = false;    // q, k, v are bfloat16, else float
  const void* q = nullptr;  // (L, D), token t at element t * stride
  const void* k = nullptr;
  const void* v = nullptr;  // (L, value_width), token t at element t * v_stride
  int64_t stride = 0;       // elements between tokens of q and k, and of v where v_stride is 0
  int64_t v_stride = 0;
  const float* log_a = nullptr;  // (L), each in [-80, 0]; null = LION-LIT
  int64_t log_a_stride = 0;      // elements between tokens; 0 = the same for all (LION-D)
  float* y = nullptr;            // (L, value_width), token t at element t * y_stride; may not overlap q, k, v
  int64_t y_stride = 0;
  ComputeMode mode = ComputeMode::kParallel;
  int C = 0;  // tokens of a chunk, 1 ... kMaxChunkTokens; read by kChunked only
  // Where the tokens are a span of a longer row, in kChunked and kRecurrent: the states (D, PaddedHeadWidth(width of
  // v)) that
  // reach its first token from before, F, and its last from behind, B. null = none. LION-LIT's F is the whole row's
  // sum and it has no B.
  const float* state_before = nullptr;
  const float* state_after = nullptr;
};

// The width of a state's rows: that of v, rounded up to 16.
inline int64_t PaddedHeadWidth(int64_t D) { return (D + 15) / 16 * 16; }

// The widest v: a head of kMaxHeadWidth with a column beside it, padded.
inline constexpr int kMaxValueWidth = kMaxHeadWidth + 16;

// Buffers that are kept between calls; grows to the largest row seen in kParallel. One a thread.
class AttentionScratch {
 public:
  // A 64-byte aligned array of n floats, whose contents are of no interest; slot names it, so that two can be held at
  // once.
  float* Get(int slot, int64_t n);

 private:
  static constexpr int kSlots = 12;
  std::vector<float> slots_[kSlots];
};

// Threads: any, with a scratch of their own.
void AttendHead(const AttentionParams& params, AttentionScratch* scratch);

// What the tokens add to the states that pass through them: forward (D, PaddedHeadWidth(width of v)) = F at their end
// and backward = B at their start, both from none, and decay = the product of all their decays. LION-LIT: forward is
// the sum, backward is left alone and decay is 1. Reads neither q nor y; mode and C say in what steps. Threads as
// above.
void SummarizeHead(const AttentionParams& params, float* forward, float* backward, float* decay,
                   AttentionScratch* scratch);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ATTENTION_H_
