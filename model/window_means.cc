// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/window_means.h"

#include <algorithm>
#include <numeric>

#include "model/kernels/cpu/rows.h"

namespace lion {
namespace {

constexpr int64_t kSumRows = 64;  // summed apart, as MeanRows does

// sum (E) += the rows of x (L, E). block: E floats.
void AddRows(const float* x, int64_t L, int64_t E, float* block, float* sum) {
  for (int64_t start = 0; start < L; start += kSumRows) {
    std::fill(block, block + E, 0.f);
    for (int64_t t = start; t < std::min(L, start + kSumRows); ++t) AddRow(block, x + t * E, E);
    AddRow(sum, block, E);
  }
}

// Sub-blocks of a group.
int64_t GroupSize(int64_t L, int64_t size, int64_t stride) {
  const int64_t g = std::gcd(size, stride);
  return std::min(size / g, (L + g - 1) / g);
}

}  // namespace

int64_t WindowMeansScratch(int64_t L, int64_t E, int64_t size, int64_t stride) {
  return (GroupSize(L, size, stride) + 2) * E;
}

void WindowMeans(const float* x, int64_t L, int64_t E, int64_t size, int64_t stride, int64_t first, int64_t last,
                 float* scratch, float* means) {
  const int64_t g = std::gcd(size, stride);
  if (g == size || size >= L) {
    for (int64_t w = first; w < last; ++w, means += E) {
      MeanRows(x + w * stride * E, std::min(size, L - w * stride), E, means);
    }
    return;
  }
  const int64_t n = GroupSize(L, size, stride);
  const int64_t num_blocks = (L + g - 1) / g;
  float* block = scratch;
  float* begin = block + E;  // the sum of the next group's first sub-blocks
  float* ends = begin + E;   // (n, E): of each sub-block and those after it in its group
  const auto add_block = [&](int64_t k, float* sum) { AddRows(x + k * g * E, std::min(g, L - k * g), E, block, sum); };

  int64_t group = -1;
  int64_t next = 0;  // the first sub-block that is not yet in `begin`
  for (int64_t w = first; w < last; ++w, means += E) {
    const int64_t start = w * (stride / g);
    const int64_t end = std::min(start + n, num_blocks);
    if (start / n != group) {
      group = start / n;
      const int64_t past = std::min((group + 1) * n, num_blocks);
      std::fill(ends, ends + n * E, 0.f);
      for (int64_t k = past - 1; k >= start; --k) {
        float* sum = ends + (k - group * n) * E;
        if (k + 1 < past) std::copy(sum + E, sum + 2 * E, sum);
        add_block(k, sum);
      }
      std::fill(begin, begin + E, 0.f);
      next = past;
    }
    for (; next < end; ++next) add_block(next, begin);
    std::copy(ends + (start - group * n) * E, ends + (start - group * n + 1) * E, means);
    AddRow(means, begin, E);
    const auto count = static_cast<float>(std::min(w * stride + size, L) - w * stride);
    for (int64_t e = 0; e < E; ++e) means[e] /= count;
  }
}

void WindowMeans(const float* x, int64_t L, int64_t E, absl::Span<const uint32_t> starts, int64_t first, int64_t last,
                 float* means) {
  for (int64_t w = first; w < last; ++w, means += E) {
    const int64_t start = starts[w];
    const int64_t end = w + 1 < static_cast<int64_t>(starts.size()) ? int64_t{starts[w + 1]} : L;
    MeanRows(x + start * E, end - start, E, means);
  }
}

}  // namespace lion
