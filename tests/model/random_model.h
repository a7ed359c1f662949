// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_RANDOM_MODEL_H_
#define LION_TESTS_MODEL_RANDOM_MODEL_H_

// Model directories of random weights, written for a test and removed after it.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/types.h"

namespace lion {

// Named fp32 tensors, and the safetensors file that holds them.
struct NamedTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
void WriteSafetensors(const std::string& path, const std::map<std::string, NamedTensor>& tensors);

struct RandomModelOptions {
  Variant variant = Variant::kS;
  bool layer_norm_after = true;
  bool absolute_positions = false;
  int64_t vocab_size = 97;
  int64_t hidden_width = 64;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t feed_forward_width = 128;
  int64_t max_positions = 512;
  int64_t num_labels = 3;   // 0 = no head
  int64_t dense_width = 0;  // of a sentence-transformers pipeline with Dense and Normalize; 0 = no modules.json
  float gate_bias = -2;     // of LION-S
  uint32_t seed = 1;
};

// A directory under the test's temporary folder, removed with this object.
class RandomModel {
 public:
  explicit RandomModel(const RandomModelOptions& options);
  ~RandomModel();
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;

  const std::string& directory() const { return directory_; }
  const std::map<std::string, NamedTensor>& tensors() const { return tensors_; }
  std::map<std::string, NamedTensor>& tensors() { return tensors_; }
  // Writes the weights again after tensors() was changed.
  void WriteWeights() const;
  void WriteFile(const std::string& name, const std::string& text) const;

 private:
  std::string directory_;
  std::map<std::string, NamedTensor> tensors_;
};

// L random ids below vocab_size.
std::vector<uint32_t> RandomIds(int64_t L, int64_t vocab_size, uint32_t seed);

}  // namespace lion

#endif  // LION_TESTS_MODEL_RANDOM_MODEL_H_
