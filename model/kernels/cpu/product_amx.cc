// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Compiled for AVX-512 and AMX (model/CMakeLists.txt): nothing of it may run before AmxProductTakes, and no template or
// inline function that other files instantiate may be used here, or the linker could give them this file's copy.

#include "model/kernels/cpu/product_amx.h"

#include <immintrin.h>

#include "model/kernels/cpu/cpu_features.h"
#include "model/kernels/cpu/gelu_fit.h"

namespace lion {
namespace {

constexpr int64_t kTile = 16;          // rows of a tile, of 64 bytes each
constexpr int64_t kPanel = 2 * kTile;  // columns of a panel, and rows of x that meet it at once
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kStepBytes = 64;      // of a row of x: what one tile product sums over
constexpr int64_t kMaxBlockRows = 512;  // rows that pass the panels together: fewer where they are wide,
constexpr int64_t kMinBlockRows = 128;
constexpr int64_t kBlockBytes = 1 << 20;  // so that they stay in the second-level cache beside two panels

// Palette 1, eight tiles of 16 rows of 64 bytes; 16-bit row lengths from byte 16, row counts from byte 48.
alignas(64) constexpr uint8_t kTileConfig[64] = {
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0,  64, 0,  64, 0,  64, 0,  64, 0, 64, 0, 64, 0, 64, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16, 0,  0, 0,  0, 0,  0, 0,  0};

// GCC 12 does not know that a tile load reads memory: what was written before must be there.
inline void Written() { __asm__ volatile("" ::: "memory"); }

inline __m512 Gelu(__m512 x) {
  // The smaller of two magnitudes, with x's sign: x cut at the limit.
  const __m512 cut = _mm512_range_ps(x, _mm512_set1_ps(kShortErfLimit), 2);
  const __m512 s = _mm512_fmsub_ps(_mm512_mul_ps(cut, cut), _mm512_set1_ps(2 / (kShortErfLimit * kShortErfLimit)),
                                   _mm512_set1_ps(1.f));
  __m512 sum = _mm512_set1_ps(kShortErf[0]);
  for (unsigned i = 1; i < sizeof(kShortErf) / sizeof(float); ++i) {
    sum = _mm512_fmadd_ps(sum, s, _mm512_set1_ps(kShortErf[i]));
  }
  return _mm512_mul_ps(x, _mm512_fmadd_ps(sum, cut, _mm512_set1_ps(0.5f)));
}

// A block of 32 x 32 sums that waits for its f(), row by row, while the tiles work on the next block.
template <bool kInt8, bool kGelu>
struct Pending {
  const float* sums = nullptr;
  uint16_t* y = nullptr;
  int64_t y_stride = 0;
  __mmask32 columns = 0;
  const float* row_scale = nullptr;
  __m512 scale[2];
  __m512 bias[2];
  int next = 0;
  int rows = 0;

  inline void Finish(int until) {
    for (int end = until < rows ? until : rows; next < end; ++next) {
      __m512 half[2];
      for (int i = 0; i < 2; ++i) {
        const float* at = sums + next * kPanel + i * kTile;
        if constexpr (kInt8) {
          const __m512 both =
              row_scale == nullptr ? scale[i] : _mm512_mul_ps(scale[i], _mm512_set1_ps(row_scale[next]));
          half[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(at)), both, bias[i]);
        } else {
          half[i] = _mm512_add_ps(_mm512_load_ps(at), bias[i]);
        }
        if constexpr (kGelu) half[i] = Gelu(half[i]);
      }
      const __m512bh rounded = _mm512_cvtne2ps_pbh(half[1], half[0]);
      __m512i bits;
      __builtin_memcpy(&bits, &rounded, sizeof(bits));
      _mm512_mask_storeu_epi16(y + next * y_stride, columns, bits);
    }
  }
};

template <bool kInt8>
inline void Multiply(int which) {
  // Sums 0 ... 3: rows (tiles 4, 5) by columns (tiles 6, 7). Tile numbers must be literal.
  if constexpr (kInt8) {
    if (which == 0) _tile_dpbssd(0, 4, 6);
    if (which == 1) _tile_dpbssd(1, 4, 7);
    if (which == 2) _tile_dpbssd(2, 5, 6);
    if (which == 3) _tile_dpbssd(3, 5, 7);
  } else {
    if (which == 0) _tile_dpbf16ps(0, 4, 6);
    if (which == 1) _tile_dpbf16ps(1, 4, 7);
    if (which == 2) _tile_dpbf16ps(2, 5, 6);
    if (which == 3) _tile_dpbf16ps(3, 5, 7);
  }
}

inline void StoreSums(float* c) {
  _tile_stored(0, c, kPanel * 4);
  _tile_stored(1, c + kTile, kPanel * 4);
  _tile_stored(2, c + kTile * kPanel, kPanel * 4);
  _tile_stored(3, c + kTile * kPanel + kTile, kPanel * 4);
}

template <bool kInt8, bool kGelu>
void Run(const AmxProduct& p, const char* x, const float* row_scale, int64_t rows, const AmxOutput& out) {
  const int64_t row_bytes = p.K * (kInt8 ? 1 : 2);
  const int64_t steps = row_bytes / kStepBytes;
  const int64_t blocks = (rows + kPanel - 1) / kPanel;
  const int64_t panels = (p.N + kPanel - 1) / kPanel;
  const char* packed = static_cast<const char*>(p.packed);
  alignas(64) float finished[2][kPanel * kPanel];
  Pending<kInt8, kGelu> pending;
  int turn = 0;
  const int64_t group_width = out.group_width > 0 ? out.group_width : panels * kPanel;
  for (int64_t n = 0; n < panels; ++n) {
    const int64_t left = p.N - n * kPanel;
    uint16_t* y = out.y + n * kPanel / group_width * out.group_stride + n * kPanel % group_width;
    __m512 scale[2];
    __m512 bias[2];
    for (int i = 0; i < 2; ++i) {
      scale[i] = p.scale == nullptr ? _mm512_set1_ps(1.f) : _mm512_loadu_ps(p.scale + n * kPanel + i * kTile);
      bias[i] = p.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(p.bias + n * kPanel + i * kTile);
    }
    const char* w = packed + n * steps * 2 * kTileBytes;
    const char* ahead = w + steps * 2 * kTileBytes;  // the next panel
    const int64_t fetch_bytes = (steps * 2 * kTileBytes / blocks + 63) / 64 * 64;
    for (int64_t m = 0; m < blocks; ++m) {
      const char* a = x + m * kPanel * row_bytes;
      for (int64_t i = 0; i < fetch_bytes; i += 64) _mm_prefetch(ahead + m * fetch_bytes + i, _MM_HINT_T1);
      Written();
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t s = 0; s < steps; ++s) {
        _tile_loadd(4, a + s * kStepBytes, row_bytes);
        _tile_loadd(6, w + s * 2 * kTileBytes, 64);
        Multiply<kInt8>(0);
        _tile_loadd(7, w + s * 2 * kTileBytes + kTileBytes, 64);
        Multiply<kInt8>(1);
        _tile_loadd(5, a + kTile * row_bytes + s * kStepBytes, row_bytes);
        Multiply<kInt8>(2);
        Multiply<kInt8>(3);
        pending.Finish(static_cast<int>((s + 1) * kPanel / steps));
      }
      StoreSums(finished[turn]);
      Written();
      pending.sums = finished[turn];
      pending.y = y + m * kPanel * out.row_stride;
      pending.y_stride = out.row_stride;
      pending.row_scale = row_scale == nullptr ? nullptr : row_scale + m * kPanel;
      pending.columns = left >= kPanel ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1);
      for (int i = 0; i < 2; ++i) {
        pending.scale[i] = scale[i];
        pending.bias[i] = bias[i];
      }
      pending.next = 0;
      pending.rows = static_cast<int>(rows - m * kPanel < kPanel ? rows - m * kPanel : kPanel);
      turn ^= 1;
    }
  }
  pending.Finish(static_cast<int>(kPanel));
}

}  // namespace

bool AmxProductTakes(int64_t K, bool int8) {
  return int8 ? K % 64 == 0 && HasAmxInt8() && HasAvx512Bf16() : K % 32 == 0 && HasAmxBf16() && HasAvx512Bf16();
}

int64_t AmxPackedBytes(int64_t N, int64_t K, bool int8) {
  return (N + kPanel - 1) / kPanel * kPanel * K * (int8 ? 1 : 2);
}

void AmxPack(const void* w, int64_t N, int64_t K, bool int8, void* packed) {
  // A tile of W: 16 columns; its row r holds, column by column, the four bytes of W that meet bytes 4 r ... 4 r + 3 of
  // a step of x.
  const auto* from = static_cast<const char*>(w);
  auto* to = static_cast<char*>(packed);
  const int64_t row_bytes = K * (int8 ? 1 : 2);
  for (int64_t n = 0; n < N + kPanel - 1; n += kPanel) {
    if (n >= N) break;
    for (int64_t step = 0; step < row_bytes; step += kStepBytes) {
      for (int64_t half = 0; half < 2; ++half) {
        for (int64_t r = 0; r < kTile; ++r) {
          for (int64_t c = 0; c < kTile; ++c, to += 4) {
            const int64_t column = n + half * kTile + c;
            if (column < N) {
              __builtin_memcpy(to, from + column * row_bytes + step + 4 * r, 4);
            } else {
              __builtin_memset(to, 0, 4);
            }
          }
        }
      }
    }
  }
}

void AmxMultiply(const AmxProduct& product, const void* x, int64_t rows, const AmxOutput& out) {
  Written();
  _tile_loadconfig(kTileConfig);
  const int64_t row_bytes = product.K * (product.int8 ? 1 : 2);
  int64_t block = kBlockBytes / row_bytes / kPanel * kPanel;
  block = block < kMinBlockRows ? kMinBlockRows : block > kMaxBlockRows ? kMaxBlockRows : block;
  for (int64_t first = 0; first < rows; first += block) {
    const char* from = static_cast<const char*>(x) + first * row_bytes;
    const float* scale = product.row_scale == nullptr ? nullptr : product.row_scale + first;
    const int64_t count = rows - first < block ? rows - first : block;
    AmxOutput to = out;
    to.y += first * out.row_stride;
    if (product.int8) {
      product.gelu ? Run<true, true>(product, from, scale, count, to)
                   : Run<true, false>(product, from, scale, count, to);
    } else {
      product.gelu ? Run<false, true>(product, from, scale, count, to)
                   : Run<false, false>(product, from, scale, count, to);
    }
  }
  _tile_release();
}

}  // namespace lion
