// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_IMAGE_LAYERS_H_
#define LION_MODEL_CPU_IMAGE_LAYERS_H_

// The stages of an image encoder on the CPU: ViT's layout, LayerNorm before each half of a layer, eps 1e-6.
//
//   x = [cls, patches W^T + b] (+ position[i])
//   per layer: u = LayerNorm(x);  q, k, v = u Wqkv^T + b;  x = x + proj(attention(phi(q), phi(k), v))
//              x = x + W2 gelu_erf(W1 LayerNorm(x) + b1) + b2
//   after the last: x = LayerNorm(x)
//   phi(x) = elu(x) + 1 (LION-LIT), or u / |u| of u = silu(x) + 0.5, per head
//   y_i = sum_j S_ij v_j / (sum_j S_ij + 1e-6),  S_ij = phi(q_i) . phi(k_j) D^-0.5 M_ij
//
// The row sums are attention's answer for one more column of v, which is 1: the same rounded scores make numerator and
// denominator. With two paths M is the mean of two masks, and S is linear in M: one head runs over the tokens in the
// order of each path, and what comes out is added token by token before the division. LION-LIT's masks are 1 on any
// path: it takes one.
// The picture's tokens stay in the order of its rows everywhere else. Attention takes a whole picture at once in every
// form, since a path's neighbours are far apart in memory; its q, k and v are kept while it runs, also in the recurrent
// form.

#include <cstdint>

#include "model/config.h"
#include "model/cpu_layers.h"

namespace lion {

// The token (0 = cls, 1 + row * side + column) at a place of a path over side x side patches. Path 0 is the snake by
// rows (row 0 left to right, row 1 right to left, ...), path 1 the same by columns; cls is first in both.
int64_t PathToken(int path, int64_t side, int64_t place);

class CpuImageLayers final : public CpuLayers {
 public:
  CpuImageLayers(const ImageConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens);

  bool TakesWholeRows(const Row& /*row*/) const override { return true; }
  int64_t LargestRow(int64_t max_tokens) const override;
  void Embed(Activations& a, int64_t first, int64_t last, Workspace& w) const override;
  void Project(Activations& a, size_t layer, int64_t first, int64_t last, Workspace& w) const override;
  void FeedForward(Activations& a, size_t layer, int64_t first, int64_t last, float* y, Workspace& w) const override;

 private:
  void AttendRow(const Activations& a, size_t layer, const Slice& slice, int64_t head, float* y,
                 Workspace& w) const override;
  int64_t WholeRowScratch(int64_t L) const override;
  bool ClassifiesMean() const override { return !image_.cls_pooling; }

  int64_t PathElements(int64_t L) const;
  // LayerNorm of rows of x, in w.normed.
  const float* Normed(const float* x, int64_t rows, const CpuNorm& norm, Workspace& w) const;
  // x (rows, E) += a product's rows.
  void Add(float* x, const void* product, int64_t rows, const float* scales, const Linear& linear, Workspace& w) const;
  void LayOut(Activations& a, int64_t t, float* qkv, Workspace& w) const;

  const ImageConfig& image_;
  int num_paths_;
};

}  // namespace lion

#endif  // LION_MODEL_CPU_IMAGE_LAYERS_H_
