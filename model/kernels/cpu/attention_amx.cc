// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Compiled for AVX-512 and AMX (model/CMakeLists.txt): nothing of it may run before AmxTakes, and no template or inline
// function that other files instantiate may be used here, or the linker could give them this file's copy.

#include "model/kernels/cpu/attention_amx.h"

#include <immintrin.h>

#include "model/kernels/cpu/cpu_features.h"

namespace lion {
namespace {

// A tile: 16 rows of 64 bytes, (16 x 32) bfloat16 or (16 x 16) float. As the right side of a product a bfloat16 tile
// holds 32 rows of 16 columns, two rows a line: element (r, c) beside (r + 1, c).
constexpr int kTile = 16;
constexpr int kDepth = 32;  // what one tile product sums over
constexpr int kMaxC = kAttentionBlock;
constexpr int kMaxBlocks = kMaxC / kTile;
constexpr int64_t kTileElements = kTile * kDepth;  // of bfloat16

// Palette 1, eight tiles of 16 rows of 64 bytes; 16-bit row lengths from byte 16, row counts from byte 48.
alignas(64) constexpr uint8_t kTileConfig[64] = {
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0,  64, 0,  64, 0,  64, 0,  64, 0, 64, 0, 64, 0, 64, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16, 0,  0, 0,  0, 0,  0, 0,  0};

// GCC 12 does not know that a tile load reads memory: what was written before must be there.
inline void Written() { __asm__ volatile("" ::: "memory"); }

void ConfigureTiles() {
  Written();
  _tile_loadconfig(kTileConfig);
}

inline __m512 One() { return _mm512_set1_ps(1.f); }

// e^x for x <= 0; NaN stays NaN.
inline __m512 Exp(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-87.f), x);
  const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
  const __m512 n = _mm512_roundscale_ps(t, 0);
  // x - n log 2, in two parts of log 2.
  __m512 f = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  f = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), f);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(f, f), _mm512_add_ps(f, One()));
  return _mm512_scalef_ps(p, n);
}

// Lane i: the product of lanes 0 ... i, and of lanes i ... 15.
inline __m512 ProductsUpTo(__m512 x) {
  const __m512i one = _mm512_castps_si512(One());
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), one, 15)));
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), one, 14)));
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), one, 12)));
  return _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(x), one, 8)));
}
inline __m512 ProductsFrom(__m512 x) {
  const __m512i one = _mm512_castps_si512(One());
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(one, _mm512_castps_si512(x), 1)));
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(one, _mm512_castps_si512(x), 2)));
  x = _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(one, _mm512_castps_si512(x), 4)));
  return _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_alignr_epi32(one, _mm512_castps_si512(x), 8)));
}

// The decays of one chunk, by blocks of 16 tokens: products of a from or to the block's borders. 1 past the last token.
struct alignas(64) Decays {
  float a[kMaxC];
  float before[kMaxC];   // [block start, i)
  float through[kMaxC];  // [block start, i]
  float from[kMaxC];     // [i, block end)
  float after[kMaxC];    // (i, block end)
  float block[kMaxBlocks];
  float all;
};

void MakeDecays(const AttentionParams& p, int64_t start, int n, Decays& out) {
  const __m512i one = _mm512_castps_si512(One());
  out.all = 1;
  for (int b = 0; b < kMaxBlocks; ++b) {
    const int left = n - b * kTile;
    __m512 a = One();
    if (left > 0 && p.log_a != nullptr) {
      const __mmask16 mask = left >= kTile ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
      const __m512 log_a = p.log_a_stride == 0 ? _mm512_maskz_mov_ps(mask, _mm512_set1_ps(*p.log_a))
                                               : _mm512_maskz_loadu_ps(mask, p.log_a + start + b * kTile);
      a = Exp(log_a);
    }
    const __m512 through = ProductsUpTo(a);
    const __m512 from = ProductsFrom(a);
    _mm512_store_ps(out.a + b * kTile, a);
    _mm512_store_ps(out.through + b * kTile, through);
    _mm512_store_ps(out.from + b * kTile, from);
    _mm512_store_ps(out.before + b * kTile,
                    _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(through), one, 15)));
    _mm512_store_ps(out.after + b * kTile, _mm512_castsi512_ps(_mm512_alignr_epi32(one, _mm512_castps_si512(from), 1)));
    out.block[b] = out.through[b * kTile + kTile - 1];
    out.all *= out.block[b];
  }
}

// 16 rows of 16 dwords, transposed.
inline void Transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// [lo 16, hi 16] -> lo and hi side by side, lane by lane.
inline __m512i Interleave(__m512i halves) {
  alignas(64) static const uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), halves);
}

// hi and lo rounded to bfloat16: [lo, hi].
inline __m512i ToBf16(__m512 hi, __m512 lo) {
  const __m512bh packed = _mm512_cvtne2ps_pbh(hi, lo);
  __m512i bits;
  __builtin_memcpy(&bits, &packed, sizeof(bits));
  return bits;
}

// kS: D / 32.
template <int kS>
struct Kernel {
  static constexpr int kD = kS * kDepth;
  static constexpr int kN = kD / kTile;                             // column tiles of v and of a state
  static constexpr int64_t kStateTiles = int64_t{kS} * kN;          // as the right side of a product
  static constexpr int64_t kKTiles = int64_t{kS} * kMaxBlocks;      // of a chunk: k transposed
  static constexpr int64_t kVTiles = int64_t{kMaxC / kDepth} * kN;  // of a chunk
  static constexpr int64_t kChunkElements = (kKTiles + kVTiles) * kTileElements;

  const AttentionParams& p;
  AttentionScratch* scratch;
  int C;
  int64_t chunks;

  Kernel(const AttentionParams& params, AttentionScratch* s) : p(params), scratch(s) {
    C = p.mode == ComputeMode::kParallel ? kMaxC : p.C;
    chunks = (p.L + C - 1) / C;
  }

  int Size(int64_t c) const { return static_cast<int>(p.L - c * C < C ? p.L - c * C : C); }
  // Of 16 tokens, in chunk c: a short one has fewer.
  int Blocks(int64_t c) const { return (Size(c) + kTile - 1) / kTile; }

  // k and v of chunk c as right sides of products: k transposed (32 d x 16 tokens a tile, [d / 32][block]), and v
  // (32 tokens x 16 columns, [tokens / 32][column tile]). Zeros past the last token.
  void Pack(int64_t c, uint16_t* kt, uint16_t* v) const {
    const int n = Size(c);
    const int blocks = Blocks(c);
    const auto* k_rows = static_cast<const uint16_t*>(p.k) + c * C * p.stride;
    const auto* v_rows = static_cast<const uint16_t*>(p.v) + c * C * p.stride;
    for (int s = 0; s < kS; ++s) {
      for (int b = 0; b < (blocks + 1) / 2 * 2; ++b) {
        __m512i rows[16];
        for (int r = 0; r < kTile; ++r) {
          const int t = b * kTile + r;
          rows[r] = t < n ? _mm512_loadu_si512(k_rows + t * p.stride + s * kDepth) : _mm512_setzero_si512();
        }
        Transpose(rows);
        uint16_t* tile = kt + (s * kMaxBlocks + b) * kTileElements;
        for (int r = 0; r < kTile; ++r) _mm512_store_si512(tile + r * kDepth, rows[r]);
      }
    }
    for (int t = 0; t < (blocks + 1) / 2 * kDepth; t += 2) {
      for (int s = 0; s < kS; ++s) {  // 32 columns: two tiles
        const __m512i zero = _mm512_setzero_si512();
        const __m512i even = t < n ? _mm512_loadu_si512(v_rows + t * p.stride + s * kDepth) : zero;
        const __m512i odd = t + 1 < n ? _mm512_loadu_si512(v_rows + (t + 1) * p.stride + s * kDepth) : zero;
        uint16_t* tile = v + ((t / kDepth) * kN + 2 * s) * kTileElements + (t % kDepth) / 2 * kDepth;
        const __m512i first = _mm512_inserti64x4(even, _mm512_castsi512_si256(odd), 1);
        const __m512i second = _mm512_shuffle_i64x2(even, odd, 0xEE);
        _mm512_store_si512(tile, Interleave(first));
        _mm512_store_si512(tile + kTileElements, Interleave(second));
      }
    }
  }

  // k transposed again, each token times its weight, as the left side of a product: (16 d x 32 tokens a tile,
  // [d / 16][tokens / 32]).
  void WeighK(int blocks, const uint16_t* kt, const float* weight, uint16_t* out) const {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
    for (int g = 0; g < (blocks + 1) / 2; ++g) {
      const __m512 w0 = _mm512_load_ps(weight + g * kDepth);
      const __m512 w1 = _mm512_load_ps(weight + g * kDepth + kTile);
      for (int s = 0; s < kS; ++s) {
        const uint16_t* tile0 = kt + (s * kMaxBlocks + 2 * g) * kTileElements;
        const uint16_t* tile1 = tile0 + kTileElements;
        for (int r = 0; r < kTile; ++r) {
          const __m512i x0 = _mm512_load_si512(tile0 + r * kDepth);
          const __m512i x1 = _mm512_load_si512(tile1 + r * kDepth);
          const __m512 even0 = _mm512_castsi512_ps(_mm512_slli_epi32(x0, 16));
          const __m512 even1 = _mm512_castsi512_ps(_mm512_slli_epi32(x1, 16));
          const __m512 odd0 = _mm512_castsi512_ps(_mm512_and_si512(x0, high));
          const __m512 odd1 = _mm512_castsi512_ps(_mm512_and_si512(x1, high));
          // Rows d = 32 s + 2 r and the next.
          const int d = s * kDepth + 2 * r;
          uint16_t* row = out + ((d / kTile) * (kMaxC / kDepth) + g) * kTileElements + (d % kTile) * kDepth;
          _mm512_store_si512(row, ToBf16(_mm512_mul_ps(even1, w1), _mm512_mul_ps(even0, w0)));
          _mm512_store_si512(row + kDepth, ToBf16(_mm512_mul_ps(odd1, w1), _mm512_mul_ps(odd0, w0)));
        }
      }
    }
  }

  // sum (kD x kD) = weighted k^T v of one chunk.
  void KTimesV(int blocks, const uint16_t* k, const uint16_t* v, float* sum) const {
    const int groups = (blocks + 1) / 2;
    Written();
    for (int m = 0; m < kN; m += 2) {
      for (int n = 0; n < kN; n += 2) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int g = 0; g < groups; ++g) {
          _tile_loadd(4, k + (m * (kMaxC / kDepth) + g) * kTileElements, 64);
          _tile_loadd(5, k + ((m + 1) * (kMaxC / kDepth) + g) * kTileElements, 64);
          _tile_loadd(6, v + (g * kN + n) * kTileElements, 64);
          _tile_loadd(7, v + (g * kN + n + 1) * kTileElements, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        float* out = sum + m * kTile * kD + n * kTile;
        _tile_stored(0, out, kD * 4);
        _tile_stored(1, out + kTile, kD * 4);
        _tile_stored(2, out + kTile * kD, kD * 4);
        _tile_stored(3, out + kTile * kD + kTile, kD * 4);
      }
    }
  }

  // state = decay * state + added.
  static void Pass(float* state, float decay, const float* added) {
    const __m512 d = _mm512_set1_ps(decay);
    for (int i = 0; i < kD * kD; i += 16) {
      _mm512_storeu_ps(state + i, _mm512_fmadd_ps(d, _mm512_loadu_ps(state + i), _mm512_loadu_ps(added + i)));
    }
  }

  // A state as the right side of a product: [d / 32][column tile].
  static void RoundState(const float* state, uint16_t* tiles) {
    for (int d = 0; d < kD; d += 2) {
      for (int n = 0; n < kN; ++n) {
        const __m512 even = _mm512_loadu_ps(state + d * kD + n * kTile);
        const __m512 odd = _mm512_loadu_ps(state + (d + 1) * kD + n * kTile);
        _mm512_store_si512(tiles + ((d / kDepth) * kN + n) * kTileElements + (d % kDepth) / 2 * kDepth,
                           Interleave(ToBf16(odd, even)));
      }
    }
  }

  // weight[j] of the chunk's tokens: what each leaves at the chunk's end (forward), or at its start.
  void Weights(const Decays& decays, bool forward, float factor, float* weight) const {
    if (forward) {
      for (int b = kMaxBlocks - 1; b >= 0; --b) {
        _mm512_store_ps(weight + b * kTile,
                        _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_load_ps(decays.from + b * kTile)));
        factor *= decays.block[b];
      }
    } else {
      for (int b = 0; b < kMaxBlocks; ++b) {
        _mm512_store_ps(weight + b * kTile,
                        _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_load_ps(decays.through + b * kTile)));
        factor *= decays.block[b];
      }
    }
  }

  // scores (16 x kMaxC) of block I with the chunk, times M, rounded into rounded (16 x kMaxC).
  void Decay(const Decays& decays, int blocks, int I, const float* scores, uint16_t* rounded) const {
    // Above the diagonal of block I itself: row i from row i + 1.
    alignas(64) float above[kTile * kTile];
    __m512 m = _mm512_setzero_ps();
    for (int i = kTile - 1; i >= 0; --i) {
      _mm512_store_ps(above + i * kTile, m);
      m = _mm512_mask_mov_ps(m, static_cast<__mmask16>(1u << i), One());
      m = _mm512_mul_ps(m, _mm512_set1_ps(decays.a[I * kTile + i]));
    }
    // What the columns of each block J take with them to or from block I.
    __m512 column[kMaxBlocks];
    const float* row_factor[kMaxBlocks];
    float between = 1;
    for (int J = I - 1; J >= 0; --J) {
      column[J] = _mm512_mul_ps(_mm512_set1_ps(between), _mm512_load_ps(decays.from + J * kTile));
      row_factor[J] = decays.before + I * kTile;
      between *= decays.block[J];
    }
    between = 1;
    for (int J = I + 1; J < blocks; ++J) {
      column[J] = _mm512_mul_ps(_mm512_set1_ps(between), _mm512_load_ps(decays.through + J * kTile));
      row_factor[J] = decays.after + I * kTile;
      between *= decays.block[J];
    }
    __m512 below = _mm512_maskz_mov_ps(1, One());
    for (int i = 0; i < kTile; ++i) {
      __m512 x[kMaxBlocks] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
      for (int J = 0; J < blocks; ++J) {
        const __m512 factor = J == I ? _mm512_add_ps(below, _mm512_load_ps(above + i * kTile))
                                     : _mm512_mul_ps(_mm512_set1_ps(row_factor[J][i]), column[J]);
        x[J] = _mm512_mul_ps(factor, _mm512_load_ps(scores + i * kMaxC + J * kTile));
      }
      below = _mm512_mul_ps(below, _mm512_set1_ps(decays.a[I * kTile + i]));
      below = _mm512_mask_mov_ps(below, static_cast<__mmask16>(1u << (i + 1)), One());
      _mm512_store_si512(rounded + i * kMaxC, ToBf16(x[1], x[0]));
      if (blocks > 2) _mm512_store_si512(rounded + i * kMaxC + kDepth, ToBf16(x[3], x[2]));
    }
  }

  // y of chunk c. forward, backward: the states that reach it, as tiles; null = none.
  void Output(int64_t c, const Decays& decays, const uint16_t* kt, const uint16_t* v, const uint16_t* forward,
              const uint16_t* backward) const {
    const int n = Size(c);
    const int blocks = Blocks(c);
    const auto* q = static_cast<const uint16_t*>(p.q) + c * C * p.stride;
    const int64_t q_bytes = p.stride * 2;
    alignas(64) float scores[kTile * kMaxC];
    alignas(64) uint16_t rounded[kTile * kMaxC];
    alignas(64) float sums[3][kTile * kDepth];  // within the chunk, from before it, from behind it
    float before = 1;                           // the product of the blocks before I, and of those after it
    float after = 1;
    for (int b = 1; b < blocks; ++b) after *= decays.block[b];
    Written();
    for (int I = 0; I * kTile < n; ++I) {
      const uint16_t* q_block = q + I * kTile * p.stride;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int s = 0; s < kS; ++s) {
        _tile_loadd(4, q_block + s * kDepth, q_bytes);
        const uint16_t* tile = kt + s * kMaxBlocks * kTileElements;
        _tile_loadd(5, tile, 64);
        _tile_dpbf16ps(0, 4, 5);
        if (blocks > 1) {
          _tile_loadd(6, tile + kTileElements, 64);
          _tile_dpbf16ps(1, 4, 6);
        }
        if (blocks > 2) {
          _tile_loadd(7, tile + 2 * kTileElements, 64);
          _tile_dpbf16ps(2, 4, 7);
        }
        if (blocks > 3) {
          _tile_loadd(5, tile + 3 * kTileElements, 64);
          _tile_dpbf16ps(3, 4, 5);
        }
      }
      _tile_stored(0, scores, kMaxC * 4);
      if (blocks > 1) _tile_stored(1, scores + kTile, kMaxC * 4);
      if (blocks > 2) _tile_stored(2, scores + 2 * kTile, kMaxC * 4);
      if (blocks > 3) _tile_stored(3, scores + 3 * kTile, kMaxC * 4);
      Decay(decays, blocks, I, scores, rounded);
      Written();

      const int rows = n - I * kTile < kTile ? n - I * kTile : kTile;
      for (int m = 0; m < kN; m += 2) {
        _tile_zero(0);
        _tile_zero(1);
        for (int g = 0; g < (blocks + 1) / 2; ++g) {
          _tile_loadd(6, rounded + g * kDepth, kMaxC * 2);
          _tile_loadd(7, v + (g * kN + m) * kTileElements, 64);
          _tile_dpbf16ps(0, 6, 7);
          _tile_loadd(7, v + (g * kN + m + 1) * kTileElements, 64);
          _tile_dpbf16ps(1, 6, 7);
        }
        _tile_stored(0, sums[0], kDepth * 4);
        _tile_stored(1, sums[0] + kTile, kDepth * 4);
        if (forward != nullptr) QTimesState(q_block, q_bytes, forward, m, sums[1]);
        if (backward != nullptr) QTimesState(q_block, q_bytes, backward, m, sums[2]);
        for (int i = 0; i < rows; ++i) {
          float* y = p.y + (c * C + I * kTile + i) * p.y_stride + m * kTile;
          for (int half = 0; half < 2; ++half) {
            const int at = i * kDepth + half * kTile;
            __m512 sum = _mm512_load_ps(sums[0] + at);
            if (forward != nullptr) {
              sum = _mm512_fmadd_ps(_mm512_set1_ps(before * decays.before[I * kTile + i]), _mm512_load_ps(sums[1] + at),
                                    sum);
            }
            if (backward != nullptr) {
              sum = _mm512_fmadd_ps(_mm512_set1_ps(after * decays.after[I * kTile + i]), _mm512_load_ps(sums[2] + at),
                                    sum);
            }
            _mm512_storeu_ps(y + half * kTile, _mm512_mul_ps(_mm512_set1_ps(p.scale), sum));
          }
        }
      }
      before *= decays.block[I];
      // Not by division: a block's product may be 0.
      after = 1;
      for (int b = I + 2; b < blocks; ++b) after *= decays.block[b];
    }
  }

  // out (16 x 32) = q of a block times columns [16 m, 16 m + 32) of a state.
  static void QTimesState(const uint16_t* q, int64_t q_bytes, const uint16_t* state, int m, float* out) {
    _tile_zero(2);
    _tile_zero(3);
    for (int s = 0; s < kS; ++s) {
      _tile_loadd(6, q + s * kDepth, q_bytes);
      _tile_loadd(4, state + (s * kN + m) * kTileElements, 64);
      _tile_loadd(5, state + (s * kN + m + 1) * kTileElements, 64);
      _tile_dpbf16ps(2, 6, 4);
      _tile_dpbf16ps(3, 6, 5);
    }
    _tile_stored(2, out, kDepth * 4);
    _tile_stored(3, out + kTile, kDepth * 4);
  }

  enum Slot { kSlotChunks, kSlotWeighed, kSlotState, kSlotAdded, kSlotDecays, kSlotBackward, kSlotForward };

  // bfloat16 elements, aligned.
  uint16_t* Elements(Slot slot, int64_t n) const { return reinterpret_cast<uint16_t*>(scratch->Get(slot, n / 2)); }

  static void Start(const float* arriving, float* state) {
    for (int i = 0; i < kD * kD; i += 16) {
      _mm512_storeu_ps(state + i, arriving == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(arriving + i));
    }
  }

  void Attend() const {
    ConfigureTiles();
    if (p.log_a == nullptr && p.mode == ComputeMode::kChunked) {
      Apply();
    } else {
      Chunked();
    }
    _tile_release();
  }

  void Chunked() const {
    uint16_t* packed = Elements(kSlotChunks, chunks * kChunkElements);
    uint16_t* weighed = Elements(kSlotWeighed, int64_t{kN} * (kMaxC / kDepth) * kTileElements);
    float* state = scratch->Get(kSlotState, kD * kD);
    float* added = scratch->Get(kSlotAdded, kD * kD);
    auto* decays = reinterpret_cast<Decays*>(
        scratch->Get(kSlotDecays, chunks * static_cast<int64_t>(sizeof(Decays) / sizeof(float))));
    uint16_t* backward = Elements(kSlotBackward, chunks * kStateTiles * kTileElements);
    uint16_t* forward = Elements(kSlotForward, kStateTiles * kTileElements);
    alignas(64) float weight[kMaxC];
    auto kt = [packed](int64_t c) { return packed + c * kChunkElements; };
    auto v = [packed](int64_t c) { return packed + c * kChunkElements + kKTiles * kTileElements; };

    // From the last chunk to the first: the state that reaches each from behind.
    Start(p.state_after, state);
    bool none = p.state_after == nullptr;
    for (int64_t c = chunks - 1; c >= 0; --c) {
      Pack(c, kt(c), v(c));
      MakeDecays(p, c * C, Size(c), decays[c]);
      if (!none) RoundState(state, backward + c * kStateTiles * kTileElements);
      if (c == 0) break;
      Weights(decays[c], false, 1, weight);
      WeighK(Blocks(c), kt(c), weight, weighed);
      KTimesV(Blocks(c), weighed, v(c), added);
      Pass(state, decays[c].all, added);
      none = false;
    }
    // And back: the state from before, and y.
    Start(p.state_before, state);
    none = p.state_before == nullptr;
    for (int64_t c = 0; c < chunks; ++c) {
      if (!none) RoundState(state, forward);
      const bool behind = c + 1 < chunks || p.state_after != nullptr;
      Output(c, decays[c], kt(c), v(c), none ? nullptr : forward,
             behind ? backward + c * kStateTiles * kTileElements : nullptr);
      if (c + 1 == chunks) break;
      Weights(decays[c], true, 1, weight);
      WeighK(Blocks(c), kt(c), weight, weighed);
      KTimesV(Blocks(c), weighed, v(c), added);
      Pass(state, decays[c].all, added);
      none = false;
    }
  }

  // LION-LIT: the sum over all tokens, applied to every q.
  void Apply() const {
    float* state = scratch->Get(kSlotState, kD * kD);
    uint16_t* rounded = Elements(kSlotForward, kStateTiles * kTileElements);
    Start(p.state_before, state);
    if (p.state_before == nullptr) Sum(state, nullptr, nullptr);
    RoundState(state, rounded);
    alignas(64) float sums[kTile * kDepth];
    Written();
    for (int64_t t = 0; t < p.L; t += kTile) {
      const auto* q = static_cast<const uint16_t*>(p.q) + t * p.stride;
      const int rows = static_cast<int>(p.L - t < kTile ? p.L - t : kTile);
      for (int m = 0; m < kN; m += 2) {
        QTimesState(q, p.stride * 2, rounded, m, sums);
        for (int i = 0; i < rows; ++i) {
          float* y = p.y + (t + i) * p.y_stride + m * kTile;
          const __m512 scale = _mm512_set1_ps(p.scale);
          _mm512_storeu_ps(y, _mm512_mul_ps(scale, _mm512_load_ps(sums + i * kDepth)));
          _mm512_storeu_ps(y + kTile, _mm512_mul_ps(scale, _mm512_load_ps(sums + i * kDepth + kTile)));
        }
      }
    }
  }

  // What all tokens leave at their end in forward, and at their start in backward, and the product of their decays.
  // backward null: LION-LIT.
  void Sum(float* forward, float* backward, float* decay) const {
    uint16_t* packed = Elements(kSlotChunks, kChunkElements);
    uint16_t* weighed = Elements(kSlotWeighed, int64_t{kN} * (kMaxC / kDepth) * kTileElements);
    float* added = scratch->Get(kSlotAdded, kD * kD);
    Decays decays;
    alignas(64) float weight[kMaxC];
    uint16_t* v = packed + kKTiles * kTileElements;
    Start(nullptr, forward);
    if (backward != nullptr) Start(nullptr, backward);
    float all = 1;
    for (int64_t c = 0; c < chunks; ++c) {
      Pack(c, packed, v);
      MakeDecays(p, c * C, Size(c), decays);
      Weights(decays, true, 1, weight);
      WeighK(Blocks(c), packed, weight, weighed);
      KTimesV(Blocks(c), weighed, v, added);
      Pass(forward, decays.all, added);
      if (backward == nullptr) continue;
      Weights(decays, false, all, weight);  // to the first token's side of the span
      WeighK(Blocks(c), packed, weight, weighed);
      KTimesV(Blocks(c), weighed, v, added);
      Pass(backward, 1, added);
      all *= decays.all;
    }
    if (decay != nullptr) *decay = all;
  }
};

}  // namespace

bool AmxTakes(const AttentionParams& p) {
  if (!p.bfloat16 || p.D % kDepth != 0 || p.D > kMaxHeadWidth || !HasAmxBf16()) return false;
  if (p.log_a != nullptr && p.log_a_stride > 1) return false;
  if (p.value_width > 0 && p.value_width != p.D) return false;
  if (p.mode == ComputeMode::kParallel) return p.L <= kMaxC;
  return p.mode == ComputeMode::kChunked && p.C % kTile == 0 && p.C <= kMaxC;
}

void AmxAttendHead(const AttentionParams& p, AttentionScratch* scratch) {
  switch (p.D / kDepth) {
    case 1:
      return Kernel<1>(p, scratch).Attend();
    case 2:
      return Kernel<2>(p, scratch).Attend();
    case 3:
      return Kernel<3>(p, scratch).Attend();
    default:
      return Kernel<4>(p, scratch).Attend();
  }
}

void AmxSummarizeHead(const AttentionParams& p, float* forward, float* backward, float* decay,
                      AttentionScratch* scratch) {
  ConfigureTiles();
  *decay = 1;
  if (p.log_a == nullptr) backward = nullptr;
  switch (p.D / kDepth) {
    case 1:
      Kernel<1>(p, scratch).Sum(forward, backward, decay);
      break;
    case 2:
      Kernel<2>(p, scratch).Sum(forward, backward, decay);
      break;
    case 3:
      Kernel<3>(p, scratch).Sum(forward, backward, decay);
      break;
    default:
      Kernel<4>(p, scratch).Sum(forward, backward, decay);
  }
  _tile_release();
}

}  // namespace lion
