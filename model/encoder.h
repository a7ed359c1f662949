// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_ENCODER_H_
#define LION_MODEL_ENCODER_H_

// The seam between serving and computing: packed rows of ids go in, vectors or logits come out.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/types.h"

namespace lion {

// What is to be made of one sequence.
enum class RowOutput {
  kPooledCls,   // (1, W): row 0, then Dense if the model has one; W = ModelInfo::embedding_width. Not normalised.
  kPooledMean,  // (1, W): the mean over the L tokens, then Dense if there is one. Not normalised.
  kTokens,      // (L, E): the last hidden states. Not normalised.
  kLogits,      // (1, labels): classifier(pooler(row 0))
};

// One sequence of a packed batch. Borrowed: the ids must outlive the call.
struct Row {
  absl::Span<const uint32_t> ids;       // (L), L >= 1, each < vocab_size
  absl::Span<const uint32_t> type_ids;  // (L), each < type_vocab_size; empty = all 0
  ComputeMode mode = ComputeMode::kParallel;
  int chunk_tokens = 0;  // C of kChunked; 0 = the device's constant; counts only for kChunked
  RowOutput output = RowOutput::kPooledMean;
};

// The answer to one row, owned by the caller.
struct RowResult {
  std::vector<float> values;  // (num_vectors, width), row-major
  int64_t num_vectors = 0;
  int64_t width = 0;
};

// One model on one device. A row's values depend on its own ids, mode and chunk_tokens alone: never on the rows beside
// it, its place among them, or the load (bit for bit).
class Encoder {
 public:
  virtual ~Encoder() = default;

  // Runs rows.size() sequences as one packed, unpadded batch and fills results[b] for rows[b]. Blocks until done.
  // Values are not checked for NaN or infinity: the caller does, row by row.
  // Threads: one call at a time (the device is one); any thread.
  // Errors: INVALID_ARGUMENT for a row that breaks what Row states; INTERNAL or RESOURCE_EXHAUSTED for a device that
  // failed. On error no result is to be used.
  // rows empty = OK, nothing done. results.size() must equal rows.size().
  virtual absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) = 0;
};

}  // namespace lion

#endif  // LION_MODEL_ENCODER_H_
