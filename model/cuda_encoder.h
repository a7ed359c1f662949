// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_ENCODER_H_
#define LION_MODEL_CUDA_ENCODER_H_

// The encoders on one CUDA device. The equations are those of cpu_text_layers.h and cpu_image_layers.h.
//
// One batch's way: 1. It takes one of two slots, or waits for one: pinned buffers, device buffers at both ends, a
// stream for copies. 2. The host plans it and lays ids, type ids and the attention's plan into pinned memory
// (cuda_batch.h); one copy takes them up. 3. Layers and heads are enqueued on the stream that all batches share, one
// behind the other (cuda_layers.h): as a CUDA graph where the batch is small (cuda_graphs.h), kernel by kernel else. 4.
// One copy brings the answers down, and the caller waits for one event: spinning for about two milliseconds, then
// asleep. Two batches are in flight: while one computes, the next is planned and goes up, and the last comes down.
// Nothing is allocated and nothing else waited for.
//
// A batch above max_batch_tokens, which is mostly a single long row, runs in steps (cuda_document.h) on a stream of its
// own and of lower priority, gives way to other batches and asks its EncodeControl
// (cuda_document_runner.h). It takes no slot; one runs at a time, and others wait for it. Its bits are those that it
// would have in one piece.
//
// Memory on the device that is taken at Create: the weights; two slots; and what is worked on, which both slots share,
// since batches compute one after the other. It suffices for max_batch_tokens tokens in any rows. What a slot has at
// its ends on the device it has again as pinned memory on the host: at base size 200 MB for 65,536 tokens. A batch
// above that gets buffers of its own, by cuda_document.h's formula: in the form kKept if they fit into memory_share of
// what was free after Create and into what is free now, else in the form kAgain if it may. They go back after it, or,
// if they are small, once 64 smaller batches have run since. EstimateBytes says what a batch takes; one for which there
// is no memory is refused.
//
// Pictures run in batches of at most max_batch_tokens, in the rows' order if they are more; no picture is longer. What
// goes up of them is pixels: 12 p^2 bytes a token.
//
// A device that is lost (cuda_status.h says which errors mean that) stays lost: every later call is answered at once
// and touches it no more.

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
    ModelConfig config;
    PipelineConfig pipeline;
    DType dtype = DType::kBFloat16;  // one of DTypesOf(kCuda)
    int device = 0;                  // CUDA's index
    int chunk_tokens = 0;            // 0 = cuda::kChunkTokens; chunk_tokens() says what becomes of it
    // 0 = from the memory that is free: with F bytes free at the start of Create and W of them then taken by weights,
    // the buffers get half of memory_share * F - W - 256 MiB; the other half is left to longer rows, and the 256 MiB to
    // graphs, kernels and the driver. The largest multiple of 1,024 tokens that fits, at most 65,536: larger batches
    // gain nothing.
    int64_t max_batch_tokens = 0;
    double memory_share = 1;                     // in (0, 1]: the part of free memory that this encoder counts on
    bool graphs = true;                          // false: small batches kernel by kernel too
    std::shared_ptr<const WeightFiles> weights;  // read at Create
    // Called before each stage's kernels are enqueued, with the stage's name ("attention", ..., or "graph"), and at
    // last with "end"; for benchmarks, which record events there. Copies then share the stream of the kernels. Null =
    // nobody looks.
    std::function<void(const char* stage, cudaStream_t stream)> on_stage;
  };

  // The longest row in float16 of a model without layer_norm_after: y = sum_j (q . k_j / sqrt(D)) M_ij v_j is not
  // normalised there and grows with the row, and beyond 65,504 it is infinite. At this length terms of 8 that all agree
  // in sign still fit: |q . k| / sqrt(D) = sqrt(D) at D = 64, which is q = k with elements of size 1.
  static constexpr int64_t kMaxFloat16Tokens = 8191;

  // The CUDA devices of this machine; 0 where there is no driver.
  static int NumDevices();

  // Uploads all weights, allocates the buffers and captures the graphs. INVALID_ARGUMENT naming file, tensor and both
  // shapes, or the option; NOT_FOUND without such a device; RESOURCE_EXHAUSTED without memory for weights and buffers,
  // UNAVAILABLE where the device is lost or others have it to themselves, INTERNAL: these three name the CUDA call.
  static absl::StatusOr<std::unique_ptr<CudaEncoder>> Create(Options options);

  // No Encode is under way.
  ~CudaEncoder() override;

  using Encoder::Encode;
  // INVALID_ARGUMENT for a row above max_row_tokens; RESOURCE_EXHAUSTED, naming both numbers, for a batch that needs
  // more device memory than there is. control is asked by batches above max_batch_tokens alone; one of several rows
  // counts as one row of all their tokens.
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) override;

  int max_concurrent_batches() const override;
  int64_t max_batch_tokens() const override;
  int64_t max_unstepped_tokens() const override;

  // 0 up to max_batch_tokens: what such a row runs in is there always. Above: in the form kKept if memory_share of what
  // was free after Create holds it, else in the smallest that there is.
  int64_t RowBytes(const Row& row) const override;

  // busy: while kernels of a batch ran.
  DeviceUsage usage() const override;

  // Device memory that a batch of these rows works in, beside the weights; what it allocates if it is above
  // max_batch_tokens, in the form that fits as in RowBytes. Rows must be valid.
  int64_t EstimateBytes(absl::Span<const Row> rows) const;

  // The longest row that Encode takes: the model's positions, kMaxFloat16Tokens, of pictures max_batch_tokens; 0 = no
  // limit.
  int64_t max_row_tokens() const;

  bool classifies() const;
  int64_t num_labels() const;
  int64_t embedding_width() const;
  // C where a row names none, as it runs: tiles have cuda::kChunkTokens tokens, to which every chunk is rounded in the
  // 16-bit types and fp8, and larger ones in float32.
  int chunk_tokens() const;
  // Tensors of the checkpoint that nothing uses.
  const std::vector<std::string>& unused_tensors() const;

  // The longest row for which the parallel form of this model's attention is at least as fast as the chunked one, out
  // of kCrossoverChoices. Takes a few hundredths of a second. Not beside Encode.
  absl::StatusOr<int> MeasureCrossover();

 private:
  class Impl;
  explicit CudaEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_ENCODER_H_
