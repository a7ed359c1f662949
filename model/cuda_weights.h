// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_WEIGHTS_H_
#define LION_MODEL_CUDA_WEIGHTS_H_

// A model's weights on a CUDA device, padded to the widths that CudaShape states: what is past a true width is zero,
// and so is everything that comes of it. Owns the device's memory; immutable once read.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/cuda_batch.h"
#include "model/cuda_gelu_linear.h"
#include "model/cuda_linear.h"
#include "model/cuda_memory.h"
#include "model/weights.h"

namespace lion {

struct CudaNorm {
  DeviceBuffer gamma;  // fp32
  DeviceBuffer beta;
};

struct CudaLayer {
  std::unique_ptr<CudaLinear> qkv;     // Ep -> 3 H Dp
  std::unique_ptr<CudaLinear> out;     // H Dp -> Ep
  std::unique_ptr<CudaGeluLinear> up;  // Ep -> FFp, with GELU
  std::unique_ptr<CudaLinear> down;    // FFp -> Ep
  CudaNorm after;                      // text: layer_norm_after, over the joined heads
  CudaNorm attention_norm;             // text: behind attention; pictures: before it
  CudaNorm output_norm;                // text: behind the feed-forward half; pictures: before it
  DeviceBuffer log_lambda;             // (attention's heads): LION-D
  DeviceBuffer gate_weight;            // LION-S: PackGates; pictures: (gates, Ep)
  DeviceBuffer gate_bias;              // (gates)
};

struct CudaHeadProduct {
  std::unique_ptr<CudaLinear> linear;  // fp32: the heads are a few rows a batch
  bool tanh = false;
};

struct CudaWeights {
  // Tables (rows, Ep) in fp32: rounding them would cost digits once more, and they are read once a batch.
  DeviceBuffer words;                 // text
  DeviceBuffer types;                 // text
  DeviceBuffer positions;             // empty = the model has none
  CudaNorm embedding_norm;            // text
  std::unique_ptr<CudaLinear> patch;  // pictures: patch_width_p -> Ep, never in fp8
  DeviceBuffer cls;                   // pictures: (Ep)
  CudaNorm final_norm;                // pictures
  std::vector<CudaLayer> layers;
  // Dense modules; pooler and classifier, or head. Empty = the row itself.
  std::vector<CudaHeadProduct> heads[kNumCudaHeads];
};

// Reads all of a checkpoint, puts it on the current device and completes *shape with the heads' widths. lt outlives the
// weights. INVALID_ARGUMENT naming file, tensor and both shapes; RESOURCE_EXHAUSTED without memory; INTERNAL naming the
// call.
absl::StatusOr<CudaWeights> ReadCudaWeights(WeightReader& reader, const ModelConfig& config,
                                            const PipelineConfig& pipeline, CublasLt* lt, CudaShape* shape);

}  // namespace lion

#endif  // LION_MODEL_CUDA_WEIGHTS_H_
