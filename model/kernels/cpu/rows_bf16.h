// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ROWS_BF16_H_
#define LION_MODEL_KERNELS_CPU_ROWS_BF16_H_

// Those of rows.h that round to bfloat16 or int8, for CPUs whose AVX-512 does it in one instruction: elsewhere rounding
// costs as much as all else. Same contracts; subnormal values become 0. rows.h calls them where RowsBf16Runs().

#include <cstdint>

#include "model/kernels/cpu/rows.h"

namespace lion {

bool RowsBf16Runs();

void GeluErfBf16(const uint16_t* x, uint16_t* y, int64_t n);
void ToBf16(const float* x, uint16_t* y, int64_t n);
void ScaledToBf16(const ScaledRow& x, uint16_t* y, int64_t n);
void GeluErfToInt8(const ScaledRow& x, int64_t n, float* values, const Int8Row& y);
void ToInt8(const float* x, int64_t n, const Int8Row& y);
void Bf16ToInt8(const uint16_t* x, int64_t n, const Int8Row& y);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ROWS_BF16_H_
