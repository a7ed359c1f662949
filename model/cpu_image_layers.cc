// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_image_layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/kernels/cpu/image_rows.h"
#include "model/kernels/cpu/rows.h"
#include "model/linear.h"

namespace lion {
namespace {

constexpr float kRowSumEps = 1e-6f;

// Patches a side of a picture of L tokens.
int64_t Side(int64_t L) { return std::lround(std::sqrt(static_cast<double>(L - 1))); }

// One patch of a picture (3, S, S), channel by channel and row by row: the order of the convolution's weights.
void Unfold(const float* pixels, int64_t S, int64_t p, int64_t row, int64_t column, float* patch) {
  for (int64_t c = 0; c < kImageChannels; ++c) {
    for (int64_t y = 0; y < p; ++y, patch += p) {
      std::copy_n(pixels + (c * S + row * p + y) * S + column * p, p, patch);
    }
  }
}

}  // namespace

int64_t PathToken(int path, int64_t side, int64_t place) {
  if (place == 0) return 0;
  const int64_t line = (place - 1) / side;
  const int64_t along = (place - 1) % side;
  const int64_t at = line % 2 == 0 ? along : side - 1 - along;  // every other line is walked backwards
  return 1 + (path == 0 ? line * side + at : at * side + line);
}

CpuImageLayers::CpuImageLayers(const ImageConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens)
    : CpuLayers(config, weights, dtype, chunk_tokens, PaddedHeadWidth(config->head_width + 1),
                config->variant == Variant::kS ? config->num_heads * (config->two_paths ? 2 : 1) : 0),
      image_(*config),
      num_paths_(config->two_paths && config->variant != Variant::kLit ? 2 : 1) {}

int64_t CpuImageLayers::LargestRow(int64_t max_tokens) const {
  if (image_.positions) return ImageTokens(image_.image_size, image_.patch_size);
  if (max_tokens < 2) return 2;  // one patch
  const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(max_tokens - 1)));
  return 1 + side * side;
}

// Elements of path_in: q, k and v of a row, and a block past q that kernels may read.
int64_t CpuImageLayers::PathElements(int64_t L) const { return L * (2 * D_ + value_width_) + kAttentionBlock * D_; }

int64_t CpuImageLayers::WholeRowScratch(int64_t L) const {
  int64_t bytes = num_paths_ * L * value_width_ * 4;
  if (num_paths_ > 1) bytes += PathElements(L) * (wide_ ? 4 : 2);
  if (num_paths_ > 1 && num_gates_ > 0) bytes += L * 4;
  return bytes;
}

void CpuImageLayers::Embed(Activations& a, int64_t first, int64_t last, Workspace& w) const {
  w.clock.To(StageClock::Stage::kEmbed);
  const int64_t p = image_.patch_size;
  const int64_t K = kImageChannels * p * p;
  const bool wide = weights_.patch->dtype() == DType::kFloat32;
  // One product for all tokens: a cls row's patch is zeros, and its answer is not looked at.
  void* patches = wide ? static_cast<void*>(w.in.Get<float>(kBufferRows * K))
                       : static_cast<void*>(w.in.Get<uint16_t>(kBufferRows * K));
  float* patch = w.normed.Get<float>(std::max(K, kBufferRows * E_));
  for (const Slice& slice : a.slices) {
    const int64_t side = Side(slice.L);
    for (int64_t t = std::max(first, slice.start); t < std::min(last, slice.start + slice.L); ++t) {
      const int64_t i = t - slice.start;
      float* to = wide ? static_cast<float*>(patches) + (t - first) * K : patch;
      if (i == 0) {
        std::fill_n(to, K, 0.f);
      } else {
        Unfold(slice.row->pixels.data(), side * p, p, (i - 1) / side, (i - 1) % side, to);
      }
      if (!wide) ToBFloat16(to, static_cast<uint16_t*>(patches) + (t - first) * K, K);
    }
  }
  w.clock.To(StageClock::Stage::kProducts);
  weights_.patch->Run(patches, last - first, [&](int64_t row, int64_t rows, const void* y) {
    float* x = a.x + (first + row) * E_;
    if (wide) {
      std::memcpy(x, y, rows * E_ * sizeof(float));
    } else {
      FromBFloat16(static_cast<const uint16_t*>(y), x, rows * E_);
    }
  });
  w.clock.To(StageClock::Stage::kEmbed);
  for (const Slice& slice : a.slices) {
    for (int64_t t = std::max(first, slice.start); t < std::min(last, slice.start + slice.L); ++t) {
      const int64_t i = t - slice.start;
      float* x = a.x + t * E_;
      if (i == 0) std::copy(weights_.cls.begin(), weights_.cls.end(), x);
      if (!weights_.position.empty()) AddRow(x, weights_.position.data() + i * E_, E_);
    }
  }
}

const float* CpuImageLayers::Normed(const float* x, int64_t rows, const CpuNorm& norm, Workspace& w) const {
  float* normed = w.normed.Get<float>(kBufferRows * E_);
  std::memcpy(normed, x, rows * E_ * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    LayerNorm(normed + r * E_, norm.gamma.data(), norm.beta.data(), static_cast<float>(config_.layer_norm_eps), E_);
  }
  return normed;
}

void CpuImageLayers::Add(float* x, const void* product, int64_t rows, const float* scales, const Linear& linear,
                         Workspace& w) const {
  float* values = w.row.data();
  for (int64_t r = 0; r < rows; ++r, x += E_) {
    if (wide_) {
      AddRow(x, static_cast<const float*>(product) + r * E_, E_);
      continue;
    }
    const uint16_t* y = static_cast<const uint16_t*>(product) + r * E_;
    if (dtype_ == DType::kBFloat16 || scales == nullptr) {
      FromBFloat16(y, values, E_);
    } else {
      Dequantize(ScaledRow{y, scales[r], linear.bias()}, values, E_);
    }
    AddRow(x, values, E_);
  }
}

// One token's (3, H, D): feature maps over q and k, then each head to its place; v gets its column of ones.
void CpuImageLayers::LayOut(Activations& a, int64_t t, float* qkv, Workspace& w) const {
  if (config_.variant == Variant::kLit) {
    FeatureMapElu(qkv, 2 * E_);
  } else {
    FeatureMapUnit(qkv, 2 * H_, D_);
  }
  const int64_t element = wide_ ? 4 : 2;
  const void* values = qkv;
  if (!wide_) {
    auto* rounded = w.path.Get<uint16_t>(3 * E_);
    ToBFloat16(qkv, rounded, 3 * E_);
    values = rounded;
  }
  const int64_t piece = D_ * element;
  const int64_t v_piece = value_width_ * element;
  char* to = static_cast<char*>(a.qkv);
  Scatter(values, piece, 2 * H_, to + t * piece, a.stride * piece);
  char* v = to + 2 * H_ * a.stride * piece + t * v_piece;
  Scatter(static_cast<const char*>(values) + 2 * E_ * element, piece, H_, v, a.stride * v_piece);
  const uint16_t one = 0x3F80;  // of bfloat16
  const float wide_one = 1;
  for (int64_t h = 0; h < H_; ++h) {
    char* rest = v + h * a.stride * v_piece + piece;
    std::memset(rest, 0, v_piece - piece);
    std::memcpy(rest, wide_ ? static_cast<const void*>(&wide_one) : &one, element);
  }
}

void CpuImageLayers::Project(Activations& a, size_t layer, int64_t first, int64_t last, Workspace& w) const {
  const CpuLayerWeights& weights = weights_.layers[layer];
  const int64_t T = last - first;
  w.clock.To(StageClock::Stage::kRows);
  const float* u = Normed(a.x + first * E_, T, weights.attention_norm, w);
  if (num_gates_ > 0) {
    w.clock.To(StageClock::Stage::kGates);
    ImageLogDecays(u, T, E_, weights.gate_weight.data(), weights.gate_bias.data(), num_gates_, a.log_a + first,
                   a.stride);
    for (const Slice& slice : a.slices) {  // cls decays nothing
      if (slice.start < first || slice.start >= last) continue;
      for (int64_t g = 0; g < num_gates_; ++g) a.log_a[g * a.stride + slice.start] = 0;
    }
    w.clock.To(StageClock::Stage::kRows);
  }
  const void* operand = Operand(u, T, w);
  w.clock.To(StageClock::Stage::kProducts);
  weights.qkv->Run(operand, T, [&](int64_t row, int64_t rows, void* y) {
    w.clock.To(StageClock::Stage::kRows);
    for (int64_t r = 0; r < rows; ++r) {
      float* qkv = w.row.data();
      if (wide_) {
        qkv = static_cast<float*>(y) + r * 3 * E_;
      } else if (dtype_ == DType::kBFloat16) {
        FromBFloat16(static_cast<const uint16_t*>(y) + r * 3 * E_, qkv, 3 * E_);
      } else {
        Dequantize(ScaledRow{static_cast<const uint16_t*>(y) + r * 3 * E_, w.in_scales[row + r], weights.qkv->bias()},
                   qkv, 3 * E_);
      }
      LayOut(a, first + row + r, qkv, w);
    }
    w.clock.To(StageClock::Stage::kProducts);
  });
  w.clock.To(StageClock::Stage::kNumStages);
}

void CpuImageLayers::AttendRow(const Activations& a, size_t layer, const Slice& slice, int64_t head, float* y,
                               Workspace& w) const {
  const int64_t L = slice.L;
  const int64_t side = Side(L);
  const int64_t V = value_width_;
  AttentionParams p = HeadParams(a, layer, *slice.row, slice.start, L, head);
  p.scale = 1.f / std::sqrt(static_cast<float>(D_));
  p.y_stride = V;
  float* sums = w.path_y.Get<float>(num_paths_ * L * V);  // (paths, L, V): the last path's in its own order
  p.y = sums;
  if (num_paths_ == 1) {
    AttendHead(p, &w.attention);
  } else {
    const int64_t element = wide_ ? 4 : 2;
    char* q = static_cast<char*>(wide_ ? static_cast<void*>(w.path.Get<float>(PathElements(L)))
                                       : static_cast<void*>(w.path.Get<uint16_t>(PathElements(L))));
    char* k = q + (L + kAttentionBlock) * D_ * element;
    char* v = k + L * D_ * element;
    AttentionParams along = p;
    along.q = q;
    along.k = k;
    along.v = v;
    along.y = sums + L * V;
    for (int path = 0; path < num_paths_; ++path) {
      float* log_a = num_gates_ > 0 ? w.path_log_a.Get<float>(L) : nullptr;
      if (log_a != nullptr) {
        const float* gates = a.log_a + (path * H_ + head) * a.stride + slice.start;
        for (int64_t i = 0; i < L; ++i) log_a[i] = gates[PathToken(path, side, i)];
        along.log_a = log_a;
      } else {
        along.log_a = &weights_.layers[layer].log_lambda[path * H_ + head];
      }
      const int64_t piece = D_ * element;
      for (int64_t i = 0; i < L; ++i) {
        const int64_t t = PathToken(path, side, i);
        std::memcpy(q + i * piece, static_cast<const char*>(p.q) + t * piece, piece);
        std::memcpy(k + i * piece, static_cast<const char*>(p.k) + t * piece, piece);
        std::memcpy(v + i * V * element, static_cast<const char*>(p.v) + t * V * element, V * element);
      }
      AttendHead(along, &w.attention);
      for (int64_t i = 0; i < L; ++i) {
        float* sum = sums + PathToken(path, side, i) * V;
        if (path == 0) {
          std::memcpy(sum, along.y + i * V, V * sizeof(float));
        } else {
          AddRow(sum, along.y + i * V, V);
        }
      }
    }
  }
  // (num / n) / (den / n + eps)
  const float eps = kRowSumEps * static_cast<float>(num_paths_);
  for (int64_t i = 0; i < L; ++i) {
    const float* sum = sums + i * V;
    const float factor = 1.f / (sum[D_] + eps);
    float* to = y + i * E_ + head * D_;
    for (int64_t e = 0; e < D_; ++e) to[e] = sum[e] * factor;
  }
}

void CpuImageLayers::FeedForward(Activations& a, size_t layer, int64_t first, int64_t last, float* y,
                                 Workspace& w) const {
  const CpuLayerWeights& weights = weights_.layers[layer];
  const int64_t T = last - first;
  float* x = a.x + first * E_;
  w.clock.To(StageClock::Stage::kRows);
  const void* operand = Operand(y, T, w);
  w.clock.To(StageClock::Stage::kProducts);
  Multiply(*weights.out, operand, w.in_scales.data(), T,
           [&](int64_t row, int64_t rows, const void* z, const float* scales) {
             w.clock.To(StageClock::Stage::kRows);
             Add(x + row * E_, z, rows, scales, *weights.out, w);
             w.clock.To(StageClock::Stage::kProducts);
           });
  w.clock.To(StageClock::Stage::kRows);
  operand = Operand(Normed(x, T, weights.output_norm, w), T, w);
  UpAndDown(
      weights, operand, T,
      [&](int64_t row, int64_t rows, const void* z, const float* scales) {
        Add(x + row * E_, z, rows, scales, *weights.down, w);
      },
      w);
  if (layer + 1 < weights_.layers.size()) return;
  w.clock.To(StageClock::Stage::kRows);
  const CpuNorm& norm = weights_.final_norm;
  for (int64_t t = 0; t < T; ++t) {
    LayerNorm(x + t * E_, norm.gamma.data(), norm.beta.data(), static_cast<float>(config_.layer_norm_eps), E_);
  }
  w.clock.To(StageClock::Stage::kNumStages);
}

}  // namespace lion
