// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// CudaLayers' forward pass of pictures. x and sum take turns as the stream of residuals: each product reads the one and
// writes the other.

#include "absl/status/status.h"
#include "model/cuda_layers.h"
#include "model/kernels/cuda/attention_launch.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/image_launch.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {
namespace {

cuda::ImageTokens Tokens(const CudaRun& run) {
  cuda::ImageTokens tokens;
  tokens.T = run.counts.T;
  tokens.index = run.Uploaded<uint32_t>(run.layout.ids);
  tokens.start = run.Uploaded<uint32_t>(run.layout.type_ids);
  tokens.side = run.Uploaded<uint32_t>(run.layout.positions);
  return tokens;
}

cuda::Fp8Rows Fp8(const CudaShape& shape, const CudaRun& run, int64_t values, int64_t scales) {
  if (!shape.fp8) return {};
  return {run.Work<uint8_t>(values), run.Work<float>(scales)};
}

}  // namespace

absl::Status CudaLayers::EnqueuePatches(const CudaRun& run) const {
  const CudaLayout& layout = run.layout;
  run.Stage("embed");
  cuda::UnfoldParams unfold;
  unfold.type = shape_.type;
  unfold.tokens = Tokens(run);
  unfold.p = static_cast<int>(shape_.patch);
  unfold.W = static_cast<int>(shape_.patch_width_p);
  unfold.pixels = run.Uploaded<float>(layout.pixels);
  unfold.patches = run.Work<char>(layout.patches);
  LION_RETURN_IF_ERROR(cuda::LaunchUnfold(unfold, run.stream));
  LION_RETURN_IF_ERROR(
      weights_.patch->Run({.M = run.counts.T, .x = unfold.patches, .y = run.Work<char>(layout.x)}, run.stream));
  cuda::ImageEmbedParams embed;
  embed.type = shape_.type;
  embed.tokens = unfold.tokens;
  embed.W = static_cast<int>(shape_.Ep);
  embed.cls = weights_.cls.At<float>(0);
  if (weights_.positions.bytes() > 0) embed.position_table = weights_.positions.At<float>(0);
  embed.x = run.Work<char>(layout.x);
  return cuda::LaunchImageEmbed(embed, run.stream);
}

// fp8: the rows in e4m3 too, where the products take them.
absl::Status CudaLayers::EnqueueImageNorm(const CudaRun& run, const CudaNorm& weights, const void* x, void* out,
                                          bool fp8) const {
  cuda::LayerNormParams norm;
  norm.type = shape_.type;
  norm.T = run.counts.T;
  norm.W = static_cast<int>(shape_.Ep);
  norm.x = x;
  norm.norm = Normalize(weights, eps_);
  norm.out = out;
  if (fp8) norm.fp8 = Fp8(shape_, run, run.layout.x_fp8, run.layout.x_scales);
  run.Stage("norm");
  return cuda::LaunchLayerNorm(norm, run.stream);
}

// From x to sum: the first half of a layer.
absl::Status CudaLayers::EnqueueImageAttention(const CudaRun& run, size_t n) const {
  const CudaLayer& layer = weights_.layers[n];
  const CudaLayout& layout = run.layout;
  char* x = run.Work<char>(layout.x);
  char* u = run.Work<char>(layout.normed);
  const cuda::Fp8Rows u_fp8 = Fp8(shape_, run, layout.x_fp8, layout.x_scales);
  LION_RETURN_IF_ERROR(EnqueueImageNorm(run, layer.attention_norm, x, u, /*fp8=*/true));
  cuda::PathParams paths;
  if (shape_.num_gates() > 0) {
    cuda::ImageGateParams gates;
    gates.type = shape_.type;
    gates.T = run.counts.T;
    gates.W = static_cast<int>(shape_.Ep);
    gates.G = static_cast<int>(shape_.num_gates());
    gates.u = u;
    gates.weight = layer.gate_weight.At<float>(0);
    gates.bias = layer.gate_bias.At<float>(0);
    gates.log_a = run.Work<float>(layout.log_a);
    run.Stage("gates");
    LION_RETURN_IF_ERROR(cuda::LaunchImageGates(gates, run.stream));
    paths.log_gates = gates.log_a;
    paths.path_log_a = run.Work<float>(layout.path_log_a);
  }
  run.Stage("qkv");
  LION_RETURN_IF_ERROR(layer.qkv->Run({.M = run.counts.T,
                                       .x = shape_.fp8 ? static_cast<const void*>(u_fp8.values) : u,
                                       .x_scales = u_fp8.scales,
                                       .y = run.Work<char>(layout.qkv)},
                                      run.stream));
  paths.type = shape_.type;
  paths.tokens = Tokens(run);
  paths.P = static_cast<int>(shape_.num_paths);
  paths.H = static_cast<int>(shape_.H);
  paths.Dp = static_cast<int>(shape_.Dp);
  paths.D = static_cast<int>(shape_.D);
  paths.unit = shape_.variant != Variant::kLit;
  paths.qkv = run.Work<char>(layout.qkv);
  paths.path_qkv = run.Work<char>(layout.path_qkv);
  run.Stage("paths");
  LION_RETURN_IF_ERROR(cuda::LaunchPaths(paths, run.stream));
  run.Stage("attention");
  LION_RETURN_IF_ERROR(EnqueueAttention(run, n));
  cuda::RowSumParams sums;
  sums.type = shape_.type;
  sums.tokens = paths.tokens;
  sums.P = paths.P;
  sums.H = paths.H;
  sums.Dp = paths.Dp;
  sums.D = paths.D;
  sums.sums_float32 = shape_.y_float32;
  sums.path_y = run.Work<char>(layout.path_y);
  sums.y = run.Work<char>(layout.y);
  run.Stage("row sums");
  LION_RETURN_IF_ERROR(cuda::LaunchRowSums(sums, run.stream));
  const cuda::Fp8Rows y_fp8 = Fp8(shape_, run, layout.y_fp8, layout.y_scales);
  if (shape_.fp8) {
    run.Stage("round y");
    cuda::QuantizeParams quantize;
    quantize.type = shape_.type;
    quantize.T = run.counts.T;
    quantize.W = static_cast<int>(shape_.H * shape_.Dp);
    quantize.x = sums.y;
    quantize.fp8 = y_fp8;
    LION_RETURN_IF_ERROR(cuda::LaunchQuantize(quantize, run.stream));
  }
  run.Stage("out");
  return layer.out->Run({.M = run.counts.T,
                         .x = shape_.fp8 ? static_cast<const void*>(y_fp8.values) : sums.y,
                         .x_scales = y_fp8.scales,
                         .residual = x,
                         .y = run.Work<char>(layout.sum)},
                        run.stream);
}

absl::Status CudaLayers::EnqueueImageForward(const CudaRun& run) const {
  const CudaLayout& layout = run.layout;
  char* x = run.Work<char>(layout.x);
  char* sum = run.Work<char>(layout.sum);
  char* u = run.Work<char>(layout.normed);
  const cuda::Fp8Rows u_fp8 = Fp8(shape_, run, layout.x_fp8, layout.x_scales);
  LION_RETURN_IF_ERROR(EnqueuePatches(run));
  for (size_t n = 0; n < weights_.layers.size(); ++n) {
    const CudaLayer& layer = weights_.layers[n];
    LION_RETURN_IF_ERROR(EnqueueImageAttention(run, n));
    LION_RETURN_IF_ERROR(EnqueueImageNorm(run, layer.output_norm, sum, u, /*fp8=*/true));
    run.Stage("up");
    LION_RETURN_IF_ERROR(layer.up->Run({.M = run.counts.T,
                                        .x = shape_.fp8 ? static_cast<const void*>(u_fp8.values) : u,
                                        .x_scales = u_fp8.scales,
                                        .y = run.Work<char>(layout.hidden)},
                                       run.stream));
    run.Stage("down");
    LION_RETURN_IF_ERROR(
        layer.down->Run({.M = run.counts.T, .x = run.Work<char>(layout.hidden), .residual = sum, .y = x}, run.stream));
  }
  return EnqueueImageNorm(run, weights_.final_norm, x, x, /*fp8=*/false);
}

}  // namespace lion
