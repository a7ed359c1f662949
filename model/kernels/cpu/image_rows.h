// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_IMAGE_ROWS_H_
#define LION_MODEL_KERNELS_CPU_IMAGE_ROWS_H_

// What an image encoder does to rows of activations beside rows.h: feature maps and its own form of the gates.
//
// Contracts as in rows.h: fp32, sums in an order that depends on their length alone, every element through the same
// vector code. Reference: image_rows_reference.h.

#include <cstdint>

namespace lion {

// x (n) = elu(x) + 1: exp(x) below 0, x + 1 elsewhere. Never negative.
void FeatureMapElu(float* x, int64_t n);

// x (heads, D): u = silu(x) + 0.5, then u / |u| for each head. u is never below 0.2, so |u| is not 0.
void FeatureMapUnit(float* x, int64_t heads, int64_t D);

// The decays of image LION-S: log_a[g * stride + t] = max(-softplus(x W^T + b), -30). x: (T, E). weight: (E, Gp),
// transposed and padded with zero columns to Gp = gates rounded up to 16; bias: (Gp).
void ImageLogDecays(const float* x, int64_t T, int64_t E, const float* weight, const float* bias, int64_t gates,
                    float* log_a, int64_t stride);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_IMAGE_ROWS_H_
