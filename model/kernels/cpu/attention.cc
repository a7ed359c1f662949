// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/attention.h"

#include <algorithm>

// SSE4 (the baseline), AVX2 and AVX-512 are enough: what lies between them has the same vectors.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "model/kernels/cpu/attention_amx.h"
#include "model/kernels/cpu/cpu_features.h"
#include "model/kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lion {
namespace HWY_NAMESPACE {

constexpr int kBlock = kAttentionBlock;

// y[0, n) = exp(x[0, n)) in whole vectors: both have room for n rounded up to kPad.
HWY_ATTR void ExpAll(const float* x, int64_t n, float* y) {
  const F32 d;
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(hn::Exp(d, hn::LoadU(d, x + i)), d, y + i);
}

// row[j] *= f * g[j] for j in [0, n), whole vectors.
HWY_ATTR void ScaleRow(float* row, float f, const float* g, int64_t n) {
  const F32 d;
  const V scale = hn::Set(d, f);
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(hn::Mul(hn::LoadU(d, row + j), hn::Mul(scale, hn::LoadU(d, g + j))), d, row + j);
  }
}

HWY_ATTR void ScaleAll(float* x, float f, int64_t n) {
  const F32 d;
  const V scale = hn::Set(d, f);
  for (int64_t j = 0; j < n; j += static_cast<int64_t>(hn::Lanes(d)))
    hn::StoreU(hn::Mul(hn::LoadU(d, x + j), scale), d, x + j);
}

// Token t of q, k or v, whose width and stride these are, zero from there to padded.
HWY_ATTR void LoadVector(const AttentionParams& p, const void* base, int64_t stride, int64_t t, float* dst, int width,
                         int padded) {
  const F32 d;
  const int N = static_cast<int>(hn::Lanes(d));
  int e = 0;
  if (p.bfloat16) {
    const hn::Rebind<hwy::bfloat16_t, F32> d16;
    const uint16_t* src = static_cast<const uint16_t*>(base) + t * stride;
    for (; e + N <= width; e += N) {
      hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::bfloat16_t*>(src + e))), d, dst + e);
    }
    for (; e < width; ++e) {
      const uint32_t bits = static_cast<uint32_t>(src[e]) << 16;
      hwy::CopyBytes<4>(&bits, dst + e);
    }
  } else {
    const float* src = static_cast<const float*>(base) + t * stride;
    for (; e + N <= width; e += N) hn::StoreU(hn::LoadU(d, src + e), d, dst + e);
    for (; e < width; ++e) dst[e] = src[e];
  }
  for (; e < padded; ++e) dst[e] = 0;
}

// The decays of one block of n <= 64 tokens, with everything that the forms take from them. Sums are made in fp64, so
// that however many gates close their differences lose nothing. Read in whole vectors.
struct BlockDecays {
  alignas(64) float a[kBlock];
  alignas(64) float pre[kBlock];       // prod of a over [start, i):  what q_i sees of a state at the block's start
  alignas(64) float suf[kBlock];       // prod of a over [j, end):    what k_j leaves in a state at the block's end
  alignas(64) float back_pre[kBlock];  // prod of a over [start, j]:  what k_j leaves in a state at the start, backward
  alignas(64) float back_suf[kBlock];  // prod of a over (i, end):    what q_i sees of a state at the end, backward
  float all = 1;                       // prod of a over the block
};

HWY_ATTR void MakeDecays(const AttentionParams& p, int64_t start, int n, BlockDecays& out) {
  if (p.log_a == nullptr) {
    for (float* x : {out.pre, out.suf, out.back_pre, out.back_suf}) std::fill(x, x + kBlock, 1.f);
    out.all = 1;
    return;
  }
  double c[kBlock + 1] = {0};
  for (int i = 0; i < n; ++i) c[i + 1] = c[i] + static_cast<double>(p.log_a[(start + i) * p.log_a_stride]);
  alignas(64) float log_a[kBlock];
  alignas(64) float to_before[kBlock];
  alignas(64) float to_through[kBlock];
  alignas(64) float to_end_from[kBlock];
  alignas(64) float to_end_after[kBlock];
  const int padded = static_cast<int>(Padded(n));
  for (int i = 0; i < padded; ++i) {
    const double before = c[std::min(i, n)];
    const double through = c[std::min(i + 1, n)];
    log_a[i] = static_cast<float>(through - before);
    to_before[i] = static_cast<float>(before);
    to_through[i] = static_cast<float>(through);
    to_end_from[i] = static_cast<float>(c[n] - before);
    to_end_after[i] = static_cast<float>(c[n] - through);
  }
  ExpAll(log_a, padded, out.a);
  ExpAll(to_before, padded, out.pre);
  ExpAll(to_through, padded, out.back_pre);
  ExpAll(to_end_from, padded, out.suf);
  ExpAll(to_end_after, padded, out.back_suf);
  out.all = out.back_pre[n - 1];
}

// scores (n x n, rows kBlock apart) *= scale * M inside one block.
// A row of M is its neighbour's times one a: products of at most 63 factors, and no exponentials.
HWY_ATTR void MaskDiagonal(const AttentionParams& p, const BlockDecays& decays, int n, float* scores) {
  const F32 d;
  const int N = static_cast<int>(hn::Lanes(d));
  const V scale = hn::Set(d, p.scale);
  if (p.log_a == nullptr) {
    for (int i = 0; i < n; ++i) ScaleAll(scores + i * kBlock, p.scale, n);
    return;
  }
  alignas(64) float m[kBlock] = {};  // scale * M_ij on one side of the diagonal
  // Above it, from the last row up: M_{i-1,j} = a_i M_ij.
  for (int i = n - 1; i >= 0; --i) {
    float* row = scores + i * kBlock;
    const V self = hn::Set(d, static_cast<float>(i));
    const V a = hn::Set(d, decays.a[i]);
    for (int j = i / N * N; j < n; j += N) {
      const V index = hn::Iota(d, static_cast<float>(j));
      const V x = hn::LoadU(d, row + j);
      const V here = hn::Load(d, m + j);
      hn::StoreU(hn::IfThenElse(hn::Gt(index, self), hn::Mul(x, here), x), d, row + j);
      hn::Store(hn::Mul(a, hn::IfThenElse(hn::Eq(index, self), scale, here)), d, m + j);
    }
  }
  // On it and below, from the first row down: M_{i+1,j} = a_i M_ij.
  std::fill(m, m + kBlock, 0.f);
  for (int i = 0; i < n; ++i) {
    float* row = scores + i * kBlock;
    const V self = hn::Set(d, static_cast<float>(i));
    const V a = hn::Set(d, decays.a[i]);
    for (int j = 0; j <= i; j += N) {
      const V index = hn::Iota(d, static_cast<float>(j));
      const V x = hn::LoadU(d, row + j);
      const V here = hn::IfThenElse(hn::Eq(index, self), scale, hn::Load(d, m + j));
      hn::StoreU(hn::IfThenElse(hn::Gt(index, self), x, hn::Mul(x, here)), d, row + j);
      hn::Store(hn::Mul(a, here), d, m + j);
    }
  }
}

// What AttendHead keeps at hand.
struct Head {
  const AttentionParams& p;
  AttentionScratch* scratch;
  int key_width;    // D padded to kPad: the rows of q and k
  int value_width;  // of v
  int W;            // that padded to kPad: the rows of v, y and the states
  int64_t v_stride;
};

Head MakeHead(const AttentionParams& p, AttentionScratch* scratch) {
  const int width = p.value_width > 0 ? p.value_width : p.D;
  return {p,
          scratch,
          static_cast<int>(Padded(p.D)),
          width,
          static_cast<int>(Padded(width)),
          p.v_stride > 0 ? p.v_stride : p.stride};
}

enum Slot { kSlotQ, kSlotK, kSlotKT, kSlotV, kSlotScores, kSlotOut, kSlotState, kSlotDecays, kSlotScaledV, kSlotInter };

// Rows of q, k or v, widened and padded to key_width or W: as they lie, where they are that already, else a copy.
struct Rows {
  const float* data = nullptr;
  int64_t stride = 0;
};

HWY_ATTR Rows Widen(const Head& h, const void* base, int64_t stride, int width, int64_t start, int n, float* copy) {
  const int padded = static_cast<int>(Padded(width));
  if (!h.p.bfloat16 && width == padded) return {static_cast<const float*>(base) + start * stride, stride};
  for (int i = 0; i < n; ++i) LoadVector(h.p, base, stride, start + i, copy + i * padded, width, padded);
  return {copy, padded};
}

HWY_ATTR Rows PackQ(const Head& h, int64_t start, int n) {
  return Widen(h, h.p.q, h.p.stride, h.p.D, start, n, h.scratch->Get(kSlotQ, kBlock * h.key_width));
}
HWY_ATTR Rows PackK(const Head& h, int64_t start, int n, float* copy) {
  return Widen(h, h.p.k, h.p.stride, h.p.D, start, n, copy);
}
HWY_ATTR Rows PackV(const Head& h, int64_t start, int n, float* copy) {
  return Widen(h, h.p.v, h.v_stride, h.value_width, start, n, copy);
}

// kt (D x kBlock): k of a block, transposed, zero past n.
HWY_ATTR void TransposeK(const Head& h, const Rows& k, int n, float* kt) {
  for (int j = 0; j < n; ++j) {
    const float* row = k.data + j * k.stride;
    for (int e = 0; e < h.p.D; ++e) kt[e * kBlock + j] = row[e];
  }
  const auto padded = static_cast<int>(Padded(n));
  for (int e = 0; e < h.p.D; ++e) std::fill(kt + e * kBlock + n, kt + e * kBlock + padded, 0.f);
}

HWY_ATTR void StoreY(const Head& h, int64_t start, int n, const float* out, bool accumulate) {
  for (int i = 0; i < n; ++i) {
    float* y = h.p.y + (start + i) * h.p.y_stride;
    const float* row = out + i * h.W;
    if (accumulate) {
      for (int e = 0; e < h.value_width; ++e) y[e] += row[e];
    } else {
      for (int e = 0; e < h.value_width; ++e) y[e] = row[e];
    }
  }
}

// The blocks of a range of tokens [start, end).
struct Range {
  int64_t start = 0;
  int64_t end = 0;
  int64_t num_blocks = 0;
  Rows k;
  Rows v;
  float* kt = nullptr;  // (num_blocks, D, kBlock), if asked for
  BlockDecays* decays = nullptr;
  int64_t BlockStart(int64_t b) const { return start + b * kBlock; }
  int BlockSize(int64_t b) const { return static_cast<int>(std::min<int64_t>(kBlock, end - BlockStart(b))); }
  Rows K(int64_t b) const { return {k.data + b * kBlock * k.stride, k.stride}; }
  Rows Values(int64_t b) const { return {v.data + b * kBlock * v.stride, v.stride}; }
};

HWY_ATTR Range PackRange(const Head& h, int64_t start, int64_t end, bool for_scores) {
  Range r;
  r.start = start;
  r.end = end;
  r.num_blocks = (end - start + kBlock - 1) / kBlock;
  const int n = static_cast<int>(end - start);
  r.k = PackK(h, start, n, h.scratch->Get(kSlotK, r.num_blocks * kBlock * h.key_width));
  r.v = PackV(h, start, n, h.scratch->Get(kSlotV, r.num_blocks * kBlock * h.W));
  if (for_scores) r.kt = h.scratch->Get(kSlotKT, r.num_blocks * h.p.D * kBlock);
  static_assert(sizeof(BlockDecays) % sizeof(float) == 0 && alignof(BlockDecays) == 64);
  r.decays = reinterpret_cast<BlockDecays*>(
      h.scratch->Get(kSlotDecays, r.num_blocks * static_cast<int64_t>(sizeof(BlockDecays) / sizeof(float))));
  for (int64_t b = 0; b < r.num_blocks; ++b) {
    if (for_scores) TransposeK(h, r.K(b), r.BlockSize(b), r.kt + b * h.p.D * kBlock);
    MakeDecays(h.p, r.BlockStart(b), r.BlockSize(b), r.decays[b]);
  }
  return r;
}

// out (n_i x W) += [scores of block I against block J, masked] v_J. G: the product of the blocks strictly between.
HWY_ATTR void AddBlock(const Head& h, const Range& r, const Rows& q, int64_t I, int64_t J, float G, float* out) {
  const int n_i = r.BlockSize(I);
  const int n_j = r.BlockSize(J);
  float* scores = h.scratch->Get(kSlotScores, kBlock * kBlock);
  Gemm(n_i, Padded(n_j), h.p.D, q.data, q.stride, 1, r.kt + J * h.p.D * kBlock, kBlock, scores, kBlock, false);
  if (I == J) {
    MaskDiagonal(h.p, r.decays[I], n_i, scores);
  } else {
    const float* row_decay = J < I ? r.decays[I].pre : r.decays[I].back_suf;
    const float* column_decay = J < I ? r.decays[J].suf : r.decays[J].back_pre;
    for (int i = 0; i < n_i; ++i) ScaleRow(scores + i * kBlock, h.p.scale * row_decay[i] * G, column_decay, n_j);
  }
  const Rows v = r.Values(J);
  Gemm(n_i, h.W, n_j, scores, kBlock, 1, v.data, v.stride, out, h.W, true);
}

// out (n_i x W) = block I of the parallel form over the range.
HWY_ATTR void ParallelBlock(const Head& h, const Range& r, const Rows& q, int64_t I, float* out) {
  std::fill(out, out + r.BlockSize(I) * h.W, 0.f);
  AddBlock(h, r, q, I, I, 1, out);
  float G = 1;
  for (int64_t J = I - 1; J >= 0; --J) {
    AddBlock(h, r, q, I, J, G, out);
    G *= r.decays[J].all;
  }
  G = 1;
  for (int64_t J = I + 1; J < r.num_blocks; ++J) {
    AddBlock(h, r, q, I, J, G, out);
    G *= r.decays[J].all;
  }
}

HWY_ATTR void Parallel(const Head& h) {
  const Range r = PackRange(h, 0, h.p.L, true);
  float* out = h.scratch->Get(kSlotOut, kBlock * h.W);
  for (int64_t I = 0; I < r.num_blocks; ++I) {
    ParallelBlock(h, r, PackQ(h, r.BlockStart(I), r.BlockSize(I)), I, out);
    StoreY(h, r.BlockStart(I), r.BlockSize(I), out, false);
  }
}

// out (n x W) += scale * f[i] * g * (q_i^T state)
HWY_ATTR void AddFromState(const Head& h, const Rows& q, int n, const float* state, const float* f, float g,
                           float* out) {
  const F32 d;
  float* inter = h.scratch->Get(kSlotInter, kBlock * h.W);
  Gemm(n, h.W, h.p.D, q.data, q.stride, 1, state, h.W, inter, h.W, false);
  for (int i = 0; i < n; ++i) {
    const V factor = hn::Set(d, h.p.scale * f[i] * g);
    for (int e = 0; e < h.W; e += static_cast<int>(hn::Lanes(d))) {
      float* o = out + i * h.W + e;
      hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, inter + i * h.W + e), hn::LoadU(d, o)), d, o);
    }
  }
}

// state (D x W) += sum_j f[j] * g * k_j v_j^T over one block.
HWY_ATTR void AddToState(const Head& h, const Rows& k, const Rows& v, int n, const float* f, float g, float* state) {
  const F32 d;
  float* scaled = h.scratch->Get(kSlotScaledV, kBlock * h.W);
  for (int j = 0; j < n; ++j) {
    const V factor = hn::Set(d, f[j] * g);
    for (int e = 0; e < h.W; e += static_cast<int>(hn::Lanes(d))) {
      hn::StoreU(hn::Mul(factor, hn::LoadU(d, v.data + j * v.stride + e)), d, scaled + j * h.W + e);
    }
  }
  Gemm(h.p.D, h.W, n, k.data, 1, k.stride, scaled, h.W, state, h.W, true);
}

// A state to start with: a copy of what arrives, or zeros.
float* StartState(const Head& h, const float* arriving) {
  const int64_t size = static_cast<int64_t>(h.p.D) * h.W;
  float* state = h.scratch->Get(kSlotState, size);
  if (arriving != nullptr) {
    std::copy(arriving, arriving + size, state);
  } else {
    std::fill(state, state + size, 0.f);
  }
  return state;
}

// state = state * (the range's decays) + what the range adds at its end (forward), or at its start.
HWY_ATTR void PassForward(const Head& h, const Range& r, float* state, bool was_zero) {
  float after = 1;
  for (int64_t b = 0; b < r.num_blocks; ++b) after *= r.decays[b].all;
  if (!was_zero) ScaleAll(state, after, static_cast<int64_t>(h.p.D) * h.W);
  for (int64_t b = 0; b < r.num_blocks; ++b) {
    after = 1;
    for (int64_t later = b + 1; later < r.num_blocks; ++later) after *= r.decays[later].all;
    AddToState(h, r.K(b), r.Values(b), r.BlockSize(b), r.decays[b].suf, after, state);
  }
}

HWY_ATTR void PassBackward(const Head& h, const Range& r, float* state, bool was_zero) {
  float before = 1;
  for (int64_t b = 0; b < r.num_blocks; ++b) before *= r.decays[b].all;
  if (!was_zero) ScaleAll(state, before, static_cast<int64_t>(h.p.D) * h.W);
  for (int64_t b = r.num_blocks - 1; b >= 0; --b) {
    before = 1;
    for (int64_t earlier = 0; earlier < b; ++earlier) before *= r.decays[earlier].all;
    AddToState(h, r.K(b), r.Values(b), r.BlockSize(b), r.decays[b].back_pre, before, state);
  }
}

HWY_ATTR void Chunked(const Head& h) {
  const int64_t L = h.p.L;
  const int64_t C = h.p.C;
  const int64_t num_chunks = (L + C - 1) / C;
  float* out = h.scratch->Get(kSlotOut, kBlock * h.W);

  float* state = StartState(h, h.p.state_before);
  bool zero = h.p.state_before == nullptr;
  for (int64_t c = 0; c < num_chunks; ++c) {  // forward: the chunk itself, and what came before it
    const Range r = PackRange(h, c * C, std::min(L, (c + 1) * C), true);
    float G = 1;
    for (int64_t b = 0; b < r.num_blocks; ++b) {
      const Rows q = PackQ(h, r.BlockStart(b), r.BlockSize(b));
      ParallelBlock(h, r, q, b, out);
      if (!zero) AddFromState(h, q, r.BlockSize(b), state, r.decays[b].pre, G, out);
      StoreY(h, r.BlockStart(b), r.BlockSize(b), out, false);
      G *= r.decays[b].all;
    }
    if (c + 1 == num_chunks) break;
    PassForward(h, r, state, zero);
    zero = false;
  }

  state = StartState(h, h.p.state_after);
  zero = h.p.state_after == nullptr;
  for (int64_t c = num_chunks - 1; c >= 0; --c) {  // backward: what comes after the chunk
    if (zero && c == 0) break;
    const Range r = PackRange(h, c * C, std::min(L, (c + 1) * C), false);
    float G = 1;
    for (int64_t b = r.num_blocks - 1; b >= 0; --b) {
      if (!zero) {
        const Rows q = PackQ(h, r.BlockStart(b), r.BlockSize(b));
        std::fill(out, out + r.BlockSize(b) * h.W, 0.f);
        AddFromState(h, q, r.BlockSize(b), state, r.decays[b].back_suf, G, out);
        StoreY(h, r.BlockStart(b), r.BlockSize(b), out, true);
      }
      G *= r.decays[b].all;
    }
    if (c == 0) break;
    PassBackward(h, r, state, zero);
    zero = false;
  }
}

// LION-LIT beyond the parallel form: one state, summed over all tokens, then applied to every q.
HWY_ATTR void SumTokens(const Head& h, float* state) {
  const int64_t step = h.p.mode == ComputeMode::kRecurrent ? 1 : std::min<int64_t>(h.p.C, kBlock);
  for (int64_t start = 0; start < h.p.L; start += step) {
    const int n = static_cast<int>(std::min(step, h.p.L - start));
    const Rows k = PackK(h, start, n, h.scratch->Get(kSlotK, kBlock * h.key_width));
    const Rows v = PackV(h, start, n, h.scratch->Get(kSlotV, kBlock * h.W));
    Gemm(h.p.D, h.W, n, k.data, 1, k.stride, v.data, v.stride, state, h.W, true);
  }
}

HWY_ATTR void SumThenApply(const Head& h) {
  alignas(64) float ones[kBlock];
  std::fill(ones, ones + kBlock, 1.f);
  float* out = h.scratch->Get(kSlotOut, kBlock * h.W);
  float* state = StartState(h, h.p.state_before);
  if (h.p.state_before == nullptr) SumTokens(h, state);
  const int64_t step = h.p.mode == ComputeMode::kRecurrent ? 1 : std::min<int64_t>(h.p.C, kBlock);
  for (int64_t start = 0; start < h.p.L; start += step) {
    const int n = static_cast<int>(std::min(step, h.p.L - start));
    std::fill(out, out + n * h.W, 0.f);
    AddFromState(h, PackQ(h, start, n), n, state, ones, 1, out);
    StoreY(h, start, n, out, false);
  }
}

HWY_ATTR void Summarize(const Head& h, float* forward, float* backward, float* decay) {
  const int64_t size = static_cast<int64_t>(h.p.D) * h.W;
  std::fill(forward, forward + size, 0.f);
  *decay = 1;
  if (h.p.log_a == nullptr) return SumTokens(h, forward);
  std::fill(backward, backward + size, 0.f);
  // Of no form's own making: blocks will do.
  for (int64_t start = 0; start < h.p.L; start += kBlock) {
    const Range r = PackRange(h, start, std::min<int64_t>(h.p.L, start + kBlock), false);
    PassForward(h, r, forward, start == 0);
    // From the first token on, so that the state need not be passed from block to block.
    AddToState(h, r.k, r.v, r.BlockSize(0), r.decays[0].back_pre, *decay, backward);
    *decay *= r.decays[0].all;
  }
}

// One token of the recurrence: out = scale * (q^T state [+ (q . k) v]), then state = a (state + k v^T).
HWY_ATTR void RecurrentStep(const Head& h, int64_t t, bool diagonal, float* q, float* k, float* v, float* state,
                            float* out) {
  const F32 d;
  const int N = static_cast<int>(hn::Lanes(d));
  LoadVector(h.p, h.p.q, h.p.stride, t, q, h.p.D, h.key_width);
  LoadVector(h.p, h.p.k, h.p.stride, t, k, h.p.D, h.key_width);
  LoadVector(h.p, h.p.v, h.v_stride, t, v, h.value_width, h.W);
  float score = 0;
  if (diagonal) {
    for (int e = 0; e < h.p.D; ++e) score += q[e] * k[e];
  }
  alignas(64) float decay[kPad] = {h.p.log_a[t * h.p.log_a_stride]};
  ExpAll(decay, 1, decay);
  const V a = hn::Set(d, decay[0]);
  const V scale = hn::Set(d, h.p.scale);
  for (int e = 0; e < h.W; e += N) {
    const V value = hn::Load(d, v + e);
    V sum = hn::Mul(hn::Set(d, score), value);
    for (int r = 0; r < h.p.D; ++r) {
      float* s = state + static_cast<int64_t>(r) * h.W + e;
      const V old = hn::Load(d, s);
      sum = hn::MulAdd(hn::Set(d, q[r]), old, sum);
      hn::Store(hn::Mul(a, hn::MulAdd(hn::Set(d, k[r]), value, old)), d, s);
    }
    hn::Store(hn::Mul(scale, sum), d, out + e);
  }
}

HWY_ATTR void Recurrent(const Head& h) {
  alignas(64) float q[kMaxHeadWidth];
  alignas(64) float k[kMaxHeadWidth];
  alignas(64) float v[kMaxValueWidth];
  alignas(64) float out[kMaxValueWidth];
  float* state = StartState(h, h.p.state_before);
  for (int64_t t = 0; t < h.p.L; ++t) {
    RecurrentStep(h, t, true, q, k, v, state, out);
    StoreY(h, t, 1, out, false);
  }
  state = StartState(h, h.p.state_after);
  for (int64_t t = h.p.L - 1; t >= 0; --t) {
    RecurrentStep(h, t, false, q, k, v, state, out);
    StoreY(h, t, 1, out, true);
  }
}

HWY_ATTR void SummarizeHeadOnTarget(const AttentionParams& params, float* forward, float* backward, float* decay,
                                    AttentionScratch* scratch) {
  Summarize(MakeHead(params, scratch), forward, backward, decay);
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

HWY_ATTR void AttendHeadOnTarget(const AttentionParams& params, AttentionScratch* scratch) {
  const Head h = MakeHead(params, scratch);
  if (params.mode == ComputeMode::kParallel) return Parallel(h);
  if (params.log_a == nullptr) return SumThenApply(h);
  if (params.mode == ComputeMode::kChunked) return Chunked(h);
  Recurrent(h);
}

}  // namespace HWY_NAMESPACE
}  // namespace lion
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lion {

HWY_EXPORT(AttendHeadOnTarget);
HWY_EXPORT(TargetName);
HWY_EXPORT(SummarizeHeadOnTarget);

std::string AttentionTarget() { return std::string(HWY_DYNAMIC_DISPATCH(TargetName)()) + (HasAmxBf16() ? "+AMX" : ""); }

void AttendHead(const AttentionParams& params, AttentionScratch* scratch) {
  if (AmxTakes(params)) return AmxAttendHead(params, scratch);
  HWY_DYNAMIC_DISPATCH(AttendHeadOnTarget)(params, scratch);
}

void SummarizeHead(const AttentionParams& params, float* forward, float* backward, float* decay,
                   AttentionScratch* scratch) {
  if (AmxTakes(params)) return AmxSummarizeHead(params, forward, backward, decay, scratch);
  HWY_DYNAMIC_DISPATCH(SummarizeHeadOnTarget)(params, forward, backward, decay, scratch);
}

float* AttentionScratch::Get(int slot, int64_t n) {
  constexpr int64_t kAlign = 64 / sizeof(float);
  std::vector<float>& buffer = slots_[slot];
  // Room to align, and for whole vectors past the end.
  if (static_cast<int64_t>(buffer.size()) < n + 2 * kAlign) buffer.resize(n + 2 * kAlign);
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return buffer.data() + (64 - address % 64) % 64 / sizeof(float);
}

}  // namespace lion
#endif  // HWY_ONCE
