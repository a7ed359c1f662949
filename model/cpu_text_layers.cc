// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_text_layers.h"

#include <algorithm>
#include <cstring>

#include "model/kernels/cpu/rows.h"
#include "model/linear.h"
#include "model/weights.h"

namespace lion {
namespace {

constexpr float kAfterEps = 1e-5f;  // of layer_norm_after

}  // namespace

CpuTextLayers::CpuTextLayers(const TextConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens)
    : CpuLayers(config, weights, dtype, chunk_tokens, config->head_width,
                config->variant == Variant::kS ? config->num_heads : 0),
      text_(*config) {}

// x of tokens [first, last): the three embeddings, summed and normalised.
void CpuTextLayers::Embed(Activations& a, int64_t first, int64_t last, Workspace& w) const {
  w.clock.To(StageClock::Stage::kEmbed);
  const CpuNorm& norm = weights_.embedding_norm;
  for (const Slice& slice : a.slices) {
    for (int64_t t = std::max(first, slice.start); t < std::min(last, slice.start + slice.L); ++t) {
      const int64_t i = t - slice.start;
      float* x = a.x + t * E_;
      ReadElements(*weights_.word, static_cast<int64_t>(slice.row->ids[i]) * E_, E_, x);
      const int64_t type_id = slice.row->type_ids.empty() ? 0 : slice.row->type_ids[i];
      AddRow(x, weights_.type.data() + type_id * E_, E_);
      if (!weights_.position.empty()) AddRow(x, weights_.position.data() + i * E_, E_);
      LayerNorm(x, norm.gamma.data(), norm.beta.data(), static_cast<float>(config_.layer_norm_eps), E_);
    }
  }
}

void CpuTextLayers::Project(Activations& a, size_t layer, int64_t first, int64_t last, Workspace& w) const {
  const CpuLayerWeights& weights = weights_.layers[layer];
  // A head's rows side by side: attention walks them once a direction, and the hardware fetches ahead only what is
  // near.
  const int64_t piece = D_ * (wide_ ? 4 : 2);
  w.clock.To(StageClock::Stage::kRows);
  const void* operand = Operand(a.x + first * E_, last - first, w);
  w.clock.To(StageClock::Stage::kProducts);
  if (weights.qkv->on_tiles() && D_ % 32 == 0) {
    weights.qkv->RunToGroups(operand, w.in_scales.data(), last - first, D_, a.stride * D_,
                             static_cast<uint16_t*>(a.qkv) + first * D_);
  } else {
    Multiply(
        *weights.qkv, operand, w.in_scales.data(), last - first,
        [&](int64_t row, int64_t rows, const void* y, const float* scales) {
          w.clock.To(StageClock::Stage::kRows);
          for (int64_t r = 0; r < rows; ++r) {
            const void* values = static_cast<const char*>(y) + r * 3 * H_ * piece;
            if (dtype_ == DType::kInt8 && scales != nullptr) {
              auto* whole = reinterpret_cast<uint16_t*>(w.row.data());
              Dequantize({static_cast<const uint16_t*>(y) + r * 3 * E_, scales[r], weights.qkv->bias()}, whole, 3 * E_);
              values = whole;
            }
            Scatter(values, piece, 3 * H_, static_cast<char*>(a.qkv) + (first + row + r) * piece, a.stride * piece);
          }
          w.clock.To(StageClock::Stage::kProducts);
        });
  }
  if (config_.variant == Variant::kS) {
    w.clock.To(StageClock::Stage::kGates);
    TextLogDecays(a.x + first * E_, last - first, E_, weights.gate_weight.data(), weights.gate_bias.data(), H_,
                  a.log_a + first, a.stride);
  }
}

void CpuTextLayers::AttendRow(const Activations& a, size_t layer, const Slice& slice, int64_t head, float* y,
                              Workspace& w) const {
  AttentionParams p = HeadParams(a, layer, *slice.row, slice.start, slice.L, head);
  p.y = y + head * D_;
  AttendHead(p, &w.attention);
}

// x = LayerNorm(x + row r of a product), of which use got the rows.
void CpuTextLayers::AddNorm(float* x, const void* product, int64_t r, const float* scales, const Linear& linear,
                            const CpuNorm& norm) const {
  const auto eps = static_cast<float>(config_.layer_norm_eps);
  const float* gamma = norm.gamma.data();
  const float* beta = norm.beta.data();
  if (wide_) {
    AddLayerNorm(x, static_cast<const float*>(product) + r * E_, gamma, beta, eps, E_);
  } else if (dtype_ == DType::kBFloat16 || scales == nullptr) {
    AddLayerNorm(x, static_cast<const uint16_t*>(product) + r * E_, gamma, beta, eps, E_);
  } else {
    const ScaledRow row{static_cast<const uint16_t*>(product) + r * E_, scales[r], linear.bias()};
    AddLayerNorm(x, row, gamma, beta, eps, E_);
  }
}

void CpuTextLayers::FeedForward(Activations& a, size_t layer, int64_t first, int64_t last, float* y,
                                Workspace& w) const {
  const CpuLayerWeights& weights = weights_.layers[layer];
  const int64_t T = last - first;
  float* x = a.x + first * E_;
  w.clock.To(StageClock::Stage::kRows);
  if (text_.layer_norm_after) {
    for (int64_t t = 0; t < T; ++t) {
      LayerNorm(y + t * E_, weights.after.gamma.data(), weights.after.beta.data(), kAfterEps, E_);
    }
  }
  const void* operand = Operand(y, T, w);
  w.clock.To(StageClock::Stage::kProducts);
  // Each row becomes the next operand while it is in the first-level cache.
  Multiply(*weights.out, operand, w.in_scales.data(), T,
           [&](int64_t row, int64_t rows, const void* z, const float* scales) {
             w.clock.To(StageClock::Stage::kRows);
             for (int64_t r = 0; r < rows; ++r) {
               AddNorm(x + (row + r) * E_, z, r, scales, *weights.out, weights.attention_norm);
               MakeOperand(x + (row + r) * E_, row + r, w);
             }
             w.clock.To(StageClock::Stage::kProducts);
           });
  UpAndDown(
      weights, wide_ ? x : operand, T,
      [&](int64_t row, int64_t rows, const void* z, const float* scales) {
        for (int64_t r = 0; r < rows; ++r) {
          AddNorm(x + (row + r) * E_, z, r, scales, *weights.down, weights.output_norm);
        }
      },
      w);
}

}  // namespace lion
