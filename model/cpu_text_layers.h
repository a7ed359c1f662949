// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_TEXT_LAYERS_H_
#define LION_MODEL_CPU_TEXT_LAYERS_H_

// The stages of a text encoder on the CPU: BERT's layout, LayerNorm behind each half of a layer.
//
//   x = LayerNorm(word[id] + type[type_id] (+ position[i]))
//   per layer: z = attention(x);  z = LayerNorm_1e-5(z) if layer_norm_after;  x = LayerNorm(x + dense(z))
//              x = LayerNorm(x + W2 gelu_erf(W1 x + b1) + b2)

#include <cstdint>

#include "model/config.h"
#include "model/cpu_layers.h"

namespace lion {

class CpuTextLayers final : public CpuLayers {
 public:
  CpuTextLayers(const TextConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens);

  bool TakesWholeRows(const Row& row) const override { return row.mode == ComputeMode::kParallel; }
  int64_t LargestRow(int64_t max_tokens) const override { return max_tokens; }
  void Embed(Activations& a, int64_t first, int64_t last, Workspace& w) const override;
  void Project(Activations& a, size_t layer, int64_t first, int64_t last, Workspace& w) const override;
  void FeedForward(Activations& a, size_t layer, int64_t first, int64_t last, float* y, Workspace& w) const override;

 private:
  void AttendRow(const Activations& a, size_t layer, const Slice& slice, int64_t head, float* y,
                 Workspace& w) const override;
  void AddNorm(float* x, const void* product, int64_t r, const float* scales, const Linear& linear,
               const CpuNorm& norm) const;

  const TextConfig& text_;
};

}  // namespace lion

#endif  // LION_MODEL_CPU_TEXT_LAYERS_H_
