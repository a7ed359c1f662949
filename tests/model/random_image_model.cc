// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/random_image_model.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "gtest/gtest.h"

namespace lion {

RandomImageModel::RandomImageModel(const RandomImageModelOptions& o) : options_(o) {
  std::string pattern = testing::TempDir() + "/lion_image_model_XXXXXX";
  directory_ = mkdtemp(pattern.data());
  std::mt19937 random(o.seed);
  auto add = [&](const std::string& name, std::vector<int64_t> shape, float scale, float offset) {
    NamedTensor tensor;
    tensor.shape = std::move(shape);
    int64_t n = 1;
    for (int64_t d : tensor.shape) n *= d;
    std::normal_distribution<float> normal(offset, scale);
    tensor.values.resize(n);
    for (float& v : tensor.values) v = normal(random);
    tensors_[name] = std::move(tensor);
  };
  const int64_t E = o.hidden_width;
  const int64_t H = o.num_heads;
  const int64_t p = o.patch_size;
  auto linear = [&](const std::string& name, int64_t N, int64_t K, float bias = 0, bool has_bias = true) {
    add(name + ".weight", {N, K}, 1 / std::sqrt(static_cast<float>(K)), 0);
    if (has_bias) add(name + ".bias", {N}, 0.1f, bias);
  };
  auto norm = [&](const std::string& name) {
    add(name + ".weight", {E}, 0.1f, 1);
    add(name + ".bias", {E}, 0.1f, 0);
  };
  add("patch_embed.proj.weight", {E, kImageChannels, p, p}, 1 / std::sqrt(static_cast<float>(kImageChannels * p * p)),
      0);
  add("patch_embed.proj.bias", {E}, 0.1f, 0);
  add("cls_token", {1, 1, E}, 1, 0);
  if (o.positions) add("pos_embed", {1, ImageTokens(o.image_size, p), E}, 0.5f, 0);
  for (int64_t n = 0; n < o.num_layers; ++n) {
    const std::string block = "blocks." + std::to_string(n) + ".";
    norm(block + "norm1");
    linear(block + "attn.qkv", 3 * E, E, 0, o.qkv_bias);
    for (const char* gates : {"attn.a_i", "attn.a2_i"}) {
      if (gates == std::string("attn.a2_i") && !o.two_paths) continue;
      if (o.variant == Variant::kD) add(block + gates, {H}, 1, 2);
      if (o.variant == Variant::kS) linear(block + gates, H, E, o.gate_bias);
    }
    linear(block + "attn.proj", E, E);
    norm(block + "norm2");
    linear(block + "mlp.fc1", o.mlp_ratio * E, E);
    linear(block + "mlp.fc2", E, o.mlp_ratio * E);
  }
  norm("norm");
  if (o.num_labels > 0) linear("head", o.num_labels, E);
  WriteSafetensors(directory_ + "/model.safetensors", tensors_);

  const char* mask_types[] = {"Lit", "Decay", "Selective"};
  const nlohmann::json config = {{"model_type", "lion-vision"},
                                 {"mask_type", mask_types[static_cast<int>(o.variant)]},
                                 {"order", o.two_paths ? "S" : "Normal"},
                                 {"pos_emb", o.positions},
                                 {"cls_tok", o.cls_pooling},
                                 {"mlp_ratio", o.mlp_ratio},
                                 {"qkv_bias", o.qkv_bias},
                                 {"layer_norm_eps", 1e-6},
                                 {"in_chans", kImageChannels},
                                 {"img_size", o.image_size},
                                 {"patch_size", p},
                                 {"embed_dim", E},
                                 {"depth", o.num_layers},
                                 {"num_heads", H},
                                 {"num_classes", o.num_labels}};
  std::ofstream(directory_ + "/config.json") << config.dump(1);
}

RandomImageModel::~RandomImageModel() { std::filesystem::remove_all(directory_); }

Row RandomImageModel::MakeRow(const std::vector<float>& pixels, ComputeMode mode, int chunk_tokens,
                              RowOutput output) const {
  Row row{{}, {}, mode, chunk_tokens, output};
  row.pixels = pixels;
  const auto S = std::lround(std::sqrt(static_cast<double>(pixels.size()) / kImageChannels));
  row.image_tokens = ImageTokens(S, options_.patch_size);
  return row;
}

std::vector<float> RandomPixels(int64_t S, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> pixels(kImageChannels * S * S);
  for (float& pixel : pixels) pixel = normal(random);
  return pixels;
}

}  // namespace lion
