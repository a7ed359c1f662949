// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/rows.h"

#include <algorithm>
#include <limits>
#include <type_traits>

// SSE4 (the baseline), AVX2 and AVX-512 are enough: what lies between them has the same vectors.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/cpu/rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "model/kernels/cpu/gelu_fit.h"
#include "model/kernels/cpu/gemm-inl.h"
#include "model/kernels/cpu/rows_bf16.h"

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

bool IsWidest() { return HWY_TARGET <= HWY_AVX3; }

// What rows are read from: At(i) is the vector of values i ... i + N - 1, Tail(i, n) the values i ... n - 1 and then
// what does no harm, so that every element meets the same code.
template <class T>
struct PlainSource {
  const T* x;
  HWY_ATTR HWY_INLINE V At(int64_t i) const { return Load(x + i); }
  HWY_ATTR HWY_INLINE V Tail(int64_t i, int64_t n) const {
    T in[kPad] = {};
    std::copy(x + i, x + n, in);
    return Load(in);
  }
};

struct ScaledSource {
  const ScaledRow& row;
  HWY_ATTR HWY_INLINE V At(int64_t i) const {
    return hn::MulAdd(Load(row.y + i), hn::Set(F32(), row.scale), Load(row.bias + i));
  }
  HWY_ATTR HWY_INLINE V Tail(int64_t i, int64_t n) const {
    return hn::MulAdd(PlainSource<uint16_t>{row.y}.Tail(i, n), hn::Set(F32(), row.scale),
                      PlainSource<float>{row.bias}.Tail(i, n));
  }
};

// y[i] = f(x[i])
template <class Source, class Out, class Function>
HWY_ATTR HWY_INLINE void Map(const Source& x, Out* y, int64_t n, const Function& f) {
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + N <= n; i += N) Store(f(x.At(i)), y + i);
  if (i == n) return;
  Out out[kPad];
  Store(f(x.Tail(i, n)), out);
  std::copy(out, out + (n - i), y + i);
}

struct NoSource {};

// x += residual, and its LayerNorm. Passes over values that stay in the first-level cache.
template <class Residual>
HWY_ATTR HWY_INLINE void Normalize(float* x, const Residual& residual, const float* gamma, const float* beta, float eps,
                                   int64_t n) {
  const F32 d;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = n / N * N;
  V sum = hn::Zero(d);
  for (int64_t i = 0; i < whole; i += N) {
    V value = Load(x + i);
    if constexpr (!std::is_same_v<Residual, NoSource>) {
      value = hn::Add(value, residual.At(i));
      Store(value, x + i);
    }
    sum = hn::Add(sum, value);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  if constexpr (!std::is_same_v<Residual, NoSource>) {
    if (whole < n) {
      float tail[kPad] = {};
      Store(residual.Tail(whole, n), tail);
      for (int64_t i = whole; i < n; ++i) x[i] += tail[i - whole];
    }
  }
  for (int64_t i = whole; i < n; ++i) total += x[i];
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
  Normalize(x, NoSource(), gamma, beta, eps, n);
}
HWY_ATTR void NormalizeF32(float* x, const float* residual, const float* gamma, const float* beta, float eps,
                           int64_t n) {
  Normalize(x, PlainSource<float>{residual}, gamma, beta, eps, n);
}
HWY_ATTR void NormalizeBF16(float* x, const uint16_t* residual, const float* gamma, const float* beta, float eps,
                            int64_t n) {
  Normalize(x, PlainSource<uint16_t>{residual}, gamma, beta, eps, n);
}
HWY_ATTR void NormalizeScaled(float* x, const ScaledRow& residual, const float* gamma, const float* beta, float eps,
                              int64_t n) {
  Normalize(x, ScaledSource{residual}, gamma, beta, eps, n);
}

// One polynomial (gelu_fit.h) and no division, which would take as long as all the rest.
template <size_t kTerms>
HWY_ATTR HWY_INLINE V GeluBy(V x, float limit, const float (&q)[kTerms]) {
  const F32 d;
  // Max and Min may drop a NaN; x itself carries it to the result.
  const V cut = hn::Max(hn::Min(x, hn::Set(d, limit)), hn::Set(d, -limit));
  const V s = hn::MulSub(hn::Mul(cut, cut), hn::Set(d, 2 / (limit * limit)), hn::Set(d, 1.f));
  V sum = hn::Set(d, q[0]);
  for (size_t i = 1; i < kTerms; ++i) sum = hn::MulAdd(sum, s, hn::Set(d, q[i]));
  return hn::Mul(x, hn::MulAdd(sum, cut, hn::Set(d, 0.5f)));
}

HWY_ATTR HWY_INLINE V Gelu(V x) { return GeluBy(x, kErfLimit, kErf); }
HWY_ATTR HWY_INLINE V ShortGelu(V x) { return GeluBy(x, kShortErfLimit, kShortErf); }

HWY_ATTR void GeluF32(const float* x, float* y, int64_t n) {
  Map(PlainSource<float>{x}, y, n, [](V v) HWY_ATTR { return Gelu(v); });
}
HWY_ATTR void GeluBF16(const uint16_t* x, uint16_t* y, int64_t n) {
  Map(PlainSource<uint16_t>{x}, y, n, [](V v) HWY_ATTR { return ShortGelu(v); });
}
HWY_ATTR void F32ToBF16(const float* x, uint16_t* y, int64_t n) {
  Map(PlainSource<float>{x}, y, n, [](V v) HWY_ATTR { return v; });
}
HWY_ATTR void BF16ToF32(const uint16_t* x, float* y, int64_t n) {
  Map(PlainSource<uint16_t>{x}, y, n, [](V v) HWY_ATTR { return v; });
}
HWY_ATTR void ScaledToBF16(const ScaledRow& x, uint16_t* y, int64_t n) {
  Map(ScaledSource{x}, y, n, [](V v) HWY_ATTR { return v; });
}
HWY_ATTR void ScaledToF32(const ScaledRow& x, float* y, int64_t n) {
  Map(ScaledSource{x}, y, n, [](V v) HWY_ATTR { return v; });
}

// The bits of |x| order as |x| does, with infinity and NaN above all numbers.
HWY_ATTR HWY_INLINE hn::Vec<U32> MagnitudeBits(V x) {
  return hn::And(hn::BitCast(U32(), x), hn::Set(U32(), 0x7FFFFFFF));
}

// y = values rounded, their largest magnitude's bits being in the lanes of largest.
template <class T>
HWY_ATTR HWY_INLINE void RoundRow(const T* values, int64_t n, hn::Vec<U32> largest, const Int8Row& y) {
  const F32 d;
  const U32 du;
  const I32 di;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  const uint32_t bits = hn::GetLane(hn::MaxOfLanes(du, largest));
  float magnitude;
  hwy::CopyBytes<4>(&bits, &magnitude);
  if (bits >= 0x7F800000) {
    *y.scale = std::numeric_limits<float>::quiet_NaN();
    std::fill(y.q, y.q + n, y.offset);
    return;
  }
  *y.scale = magnitude / 127;
  // Of a magnitude too small for its inverse nothing is left.
  const float inverse = magnitude > 1e-35f ? 127 / magnitude : 0.f;
  const V factor = hn::Set(d, inverse);
  const auto offset = hn::Set(di, y.offset);
  auto rounded = [&](V v) HWY_ATTR {
    const auto whole = hn::Add(hn::NearestInt(hn::Mul(v, factor)), offset);
    return hn::TruncateTo(hn::Rebind<uint8_t, F32>(), hn::BitCast(du, whole));
  };
  const hn::Rebind<uint8_t, F32> d8;
  int64_t i = 0;
  for (; i + N <= n; i += N) hn::StoreU(rounded(Load(values + i)), d8, y.q + i);
  if (i >= n) return;
  uint8_t out[kPad];
  hn::StoreU(rounded(PlainSource<T>{values}.Tail(i, n)), d8, out);
  std::copy(out, out + (n - i), y.q + i);
}

template <class T>
HWY_ATTR HWY_INLINE void QuantizeValues(const T* x, int64_t n, const Int8Row& y) {
  const U32 du;
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  auto largest = hn::Zero(du);
  int64_t i = 0;
  for (; i + N <= n; i += N) largest = hn::Max(largest, MagnitudeBits(Load(x + i)));
  if (i < n) largest = hn::Max(largest, MagnitudeBits(PlainSource<T>{x}.Tail(i, n)));
  RoundRow(x, n, largest, y);
}
HWY_ATTR void QuantizeRow(const float* x, int64_t n, const Int8Row& y) { QuantizeValues(x, n, y); }
HWY_ATTR void QuantizeBF16(const uint16_t* x, int64_t n, const Int8Row& y) { QuantizeValues(x, n, y); }

HWY_ATTR void GeluQuantize(const ScaledRow& x, int64_t n, float* values, const Int8Row& y) {
  const U32 du;
  const int64_t N = static_cast<int64_t>(hn::Lanes(F32()));
  const ScaledSource source{x};
  auto largest = hn::Zero(du);
  int64_t i = 0;
  for (; i + N <= n; i += N) {
    const V value = ShortGelu(source.At(i));
    largest = hn::Max(largest, MagnitudeBits(value));
    Store(value, values + i);
  }
  if (i < n) {
    float out[kPad];
    Store(ShortGelu(source.Tail(i, n)), out);
    std::copy(out, out + (n - i), values + i);
    largest = hn::Max(largest, MagnitudeBits(PlainSource<float>{values}.Tail(i, n)));
  }
  RoundRow(values, n, largest, y);
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

HWY_ATTR void LogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t H,
                        float* log_a, int64_t stride) {
  const F32 d;
  const int64_t Hp = Padded(H);
  const V one = hn::Set(d, 1.f);
  const V tiny = hn::Set(d, 1e-7f);
  constexpr int64_t kTokens = 16;
  alignas(64) float z_block[kTokens * kPad];
  for (int64_t first = 0; first < T; first += kTokens) {
    const int64_t n = std::min(kTokens, T - first);
    for (int64_t head = 0; head < H; head += kPad) {
      const int64_t width = Padded(std::min<int64_t>(kPad, H - head));  // kPad
      for (int64_t t = 0; t < n; ++t) std::copy(bias + head, bias + head + kPad, z_block + t * kPad);
      Gemm(n, width, E, x + first * E, E, 1, weight + head, Hp, z_block, kPad, true);
      for (int64_t i = 0; i < n * kPad; i += static_cast<int64_t>(hn::Lanes(d))) {
        const V z = Load(z_block + i);
        // r = sigmoid(-|z|): sigmoid(z) where z < 0, sigmoid(-z) elsewhere.
        const V e = hn::Exp(d, hn::Neg(hn::Abs(z)));
        const V r = hn::Div(e, hn::Add(one, e));
        const V open = hn::Log1p(d, hn::Sub(tiny, r));
        const V closed = hn::Log(d, hn::Add(r, tiny));
        const V a = hn::Min(hn::IfThenElse(hn::Lt(z, hn::Zero(d)), open, closed), hn::Zero(d));
        Store(hn::IfThenElse(hn::IsNaN(z), z, a), z_block + i);
      }
      for (int64_t h = head; h < std::min(H, head + kPad); ++h) {
        for (int64_t t = 0; t < n; ++t) log_a[h * stride + first + t] = z_block[t * kPad + h - head];
      }
    }
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

HWY_EXPORT(IsWidest);
HWY_EXPORT(NormalizePlain);
HWY_EXPORT(NormalizeF32);
HWY_EXPORT(NormalizeBF16);
HWY_EXPORT(NormalizeScaled);
HWY_EXPORT(GeluF32);
HWY_EXPORT(GeluBF16);
HWY_EXPORT(GeluQuantize);
HWY_EXPORT(QuantizeRow);
HWY_EXPORT(QuantizeBF16);
HWY_EXPORT(ScaledToBF16);
HWY_EXPORT(ScaledToF32);
HWY_EXPORT(F32ToBF16);
HWY_EXPORT(BF16ToF32);
HWY_EXPORT(F16ToF32);
HWY_EXPORT(LogDecays);
HWY_EXPORT(AddTo);
HWY_EXPORT(Mean);

namespace {

// A test may have asked for a narrower target than the CPU has.
bool Bf16Rows() { return RowsBf16Runs() && HWY_DYNAMIC_DISPATCH(IsWidest)(); }

}  // namespace

void LayerNorm(float* x, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizePlain)(x, gamma, beta, eps, n);
}
void AddLayerNorm(float* x, const float* residual, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizeF32)(x, residual, gamma, beta, eps, n);
}
void AddLayerNorm(float* x, const uint16_t* residual, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizeBF16)(x, residual, gamma, beta, eps, n);
}
void AddLayerNorm(float* x, const ScaledRow& residual, const float* gamma, const float* beta, float eps, int64_t n) {
  HWY_DYNAMIC_DISPATCH(NormalizeScaled)(x, residual, gamma, beta, eps, n);
}
void GeluErfQuantize(const ScaledRow& x, int64_t n, float* values, const Int8Row& y) {
  if (Bf16Rows()) return GeluErfToInt8(x, n, values, y);
  HWY_DYNAMIC_DISPATCH(GeluQuantize)(x, n, values, y);
}
void Quantize(const float* x, int64_t n, const Int8Row& y) {
  if (Bf16Rows()) return ToInt8(x, n, y);
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(x, n, y);
}
void Quantize(const uint16_t* x, int64_t n, const Int8Row& y) {
  if (Bf16Rows()) return Bf16ToInt8(x, n, y);
  HWY_DYNAMIC_DISPATCH(QuantizeBF16)(x, n, y);
}
void Dequantize(const ScaledRow& x, uint16_t* y, int64_t n) {
  if (Bf16Rows()) return ScaledToBf16(x, y, n);
  HWY_DYNAMIC_DISPATCH(ScaledToBF16)(x, y, n);
}
void Dequantize(const ScaledRow& x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(ScaledToF32)(x, y, n); }
void GeluErf(const float* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(GeluF32)(x, y, n); }
void GeluErf(const uint16_t* x, uint16_t* y, int64_t n) {
  if (Bf16Rows()) return GeluErfBf16(x, y, n);
  HWY_DYNAMIC_DISPATCH(GeluBF16)(x, y, n);
}
void ToBFloat16(const float* x, uint16_t* y, int64_t n) {
  if (Bf16Rows()) return ToBf16(x, y, n);
  HWY_DYNAMIC_DISPATCH(F32ToBF16)(x, y, n);
}
void FromBFloat16(const uint16_t* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(BF16ToF32)(x, y, n); }
void FromFloat16(const uint16_t* x, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(F16ToF32)(x, y, n); }
void TextLogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t H,
                   float* log_a, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(LogDecays)(x, T, E, weight, bias, H, log_a, stride);
}
void MeanRows(const float* x, int64_t L, int64_t E, float* mean) { HWY_DYNAMIC_DISPATCH(Mean)(x, L, E, mean); }
void AddRow(float* x, const float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(AddTo)(x, y, n); }

}  // namespace lion
#endif  // HWY_ONCE
