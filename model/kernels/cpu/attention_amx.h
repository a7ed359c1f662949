// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ATTENTION_AMX_H_
#define LION_MODEL_KERNELS_CPU_ATTENTION_AMX_H_

// AttendHead and SummarizeHead (attention.h) on matrix tiles, for bfloat16 operands on CPUs that have them (AMX).
//
// Products of bfloat16, sums in fp32. Scores are rounded to bfloat16 after their decay, states before they meet q: what
// plain torch rounds in bfloat16, and the states. Decays are products of a_t itself over at most one span, in fp32: no
// sums of logarithms, no exponentials but one a token.
// Bound by the vector work between the tiles: a chunk's scores, once each.
// Reference: attention_reference.h.

#include "model/kernels/cpu/attention.h"

namespace lion {

// Whether the kernel takes these: the CPU has the tiles, q, k, v are bfloat16, D is a multiple of 32 and the width of v
// too, and the form is kChunked with C 16, 32, 48 or 64, or kParallel within one block of 64 tokens.
bool AmxTakes(const AttentionParams& params);

// AmxTakes must hold. The buffers of q must be readable for kAttentionBlock tokens past the last one.
void AmxAttendHead(const AttentionParams& params, AttentionScratch* scratch);
void AmxSummarizeHead(const AttentionParams& params, float* forward, float* backward, float* decay,
                      AttentionScratch* scratch);

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ATTENTION_AMX_H_
