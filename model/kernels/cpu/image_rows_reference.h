// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_IMAGE_ROWS_REFERENCE_H_
#define LION_MODEL_KERNELS_CPU_IMAGE_ROWS_REFERENCE_H_

// image_rows.h as plain loops in fp64: what the kernels are tested against.

#include <cmath>
#include <vector>

namespace lion {

inline double FeatureEluReference(double x) { return x < 0 ? std::exp(x) : x + 1; }

// Of one head.
inline std::vector<double> FeatureUnitReference(std::vector<double> x) {
  double squares = 0;
  for (double& v : x) {
    v = v / (1 + std::exp(-v)) + 0.5;
    squares += v * v;
  }
  for (double& v : x) v /= std::sqrt(squares);
  return x;
}

inline double ImageLogDecayReference(double z) {
  const double softplus = z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z));
  return std::fmax(-softplus, -30.0);
}

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_IMAGE_ROWS_REFERENCE_H_
