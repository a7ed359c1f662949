// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_ENCODER_H_
#define LION_MODEL_CUDA_ENCODER_H_

// The text encoder on one CUDA device. The equations are those of cpu_encoder.h.
//
// One batch's way, on one stream: 1. The host plans it and lays ids, type ids and the attention's plan into pinned
// memory (cuda_batch.h); one copy takes them up. 2. Layers and heads (cuda_layers.h). 3. One copy brings the answers
// down.
//
// Memory, once and for all at Create: the weights, and buffers for max_batch_tokens in any rows. They grow for a batch
// above that, which a single long row may be; EstimateBytes says what a batch takes, and one that does not fit is
// refused.

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/encoder.h"
#include "model/safetensors.h"

namespace lion {

class CudaEncoder : public Encoder {
 public:
  struct Options {
    TextConfig config;
    PipelineConfig pipeline;
    DType dtype = DType::kBFloat16;  // kFloat32 or kBFloat16
    int device = 0;                  // CUDA's index
    int chunk_tokens = 0;            // 0 = cuda::kChunkTokens
    int64_t max_batch_tokens = 65536;
    std::shared_ptr<const WeightFiles> weights;  // read at Create
    // Called before each stage's kernels are enqueued, with the stage's name ("attention", ...), and at last with
    // "end"; for benchmarks, which record events there. Null = nobody looks.
    std::function<void(const char* stage, cudaStream_t stream)> on_stage;
  };

  // The CUDA devices of this machine; 0 where there is no driver.
  static int NumDevices();

  // Uploads all weights and allocates the buffers. INVALID_ARGUMENT naming file, tensor and both shapes, or the option;
  // NOT_FOUND without such a device; RESOURCE_EXHAUSTED without memory; INTERNAL naming the CUDA call.
  static absl::StatusOr<std::unique_ptr<CudaEncoder>> Create(Options options);

  ~CudaEncoder() override;

  // RESOURCE_EXHAUSTED, naming both numbers, for a batch that needs more device memory than there is.
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) override;

  // Device memory that a batch of these rows takes beside the weights. Rows must be valid.
  int64_t EstimateBytes(absl::Span<const Row> rows) const;

  bool classifies() const;
  int64_t num_labels() const;
  int64_t embedding_width() const;
  int chunk_tokens() const;
  // Tensors of the checkpoint that nothing uses.
  const std::vector<std::string>& unused_tensors() const;

  // The longest row for which the parallel form of this model's attention is at least as fast as the chunked one, out
  // of kCrossoverChoices. Takes a few hundredths of a second. Not beside Encode.
  absl::StatusOr<int> MeasureCrossover();

 private:
  struct Impl;
  explicit CudaEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_ENCODER_H_
