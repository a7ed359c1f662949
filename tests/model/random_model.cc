// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/random_model.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "gtest/gtest.h"

namespace lion {

void WriteSafetensors(const std::string& path, const std::map<std::string, NamedTensor>& tensors) {
  nlohmann::json header;
  size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t bytes = tensor.values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), sizeof(size));
  out << text;
  for (const auto& [name, tensor] : tensors) {
    out.write(reinterpret_cast<const char*>(tensor.values.data()),
              static_cast<std::streamsize>(tensor.values.size() * sizeof(float)));
  }
  ASSERT_TRUE(out.good()) << path;
}

RandomModel::RandomModel(const RandomModelOptions& o) {
  std::string pattern = testing::TempDir() + "/lion_model_XXXXXX";
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
  auto linear = [&](const std::string& name, int64_t N, int64_t K, float bias = 0) {
    add(name + ".weight", {N, K}, 1 / std::sqrt(static_cast<float>(K)), 0);
    add(name + ".bias", {N}, 0.1f, bias);
  };
  auto norm = [&](const std::string& name) {
    add(name + ".weight", {E}, 0.1f, 1);
    add(name + ".bias", {E}, 0.1f, 0);
  };
  add("bert.embeddings.word_embeddings.weight", {o.vocab_size, E}, 1, 0);
  add("bert.embeddings.token_type_embeddings.weight", {2, E}, 1, 0);
  if (o.absolute_positions) add("bert.embeddings.position_embeddings.weight", {o.max_positions, E}, 1, 0);
  norm("bert.embeddings.LayerNorm");
  for (int64_t n = 0; n < o.num_layers; ++n) {
    const std::string layer = "bert.encoder.layer." + std::to_string(n) + ".";
    for (const char* part : {"query", "key", "value"}) linear(layer + "attention.self." + part, E, E);
    if (o.layer_norm_after) norm(layer + "attention.self.layer_norm");
    if (o.variant == Variant::kS) linear(layer + "attention.self.Wa_i", o.num_heads, E, o.gate_bias);
    if (o.variant == Variant::kD) add(layer + "attention.self.ai", {o.num_heads}, 1, 2);
    linear(layer + "attention.output.dense", E, E);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", o.feed_forward_width, E);
    linear(layer + "output.dense", E, o.feed_forward_width);
    norm(layer + "output.LayerNorm");
  }
  if (o.num_labels > 0) {
    linear("bert.pooler.dense", E, E);
    linear("classifier", o.num_labels, E);
  }
  WriteWeights();
  const nlohmann::json config = {{"model_type", "bert"},
                                 {"arch_type", std::string(Name(o.variant))},
                                 {"layer_norm_after", o.layer_norm_after},
                                 {"position_embedding_type", o.absolute_positions ? "absolute" : "none"},
                                 {"hidden_act", "gelu"},
                                 {"layer_norm_eps", 1e-12},
                                 {"type_vocab_size", 2},
                                 {"vocab_size", o.vocab_size},
                                 {"hidden_size", E},
                                 {"num_hidden_layers", o.num_layers},
                                 {"num_attention_heads", o.num_heads},
                                 {"intermediate_size", o.feed_forward_width},
                                 {"max_position_embeddings", o.max_positions}};
  WriteFile("config.json", config.dump(1));
  if (o.dense_width > 0) {
    WriteFile("modules.json", R"([{"type": "sentence_transformers.models.Transformer", "path": ""},
      {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
      {"type": "sentence_transformers.models.Dense", "path": "2_Dense"},
      {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}])");
    std::filesystem::create_directory(directory_ + "/1_Pooling");
    std::filesystem::create_directory(directory_ + "/2_Dense");
    WriteFile("1_Pooling/config.json",
              R"({"word_embedding_dimension": )" + std::to_string(E) + R"(, "pooling_mode_mean_tokens": true})");
    WriteFile("2_Dense/config.json", nlohmann::json({{"in_features", E},
                                                     {"out_features", o.dense_width},
                                                     {"bias", true},
                                                     {"activation_function", "torch.nn.modules.linear.Identity"}})
                                         .dump());
    std::map<std::string, NamedTensor> dense;
    dense["linear.weight"] = {{o.dense_width, E}, std::vector<float>(o.dense_width * E)};
    dense["linear.bias"] = {{o.dense_width}, std::vector<float>(o.dense_width)};
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(E)));
    for (auto& [name, tensor] : dense) {
      for (float& v : tensor.values) v = normal(random);
    }
    WriteSafetensors(directory_ + "/2_Dense/model.safetensors", dense);
  }
}

RandomModel::~RandomModel() { std::filesystem::remove_all(directory_); }

void RandomModel::WriteWeights() const { WriteSafetensors(directory_ + "/model.safetensors", tensors_); }

void RandomModel::WriteFile(const std::string& name, const std::string& text) const {
  std::ofstream(directory_ + "/" + name) << text;
}

std::vector<uint32_t> RandomIds(int64_t L, int64_t vocab_size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> ids(L);
  for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % vocab_size);
  return ids;
}

}  // namespace lion
