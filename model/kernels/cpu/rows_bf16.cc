// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Compiled for AVX-512 with bfloat16 (model/CMakeLists.txt): nothing of it may run before RowsBf16Runs, and no template
// or inline function that other files instantiate may be used here, or the linker could give them this file's copy.

#include "model/kernels/cpu/rows_bf16.h"

#include <immintrin.h>

#include "model/kernels/cpu/cpu_features.h"
#include "model/kernels/cpu/gelu_fit.h"

namespace lion {
namespace {

// 32 values as the even and the odd ones of a register of bfloat16.
struct Pair {
  __m512 even;
  __m512 odd;
};

inline Pair Widen(__m512i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))))};
}

inline __m512i Bits(__m512bh x) {
  __m512i bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline __m512i Narrow(Pair x) {
  alignas(64) static const uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), Bits(_mm512_cvtne2ps_pbh(x.odd, x.even)));
}

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

// The first of 32 lanes that count, for the last step of a row.
inline __mmask32 Lanes(int64_t left) { return left >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1); }
inline __mmask16 HalfLanes(int64_t left) {
  return left >= 16  ? static_cast<__mmask16>(0xFFFF)
         : left <= 0 ? static_cast<__mmask16>(0)
                     : static_cast<__mmask16>((1u << left) - 1);
}

inline __m512 Scaled(const ScaledRow& x, int64_t i, __mmask16 lanes) {
  const __m512i y = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, x.y + i));
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), _mm512_set1_ps(x.scale),
                         _mm512_maskz_loadu_ps(lanes, x.bias + i));
}

// The bits of |x| order as |x| does, with infinity and NaN above all numbers.
inline __m512i Magnitude(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)); }

inline __m512 At(const float* x, int64_t i, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, x + i); }
inline __m512 At(const uint16_t* x, int64_t i, __mmask16 lanes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, x + i)), 16));
}

// bits: of the values' largest magnitude.
template <class T>
inline void Round(const T* values, int64_t n, uint32_t bits, const Int8Row& y) {
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, sizeof(magnitude));
  const bool finite = bits < 0x7F800000;
  *y.scale = finite ? magnitude / 127 : __builtin_nanf("");
  // Of a magnitude too small for its inverse nothing is left, and of a row that is not finite its scale shows it.
  const bool round = finite && magnitude > 1e-35f;
  const __m512 factor = _mm512_set1_ps(round ? 127 / magnitude : 0.f);
  const __m512i offset = _mm512_set1_epi32(y.offset);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = HalfLanes(n - i);
    const __m512 value = round ? _mm512_mul_ps(At(values, i, lanes), factor) : _mm512_setzero_ps();
    _mm512_mask_cvtepi32_storeu_epi8(y.q + i, lanes, _mm512_add_epi32(_mm512_cvtps_epi32(value), offset));
  }
}

}  // namespace

bool RowsBf16Runs() { return HasAvx512Bf16(); }

void GeluErfBf16(const uint16_t* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    const __mmask32 lanes = Lanes(n - i);
    const Pair in = Widen(_mm512_maskz_loadu_epi16(lanes, x + i));
    _mm512_mask_storeu_epi16(y + i, lanes, Narrow({Gelu(in.even), Gelu(in.odd)}));
  }
}

void ToBf16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    const __m512 low = _mm512_maskz_loadu_ps(HalfLanes(n - i), x + i);
    const __m512 high = _mm512_maskz_loadu_ps(HalfLanes(n - i - 16), x + i + 16);
    _mm512_mask_storeu_epi16(y + i, Lanes(n - i), Bits(_mm512_cvtne2ps_pbh(high, low)));
  }
}

void ScaledToBf16(const ScaledRow& x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    const __m512 low = Scaled(x, i, HalfLanes(n - i));
    const __m512 high = Scaled(x, i + 16, HalfLanes(n - i - 16));
    _mm512_mask_storeu_epi16(y + i, Lanes(n - i), Bits(_mm512_cvtne2ps_pbh(high, low)));
  }
}

void GeluErfToInt8(const ScaledRow& x, int64_t n, float* values, const Int8Row& y) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = HalfLanes(n - i);
    const __m512 value = Gelu(Scaled(x, i, lanes));
    largest = _mm512_max_epu32(largest, Magnitude(value));  // gelu(0) = 0: lanes past the end do not count
    _mm512_mask_storeu_ps(values + i, lanes, value);
  }
  Round(values, n, _mm512_reduce_max_epu32(largest), y);
}

void ToInt8(const float* x, int64_t n, const Int8Row& y) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    largest = _mm512_max_epu32(largest, Magnitude(At(x, i, HalfLanes(n - i))));
  }
  Round(x, n, _mm512_reduce_max_epu32(largest), y);
}

void Bf16ToInt8(const uint16_t* x, int64_t n, const Int8Row& y) {
  __m512i largest = _mm512_setzero_si512();
  const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
  for (int64_t i = 0; i < n; i += 32) {
    const __m512i bits = _mm512_maskz_loadu_epi16(Lanes(n - i), x + i);
    largest = _mm512_max_epu16(largest, _mm512_and_si512(bits, magnitude));
  }
  const __m512i odd = _mm512_srli_epi32(largest, 16);
  const __m512i even = _mm512_and_si512(largest, _mm512_set1_epi32(0xFFFF));
  Round(x, n, _mm512_reduce_max_epu32(_mm512_max_epu32(odd, even)) << 16, y);
}

}  // namespace lion
