// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ROWS_H_
#define LION_MODEL_KERNELS_CPU_ROWS_H_

// What happens to the rows of activations between the matrix products: LayerNorm, GELU, gates, conversions, means.
//
// All arithmetic and all sums are fp32, each sum in an order that depends on its length alone, and every element goes
// through the same vector code wherever it stands in a buffer: a row's bits depend on the row alone.
// bfloat16 values are their 16 bits (uint16_t). Pointers need no alignment. Bound by memory traffic.
// Reference: rows_reference.h.

#include <cstdint>

namespace lion {

// A row of an int8 product (model/linear.h): value i is y[i] * scale + bias[i], y bfloat16.
struct ScaledRow {
  const uint16_t* y = nullptr;
  float scale = 0;
  const float* bias = nullptr;
};

// A row rounded to int8: value i is about (q[i] - offset) * scale, q[i] - offset in [-127, 127], scale = max|value| /
// 127. A row of zeros has scale 0; one with a NaN or infinity has scale NaN.
struct Int8Row {
  uint8_t* q = nullptr;
  uint8_t offset = 0;  // 0 or 128: how signed bytes are stored
  float* scale = nullptr;
};

// x (n) = LayerNorm(x + residual) * gamma + beta: mean and variance of the sum, from centred values.
// residual: (n) floats, bfloat16, or an int8 product's row; the plain form has none.
void LayerNorm(float* x, const float* gamma, const float* beta, float eps, int64_t n);
void AddLayerNorm(float* x, const float* residual, const float* gamma, const float* beta, float eps, int64_t n);
void AddLayerNorm(float* x, const uint16_t* residual, const float* gamma, const float* beta, float eps, int64_t n);
void AddLayerNorm(float* x, const ScaledRow& residual, const float* gamma, const float* beta, float eps, int64_t n);

// y (n) = x/2 * (1 + erf(x / sqrt 2)), erf as a polynomial: error below 3e-7 in fp32, and below 4e-5, a hundredth of
// bfloat16's own rounding, where y is bfloat16 or int8. y may be x.
void GeluErf(const float* x, float* y, int64_t n);
void GeluErf(const uint16_t* x, uint16_t* y, int64_t n);

// The same of an int8 product's row, rounded to int8 for the next product. values: room for n floats.
void GeluErfQuantize(const ScaledRow& x, int64_t n, float* values, const Int8Row& y);

// y = round(x / scale), ties to even. x: floats or bfloat16.
void Quantize(const float* x, int64_t n, const Int8Row& y);
void Quantize(const uint16_t* x, int64_t n, const Int8Row& y);
// y (n) = the row's values, as bfloat16 or fp32.
void Dequantize(const ScaledRow& x, uint16_t* y, int64_t n);
void Dequantize(const ScaledRow& x, float* y, int64_t n);

// Round to nearest, ties to even; NaN stays NaN; the subnormal may become 0.
void ToBFloat16(const float* x, uint16_t* y, int64_t n);
void FromBFloat16(const uint16_t* x, float* y, int64_t n);
void FromFloat16(const uint16_t* x, float* y, int64_t n);

// The decays of text LION-S: log_a[h * stride + t] = log(1 - sigmoid(x W^T + b) + 1e-7), never above 0, in the two
// halves
//   z < 0: log1p(1e-7 - sigmoid(z)),   else log(sigmoid(-z) + 1e-7)
// that keep all digits. x: (T, E) fp32 in every dtype. weight: (E, Hp), transposed and padded with zero columns to
// Hp = H rounded up to 16; bias: (Hp).
void TextLogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t H,
                   float* log_a, int64_t stride);

// mean (E) of x (L, E): in blocks of 64 rows from row 0, then the blocks' sums in order.
void MeanRows(const float* x, int64_t L, int64_t E, float* mean);

// x (n) += y (n)
void AddRow(float* x, const float* y, int64_t n);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ROWS_H_
