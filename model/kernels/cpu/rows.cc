// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/rows.h"

#include <algorithm>

// SSE4 (the baseline), AVX2 and AVX-512 are enough: what lies between them has the same vectors.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "model/kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lion {
namespace HWY_NAMESPACE {

using U16 = hn::Rebind<uint16_t, F32>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;

HWY_ATTR HWY_INLINE V Load(const float* x) { return hn::LoadU(F32(), x); }

HWY_ATTR HWY_INLINE V Load(const uint16_t* x) {
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(U32(), hn::LoadU(U16(), x))));
}

HWY_ATTR HWY_INLINE void Store(V v, float* y) { hn::StoreU(v, F32(), y); }

// bfloat16: adds half of the last kept bit's worth, less one where that bit is even, and drops the rest.
HWY_ATTR HWY_INLINE void Store(V v, uint16_t* y) {
  const U32 du;
  const auto bits = hn::BitCast(du, v);
  const auto even = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(even, hn::Set(du, 0x7FFF))));
  const auto nan = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  const auto kept = hn::IfThenElse(is_nan, nan, rounded);
  hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(I32(), kept)), U16(), y);
}

// y[i] = f(x[i]): whole vectors, and the tail through a padded copy, so that every element meets the same code.
template <class In, class Out, class Function>
HWY_ATTR HWY_INLINE void Map(const In* x, Out* y, int64_t n, const Function& f) {
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + N <= n; i += N) Store(f(Load(x + i)), y + i);
  if (i == n) return;
  In in[kPad] = {};
  Out out[kPad];
  std::copy(x + i, x + n, in);
  Store(f(Load(in)), out);
  std::copy(out, out + (n - i), y + i);
}

// x += residual, and its LayerNorm. Two passes over values that stay in the first-level cache.
template <class Residual>
HWY_ATTR HWY_INLINE void Normalize(float* x, const Residual* residual, const float* gamma, const float* beta, float eps,
                                   int64_t n) {
  const F32 d;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = n / N * N;
  auto residual_at = [residual](int64_t i) HWY_ATTR {
    if constexpr (sizeof(Residual) == sizeof(float)) {
      return residual[i];
    } else {
      const uint32_t bits = static_cast<uint32_t>(residual[i]) << 16;
      float value;
      hwy::CopyBytes<4>(&bits, &value);
      return value;
    }
  };
  V sum = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += N) {
    V value = Load(x + i);
    if (residual != nullptr) value = hn::Add(value, Load(residual + i));
    Store(value, x + i);
    sum = hn::Add(sum, value);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (int64_t i = whole; i < n; ++i) {
    if (residual != nullptr) x[i] += residual_at(i);
    total += x[i];
  }
  const float mean = total / static_cast<float>(n);
  const V centre = hn::Set(d, mean);
  V squares = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += N) {
    const V value = hn::Sub(Load(x + i), centre);
    squares = hn::MulAdd(value, value, squares);
  }
  float variance = hn::GetLane(hn::SumOfLanes(d, squares));
  for (int64_t i = whole; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  variance /= static_cast<float>(n);
  const V scale = hn::Div(hn::Set(d, 1.f), hn::Sqrt(hn::Set(d, variance + eps)));
  for (int64_t i = 0; i < whole; i += N) {
    const V value = hn::Mul(hn::Sub(Load(x + i), centre), scale);
    Store(hn::MulAdd(value, Load(gamma + i), Load(beta + i)), x + i);
  }
  const float s = hn::GetLane(scale);
  for (int64_t i = whole; i < n; ++i) x[i] = (x[i] - mean) * s * gamma[i] + beta[i];
}

HWY_ATTR void NormalizePlain(float* x, const float* gamma, const float* beta, float eps, int64_t n) {
  Normalize<float>(x, nullptr, gamma, beta, eps, n);
}
HWY_ATTR void NormalizeF32(float* x, const float* residual, const float* gamma, const float* beta, float eps,
                           int64_t n) {
  Normalize(x, residual, gamma, beta, eps, n);
}
HWY_ATTR void NormalizeBF16(float* x, const uint16_t* residual, const float* gamma, const float* beta, float eps,
                            int64_t n) {
  Normalize(x, residual, gamma, beta, eps, n);
}

// erf(u) = u P(u^2) / Q(u^2) for |u| <= 4, beyond which it is 1 in fp32: the widely used minimax fit of degree 6
// over 4.
HWY_ATTR HWY_INLINE V Gelu(V x) {
  const F32 d;
  V u = hn::Mul(x, hn::Set(d, 0.70710678118654752f));
  // Max and Min may drop a NaN; x itself carries it to the result.
  u = hn::Max(hn::Min(u, hn::Set(d, 4.f)), hn::Set(d, -4.f));
  const V u2 = hn::Mul(u, u);
  V p = hn::Set(d, -2.72614225801306e-10f);
  for (float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                  -2.95459980854025e-03f, -1.60960333262415e-02f}) {
    p = hn::MulAdd(p, u2, hn::Set(d, c));
  }
  V q = hn::Set(d, -1.45660718464996e-05f);
  for (float c : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f}) {
    q = hn::MulAdd(q, u2, hn::Set(d, c));
  }
  const V erf = hn::Div(hn::Mul(p, u), q);
  const V half = hn::Mul(x, hn::Set(d, 0.5f));
  return hn::MulAdd(half, erf, half);
}

HWY_ATTR void GeluF32(const float* x, float* y, int64_t n) {
  Map(x, y, n, [](V v) HWY_ATTR { return Gelu(v); });
}
HWY_ATTR void GeluBF16(const uint16_t* x, uint16_t* y, int64_t n) {
  Map(x, y, n, [](V v) HWY_ATTR { return Gelu(v); });
}
HWY_ATTR void F32ToBF16(const float* x, uint16_t* y, int64_t n) {
  Map(x, y, n, [](V v) HWY_ATTR { return v; });
}
HWY_ATTR void BF16ToF32(const uint16_t* x, float* y, int64_t n) {
  Map(x, y, n, [](V v) HWY_ATTR { return v; });
}

HWY_ATTR void F16ToF32(const uint16_t* x, float* y, int64_t n) {
  const F32 d;
  const U32 du;
  const hn::Rebind<hwy::float16_t, F32> d16;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += N) {
    uint16_t in[kPad] = {};
    float out[kPad];
    const int64_t count = std::min(N, n - i);
    std::copy(x + i, x + i + count, in);
    const auto bits = hn::LoadU(U16(), in);
    const auto wide = hn::PromoteTo(du, bits);
    // Infinity and NaN by hand: without F16C, Highway's conversion takes them for large numbers.
    const auto special = hn::Or(hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000))),
                                hn::Or(hn::Set(du, 0x7F800000), hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x3FF)))));
    const auto is_special = hn::Eq(hn::And(wide, hn::Set(du, 0x7C00)), hn::Set(du, 0x7C00));
    const V value = hn::PromoteTo(d, hn::BitCast(d16, bits));
    hn::StoreU(hn::IfThenElse(hn::RebindMask(d, is_special), hn::BitCast(d, special), value), d, out);
    std::copy(out, out + count, y + i);
  }
}

HWY_ATTR void LogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t Hp,
                        float* log_a) {
  const F32 d;
  for (int64_t t = 0; t < T; ++t) std::copy(bias, bias + Hp, log_a + t * Hp);
  Gemm(T, Hp, E, x, E, 1, weight, Hp, log_a, Hp, true);
  const V one = hn::Set(d, 1.f);
  const V tiny = hn::Set(d, 1e-7f);
  for (int64_t i = 0; i < T * Hp; i += static_cast<int64_t>(hn::Lanes(d))) {
    const V z = Load(log_a + i);
    // r = sigmoid(-|z|): sigmoid(z) where z < 0, sigmoid(-z) elsewhere.
    const V e = hn::Exp(d, hn::Neg(hn::Abs(z)));
    const V r = hn::Div(e, hn::Add(one, e));
    const V open = hn::Log1p(d, hn::Sub(tiny, r));
    const V closed = hn::Log(d, hn::Add(r, tiny));
    const V a = hn::Min(hn::IfThenElse(hn::Lt(z, hn::Zero(d)), open, closed), hn::Zero(d));
    Store(hn::IfThenElse(hn::IsNaN(z), z, a), log_a + i);
  }
}

HWY_ATTR void AddTo(float* x, const float* y, int64_t n) {
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + N <= n; i += N) Store(hn::Add(Load(x + i), Load(y + i)), x + i);
  for (; i < n; ++i) x[i] += y[i];
}

HWY_ATTR void Mean(const float* x, int64_t L, int64_t E, float* mean) {
  constexpr int64_t kRows = 64;
  constexpr int64_t kColumns = 512;
  std::fill(mean, mean + E, 0.f);
  float block[kColumns];
  for (int64_t column = 0; column < E; column += kColumns) {
    const int64_t width = std::min(kColumns, E - column);
    for (int64_t start = 0; start < L; start += kRows) {
      std::fill(block, block + width, 0.f);
      for (int64_t t = start; t < std::min(L, start + kRows); ++t) AddTo(block, x + t * E + column, width);
      AddTo(mean + column, block, width);
    }
  }
  for (int64_t e = 0; e < E; ++e) mean[e] /= static_cast<float>(L);
}

}  // namespace HWY_NAMESPACE
}  // namespace lion
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lion {

HWY_EXPORT(NormalizePlain);
HWY_EXPORT(NormalizeF32);
HWY_EXPORT(NormalizeBF16);
HWY_EXPORT(GeluF32);
HWY_EXPORT(GeluBF16);
HWY_EXPORT(F32ToBF16);
HWY_EXPORT(BF16ToF32);
HWY_EXPORT(F16ToF32);
HWY_EXPORT(LogDecays);
HWY_EXPORT(AddTo);
HWY_EXPORT(Mean);

void LayerNorm(float* x, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizePlain)(x, gamma, beta, eps, n);
}
void AddLayerNorm(float* x, const float* residual, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizeF32)(x, residual, gamma, beta, eps, n);
}
void AddLayerNorm(float* x, const uint16_t* residual, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizeBF16)(x, residual, gamma, beta, eps, n);
}
void GeluErf(const float* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(GeluF32)(x, y, n); }
void GeluErf(const uint16_t* x, uint16_t* y, int64_t n) { HWY_DYNAMIC_DISPATCH(GeluBF16)(x, y, n); }
void ToBFloat16(const float* x, uint16_t* y, int64_t n) { HWY_DYNAMIC_DISPATCH(F32ToBF16)(x, y, n); }
void FromBFloat16(const uint16_t* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(BF16ToF32)(x, y, n); }
void FromFloat16(const uint16_t* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(F16ToF32)(x, y, n); }
void TextLogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t Hp,
                   float* log_a) {
  HWY_DYNAMIC_DISPATCH(LogDecays)(x, T, E, weight, bias, Hp, log_a);
}
void MeanRows(const float* x, int64_t L, int64_t E, float* mean) { HWY_DYNAMIC_DISPATCH(Mean)(x, L, E, mean); }
void AddRow(float* x, const float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(AddTo)(x, y, n); }

}  // namespace lion
#endif  // HWY_ONCE
