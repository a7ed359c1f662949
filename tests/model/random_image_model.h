// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_RANDOM_IMAGE_MODEL_H_
#define LION_TESTS_MODEL_RANDOM_IMAGE_MODEL_H_

// Directories of image models with random weights, written for a test and removed after it; and pictures of noise.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/encoder.h"
#include "model/types.h"
#include "tests/model/random_model.h"

namespace lion {

struct RandomImageModelOptions {
  Variant variant = Variant::kS;
  bool two_paths = false;
  bool positions = false;
  bool cls_pooling = true;
  bool qkv_bias = true;
  int64_t image_size = 32;
  int64_t patch_size = 8;
  int64_t hidden_width = 64;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t mlp_ratio = 4;
  int64_t num_labels = 3;  // 0 = no head
  float gate_bias = -2;    // of LION-S
  uint32_t seed = 1;
};

// A directory under the test's temporary folder, removed with this object.
class RandomImageModel {
 public:
  explicit RandomImageModel(const RandomImageModelOptions& options);
  ~RandomImageModel();
  RandomImageModel(const RandomImageModel&) = delete;
  RandomImageModel& operator=(const RandomImageModel&) = delete;

  const std::string& directory() const { return directory_; }
  const RandomImageModelOptions& options() const { return options_; }
  const std::map<std::string, NamedTensor>& tensors() const { return tensors_; }

  // A row over pixels (3, S, S), which it borrows.
  Row MakeRow(const std::vector<float>& pixels, ComputeMode mode, int chunk_tokens = 0,
              RowOutput output = RowOutput::kTokens) const;

 private:
  RandomImageModelOptions options_;
  std::string directory_;
  std::map<std::string, NamedTensor> tensors_;
};

// (3, S, S) of noise, as normalised pixels are distributed.
std::vector<float> RandomPixels(int64_t S, uint32_t seed);

}  // namespace lion

#endif  // LION_TESTS_MODEL_RANDOM_IMAGE_MODEL_H_
