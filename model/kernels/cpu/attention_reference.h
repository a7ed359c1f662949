// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ATTENTION_REFERENCE_H_
#define LION_MODEL_KERNELS_CPU_ATTENTION_REFERENCE_H_

// The attention of attention.h as plain loops in fp64, straight from its formula: what the kernels are tested against.

#include "model/kernels/cpu/attention.h"

namespace lion {

// O(L^2 D). Takes no notice of mode and C: the forms are one function.
void AttendHeadReference(const AttentionParams& params, double* y);  // y: (L, width of v), dense

// The same by the bidirectional recurrence, O(L D^2): for rows too long for O(L^2).
void AttendHeadRecurrentReference(const AttentionParams& params, double* y);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ATTENTION_REFERENCE_H_
