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
  __m512 u = _mm512_mul_ps(x, _mm512_set1_ps(0.70710678118654752f));
  u = _mm512_max_ps(_mm512_min_ps(u, _mm512_set1_ps(kShortErfLimit)), _mm512_set1_ps(-kShortErfLimit));
  const __m512 s =
      _mm512_fmsub_ps(_mm512_mul_ps(u, u), _mm512_set1_ps(2 / (kShortErfLimit * kShortErfLimit)), _mm512_set1_ps(1.f));
  __m512 sum = _mm512_set1_ps(kShortErf[0]);
  for (unsigned i = 1; i < sizeof(kShortErf) / sizeof(float); ++i) {
    sum = _mm512_fmadd_ps(sum, s, _mm512_set1_ps(kShortErf[i]));
  }
  const __m512 half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
  return _mm512_fmadd_ps(half, _mm512_mul_ps(sum, u), half);
}

// The first of 32 lanes that count, for the last step of a row.
inline __mmask32 Lanes(int64_t left) { return left >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1); }
inline __mmask16 HalfLanes(int64_t left) {
  return left >= 16  ? static_cast<__mmask16>(0xFFFF)
         : left <= 0 ? static_cast<__mmask16>(0)
                     : static_cast<__mmask16>((1u << left) - 1);
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

void ScaledToBf16(const uint16_t* x, float scale, const float* bias, uint16_t* y, int64_t n) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < n; i += 32) {
    const __mmask32 lanes = Lanes(n - i);
    const __m512i in = _mm512_maskz_loadu_epi16(lanes, x + i);
    const __m512 low = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(in)), 16));
    const __m512 high =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(in, 1)), 16));
    const __m512 a = _mm512_fmadd_ps(low, factor, _mm512_maskz_loadu_ps(HalfLanes(n - i), bias + i));
    const __m512 b = _mm512_fmadd_ps(high, factor, _mm512_maskz_loadu_ps(HalfLanes(n - i - 16), bias + i + 16));
    _mm512_mask_storeu_epi16(y + i, lanes, Bits(_mm512_cvtne2ps_pbh(b, a)));
  }
}

}  // namespace lion
