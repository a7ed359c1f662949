// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_ENCODER_H_
#define LION_MODEL_CPU_ENCODER_H_

// The encoders on the CPU: BERT's layout (model/cpu_text_layers.h) or ViT's (model/cpu_image_layers.h) around LION's
// attention (docs/design.md, "The mathematics").
//
// One batch's way: 1. Rows up to CpuLayers::kSpanTokens are packed end to end into groups of about as many tokens, each
// taken through all layers by one worker, without a barrier. 2. A longer row is cut into spans of that length. They
// meet once a layer, where the states at their borders are made of what each span adds, in order (model/cpu_layers.h);
// one worker takes them all if the batch has work enough for the others, else all workers share them. A long row in the
// parallel form, or a large picture in any, is shared head by head instead. 3. The last hidden states are pooled,
// projected or classified. x stays fp32 between the products, whose operands are of the model's dtype; gates, decays,
// states, LayerNorm and the heads (Dense, pooler, classifier) are fp32 always. A row's bits depend on the row alone:
// products run in tiles that agree (model/linear.h), everything else works on one row, and where a row is cut depends
// on its chunk alone.
//
// Steps. A row above kMaxUnsteppedTokens is always shared by all workers and runs in steps of about 15 ms: a step ends
// between two spans (or heads, in the parallel form), wherever the time is over or EncodeControl::WantsPause, and the
// row's bits know nothing of it.
// Between steps the workers have nothing to do and nothing of the row is in their workspaces: EncodeControl may run
// other batches there, on this encoder or another over the same pool, and long rows among them.
//
// Memory of a batch: buffers of about 1,000 tokens a worker, which stay, and for each row above kSpanTokens while it
// runs (s = 4 bytes in float32, else 2; n = ceil(L / 512) spans, about; W = D padded to 16):
//
//   chunked     L (4 E + 3 s E + 4 H)         x; q, k, v; gates (LION-S)    + n 4 H (2 D W + 1)     states
//   parallel    L (4 E + 3 s E + 4 H + 4 E)   and y
//   recurrent   L 4 E                         x                             + n 4 H (2 D W + 1)
//
// and its answer. The recurrent form keeps no q, k and v: each span makes them twice, once for what it adds to the
// states and once for its outputs, which is a quarter more of the products' work (at FF = 4 E) for a third to a half of
// the memory. RowBytes() is that formula. A picture takes what the parallel form takes, whatever its form, with v wider
// by a column and its padding, and while a worker has one of its heads: that head's q, k, v and sums once a path.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/compute_pool.h"
#include "model/config.h"
#include "model/encoder.h"
#include "model/safetensors.h"

namespace lion {

struct CpuStageTimes;  // model/cpu_layers.h

class CpuEncoder : public Encoder {
 public:
  // C where a row names none: what is fastest where attention runs on matrix tiles (kernels/cpu/attention_amx.h), and
  // elsewhere.
  static constexpr int kTileChunkTokens = 64;
  static constexpr int kChunkTokens = 32;

  // A longer row is shared by all workers, however much else there is, and runs in steps: nothing should wait so long.
  static constexpr int64_t kMaxUnsteppedTokens = 4096;

  struct Options {
    ModelConfig config;
    PipelineConfig pipeline;
    DType dtype = DType::kFloat32;               // kFloat32, kBFloat16 or kInt8
    int chunk_tokens = 0;                        // 0 = the CPU's, above
    ComputePool* pool = nullptr;                 // borrowed, outlives the encoder
    std::shared_ptr<const WeightFiles> weights;  // kept: the embedding tables stay mapped
    CpuStageTimes* stage_times = nullptr;        // null = not measured; else each Encode adds to it. Borrowed
  };

  // Reads and packs all weights. INVALID_ARGUMENT naming file, tensor and both shapes.
  static absl::StatusOr<std::unique_ptr<CpuEncoder>> Create(Options options);

  ~CpuEncoder() override;

  using Encoder::Encode;
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) override;
  int64_t max_unstepped_tokens() const override;
  bool runs_nested_batches() const override { return true; }
  int64_t RowBytes(const Row& row) const override;

  bool classifies() const;
  int64_t num_labels() const;
  int64_t embedding_width() const;
  int chunk_tokens() const;
  // Tensors of the checkpoint that nothing uses.
  const std::vector<std::string>& unused_tensors() const;

  // The longest row for which the parallel form of this model's attention is at least as fast as the chunked one, out
  // of kCrossoverChoices. Takes a few hundredths of a second.
  int MeasureCrossover();
  // All that the crossover depends on: CPU, instruction set, dtype, variant, width of a head, chunk.
  std::string CrossoverKey() const;

 private:
  struct Impl;
  explicit CpuEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_MODEL_CPU_ENCODER_H_
