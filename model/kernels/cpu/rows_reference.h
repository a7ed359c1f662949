// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_ROWS_REFERENCE_H_
#define LION_MODEL_KERNELS_CPU_ROWS_REFERENCE_H_

// The formulas of rows.h in fp64, one value at a time: what its kernels are tested against.

#include <cmath>
#include <cstdint>
#include <vector>

namespace lion {

inline std::vector<double> LayerNormReference(const std::vector<double>& x, const std::vector<double>& gamma,
                                              const std::vector<double>& beta, double eps) {
  double mean = 0;
  for (double v : x) mean += v / static_cast<double>(x.size());
  double variance = 0;
  for (double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(x.size());
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - mean) / std::sqrt(variance + eps) * gamma[i] + beta[i];
  return y;
}

inline double GeluErfReference(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// 1 - sigmoid(z) is sigmoid(-z), which loses nothing in fp64.
inline double TextLogDecayReference(double z) { return std::fmin(std::log(1 / (1 + std::exp(z)) + 1e-7), 0.0); }

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_ROWS_REFERENCE_H_
