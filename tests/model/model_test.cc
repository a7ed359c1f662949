// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/model.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Model>> Load(const RandomModel& directory, ComputePool* pool,
                                            ModelOptions options = {}) {
  options.directory = directory.directory();
  if (options.parallel_max_tokens == 0) options.parallel_max_tokens = 64;
  return Model::Load(options, pool);
}

TEST(ModelTest, SaysWhatItIs) {
  ComputePool pool({.num_threads = 1});
  const RandomModel directory({});
  absl::StatusOr<std::unique_ptr<Model>> model = Load(directory, &pool);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.variant_name, "lion-s");
  EXPECT_EQ(info.version.size(), 12u);
  EXPECT_EQ(info.hidden_width, 64);
  EXPECT_EQ(info.vocab_size, 97);
  EXPECT_EQ(info.max_positions, 0);
  EXPECT_TRUE(info.classifies);
  EXPECT_FALSE(info.multi_label);
  EXPECT_THAT(info.labels, ElementsAre("LABEL_0", "LABEL_1", "LABEL_2"));
  EXPECT_EQ(info.chunk_tokens, 32);
  EXPECT_EQ(info.parallel_max_tokens, 64);
  EXPECT_TRUE(info.warnings.empty());
  EXPECT_EQ((*model)->tokenizer(), nullptr);
}

TEST(ModelTest, VersionFollowsConfigAndWeights) {
  ComputePool pool({.num_threads = 1});
  RandomModel directory({});
  const std::string first = (*Load(directory, &pool))->info().version;
  EXPECT_EQ((*Load(directory, &pool))->info().version, first);
  directory.tensors()["classifier.bias"].values[0] += 1;
  directory.WriteWeights();
  EXPECT_NE((*Load(directory, &pool))->info().version, first);
}

TEST(ModelTest, MeasuresTheCrossoverOutOfItsChoices) {
  ComputePool pool({.num_threads = 1});
  const RandomModel directory({});
  ModelOptions options;
  options.directory = directory.directory();
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, &pool);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(
      std::count(std::begin(kCrossoverChoices), std::end(kCrossoverChoices), (*model)->info().parallel_max_tokens));
}

TEST(ModelTest, ResolvesTheMode) {
  EXPECT_EQ(ResolveMode(std::nullopt, 64, 64), ComputeMode::kParallel);
  EXPECT_EQ(ResolveMode(std::nullopt, 65, 64), ComputeMode::kChunked);
  EXPECT_EQ(ResolveMode(ComputeMode::kRecurrent, 1, 64), ComputeMode::kRecurrent);
  EXPECT_EQ(ResolveMode(ComputeMode::kParallel, 1000, 64), ComputeMode::kParallel);
}

TEST(ModelTest, OneLabelMeansSigmoid) {
  ComputePool pool({.num_threads = 1});
  RandomModelOptions options;
  options.num_labels = 1;
  const RandomModel directory(options);
  EXPECT_TRUE((*Load(directory, &pool))->info().multi_label);
}

TEST(ModelTest, NamesTensorsThatNothingUses) {
  ComputePool pool({.num_threads = 1});
  RandomModel directory({});
  directory.tensors()["stray.weight"] = {{2}, {1, 2}};
  directory.tensors()["cls.predictions.bias"] = {{2}, {1, 2}};
  directory.WriteWeights();
  EXPECT_THAT((*Load(directory, &pool))->info().warnings,
              ElementsAre(HasSubstr("tensors that nothing uses: stray.weight")));
}

TEST(ModelTest, TakesCheckpointsWithoutThePrefix) {
  ComputePool pool({.num_threads = 1});
  RandomModelOptions options;
  options.num_labels = 0;
  RandomModel directory(options);
  const std::map<std::string, NamedTensor> prefixed = directory.tensors();
  directory.tensors().clear();
  for (const auto& [name, tensor] : prefixed) directory.tensors()[name.substr(std::string("bert.").size())] = tensor;
  directory.WriteWeights();
  EXPECT_TRUE(Load(directory, &pool).ok());
}

TEST(ModelTest, RefusesBrokenDirectoriesInOneLine) {
  ComputePool pool({.num_threads = 1});
  struct Case {
    const char* name;
    std::function<void(RandomModel&)> breakage;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"no config", [](RandomModel& m) { std::filesystem::remove(m.directory() + "/config.json"); },
       "config.json: no such file"},
      {"no weights", [](RandomModel& m) { std::filesystem::remove(m.directory() + "/model.safetensors"); },
       "model.safetensors"},
      {"truncated weights",
       [](RandomModel& m) { std::filesystem::resize_file(m.directory() + "/model.safetensors", 1000); },
       "model.safetensors"},
      {"a tensor is missing",
       [](RandomModel& m) {
         m.tensors().erase("bert.encoder.layer.1.attention.self.key.weight");
         m.WriteWeights();
       },
       "tensor 'bert.encoder.layer.1.attention.self.key.weight' [64, 64] is missing"},
      {"the gates are missing",
       [](RandomModel& m) {
         m.tensors().erase("bert.encoder.layer.0.attention.self.Wa_i.weight");
         m.WriteWeights();
       },
       "tensor 'bert.encoder.layer.0.attention.self.Wa_i.weight' [4, 64] is missing"},
      {"a tensor has another shape",
       [](RandomModel& m) {
         m.tensors()["bert.encoder.layer.0.output.dense.weight"] = {{64, 64}, std::vector<float>(64 * 64)};
         m.WriteWeights();
       },
       "tensor 'bert.encoder.layer.0.output.dense.weight' has shape [64, 64], config.json asks for [64, 128]"},
      {"a classifier without its pooler",
       [](RandomModel& m) {
         m.tensors().erase("bert.pooler.dense.weight");
         m.WriteWeights();
       },
       "tensor 'bert.pooler.dense.weight' [64, 64] is missing"},
      {"a classifier without labels",
       [](RandomModel& m) {
         m.tensors()["classifier.weight"] = {{0, 64}, {}};
         m.WriteWeights();
       },
       "tensor 'classifier.weight' has 0 rows"},
      {"a table of a size that only config.json claims",
       [](RandomModel& m) {
         m.WriteFile("config.json", R"({"model_type": "bert", "arch_type": "lion-s", "layer_norm_after": true,
           "max_position_embeddings": 16777216, "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 4, "intermediate_size": 128})");
       },
       "position_embeddings.weight' [16777216, 64] is missing"},
      {"a tokenizer that is none", [](RandomModel& m) { m.WriteFile("tokenizer.json", "{}"); }, "tokenizer.json"},
      {"a pipeline without its weights",
       [](RandomModel& m) { std::filesystem::remove(m.directory() + "/2_Dense/model.safetensors"); },
       "2_Dense/model.safetensors"},
  };
  RandomModelOptions options;
  options.dense_width = 8;
  for (const Case& c : cases) {
    RandomModel directory(options);
    c.breakage(directory);
    const absl::StatusOr<std::unique_ptr<Model>> model = Load(directory, &pool);
    ASSERT_FALSE(model.ok()) << c.name;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(c.message)) << c.name;
    EXPECT_THAT(std::string(model.status().message()), testing::Not(HasSubstr("\n"))) << c.name;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(directory.directory())) << c.name;
  }
  ModelOptions nowhere;
  nowhere.directory = "/nonexistent/model";
  EXPECT_EQ(Model::Load(nowhere, &pool).status().code(), absl::StatusCode::kNotFound);
}

TEST(ModelTest, RefusesLabelsThatDoNotFitTheClassifier) {
  ComputePool pool({.num_threads = 1});
  const RandomModel directory({});
  directory.WriteFile("config.json", R"({"model_type": "bert", "arch_type": "lion-s", "layer_norm_after": true,
    "position_embedding_type": "none", "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 128, "id2label": {"0": "a", "1": "b"}})");
  const absl::StatusOr<std::unique_ptr<Model>> model = Load(directory, &pool);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("'classifier.weight' has 3 rows, config.json's id2label names 2"));
}

TEST(ModelTest, RefusesDevicesThatThereAreNot) {
  ComputePool pool({.num_threads = 1});
  const RandomModel directory({});
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"gpu"}, "device 'gpu' is neither cpu nor cuda:N"},
      {{"cuda:"}, "device 'cuda:' is neither cpu nor cuda:N"},
      {{"cuda:-1"}, "device 'cuda:-1' is neither cpu nor cuda:N"},
      {{"cuda:0", "cuda:00"}, "device 'cuda:00' is named twice"},
      {{"cuda:0", "cpu"}, "devices 'cuda:0,cpu': takes cpu alone"},
      {{"cpu", "cpu"}, "devices 'cpu,cpu': takes cpu alone"},
      {{}, "devices '': takes cpu alone"},
      {{"cuda:1000"}, "cuda:1000"},  // a build without CUDA says so, others count the devices
  };
  for (const auto& [devices, message] : cases) {
    ModelOptions options;
    options.devices = devices;
    const absl::StatusOr<std::unique_ptr<Model>> model = Load(directory, &pool, options);
    ASSERT_FALSE(model.ok()) << message;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(message));
  }
}

TEST(ModelTest, RefusesDTypesThatTheCpuLacks) {
  ComputePool pool({.num_threads = 1});
  const RandomModel directory({});
  for (DType dtype : {DType::kFloat16, DType::kFp8}) {
    ModelOptions options;
    options.dtype = dtype;
    const absl::StatusOr<std::unique_ptr<Model>> model = Load(directory, &pool, options);
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()),
                HasSubstr("is not available on the CPU: float32, bfloat16 or int8"));
  }
}

}  // namespace
}  // namespace lion
