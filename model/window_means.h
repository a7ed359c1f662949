// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_WINDOW_MEANS_H_
#define LION_MODEL_WINDOW_MEANS_H_

// The means over the windows of one row (RowOutput::kWindows), from its last hidden states.
//
// With g = gcd(size, stride), rows are summed in sub-blocks of g from the row's start, and every window is a whole
// number n = size / g of them. Sub-blocks are grouped n at a time: a window is the end of one group and the beginning
// of the next, so running sums from each side of every group's border serve all windows that cross it (van Herk's
// algorithm). That is three additions a row, however windows overlap, and nothing is ever subtracted: a difference of
// sums over a long document would lose its digits.
// A window's bits depend on the row, size and stride alone. Where windows do not overlap, each is what MeanRows makes
// of its rows; so is a window as long as the row.

#include <cstdint>

#include "absl/types/span.h"

namespace lion {

// The floats of scratch that WindowMeans takes.
int64_t WindowMeansScratch(int64_t L, int64_t E, int64_t size, int64_t stride);

// means (last - first, E): of windows [first, last), of NumWindows(L, size, stride). x: (L, E). Any split of the
// windows gives the same bits; each call sums at most one group of sub-blocks anew.
void WindowMeans(const float* x, int64_t L, int64_t E, int64_t size, int64_t stride, int64_t first, int64_t last,
                 float* scratch, float* means);

// The same of windows end to end that start where starts says (Row::window_starts).
void WindowMeans(const float* x, int64_t L, int64_t E, absl::Span<const uint32_t> starts, int64_t first, int64_t last,
                 float* means);

}  // namespace lion

#endif  // LION_MODEL_WINDOW_MEANS_H_
