// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/image_rows.h"

#include <algorithm>

// SSE4 (the baseline), AVX2 and AVX-512 are enough: what lies between them has the same vectors.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/image_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "model/kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lion {
namespace HWY_NAMESPACE {

// x[i] = f(x[i]); what is past the end of the last vector meets the same code on zeros.
template <class Function>
HWY_ATTR HWY_INLINE void MapInPlace(float* x, int64_t n, const Function& f) {
  const F32 d;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + N <= n; i += N) hn::StoreU(f(hn::LoadU(d, x + i)), d, x + i);
  if (i == n) return;
  float tail[kPad] = {};
  std::copy(x + i, x + n, tail);
  hn::StoreU(f(hn::LoadU(d, tail)), d, tail);
  std::copy(tail, tail + (n - i), x + i);
}

HWY_ATTR void EluPlusOne(float* x, int64_t n) {
  const F32 d;
  MapInPlace(x, n, [d](V v) HWY_ATTR {
    // exp of what is not negative may be infinite; it is not chosen.
    return hn::IfThenElse(hn::Lt(v, hn::Zero(d)), hn::Exp(d, v), hn::Add(v, hn::Set(d, 1.f)));
  });
}

HWY_ATTR void UnitRows(float* x, int64_t heads, int64_t D) {
  const F32 d;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  const V one = hn::Set(d, 1.f);
  MapInPlace(x, heads * D, [d, one](V v) HWY_ATTR {
    // silu through e = exp(-|x|), which cannot overflow: x / (1 + e), and x e / (1 + e) below 0.
    const V e = hn::Exp(d, hn::Neg(hn::Abs(v)));
    const V top = hn::IfThenElse(hn::Lt(v, hn::Zero(d)), hn::Mul(v, e), v);
    return hn::Add(hn::Div(top, hn::Add(one, e)), hn::Set(d, 0.5f));
  });
  for (int64_t h = 0; h < heads; ++h, x += D) {
    const int64_t whole = D / N * N;
    V squares = hn::Zero(d);
    for (int64_t i = 0; i < whole; i += N) squares = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, x + i), squares);
    float sum = hn::GetLane(hn::SumOfLanes(d, squares));
    for (int64_t i = whole; i < D; ++i) sum += x[i] * x[i];
    const V scale = hn::Div(one, hn::Sqrt(hn::Set(d, sum)));
    for (int64_t i = 0; i < whole; i += N) hn::StoreU(hn::Mul(hn::LoadU(d, x + i), scale), d, x + i);
    for (int64_t i = whole; i < D; ++i) x[i] *= hn::GetLane(scale);
  }
}

HWY_ATTR void LogGates(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t gates,
                       float* log_a, int64_t stride) {
  const F32 d;
  const int64_t Gp = Padded(gates);
  constexpr int64_t kTokens = 16;
  alignas(64) float block[kTokens * kPad];
  for (int64_t first = 0; first < T; first += kTokens) {
    const int64_t n = std::min(kTokens, T - first);
    for (int64_t gate = 0; gate < gates; gate += kPad) {
      const int64_t width = Padded(std::min<int64_t>(kPad, gates - gate));  // kPad
      for (int64_t t = 0; t < n; ++t) std::copy(bias + gate, bias + gate + kPad, block + t * kPad);
      Gemm(n, width, E, x + first * E, E, 1, weight + gate, Gp, block, kPad, true);
      MapInPlace(block, n * kPad, [d](V z) HWY_ATTR {
        const V softplus = hn::Add(hn::Max(z, hn::Zero(d)), hn::Log1p(d, hn::Exp(d, hn::Neg(hn::Abs(z)))));
        const V a = hn::Max(hn::Neg(softplus), hn::Set(d, -30.f));
        return hn::IfThenElse(hn::IsNaN(z), z, a);
      });
      for (int64_t g = gate; g < std::min(gates, gate + kPad); ++g) {
        for (int64_t t = 0; t < n; ++t) log_a[g * stride + first + t] = block[t * kPad + g - gate];
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lion
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lion {

HWY_EXPORT(EluPlusOne);
HWY_EXPORT(UnitRows);
HWY_EXPORT(LogGates);

void FeatureMapElu(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(EluPlusOne)(x, n); }
void FeatureMapUnit(float* x, int64_t heads, int64_t D) { HWY_DYNAMIC_DISPATCH(UnitRows)(x, heads, D); }
void ImageLogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t gates,
                    float* log_a, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(LogGates)(x, T, E, weight, bias, gates, log_a, stride);
}

}  // namespace lion
#endif  // HWY_ONCE
