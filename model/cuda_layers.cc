// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_layers.h"

#include <cmath>
#include <utility>

#include "model/kernels/cuda/attention_launch.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

constexpr float kAfterEps = 1e-5f;  // of layer_norm_after

}  // namespace

absl::StatusOr<std::unique_ptr<CudaLayers>> CudaLayers::Create(const TextConfig& config, const PipelineConfig& pipeline,
                                                               const CudaShape& shape, const WeightFiles& files) {
  std::unique_ptr<CudaLayers> layers(new CudaLayers);
  layers->shape_ = shape;
  layers->eps_ = static_cast<float>(config.layer_norm_eps);
  layers->norm_after_ = config.layer_norm_after;
  LION_RETURN_IF_ERROR(cuda::Assign(CublasLt::Create(), &layers->lt_));
  WeightReader reader(&files);
  LION_RETURN_IF_ERROR(
      cuda::Assign(ReadCudaWeights(reader, config, pipeline, layers->lt_.get(), &layers->shape_), &layers->weights_));
  layers->unused_ = reader.Unused();
  return layers;
}

cuda::NormParams CudaLayers::Normalize(const CudaNorm& norm, float eps) const {
  cuda::NormParams params;
  params.gamma = norm.gamma.At<float>(0);
  params.beta = norm.beta.At<float>(0);
  params.eps = eps;
  params.true_width = static_cast<int32_t>(shape_.E);
  params.num_true = static_cast<int32_t>(shape_.E);
  return params;
}

// The gates that layer reads, made where its x is; none past the last layer or without LION-S.
cuda::GateParams CudaLayers::Gates(const CudaRun& run, size_t layer) const {
  cuda::GateParams params;
  if (shape_.variant != Variant::kS || layer >= weights_.layers.size()) return params;
  params.H = static_cast<int>(shape_.H);
  params.weight = weights_.layers[layer].gate_weight.At<float>(0);
  params.bias = weights_.layers[layer].gate_bias.At<float>(0);
  params.log_a = run.Work<float>(run.layout.log_a);
  return params;
}

absl::Status CudaLayers::EnqueueAttention(const CudaRun& run, size_t layer) const {
  const CudaLayout& layout = run.layout;
  cuda::AttentionParams params;
  params.type = shape_.type;
  params.H = static_cast<int>(shape_.H);
  params.D = static_cast<int>(shape_.Dp);
  params.scale = 1.f / std::sqrt(static_cast<float>(shape_.D));
  params.T = layout.T;
  params.qkv = run.Work<char>(layout.qkv);
  if (shape_.variant == Variant::kD) params.log_a = weights_.layers[layer].log_lambda.At<float>(0);
  if (shape_.variant == Variant::kS) {
    params.log_a = run.Work<float>(layout.log_a);
    params.log_a_token_stride = shape_.H;
  }
  params.y = run.Work<char>(layout.y);
  params.y_float32 = shape_.y_float32;
  params.segments = run.Uploaded<cuda::Segment>(layout.segments);
  params.runs = run.Uploaded<cuda::StateRun>(layout.runs);
  params.counts = run.Uploaded<int32_t>(layout.plan_counts);
  params.max_segments = static_cast<int>(run.counts.segments);
  params.max_runs = static_cast<int>(run.counts.runs);
  params.max_states = static_cast<int>(run.counts.states);
  params.plain = run.counts.plain;
  params.plain_y = run.Work<float>(layout.plain_y);
  if (run.counts.states > 0) params.states = run.Work<char>(layout.states);
  return cuda::LaunchAttention(params, run.stream);
}

absl::Status CudaLayers::EnqueueForward(const CudaRun& run) const {
  const CudaLayout& layout = run.layout;
  const int64_t T = run.counts.T;
  void* x = run.Work<char>(layout.x);
  void* sum = run.Work<char>(layout.sum);
  void* qkv = run.Work<char>(layout.qkv);
  void* y = run.Work<char>(layout.y);
  void* hidden = run.Work<char>(layout.hidden);
  // What the products read: x and y, or in fp8 their copies in e4m3.
  cuda::Fp8Rows x_fp8;
  cuda::Fp8Rows y_fp8;
  if (shape_.fp8) {
    x_fp8 = {run.Work<uint8_t>(layout.x_fp8), run.Work<float>(layout.x_scales)};
    y_fp8 = {run.Work<uint8_t>(layout.y_fp8), run.Work<float>(layout.y_scales)};
  }
  const void* product_x = shape_.fp8 ? x_fp8.values : x;
  // A float16 row does not fit where the fp32 one lies that it is made of: q, k and v are of no more use by then.
  void* normal_y = shape_.y_float32 ? qkv : y;
  const void* product_y = shape_.fp8 ? y_fp8.values : normal_y;

  run.Stage("embed");
  cuda::EmbedParams embed;
  embed.type = shape_.type;
  embed.T = T;
  embed.W = static_cast<int>(shape_.Ep);
  embed.ids = run.Uploaded<uint32_t>(layout.ids);
  embed.type_ids = run.Uploaded<uint32_t>(layout.type_ids);
  embed.words = weights_.words.At<float>(0);
  embed.types = weights_.types.At<float>(0);
  if (shape_.positions) {
    embed.positions = run.Uploaded<uint32_t>(layout.positions);
    embed.position_table = weights_.positions.At<float>(0);
  }
  embed.norm = Normalize(weights_.embedding_norm, eps_);
  embed.gates = Gates(run, 0);
  embed.x = x;
  embed.fp8 = x_fp8;
  LION_RETURN_IF_ERROR(cuda::LaunchEmbed(embed, run.stream));

  for (size_t n = 0; n < weights_.layers.size(); ++n) {
    const CudaLayer& layer = weights_.layers[n];
    run.Stage("qkv");
    LION_RETURN_IF_ERROR(layer.qkv->Run({.M = T, .x = product_x, .x_scales = x_fp8.scales, .y = qkv}, run.stream));
    run.Stage("attention");
    LION_RETURN_IF_ERROR(EnqueueAttention(run, n));
    cuda::LayerNormParams norm;
    norm.type = shape_.type;
    norm.T = T;
    if (norm_after_) {
      run.Stage("norm after");
      norm.W = static_cast<int>(shape_.H * shape_.Dp);
      norm.x = y;
      norm.norm = Normalize(layer.after, kAfterEps);
      norm.norm.column_mask = static_cast<int32_t>(shape_.Dp - 1);
      norm.norm.true_width = static_cast<int32_t>(shape_.D);
      norm.x_float32 = shape_.y_float32;
      norm.out = shape_.fp8 ? nullptr : normal_y;
      norm.fp8 = y_fp8;
      LION_RETURN_IF_ERROR(cuda::LaunchLayerNorm(norm, run.stream));
    } else if (shape_.fp8) {
      run.Stage("round y");
      cuda::QuantizeParams quantize;
      quantize.type = shape_.type;
      quantize.T = T;
      quantize.W = static_cast<int>(shape_.H * shape_.Dp);
      quantize.x = y;
      quantize.fp8 = y_fp8;
      LION_RETURN_IF_ERROR(cuda::LaunchQuantize(quantize, run.stream));
    }
    norm.W = static_cast<int>(shape_.Ep);
    norm.x = sum;
    norm.x_float32 = false;
    norm.out = x;
    norm.fp8 = x_fp8;
    run.Stage("out");
    LION_RETURN_IF_ERROR(
        layer.out->Run({.M = T, .x = product_y, .x_scales = y_fp8.scales, .residual = x, .y = sum}, run.stream));
    run.Stage("norm");
    norm.norm = Normalize(layer.attention_norm, eps_);
    LION_RETURN_IF_ERROR(cuda::LaunchLayerNorm(norm, run.stream));
    run.Stage("up");
    LION_RETURN_IF_ERROR(layer.up->Run({.M = T, .x = product_x, .x_scales = x_fp8.scales, .y = hidden}, run.stream));
    run.Stage("down");
    LION_RETURN_IF_ERROR(layer.down->Run({.M = T, .x = hidden, .residual = x, .y = sum}, run.stream));
    run.Stage("norm");
    norm.norm = Normalize(layer.output_norm, eps_);
    norm.gates = Gates(run, n + 1);
    LION_RETURN_IF_ERROR(cuda::LaunchLayerNorm(norm, run.stream));
  }
  return absl::OkStatus();
}

absl::Status CudaLayers::EnqueueHeads(const CudaRun& run) const {
  const CudaLayout& layout = run.layout;
  const void* x = run.Work<char>(layout.x);
  run.Stage("heads");
  if (run.counts.token_blocks > 0) {
    cuda::TokensParams tokens;
    tokens.type = shape_.type;
    tokens.W = static_cast<int>(shape_.Ep);
    tokens.E = static_cast<int>(shape_.E);
    tokens.x = x;
    tokens.blocks = run.Uploaded<cuda::TokenBlock>(layout.token_blocks);
    tokens.num_blocks = static_cast<int>(run.counts.token_blocks);
    tokens.out = run.Answers<float>(layout.tokens);
    LION_RETURN_IF_ERROR(cuda::LaunchTokens(tokens, run.stream));
  }
  for (int head = 0; head < kNumCudaHeads; ++head) {
    const int64_t n = run.counts.rows[head];
    if (n == 0) continue;
    const std::vector<CudaHeadProduct>& products = weights_.heads[head];
    auto* answer = run.Answers<float>(layout.answers[head]);
    float* out = products.empty() ? answer : run.Work<float>(layout.vectors[0]);
    cuda::PoolParams pool;
    pool.type = shape_.type;
    pool.W = static_cast<int>(shape_.Ep);
    pool.x = x;
    pool.blocks = run.Uploaded<cuda::TokenBlock>(layout.blocks[head]);
    pool.num_blocks = static_cast<int>(run.counts.blocks[head]);
    pool.rows = run.Uploaded<cuda::PooledRow>(layout.rows[head]);
    pool.num_rows = static_cast<int>(n);
    pool.sums = run.Work<float>(layout.sums);
    pool.pooled = out;
    LION_RETURN_IF_ERROR(cuda::LaunchPool(pool, run.stream));
    for (size_t i = 0; i < products.size(); ++i) {
      const CudaHeadProduct& product = products[i];
      const float* in = out;
      out = i + 1 == products.size() ? answer : run.Work<float>(layout.vectors[(i + 1) % 2]);
      LION_RETURN_IF_ERROR(product.linear->Run({.M = n, .x = in, .y = out}, run.stream));
      if (product.tanh) LION_RETURN_IF_ERROR(cuda::LaunchTanh(out, n * product.linear->out_width(), run.stream));
    }
  }
  return absl::OkStatus();
}

}  // namespace lion
