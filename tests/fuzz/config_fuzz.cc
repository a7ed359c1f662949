// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: what a model directory says of itself in JSON, divided by lines "%%": config.json, modules.json,
// 1_Pooling/config.json, 2_Dense/config.json. Parts that are missing are files that are missing.
//
// Whatever the bytes: an error is one line that begins with the file, and what is taken keeps config.h's promises.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "model/config.h"
#include "model/types.h"
#include "tests/fuzz/fuzz.h"

namespace {

void CheckTextConfig(std::string_view json) {
  const absl::StatusOr<lion::TextConfig> config =
      lion::ParseTextConfig(absl::string_view(json.data(), json.size()), "dir/config.json");
  if (!config.ok()) {
    lion::CheckOneLine(config.status());
    FUZZ_CHECK(absl::StartsWith(config.status().message(), "dir/config.json"), config.status().ToString());
    return;
  }
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
  CheckTextConfig(parts[0]);
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
