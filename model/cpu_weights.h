// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_WEIGHTS_H_
#define LION_MODEL_CPU_WEIGHTS_H_

// A text encoder's weights as the CPU engine holds them: products packed, everything else fp32.
//
// 1 / sqrt(D), by which attention scales its scores, is taken into the queries' weights and biases: nothing later
// multiplies by it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/safetensors.h"
#include "model/types.h"

namespace lion {

struct CpuNorm {
  std::vector<float> gamma;
  std::vector<float> beta;
};

struct CpuLayerWeights {
  std::unique_ptr<Linear> qkv;   // E -> 3E
  std::unique_ptr<Linear> out;   // E -> E
  std::unique_ptr<Linear> up;    // E -> FF
  std::unique_ptr<Linear> down;  // FF -> E
  CpuNorm after;                 // layer_norm_after, over the joined heads
  CpuNorm attention_norm;
  CpuNorm output_norm;
  std::vector<float> log_lambda;   // (H): LION-D
  std::vector<float> gate_weight;  // (E, Hp): LION-S, transposed; Hp = H rounded up to 16
  std::vector<float> gate_bias;    // (Hp)
};

struct CpuHeadProduct {
  std::unique_ptr<Linear> linear;
  bool tanh = false;
};

struct CpuWeights {
  const StoredTensor* word = nullptr;  // (vocab, E), mapped: the files must stay open
  std::vector<float> type;             // (type_vocab, E)
  std::vector<float> position;         // (max_positions, E)
  CpuNorm embedding_norm;
  std::vector<CpuLayerWeights> layers;
  std::vector<CpuHeadProduct> pooled_head;      // Dense
  std::vector<CpuHeadProduct> classified_head;  // pooler, classifier; empty = the model only embeds
  std::vector<std::string> unused;              // tensors that nothing uses

  // Reads and packs everything; the layers' products in dtype, the heads' in fp32. INVALID_ARGUMENT naming file, tensor
  // and both shapes. Must run on a ComputePool's worker.
  static absl::StatusOr<CpuWeights> Load(const WeightFiles& files, const TextConfig& config,
                                         const PipelineConfig& pipeline, DType dtype);
};

}  // namespace lion

#endif  // LION_MODEL_CPU_WEIGHTS_H_
