// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/attention_reference.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace lion {
namespace {

int ValueWidth(const AttentionParams& p) { return p.value_width > 0 ? p.value_width : p.D; }

double At(const AttentionParams& p, const void* base, int64_t t, int d) {
  const int64_t stride = base == p.v && p.v_stride > 0 ? p.v_stride : p.stride;
  const int64_t i = t * stride + d;
  if (!p.bfloat16) return static_cast<const float*>(base)[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(base)[i]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

double LogA(const AttentionParams& p, int64_t t) { return p.log_a == nullptr ? 0 : p.log_a[t * p.log_a_stride]; }

}  // namespace

void AttendHeadReference(const AttentionParams& p, double* y) {
  for (int64_t i = 0; i < p.L; ++i) {
    double* out = y + i * ValueWidth(p);
    for (int d = 0; d < ValueWidth(p); ++d) out[d] = 0;
    auto add = [&](int64_t j, double log_m) {
      double score = 0;
      for (int d = 0; d < p.D; ++d) score += At(p, p.q, i, d) * At(p, p.k, j, d);
      const double weight = p.scale * score * std::exp(log_m);
      for (int d = 0; d < ValueWidth(p); ++d) out[d] += weight * At(p, p.v, j, d);
    };
    add(i, 0);
    double log_m = 0;
    for (int64_t j = i - 1; j >= 0; --j) add(j, log_m += LogA(p, j));
    log_m = 0;
    for (int64_t j = i + 1; j < p.L; ++j) add(j, log_m += LogA(p, j));
  }
}

void AttendHeadRecurrentReference(const AttentionParams& p, double* y) {
  const int D = p.D;
  const int V = ValueWidth(p);
  std::vector<double> state(D * V, 0.0);
  for (int64_t i = 0; i < p.L * V; ++i) y[i] = 0;
  // y_i += scale * q_i^T state, then state = a_i (state + k_i v_i^T); both directions, the diagonal in the first.
  auto step = [&](int64_t i, bool diagonal) {
    double* out = y + i * V;
    double score = 0;
    if (diagonal) {
      for (int d = 0; d < D; ++d) score += At(p, p.q, i, d) * At(p, p.k, i, d);
    }
    const double a = std::exp(LogA(p, i));
    for (int e = 0; e < V; ++e) out[e] += p.scale * score * At(p, p.v, i, e);
    for (int d = 0; d < D; ++d) {
      const double q = p.scale * At(p, p.q, i, d);
      const double k = At(p, p.k, i, d);
      for (int e = 0; e < V; ++e) {
        out[e] += q * state[d * V + e];
        state[d * V + e] = a * (state[d * V + e] + k * At(p, p.v, i, e));
      }
    }
  };
  for (int64_t i = 0; i < p.L; ++i) step(i, true);
  state.assign(state.size(), 0.0);
  for (int64_t i = p.L - 1; i >= 0; --i) step(i, false);
}

}  // namespace lion
