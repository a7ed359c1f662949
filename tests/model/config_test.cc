// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/config.h"

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kGood[] = R"({"model_type": "bert", "arch_type": "lion-s", "layer_norm_after": true,
  "position_embedding_type": "relative_key_query", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "vocab_size": 100,
  "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
  "max_position_embeddings": 512, "type_vocab_size": 2, "id2label": {"0": "yes", "1": "no"}})";

// kGood with one field's text replaced.
std::string With(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(TextConfigTest, ReadsEveryField) {
  const absl::StatusOr<TextConfig> config = ParseTextConfig(kGood, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->variant, Variant::kS);
  EXPECT_TRUE(config->layer_norm_after);
  EXPECT_EQ(config->max_positions, 0);  // not absolute: any length
  EXPECT_EQ(config->hidden_width, 48);
  EXPECT_EQ(config->head_width, 12);
  EXPECT_EQ(config->feed_forward_width, 96);
  EXPECT_THAT(config->labels, ElementsAre("yes", "no"));
  EXPECT_FALSE(config->multi_label);
}

TEST(TextConfigTest, KnowsTheOlderNamesAndAbsolutePositions) {
  EXPECT_EQ(ParseTextConfig(With("lion-s", "nova-inputdep"), "f")->variant, Variant::kS);
  EXPECT_EQ(ParseTextConfig(With("lion-s", "nova"), "f")->variant, Variant::kD);
  EXPECT_EQ(ParseTextConfig(With("lion-s", "linear_attention"), "f")->variant, Variant::kLit);
  EXPECT_EQ(ParseTextConfig(With("relative_key_query", "absolute"), "f")->max_positions, 512);
  EXPECT_TRUE(ParseTextConfig(With("\"id2label\"", R"("problem_type": "multi_label_classification", "id2label")"), "f")
                  ->multi_label);
}

TEST(TextConfigTest, RefusesWhatItCannotServeByFileAndField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "is not JSON"},
      {"[1]", "is not a JSON object"},
      {With("\"lion-s\"", "\"softmax\""), "arch_type 'softmax' is not one of lion-lit, lion-d, lion-s"},
      {With("\"arch_type\": \"lion-s\",", ""), "arch_type is missing"},
      {With("\"bert\"", "\"lion-vision\""), "model_type 'lion-vision' is not served"},
      {With("\"hidden_size\": 48", "\"hidden_size\": \"48\""), "hidden_size is \"48\", not a whole number from 1"},
      {With("\"hidden_size\": 48", "\"hidden_size\": -1"), "hidden_size is -1"},
      {With("\"hidden_size\": 48", "\"hidden_size\": 48.5"), "hidden_size is 48.5"},
      {With("\"hidden_size\": 48", "\"hidden_size\": 1e300"), "hidden_size is 1e+300"},
      {With("\"hidden_size\": 48,", ""), "hidden_size is missing"},
      {With("\"hidden_size\": 48", "\"hidden_size\": 50"), "hidden_size 50 is not a multiple of num_attention_heads 4"},
      {With("\"hidden_size\": 48", "\"hidden_size\": 1024"), "heads are 256 wide, at most 128"},
      {With("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0"), "num_hidden_layers is 0"},
      {With("\"vocab_size\": 100", "\"vocab_size\": 99999999999"), "vocab_size is 99999999999"},
      {With("\"layer_norm_after\": true", "\"layer_norm_after\": 1"), "layer_norm_after is 1, not true or false"},
      {With("\"gelu\"", "\"relu\""), "hidden_act 'relu' is not 'gelu'"},
      {With("1e-12", "-1"), "layer_norm_eps is -1"},
      {With("\"1\": \"no\"", "\"2\": \"no\""), "id2label does not number its labels 0 to 1"},
      {With("\"1\": \"no\"", "\"1\": 7"), "id2label[1] is not a string"},
  };
  for (const auto& [text, message] : cases) {
    const absl::StatusOr<TextConfig> config = ParseTextConfig(text, "dir/config.json");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("dir/config.json: " + message));
  }
}

constexpr char kImage[] = R"({"model_type": "lion-vision", "mask_type": "Selective", "order": "S", "pos_emb": false,
  "cls_tok": true, "mlp_ratio": 4, "qkv_bias": false, "layer_norm_eps": 1e-6, "in_chans": 3, "img_size": 224,
  "patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 1000})";

// kImage with one field's text replaced.
std::string ImageWith(const std::string& from, const std::string& to) {
  std::string text = kImage;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ImageConfigTest, ReadsEveryField) {
  const absl::StatusOr<ImageConfig> config = ParseImageConfig(kImage, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->variant, Variant::kS);
  EXPECT_TRUE(config->two_paths);
  EXPECT_FALSE(config->positions);
  EXPECT_TRUE(config->cls_pooling);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_EQ(config->image_size, 224);
  EXPECT_EQ(config->patch_size, 16);
  EXPECT_EQ(config->hidden_width, 192);
  EXPECT_EQ(config->head_width, 64);
  EXPECT_EQ(config->feed_forward_width, 768);
  EXPECT_EQ(config->num_layers, 12);
  EXPECT_EQ(config->num_classes, 1000);
  EXPECT_EQ(config->layer_norm_eps, 1e-6);
  EXPECT_EQ(ParseImageConfig(ImageWith("Selective", "Decay"), "f")->variant, Variant::kD);
  EXPECT_EQ(ParseImageConfig(ImageWith("Selective", "Lit"), "f")->variant, Variant::kLit);
  EXPECT_FALSE(ParseImageConfig(ImageWith("\"S\"", "\"Normal\""), "f")->two_paths);
  EXPECT_EQ(ParseImageConfig(ImageWith("\"mlp_ratio\": 4", "\"mlp_ratio\": 2.5"), "f")->feed_forward_width, 480);
  EXPECT_EQ(ParseImageConfig(ImageWith(", \"num_classes\": 1000", ""), "f")->num_classes, -1);
}

TEST(ImageConfigTest, RefusesWhatItCannotServeByFileAndField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[1]", "is not a JSON object"},
      {ImageWith("Selective", "Softmax"), "mask_type 'Softmax' is not one of Lit, Decay, Selective"},
      {ImageWith("\"S\"", "\"Z\""), "order 'Z' is neither Normal nor S"},
      {ImageWith("\"pos_emb\": false,", ""), "pos_emb is missing"},
      {ImageWith("\"cls_tok\": true", "\"cls_tok\": 1"), "cls_tok is 1, not true or false"},
      {ImageWith("\"in_chans\": 3", "\"in_chans\": 1"), "in_chans 1 is not served: only 3 are"},
      {ImageWith("\"img_size\": 224", "\"img_size\": 225"), "img_size 225 is not a multiple of patch_size 16"},
      {ImageWith("\"patch_size\": 16", "\"patch_size\": 0"), "patch_size is 0, not a whole number from 1 to 64"},
      {ImageWith("\"embed_dim\": 192", "\"embed_dim\": 193"), "embed_dim 193 is not a multiple of num_heads 3"},
      {ImageWith("\"embed_dim\": 192", "\"embed_dim\": 387"), "heads are 129 wide, at most 128 are served"},
      {ImageWith("\"mlp_ratio\": 4", "\"mlp_ratio\": 0"), "mlp_ratio times embed_dim is 0"},
      {ImageWith("\"mlp_ratio\": 4", "\"problem_type\": \"regression\""), "problem_type 'regression'"},
      {ImageWith("lion-vision", "vit"), "model_type 'vit' is not 'lion-vision'"},
  };
  for (const auto& [text, what] : cases) {
    const absl::StatusOr<ImageConfig> config = ParseImageConfig(text, "dir/config.json");
    ASSERT_FALSE(config.ok()) << what;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("dir/config.json: " + what));
  }
}

TEST(ModelConfigTest, IsOfTheKindThatModelTypeSays) {
  EXPECT_TRUE(std::holds_alternative<TextConfig>(*ParseModelConfig(kGood, "f")));
  EXPECT_TRUE(std::holds_alternative<ImageConfig>(*ParseModelConfig(kImage, "f")));
  EXPECT_EQ(Common(*ParseModelConfig(kImage, "f")).hidden_width, 192);
  EXPECT_THAT(std::string(ParseModelConfig(ImageWith("lion-vision", "vit"), "f").status().message()),
              HasSubstr("f: model_type 'vit' is not served: only 'bert' and 'lion-vision' are"));
  EXPECT_THAT(std::string(ParseModelConfig("{", "f").status().message()), HasSubstr("f: is not JSON"));
}

TEST(TextConfigTest, AnErrorIsOneLineWhateverTheFileHolds) {
  const absl::Status status =
      ParseTextConfig(With("lion-s", R"(a\nb\u0000c)" + std::string(1000, 'd')), "config.json").status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(R"(config.json: arch_type 'a\x0ab\x00cddd)"));
  EXPECT_LT(status.message().size(), 400);
}

TEST(PipelineTest, WithoutModulesItIsThePlainMean) {
  const RandomModel model({});
  const absl::StatusOr<PipelineConfig> pipeline = ReadPipeline(model.directory(), 64);
  ASSERT_TRUE(pipeline.ok()) << pipeline.status();
  EXPECT_EQ(pipeline->pooling, Pooling::kMean);
  EXPECT_TRUE(pipeline->dense.empty());
  EXPECT_FALSE(pipeline->normalize);
}

TEST(PipelineTest, RefusesWhatItCannotServeByFileAndField) {
  RandomModelOptions options;
  options.dense_width = 24;
  auto module = [](const std::string& type, const std::string& path) {
    return R"({"type": "sentence_transformers.models.)" + type + R"(", "path": ")" + path + "\"}";
  };
  const std::string transformer = module("Transformer", "");
  const std::string pooling = module("Pooling", "1_Pooling");
  const std::string dense = module("Dense", "2_Dense");
  const std::string normalize = module("Normalize", "3_Normalize");
  auto list = [](const std::vector<std::string>& modules) {
    std::string text = "[";
    for (size_t i = 0; i < modules.size(); ++i) text += (i == 0 ? "" : ",") + modules[i];
    return text + "]";
  };
  struct Case {
    std::string file;
    std::string text;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"modules.json", "{}", "modules.json: is not a list of modules"},
      {"modules.json", list({pooling}), "modules.json: module 0 is"},
      {"modules.json", list({transformer}), "modules.json: has no Pooling module"},
      {"modules.json", list({transformer, pooling, pooling}), "has two Pooling modules"},
      {"modules.json", list({transformer, dense, pooling}), "Dense comes before Pooling"},
      {"modules.json", list({transformer, normalize, pooling}), "Normalize comes before Pooling"},
      {"modules.json", list({transformer, pooling, normalize, dense}), "module 3 (Dense) follows Normalize"},
      {"modules.json", list({transformer, module("CNN", "1_Pooling")}), "only Pooling, Dense and Normalize"},
      {"modules.json", list({transformer, module("Pooling", "../1_Pooling")}), "path '../1_Pooling' is not the name"},
      {"modules.json", list({transformer, module("Pooling", "absent")}), "absent/config.json: no such file"},
      {"1_Pooling/config.json", R"({"pooling_mode_max_tokens": true})", "pooling_mode_max_tokens is not supported"},
      {"1_Pooling/config.json", "{}", "exactly one of pooling_mode_cls_token"},
      {"1_Pooling/config.json", R"({"pooling_mode_mean_tokens": true, "word_embedding_dimension": 65})",
       "word_embedding_dimension is 65, the model's hidden_size 64"},
      {"2_Dense/config.json", R"({"in_features": 65, "out_features": 2})",
       "in_features is 65, the module before it gives 64"},
      {"2_Dense/config.json", R"({"in_features": 64, "out_features": 2, "activation_function": "torch.nn.ReLU"})",
       "activation_function 'torch.nn.ReLU' is neither Identity nor Tanh"},
  };
  for (const Case& c : cases) {
    const RandomModel model(options);
    model.WriteFile(c.file, c.text);
    const absl::StatusOr<PipelineConfig> pipeline = ReadPipeline(model.directory(), 64);
    EXPECT_FALSE(pipeline.ok()) << c.message;
    EXPECT_THAT(std::string(pipeline.status().message()), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace lion
