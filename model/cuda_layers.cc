// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_layers.h"

#include <cmath>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/attention_kernels.h"
#include "model/kernels/cuda/attention_launch.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

constexpr float kAfterEps = 1e-5f;  // of layer_norm_after

}  // namespace

absl::StatusOr<std::unique_ptr<CudaLayers>> CudaLayers::Create(const ModelConfig& config,
                                                               const PipelineConfig& pipeline, const CudaShape& shape,
                                                               const WeightFiles& files) {
  std::unique_ptr<CudaLayers> layers(new CudaLayers);
  layers->shape_ = shape;
  layers->eps_ = static_cast<float>(Common(config).layer_norm_eps);
  const auto* text = std::get_if<TextConfig>(&config);
  layers->norm_after_ = text != nullptr && text->layer_norm_after;
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

// Where a tile's rows lie.
class CudaLayers::Places {
 public:
  Places(const CudaShape& shape, const CudaRun& run, const Tile& tile) : shape_(shape), run_(run), tile_(tile) {}

  char* x() const { return At(run_.layout.x, tile_.first * shape_.Ep * shape_.element); }
  char* qkv() const { return At(run_.layout.qkv, in_span() * 3 * heads_width() * shape_.element); }
  char* y() const { return At(run_.layout.y, in_span() * heads_width() * (shape_.y_float32 ? 4 : shape_.element)); }
  char* normal_y() const { return shape_.y_float32 ? At(run_.layout.normal_y, 0) : y(); }
  char* sum() const { return At(run_.layout.sum, 0); }
  char* hidden() const { return At(run_.layout.hidden, 0); }
  cuda::Fp8Rows x_fp8() const {
    if (!shape_.fp8) return {};
    return {run_.Work<uint8_t>(run_.layout.x_fp8) + tile_.first * shape_.Ep,
            run_.Work<float>(run_.layout.x_scales) + tile_.first};
  }
  cuda::Fp8Rows y_fp8() const {
    if (!shape_.fp8) return {};
    return {run_.Work<uint8_t>(run_.layout.y_fp8), run_.Work<float>(run_.layout.y_scales)};
  }
  // What the products read: x and y, or in fp8 their copies in e4m3.
  const void* product_x() const { return shape_.fp8 ? static_cast<const void*>(x_fp8().values) : x(); }
  const void* product_y() const { return shape_.fp8 ? static_cast<const void*>(y_fp8().values) : normal_y(); }

 private:
  int64_t in_span() const { return tile_.first - tile_.span_first; }
  int64_t heads_width() const { return shape_.H * shape_.Dp; }
  char* At(int64_t offset, int64_t bytes) const { return run_.Work<char>(offset) + bytes; }

  const CudaShape& shape_;
  const CudaRun& run_;
  const Tile& tile_;
};

// The gates that layer reads, made where its x is; none past the last layer or without LION-S.
cuda::GateParams CudaLayers::Gates(const CudaRun& run, const Tile& tile, size_t layer) const {
  cuda::GateParams params;
  if (shape_.variant != Variant::kS || layer >= weights_.layers.size()) return params;
  params.H = static_cast<int>(shape_.H);
  params.weight = weights_.layers[layer].gate_weight.At<float>(0);
  params.bias = weights_.layers[layer].gate_bias.At<float>(0);
  params.log_a = run.Work<float>(run.layout.log_a) + tile.first * shape_.H;
  return params;
}

cuda::AttentionParams CudaLayers::Attention(const CudaRun& run, size_t layer) const {
  const CudaLayout& layout = run.layout;
  cuda::AttentionParams params;
  params.type = shape_.type;
  params.H = static_cast<int>(shape_.attention_heads());
  params.D = static_cast<int>(shape_.Dp);
  params.scale = 1.f / std::sqrt(static_cast<float>(shape_.D));
  params.T = layout.T;
  params.qkv = run.Work<char>(shape_.image ? layout.path_qkv : layout.qkv);
  if (shape_.variant == Variant::kD) params.log_a = weights_.layers[layer].log_lambda.At<float>(0);
  if (shape_.variant == Variant::kS) {
    params.log_a = run.Work<float>(shape_.image ? layout.path_log_a : layout.log_a);
    params.log_a_token_stride = shape_.attention_heads();
  }
  params.y = run.Work<char>(shape_.image ? layout.path_y : layout.y);
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
  return params;
}

absl::Status CudaLayers::EnqueueAttention(const CudaRun& run, size_t layer) const {
  return cuda::LaunchAttention(Attention(run, layer), run.stream);
}

absl::Status CudaLayers::EnqueueSlice(const CudaRun& run, const DocumentPlan& plan, const DocumentWork& work,
                                      size_t layer) const {
  cuda::AttentionParams params = Attention(run, layer);
  cuda::TensorKernel kernel = cuda::TensorKernel::kScan;
  if (work.kind != DocumentWork::kScan) {
    const DocumentSlice& slice = plan.slices[work.slice];
    kernel = work.kind == DocumentWork::kOutputs ? cuda::TensorKernel::kOutputs : cuda::TensorKernel::kSums;
    params.counts = run.Uploaded<int32_t>(run.layout.slice_counts) + 2 * work.slice;
    params.max_segments = slice.num_segments;
    if (work.kind == DocumentWork::kSumsAgain) {
      params.segments = run.Uploaded<cuda::Segment>(run.layout.again_segments);
      params.states = run.Work<char>(run.layout.again_states);
      params.max_states = static_cast<int>(run.counts.again_states);
    }
    params.segments += slice.first_segment;
    if (plan.form == DocumentForm::kAgain) {
      params.T = slice.count;
      if (params.log_a != nullptr) params.log_a += slice.first * params.log_a_token_stride;
    }
  }
  cuda::LaunchFailure failure;
  cuda::EnqueueTensorKernel(kernel, params, run.stream, &failure);
  if (failure.error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(failure.call, ": ", cudaGetErrorString(failure.error)));
}

absl::Status CudaLayers::EnqueueEmbed(const CudaRun& run, const Tile& tile) const {
  const Places at(shape_, run, tile);
  cuda::EmbedParams embed;
  embed.type = shape_.type;
  embed.T = tile.count;
  embed.W = static_cast<int>(shape_.Ep);
  embed.ids = run.Uploaded<uint32_t>(run.layout.ids) + tile.first;
  embed.type_ids = run.Uploaded<uint32_t>(run.layout.type_ids) + tile.first;
  embed.words = weights_.words.At<float>(0);
  embed.types = weights_.types.At<float>(0);
  if (shape_.positions) {
    embed.positions = run.Uploaded<uint32_t>(run.layout.positions) + tile.first;
    embed.position_table = weights_.positions.At<float>(0);
  }
  embed.norm = Normalize(weights_.embedding_norm, eps_);
  embed.gates = Gates(run, tile, 0);
  embed.x = at.x();
  embed.fp8 = at.x_fp8();
  run.Stage("embed");
  return cuda::LaunchEmbed(embed, run.stream);
}

absl::Status CudaLayers::EnqueueProject(const CudaRun& run, const Tile& tile, size_t layer) const {
  const Places at(shape_, run, tile);
  run.Stage("qkv");
  return weights_.layers[layer].qkv->Run(
      {.M = tile.count, .x = at.product_x(), .x_scales = at.x_fp8().scales, .y = at.qkv()}, run.stream);
}

absl::Status CudaLayers::EnqueueOut(const CudaRun& run, const Tile& tile, size_t n) const {
  const CudaLayer& layer = weights_.layers[n];
  const Places at(shape_, run, tile);
  cuda::LayerNormParams norm;
  norm.type = shape_.type;
  norm.T = tile.count;
  if (norm_after_) {
    run.Stage("norm after");
    norm.W = static_cast<int>(shape_.H * shape_.Dp);
    norm.x = at.y();
    norm.norm = Normalize(layer.after, kAfterEps);
    norm.norm.column_mask = static_cast<int32_t>(shape_.Dp - 1);
    norm.norm.true_width = static_cast<int32_t>(shape_.D);
    norm.x_float32 = shape_.y_float32;
    norm.out = shape_.fp8 ? nullptr : at.normal_y();
    norm.fp8 = at.y_fp8();
    LION_RETURN_IF_ERROR(cuda::LaunchLayerNorm(norm, run.stream));
  } else if (shape_.fp8) {
    run.Stage("round y");
    cuda::QuantizeParams quantize;
    quantize.type = shape_.type;
    quantize.T = tile.count;
    quantize.W = static_cast<int>(shape_.H * shape_.Dp);
    quantize.x = at.y();
    quantize.fp8 = at.y_fp8();
    LION_RETURN_IF_ERROR(cuda::LaunchQuantize(quantize, run.stream));
  }
  run.Stage("out");
  LION_RETURN_IF_ERROR(layer.out->Run(
      {.M = tile.count, .x = at.product_y(), .x_scales = at.y_fp8().scales, .residual = at.x(), .y = at.sum()},
      run.stream));
  return EnqueueNorm(run, tile, layer.attention_norm, {});
}

absl::Status CudaLayers::EnqueueUp(const CudaRun& run, const Tile& tile, size_t n) const {
  const Places at(shape_, run, tile);
  run.Stage("up");
  return weights_.layers[n].up->Run(
      {.M = tile.count, .x = at.product_x(), .x_scales = at.x_fp8().scales, .y = at.hidden()}, run.stream);
}

absl::Status CudaLayers::EnqueueDown(const CudaRun& run, const Tile& tile, size_t n) const {
  const CudaLayer& layer = weights_.layers[n];
  const Places at(shape_, run, tile);
  run.Stage("down");
  LION_RETURN_IF_ERROR(
      layer.down->Run({.M = tile.count, .x = at.hidden(), .residual = at.x(), .y = at.sum()}, run.stream));
  return EnqueueNorm(run, tile, layer.output_norm, Gates(run, tile, n + 1));
}

// sum to x.
absl::Status CudaLayers::EnqueueNorm(const CudaRun& run, const Tile& tile, const CudaNorm& weights,
                                     const cuda::GateParams& gates) const {
  const Places at(shape_, run, tile);
  cuda::LayerNormParams norm;
  norm.type = shape_.type;
  norm.T = tile.count;
  norm.W = static_cast<int>(shape_.Ep);
  norm.x = at.sum();
  norm.norm = Normalize(weights, eps_);
  norm.gates = gates;
  norm.out = at.x();
  norm.fp8 = at.x_fp8();
  run.Stage("norm");
  return cuda::LaunchLayerNorm(norm, run.stream);
}

absl::Status CudaLayers::EnqueueForward(const CudaRun& run) const {
  if (shape_.image) return EnqueueImageForward(run);
  const Tile all{0, run.counts.T, 0};
  LION_RETURN_IF_ERROR(EnqueueEmbed(run, all));
  for (size_t n = 0; n < weights_.layers.size(); ++n) {
    LION_RETURN_IF_ERROR(EnqueueProject(run, all, n));
    run.Stage("attention");
    LION_RETURN_IF_ERROR(EnqueueAttention(run, n));
    LION_RETURN_IF_ERROR(EnqueueOut(run, all, n));
    LION_RETURN_IF_ERROR(EnqueueUp(run, all, n));
    LION_RETURN_IF_ERROR(EnqueueDown(run, all, n));
  }
  return absl::OkStatus();
}

absl::Status CudaLayers::EnqueueWork(const CudaRun& run, const DocumentPlan& plan, const DocumentWork& work,
                                     size_t layer) const {
  const Tile tile{work.first, work.count, plan.SpanFirst(work)};
  switch (work.kind) {
    case DocumentWork::kEmbed:
      return EnqueueEmbed(run, tile);
    case DocumentWork::kProject:
      return EnqueueProject(run, tile, layer);
    case DocumentWork::kOut:
      return EnqueueOut(run, tile, layer);
    case DocumentWork::kUp:
      return EnqueueUp(run, tile, layer);
    case DocumentWork::kDown:
      return EnqueueDown(run, tile, layer);
    case DocumentWork::kAttention:
      run.Stage("attention");
      return EnqueueAttention(run, layer);
    case DocumentWork::kSums:
    case DocumentWork::kScan:
    case DocumentWork::kSumsAgain:
    case DocumentWork::kOutputs:
      run.Stage("attention");
      return EnqueueSlice(run, plan, work, layer);
  }
  return absl::InternalError("no such work");
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
    pool.groups = run.Uploaded<cuda::BlockGroup>(layout.groups[head]);
    pool.num_groups = static_cast<int>(run.counts.groups[head]);
    pool.sums = run.Work<float>(layout.sums);
    pool.prefixes = run.Work<float>(layout.prefixes);
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
