// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_weights.h"

#include <cmath>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/weights.h"

namespace lion {
namespace {

CpuNorm ReadNorm(WeightReader& reader, const std::string& name, int64_t E) {
  return {reader.Read(name + ".weight", {E}), reader.Read(name + ".bias", {E})};
}

// Null after a complaint.
std::unique_ptr<Linear> ReadLinear(WeightReader& reader, const std::string& name, int64_t N, int64_t K, DType dtype,
                                   bool has_bias = true) {
  const std::vector<float> weight = reader.Read(name + ".weight", {N, K});
  std::vector<float> bias;
  if (has_bias) bias = reader.Read(name + ".bias", {N});
  if (!reader.status().ok()) return nullptr;
  return Linear::Pack(weight.data(), has_bias ? bias.data() : nullptr, N, K, dtype);
}

// Query, key and value as one product.
std::unique_ptr<Linear> ReadQkv(WeightReader& reader, const std::string& self, int64_t E, float scale, DType dtype) {
  std::vector<float> weight;
  std::vector<float> bias;
  for (const char* part : {"query", "key", "value"}) {
    const std::vector<float> w = reader.Read(absl::StrCat(self, part, ".weight"), {E, E});
    const std::vector<float> b = reader.Read(absl::StrCat(self, part, ".bias"), {E});
    weight.insert(weight.end(), w.begin(), w.end());
    bias.insert(bias.end(), b.begin(), b.end());
  }
  if (!reader.status().ok()) return nullptr;
  for (int64_t i = 0; i < E * E; ++i) weight[i] *= scale;
  for (int64_t i = 0; i < E; ++i) bias[i] *= scale;
  return Linear::Pack(weight.data(), bias.data(), 3 * E, E, dtype);
}

// names: H gates each.
void ReadGates(WeightReader& reader, const std::vector<std::string>& names, int64_t H, int64_t E,
               CpuLayerWeights* layer) {
  const int64_t gates = H * static_cast<int64_t>(names.size());
  const int64_t Gp = (gates + 15) / 16 * 16;
  layer->gate_weight.assign(E * Gp, 0.f);
  layer->gate_bias.assign(Gp, 0.f);
  for (size_t n = 0; n < names.size(); ++n) {
    const std::vector<float> w = reader.Read(names[n] + ".weight", {H, E});
    const std::vector<float> b = reader.Read(names[n] + ".bias", {H});
    if (!reader.status().ok()) return;
    const int64_t first = static_cast<int64_t>(n) * H;
    for (int64_t h = 0; h < H; ++h) {
      layer->gate_bias[first + h] = b[h];
      for (int64_t e = 0; e < E; ++e) layer->gate_weight[e * Gp + first + h] = w[h * E + e];
    }
  }
}

void ReadLambdas(WeightReader& reader, const std::vector<std::string>& names, int64_t H, CpuLayerWeights* layer) {
  for (const std::string& name : names) {
    const std::vector<float> alphas = reader.Read(name, {H});
    layer->log_lambda.insert(layer->log_lambda.end(), alphas.begin(), alphas.end());
  }
  LogLambda(&layer->log_lambda);
}

// The heads are a few rows a batch: fp32 costs nothing there.
void PackHeads(const HeadWeights& heads, CpuWeights* weights) {
  auto pack = [](const std::vector<HeadProduct>& products, std::vector<CpuHeadProduct>* head) {
    for (const HeadProduct& product : products) {
      const float* b = product.bias.empty() ? nullptr : product.bias.data();
      head->push_back({Linear::Pack(product.weight.data(), b, product.N, product.K, DType::kFloat32), product.tanh});
    }
  };
  pack(heads.pooled, &weights->pooled_head);
  pack(heads.classified, &weights->classified_head);
}

absl::StatusOr<CpuWeights> LoadText(const WeightFiles& files, const TextConfig& config, const PipelineConfig& pipeline,
                                    DType dtype) {
  const int64_t E = config.hidden_width;
  const int64_t H = config.num_heads;
  const int64_t FF = config.feed_forward_width;
  const float scale = 1.f / std::sqrt(static_cast<float>(config.head_width));
  CpuWeights weights;
  WeightReader reader(&files);
  const std::string bert = reader.Has("bert.embeddings.word_embeddings.weight") ? "bert." : "";

  const std::string embeddings = bert + "embeddings.";
  weights.word = reader.Map(embeddings + "word_embeddings.weight", {config.vocab_size, E});
  weights.type = reader.Read(embeddings + "token_type_embeddings.weight", {config.type_vocab_size, E});
  if (config.max_positions > 0) {
    weights.position = reader.Read(embeddings + "position_embeddings.weight", {config.max_positions, E});
  } else {
    reader.Ignore(embeddings + "position_embeddings.weight");
  }
  reader.Ignore(embeddings + "position_ids");
  weights.embedding_norm = ReadNorm(reader, embeddings + "LayerNorm", E);

  for (int64_t n = 0; n < config.num_layers; ++n) {
    const std::string name = absl::StrCat(bert, "encoder.layer.", n, ".");
    const std::string self = name + "attention.self.";
    CpuLayerWeights layer;
    layer.qkv = ReadQkv(reader, self, E, scale, dtype);
    if (config.layer_norm_after) layer.after = ReadNorm(reader, self + "layer_norm", E);
    if (config.variant == Variant::kD) ReadLambdas(reader, {self + "ai"}, H, &layer);
    if (config.variant == Variant::kS) ReadGates(reader, {self + "Wa_i"}, H, E, &layer);
    layer.out = ReadLinear(reader, name + "attention.output.dense", E, E, dtype);
    layer.attention_norm = ReadNorm(reader, name + "attention.output.LayerNorm", E);
    layer.up = ReadLinear(reader, name + "intermediate.dense", FF, E, dtype);
    layer.down = ReadLinear(reader, name + "output.dense", E, FF, dtype);
    layer.output_norm = ReadNorm(reader, name + "output.LayerNorm", E);
    if (!reader.status().ok()) return reader.status();
    weights.layers.push_back(std::move(layer));
  }

  absl::StatusOr<HeadWeights> heads = ReadHeads(reader, bert, config, pipeline);
  if (!heads.ok()) return heads.status();
  weights.unused = reader.Unused();
  PackHeads(*heads, &weights);
  return weights;
}

absl::StatusOr<CpuWeights> LoadImage(const WeightFiles& files, const ImageConfig& config,
                                     const PipelineConfig& pipeline, DType dtype) {
  const int64_t E = config.hidden_width;
  const int64_t H = config.num_heads;
  const int64_t FF = config.feed_forward_width;
  const int64_t p = config.patch_size;
  CpuWeights weights;
  WeightReader reader(&files);

  const std::vector<float> patch = reader.Read("patch_embed.proj.weight", {E, kImageChannels, p, p});
  const std::vector<float> patch_bias = reader.Read("patch_embed.proj.bias", {E});
  weights.cls = reader.Read("cls_token", {1, 1, E});
  if (config.positions) {
    weights.position = reader.Read("pos_embed", {1, ImageTokens(config.image_size, p), E});
  } else {
    reader.Ignore("pos_embed");
  }
  weights.final_norm = ReadNorm(reader, "norm", E);
  if (!reader.status().ok()) return reader.status();
  // A hundredth of the products: int8 would gain nothing there.
  const DType patch_dtype = dtype == DType::kInt8 ? DType::kBFloat16 : dtype;
  weights.patch = Linear::Pack(patch.data(), patch_bias.data(), E, kImageChannels * p * p, patch_dtype);

  for (int64_t n = 0; n < config.num_layers; ++n) {
    const std::string block = absl::StrCat("blocks.", n, ".");
    std::vector<std::string> gates = {block + "attn.a_i"};
    if (config.two_paths) gates.push_back(block + "attn.a2_i");
    CpuLayerWeights layer;
    layer.attention_norm = ReadNorm(reader, block + "norm1", E);
    layer.qkv = ReadLinear(reader, block + "attn.qkv", 3 * E, E, dtype, config.qkv_bias);
    if (config.variant == Variant::kD) ReadLambdas(reader, gates, H, &layer);
    if (config.variant == Variant::kS) ReadGates(reader, gates, H, E, &layer);
    layer.out = ReadLinear(reader, block + "attn.proj", E, E, dtype);
    layer.output_norm = ReadNorm(reader, block + "norm2", E);
    layer.up = ReadLinear(reader, block + "mlp.fc1", FF, E, dtype);
    layer.down = ReadLinear(reader, block + "mlp.fc2", E, FF, dtype);
    if (!reader.status().ok()) return reader.status();
    weights.layers.push_back(std::move(layer));
  }

  absl::StatusOr<HeadWeights> heads = ReadHeads(reader, config, pipeline);
  if (!heads.ok()) return heads.status();
  weights.unused = reader.Unused();
  PackHeads(*heads, &weights);
  return weights;
}

}  // namespace

absl::StatusOr<CpuWeights> CpuWeights::Load(const WeightFiles& files, const ModelConfig& config,
                                            const PipelineConfig& pipeline, DType dtype) {
  if (const auto* image = std::get_if<ImageConfig>(&config)) return LoadImage(files, *image, pipeline, dtype);
  return LoadText(files, std::get<TextConfig>(config), pipeline, dtype);
}

}  // namespace lion
