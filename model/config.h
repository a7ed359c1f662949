// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CONFIG_H_
#define LION_MODEL_CONFIG_H_

// What a model directory says of itself in JSON: config.json, and the sentence-transformers pipeline beside it.
//
// Everything here is untrusted: every field is checked for type and range, and an error is one line that begins with
// the file and names the field.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/types.h"

namespace lion {

// What config.json says of an encoder, whatever goes into it.
struct EncoderConfig {
  Variant variant = Variant::kLit;
  int64_t hidden_width = 0;  // E, a multiple of num_heads
  int64_t num_layers = 0;
  int64_t num_heads = 0;   // H
  int64_t head_width = 0;  // D = E / H, at most kMaxHeadWidth
  int64_t feed_forward_width = 0;
  double layer_norm_eps = 0;
  bool multi_label = false;
  std::vector<std::string> labels;  // as id2label names them, by index; empty = not named
};

// config.json of a text encoder.
struct TextConfig : EncoderConfig {
  int64_t vocab_size = 0;
  int64_t type_vocab_size = 0;
  int64_t max_positions = 0;  // rows of the position table; 0 = no absolute positions, any length
  bool layer_norm_after = false;
};

// config.json of an image encoder (model_type lion-vision).
struct ImageConfig : EncoderConfig {
  int64_t image_size = 0;   // S of the pictures that it was trained on, a multiple of patch_size
  int64_t patch_size = 0;   // side of a patch in pixels, at most kMaxPatchSize
  bool positions = false;   // pos_emb: a table for image_size's tokens, so that S is image_size and no other
  bool cls_pooling = true;  // cls_tok: the features are the cls row, else the mean over all rows
  bool two_paths = false;   // order S: M is the mean of two masks, along the snake by rows and the snake by columns
  bool qkv_bias = true;
  int64_t num_classes = -1;  // rows of head; 0 = none, whatever the weights hold; -1 = not said
};

inline constexpr int64_t kMaxPatchSize = 64;

using ModelConfig = std::variant<TextConfig, ImageConfig>;

// What both kinds have.
inline const EncoderConfig& Common(const ModelConfig& config) {
  return std::visit([](const auto& kind) -> const EncoderConfig& { return kind; }, config);
}

// Of either kind, as model_type says. file is the path that errors name.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json, const std::string& file);

// Of one kind: a model_type of another is an error.
absl::StatusOr<TextConfig> ParseTextConfig(absl::string_view json, const std::string& file);
absl::StatusOr<ImageConfig> ParseImageConfig(absl::string_view json, const std::string& file);

// One Dense module of the pipeline.
struct DenseConfig {
  std::string directory;  // where its model.safetensors lies
  int64_t in_width = 0;
  int64_t out_width = 0;
  bool bias = true;
  bool tanh = false;  // its activation; else identity
};

// modules.json and what it points to: Pooling, then any number of Dense, then at most one Normalize.
struct PipelineConfig {
  Pooling pooling = Pooling::kMean;
  std::vector<DenseConfig> dense;
  bool normalize = false;
};

// The pipeline of a directory; without modules.json: default_pooling, no Dense, no normalising.
absl::StatusOr<PipelineConfig> ReadPipeline(const std::string& directory, int64_t hidden_width,
                                            Pooling default_pooling = Pooling::kMean);

// The whole file. NOT_FOUND or INVALID_ARGUMENT (not a regular file, above max_bytes) naming it.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

}  // namespace lion

#endif  // LION_MODEL_CONFIG_H_
