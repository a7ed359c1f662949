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
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/types.h"

namespace lion {

// config.json of a text encoder.
struct TextConfig {
  Variant variant = Variant::kLit;
  int64_t vocab_size = 0;
  int64_t type_vocab_size = 0;
  int64_t hidden_width = 0;  // E, a multiple of num_heads
  int64_t num_layers = 0;
  int64_t num_heads = 0;   // H
  int64_t head_width = 0;  // D = E / H, at most kMaxHeadWidth
  int64_t feed_forward_width = 0;
  int64_t max_positions = 0;  // rows of the position table; 0 = no absolute positions, any length
  bool layer_norm_after = false;
  double layer_norm_eps = 1e-12;
  bool multi_label = false;
  std::vector<std::string> labels;  // as id2label names them, by index; empty = not named
};

// file is the path that errors name.
absl::StatusOr<TextConfig> ParseTextConfig(absl::string_view json, const std::string& file);

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

// The pipeline of a directory; without modules.json: mean, no Dense, no normalising.
absl::StatusOr<PipelineConfig> ReadPipeline(const std::string& directory, int64_t hidden_width);

// The whole file. NOT_FOUND or INVALID_ARGUMENT (not a regular file, above max_bytes) naming it.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

}  // namespace lion

#endif  // LION_MODEL_CONFIG_H_
