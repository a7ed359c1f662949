// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ROWS_BF16_H_
#define LION_MODEL_KERNELS_CPU_ROWS_BF16_H_

// Those of rows.h that round to bfloat16, for CPUs whose AVX-512 does it in one instruction: elsewhere rounding costs
// as much as all else. Same contracts; subnormal values become 0. rows.h calls them where RowsBf16Runs().

#include <cstdint>

namespace lion {

bool RowsBf16Runs();

void GeluErfBf16(const uint16_t* x, uint16_t* y, int64_t n);
void ToBf16(const float* x, uint16_t* y, int64_t n);
// y = x * scale + bias of an int8 product's row.
void ScaledToBf16(const uint16_t* x, float scale, const float* bias, uint16_t* y, int64_t n);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ROWS_BF16_H_
