// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_DIFFERENCE_H_
#define LION_TESTS_MODEL_DIFFERENCE_H_

// How far an engine's values are from those they are tested against.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace lion {

// Root of the mean square, and the largest difference; infinite where a value is not finite or the sizes differ.
struct Error {
  double rms = 0;
  double max = 0;
};

template <class T, class U>
Error Difference(const std::vector<T>& actual, const std::vector<U>& expected) {
  Error error;
  if (actual.size() != expected.size()) return {INFINITY, INFINITY};
  for (size_t i = 0; i < actual.size(); ++i) {
    const double d = std::fabs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    if (!std::isfinite(d)) return {INFINITY, INFINITY};
    error.rms += d * d / static_cast<double>(actual.size());
    error.max = std::max(error.max, d);
  }
  error.rms = std::sqrt(error.rms);
  return error;
}

inline double Largest(const std::vector<double>& values) {
  double largest = 0;
  for (double v : values) largest = std::max(largest, std::fabs(v));
  return largest;
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_DIFFERENCE_H_
