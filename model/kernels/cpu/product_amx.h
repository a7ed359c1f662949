// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_PRODUCT_AMX_H_
#define LION_MODEL_KERNELS_CPU_PRODUCT_AMX_H_

// y = f(x W^T + b) on matrix tiles (AMX), bfloat16 or int8, with what follows the product done while its tile is in the
// first-level cache and the tiles work on the next one.
//
// A panel is 32 columns of W over all of K, laid out as the tiles want it. Panels are walked in order, and all rows of
// x pass each: W is read once, the next panel being fetched meanwhile, and x stays in the second-level cache.
// Every element is one chain of sums over k = 0 ... K - 1 in steps of 32 (64): fp32 in bfloat16, int32 in int8. Its
// bits depend on its row of x and its column of W alone.
// Bound by the second-level cache and by the sums' way back from the tiles, at about half of what the tiles can do
// (2,048 operations a cycle), and, of few rows, by reading W. Reference: linear_test.cc's loops.

#include <cstdint>

namespace lion {

struct AmxProduct {
  int64_t N = 0;
  int64_t K = 0;
  bool int8 = false;             // of x and W; else bfloat16
  const void* packed = nullptr;  // by AmxPack: AmxPackedBytes of them, 64-byte aligned
  // y = f(sum * (scale * row_scale) + bias), scales and bias counting as 1 and 0 where null. Both scales: int8 only.
  const float* scale = nullptr;      // (N rounded up to 32)
  const float* bias = nullptr;       // (the same)
  const float* row_scale = nullptr;  // (rows)
  bool gelu = false;                 // f = erf GELU (rows.h), else the identity
};

// Where y goes, bfloat16: column n of row r to y[n / group_width * group_stride + r * row_stride + n % group_width].
struct AmxOutput {
  uint16_t* y = nullptr;
  int64_t row_stride = 0;
  int64_t group_width = 0;  // a multiple of 32, or 0 = N
  int64_t group_stride = 0;
};

// Whether the CPU has the tiles for it and K is a whole number of steps.
bool AmxProductTakes(int64_t K, bool int8);

int64_t AmxPackedBytes(int64_t N, int64_t K, bool int8);
// w: (N, K) row-major, bfloat16 or int8.
void AmxPack(const void* w, int64_t N, int64_t K, bool int8, void* packed);

// x: (rows, K), readable for 31 rows more. AmxProductTakes must hold. Any thread.
void AmxMultiply(const AmxProduct& product, const void* x, int64_t rows, const AmxOutput& out);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_PRODUCT_AMX_H_
