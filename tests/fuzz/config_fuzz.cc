// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: what a model directory says of itself in JSON, divided by lines "%%": config.json, modules.json,
// 1_Pooling/config.json, 2_Dense/config.json. Parts that are missing are files that are missing.
//
// Whatever the bytes: an error is one line that begins with the file, and what is taken keeps config.h's promises. A
// config.json is read as a text model's and as an image model's, whatever it says of itself, and as what it says.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "model/config.h"
#include "model/types.h"
#include "tests/fuzz/fuzz.h"

namespace {

constexpr char kFile[] = "dir/config.json";

// Whether it is OK; if not, that it is one line about the file.
bool IsTaken(const absl::Status& status) {
  if (status.ok()) return true;
  lion::CheckOneLine(status);
  FUZZ_CHECK(absl::StartsWith(status.message(), kFile), status.ToString());
  return false;
}

void CheckImageConfig(absl::string_view json) {
  const absl::StatusOr<lion::ImageConfig> config = lion::ParseImageConfig(json, kFile);
  if (!IsTaken(config.status())) return;
  FUZZ_CHECK(config->num_layers >= 1 && config->num_heads >= 1 && config->feed_forward_width >= 1, "no layers");
  FUZZ_CHECK(config->head_width >= 1, "no width");
  FUZZ_CHECK(config->hidden_width == config->num_heads * config->head_width, "E is H D");
  FUZZ_CHECK(config->patch_size >= 1 && config->patch_size <= lion::kMaxPatchSize, "patch");
  FUZZ_CHECK(config->image_size >= config->patch_size, "no picture");
  FUZZ_CHECK(config->image_size % config->patch_size == 0, "a patch that is cut");
  FUZZ_CHECK(config->layer_norm_eps >= 0, "eps");
}

void CheckModelConfig(absl::string_view json) {
  const absl::StatusOr<lion::ModelConfig> config = lion::ParseModelConfig(json, kFile);
  if (!IsTaken(config.status())) return;
  const bool is_image = std::holds_alternative<lion::ImageConfig>(*config);
  FUZZ_CHECK(is_image ? lion::ParseImageConfig(json, kFile).ok() : lion::ParseTextConfig(json, kFile).ok(),
             "taken as what it is not");
}

void CheckTextConfig(absl::string_view json) {
  const absl::StatusOr<lion::TextConfig> config = lion::ParseTextConfig(json, kFile);
  if (!IsTaken(config.status())) return;
  FUZZ_CHECK(config->vocab_size >= 1 && config->type_vocab_size >= 1, "no ids");
  FUZZ_CHECK(config->num_layers >= 1 && config->num_heads >= 1 && config->feed_forward_width >= 1, "no layers");
  FUZZ_CHECK(config->head_width >= 1, "no width");
  FUZZ_CHECK(config->hidden_width == config->num_heads * config->head_width, "E is H D");
  FUZZ_CHECK(config->max_positions >= 0, "positions");
  FUZZ_CHECK(config->layer_norm_eps >= 0, "eps");
}

void CheckPipeline(const std::string& directory) {
  constexpr int64_t kHiddenWidth = 256;
  const absl::StatusOr<lion::PipelineConfig> pipeline = lion::ReadPipeline(directory, kHiddenWidth);
  if (!pipeline.ok()) {
    lion::CheckOneLine(pipeline.status());
    FUZZ_CHECK(absl::StartsWith(pipeline.status().message(), directory), pipeline.status().ToString());
    return;
  }
  int64_t width = kHiddenWidth;
  for (const lion::DenseConfig& dense : pipeline->dense) {
    FUZZ_CHECK(dense.in_width == width && dense.out_width >= 1, "widths follow each other");
    width = dense.out_width;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const lion::ScratchFolder folder;
  static const std::vector<std::string> names = {"modules.json", "1_Pooling/config.json", "2_Dense/config.json"};
  const std::vector<std::string_view> parts = lion::Parts(lion::AsText(data, size));
  const absl::string_view config(parts[0].data(), parts[0].size());
  CheckTextConfig(config);
  CheckImageConfig(config);
  CheckModelConfig(config);
  if (parts.size() < 2) return 0;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i + 1 < parts.size()) {
      folder.Write(names[i], parts[i + 1]);
    } else {
      folder.Remove(names[i]);
    }
  }
  CheckPipeline(folder.path());
  return 0;
}
