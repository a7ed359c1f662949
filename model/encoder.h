// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_ENCODER_H_
#define LION_MODEL_ENCODER_H_

// The seam between serving and computing: packed rows of ids go in, vectors or logits come out.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
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

// What one encoder takes of its device, and what is left there. For metrics and logs.
struct DeviceUsage {
  int64_t weights_bytes = 0;  // of this encoder, on the device
  int64_t buffer_bytes = 0;   // of this encoder: what its batches run in
  int64_t free_bytes = 0;     // of the device now, whoever uses the rest
  int64_t total_bytes = 0;    // of the device; 0 = it has no memory of its own (the CPU), and all else here is 0
  absl::Duration busy;        // since Create: while at least one batch of this encoder was on the device
};

// One model on one device. A row's values depend on its own ids, mode and chunk_tokens alone: never on the rows beside
// it, its place among them, or the load (bit for bit).
class Encoder {
 public:
  virtual ~Encoder() = default;

  // Runs rows.size() sequences as one packed, unpadded batch and fills results[b] for rows[b]. Blocks until done.
  // Values are not checked for NaN or infinity: the caller does, row by row.
  // Threads: any, at most max_concurrent_batches() calls at a time.
  // Errors, after which no result is to be used: UNAVAILABLE = the device is lost for good ("cuda:1 is lost: CALL:
  // what"), and every later call says so too. Every other failure concerns this batch alone: INVALID_ARGUMENT a row
  // that breaks what Row states, RESOURCE_EXHAUSTED a batch for which there is no memory, INTERNAL naming the call.
  // rows empty = OK, nothing done. results.size() must equal rows.size().
  virtual absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) = 0;

  // As many threads may be inside Encode at once: while one batch computes, another is prepared or answered. Constant.
  virtual int max_concurrent_batches() const { return 1; }

  // The tokens of a batch for which memory was made at load; 0 = the device sets none (the CPU). Constant.
  virtual int64_t max_batch_tokens() const { return 0; }

  // Any thread, beside Encode too; never waits for a batch. A lost device answers what it last knew.
  virtual DeviceUsage usage() const { return {}; }
};

}  // namespace lion

#endif  // LION_MODEL_ENCODER_H_
