// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_WEIGHTS_H_
#define LION_MODEL_CPU_WEIGHTS_H_

// An encoder's weights as the CPU engine holds them: products packed, everything else fp32.
//
// Of text, 1 / sqrt(D), by which attention scales its scores, is taken into the queries' weights and biases: nothing
// later multiplies by it. Of pictures it is not: a feature map stands between.

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
  CpuNorm after;                 // text: layer_norm_after, over the joined heads
  CpuNorm attention_norm;        // text: behind attention; pictures: before it
  CpuNorm output_norm;           // text: behind the feed-forward half; pictures: before it
  // One for each head (text, pictures with one path), or the first path's heads and then the second's.
  std::vector<float> log_lambda;   // (gates): LION-D
  std::vector<float> gate_weight;  // (E, Gp): LION-S, transposed; Gp = gates rounded up to 16
  std::vector<float> gate_bias;    // (Gp)
};

struct CpuHeadProduct {
  std::unique_ptr<Linear> linear;
  bool tanh = false;
};

struct CpuWeights {
  const StoredTensor* word = nullptr;  // text: (vocab, E), mapped: the files must stay open
  std::vector<float> type;             // text: (type_vocab, E)
  CpuNorm embedding_norm;              // text
  std::unique_ptr<Linear> patch;       // pictures: 3 p p -> E; bfloat16 where the layers' products are int8
  std::vector<float> cls;              // pictures: (E)
  CpuNorm final_norm;                  // pictures
  std::vector<float> position;         // (positions, E); empty = none
  std::vector<CpuLayerWeights> layers;
  std::vector<CpuHeadProduct> pooled_head;      // Dense
  std::vector<CpuHeadProduct> classified_head;  // pooler and classifier, or head; empty = the model only embeds
  std::vector<std::string> unused;              // tensors that nothing uses

  // Reads and packs everything; the layers' products in dtype, the heads' in fp32. INVALID_ARGUMENT naming file, tensor
  // and both shapes. Must run on a ComputePool's worker.
  static absl::StatusOr<CpuWeights> Load(const WeightFiles& files, const ModelConfig& config,
                                         const PipelineConfig& pipeline, DType dtype);
};

}  // namespace lion

#endif  // LION_MODEL_CPU_WEIGHTS_H_
