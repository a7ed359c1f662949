// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The small matrix product that kernels are made of, for each SIMD target (Highway's foreach_target includes this again
// for every one). Large products go to oneDNN (model/linear.h); these are blocks of at most 128 or so.

#include <cstdint>

#include "hwy/highway.h"

#if defined(LION_MODEL_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LION_MODEL_KERNELS_CPU_GEMM_INL_H_
#undef LION_MODEL_KERNELS_CPU_GEMM_INL_H_
#else
#define LION_MODEL_KERNELS_CPU_GEMM_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace lion {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;

constexpr int kPad = 16;  // widths are padded to the widest vector of any target

inline int64_t Padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// C (m x n) = [C +] A (m x k) B (k x n); element (i, l) of A at a[i * a_row + l * a_col]; n a multiple of kPad.
// Every element is one chain of FMAs over l = 0 ... k-1, so its bits do not depend on m, n or the tiling.
template <int kRows, int kVectors>
HWY_ATTR inline void GemmTile(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row,
                              float* c, int64_t c_row, bool accumulate) {
  const F32 d;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  V acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int u = 0; u < kVectors; ++u) acc[i][u] = accumulate ? hn::LoadU(d, c + i * c_row + u * N) : hn::Zero(d);
  }
  for (int64_t l = 0; l < k; ++l) {
    V row[kVectors];
    for (int u = 0; u < kVectors; ++u) row[u] = hn::LoadU(d, b + l * b_row + u * N);
    for (int i = 0; i < kRows; ++i) {
      const V x = hn::Set(d, a[i * a_row + l * a_col]);
      for (int u = 0; u < kVectors; ++u) acc[i][u] = hn::MulAdd(x, row[u], acc[i][u]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int u = 0; u < kVectors; ++u) hn::StoreU(acc[i][u], d, c + i * c_row + u * N);
  }
}

template <int kVectors>
HWY_ATTR inline void GemmColumns(int64_t m, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                                 int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  int64_t i = 0;
  if constexpr (kVectors == 1) {  // enough sums at a time to hide an FMA's latency
    for (; i + 8 <= m; i += 8) {
      GemmTile<8, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, accumulate);
    }
  }
  for (; i + 6 <= m; i += 6) {
    GemmTile<6, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, accumulate);
  }
  for (; i + 2 <= m; i += 2) {
    GemmTile<2, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, accumulate);
  }
  for (; i < m; ++i) {
    GemmTile<1, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row, accumulate);
  }
}

HWY_ATTR inline void Gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                          int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t j = 0;
  for (; j + 2 * N <= n; j += 2 * N) GemmColumns<2>(m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, accumulate);
  for (; j < n; j += N) GemmColumns<1>(m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, accumulate);
}

}  // namespace HWY_NAMESPACE
}  // namespace lion
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
