// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_POSTPROCESS_H_
#define LION_MODEL_POSTPROCESS_H_

// What happens to an encoder's vectors and logits before they travel: cutting, normalising, scores. Pure functions.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace lion {

// True if every value is finite.
bool AllFinite(absl::Span<const float> values);

// True if one of the vectors, each of width values, is all 0 in its first `values` (at most width).
bool AnyZeroVector(absl::Span<const float> vectors, int64_t width, int64_t values);

// Scales v to Euclidean length 1 (sum of squares in double). A zero vector stays zero.
void NormalizeL2(absl::Span<float> v);

// Probabilities of logits in place, fp32 with the largest logit taken out first. Empty = nothing.
void Softmax(absl::Span<float> logits);
void Sigmoid(absl::Span<float> logits);

// Indices of the top_k largest scores, highest first, equal ones by index. top_k 0, or above the number = all.
std::vector<int> TopK(absl::Span<const float> scores, int top_k);

}  // namespace lion

#endif  // LION_MODEL_POSTPROCESS_H_
