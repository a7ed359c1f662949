// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/postprocess.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lion {

bool AllFinite(absl::Span<const float> values) {
  // x · 0 is 0 for every finite x and NaN for the others: a sum that vectorises, where a test for each value would not.
  // Done in pieces, so that a bad value near the start of a long answer is not read to its end.
  constexpr size_t kPiece = 4096;
  for (size_t first = 0; first < values.size(); first += kPiece) {
    float sum = 0;
    for (float x : values.subspan(first, kPiece)) sum += x * 0.0f;
    if (!(sum == 0)) return false;
  }
  return true;
}

bool AnyZeroVector(absl::Span<const float> vectors, int64_t width, int64_t values) {
  for (size_t first = 0; first < vectors.size(); first += width) {
    const absl::Span<const float> v = vectors.subspan(first, values);
    // Almost always the first value decides.
    if (std::all_of(v.begin(), v.end(), [](float x) { return x == 0; })) return true;
  }
  return false;
}

void NormalizeL2(absl::Span<float> v) {
  double sum = 0;
  for (float x : v) sum += static_cast<double>(x) * static_cast<double>(x);
  if (sum == 0) return;
  const double scale = 1 / std::sqrt(sum);
  for (float& x : v) x = static_cast<float>(static_cast<double>(x) * scale);
}

void Softmax(absl::Span<float> logits) {
  if (logits.empty()) return;
  const float largest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float& x : logits) {
    x = std::exp(x - largest);
    sum += x;
  }
  for (float& x : logits) x /= sum;  // sum >= 1: the largest logit's own term
}

void Sigmoid(absl::Span<float> logits) {
  for (float& x : logits)
    x = 1 / (1 + std::exp(-x));  // exp may overflow to infinity: the answer is then 0, as it should
}

std::vector<int> TopK(absl::Span<const float> scores, int top_k) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t k = top_k <= 0 ? order.size() : std::min(order.size(), static_cast<size_t>(top_k));
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                    [scores](int a, int b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  order.resize(k);
  return order;
}

}  // namespace lion
