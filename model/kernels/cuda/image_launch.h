// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_IMAGE_LAUNCH_H_
#define LION_MODEL_KERNELS_CUDA_IMAGE_LAUNCH_H_

// What an image encoder does to rows of activations on a CUDA device beside rows_launch.h: patches, gates, feature maps
// along paths, and row sums. The formulas are those of model/cpu_image_layers.h and kernels/cpu/image_rows.h.
//
// The attention kernels know one v a head and no row sums. So a picture's attention runs over 2 P H heads, P paths of
// two kinds of H heads each: those of kind 0 have v, those of kind 1 a column of ones in its place, and all of a path
// have its q and k in the path's order. The same rounded scores make both. Head (p, kind, h) is number (2 p + kind) H +
// h. LaunchPaths makes what these heads read, LaunchRowSums brings numerators and denominators of all paths together.
//
// Letters and promises as in rows_launch.h: stored widths are multiples of 16 and zero past the true ones, arithmetic
// and sums are fp32, no atomics, a row's bits depend on the row alone. All bound by memory traffic.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion::cuda {

// Where each token of a packed batch stands in its picture. Tokens of padding are pictures of one token: index 0.
struct ImageTokens {
  int64_t T = 0;
  const uint32_t* index = nullptr;  // (T): 0 = cls, then the patches row by row
  const uint32_t* start = nullptr;  // (T): of its picture in the packed batch
  const uint32_t* side = nullptr;   // (T): patches a side, at least 1
};

// patches (T, W) = each token's pixels, channel by channel and row by row; zeros for cls and past the true width 3 p p.
// A picture's pixels (3, S, S), S = side p, start at element start * 3 p p.
struct UnfoldParams {
  ElementType type = ElementType::kBFloat16;  // of patches
  ImageTokens tokens;
  int p = 0;
  int W = 0;
  const float* pixels = nullptr;
  void* patches = nullptr;
};
absl::Status LaunchUnfold(const UnfoldParams& params, cudaStream_t stream);

// x (T, W) in place: a patch's product + positions[index], or cls + positions[0].
struct ImageEmbedParams {
  ElementType type = ElementType::kBFloat16;
  ImageTokens tokens;
  int W = 0;
  const float* cls = nullptr;             // (W)
  const float* position_table = nullptr;  // (positions, W); null = none
  void* x = nullptr;
};
absl::Status LaunchImageEmbed(const ImageEmbedParams& params, cudaStream_t stream);

// log_a (T, G) = max(-softplus(w . u + b), -30), of u as it is stored.
struct ImageGateParams {
  ElementType type = ElementType::kBFloat16;
  int64_t T = 0;
  int W = 0;
  int G = 0;                      // P H
  const void* u = nullptr;        // (T, W)
  const float* weight = nullptr;  // (G, W)
  const float* bias = nullptr;    // (G)
  float* log_a = nullptr;
};
absl::Status LaunchImageGates(const ImageGateParams& params, cudaStream_t stream);

struct PathParams {
  ElementType type = ElementType::kBFloat16;
  ImageTokens tokens;
  int P = 1;  // 1 = the order of the picture's rows; 2 = the snakes by rows and by columns
  int H = 0;
  int Dp = 0;                        // stored width of a head: 32, 64 or 128
  int D = 0;                         // true width
  bool unit = false;                 // phi(x) = u / |u| of u = silu(x) + 0.5, else elu(x) + 1
  const void* qkv = nullptr;         // (T, 3, H, Dp), in the picture's order
  const float* log_gates = nullptr;  // (T, P H), likewise; null = no gates a token
  void* path_qkv = nullptr;          // (T, 3, 2 P H, Dp), in each path's order
  float* path_log_a = nullptr;       // (T, 2 P H), likewise, 0 for cls; with log_gates
};
absl::Status LaunchPaths(const PathParams& params, cudaStream_t stream);

// y (T, H, Dp) = sum over paths of numerators / (sum of denominators + P 1e-6), in the picture's order.
struct RowSumParams {
  ElementType type = ElementType::kBFloat16;  // of y
  ImageTokens tokens;
  int P = 1;
  int H = 0;
  int Dp = 0;
  int D = 0;
  bool sums_float32 = false;     // path_y is fp32, whatever the type
  const void* path_y = nullptr;  // (T, 2 P H, Dp)
  void* y = nullptr;
};
absl::Status LaunchRowSums(const RowSumParams& params, cudaStream_t stream);

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_IMAGE_LAUNCH_H_
