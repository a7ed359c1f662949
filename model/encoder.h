// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_ENCODER_H_
#define LION_MODEL_ENCODER_H_

// The seam between serving and computing: packed rows of ids or pixels go in, vectors or logits come out.

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
  kWindows,     // (NumWindows, W): of each window, what kPooledMean makes of a row. Not normalised. Behind them one of
                // the whole row, if with_document.
  kLogits,      // (1, labels): classifier(pooler(row 0)); of a picture head(features), row 0 or the mean as trained
};

// The windows of kWindows run over all L tokens and start at 0, stride, 2 stride, ...; the last is the first to reach
// the end and may be shorter. Window w is the tokens [w stride, min(w stride + size, L)). 1 <= stride <= size.
constexpr int64_t NumWindows(int64_t L, int64_t size, int64_t stride) {
  return L <= size ? 1 : (L - size + stride - 1) / stride + 1;
}

// One sequence of a packed batch: ids for a text model, pixels for an image model, never both. Borrowed: what the spans
// point to must outlive the call.
//
// A picture is 3 planes of S x S floats, already normalised (mean and standard deviation taken out), row by row from
// the top left: value (c, y, x) at (c S + y) S + x. S is a multiple of the model's patch_size p (ModelInfo), and its
// image_size where ModelInfo::image_size_fixed. Its tokens are the cls row, then the patches row by row: L =
// ImageTokens = 1 + (S / p)^2. Rows of different S may share a batch.
struct Row {
  absl::Span<const uint32_t> ids;       // (L), L >= 1, each < vocab_size; empty for an image model
  absl::Span<const uint32_t> type_ids;  // (L), each < type_vocab_size; empty = all 0
  ComputeMode mode = ComputeMode::kParallel;
  int chunk_tokens = 0;  // C of kChunked; 0 = the device's constant; counts only for kChunked
  RowOutput output = RowOutput::kPooledMean;
  int64_t window_tokens = 0;            // size of kWindows, at least 1; counts only there
  int64_t window_stride = 0;            // from 1 to window_tokens; counts only there
  absl::Span<const float> pixels = {};  // (3, S, S); empty for a text model
  int64_t image_tokens = 0;             // L of pixels; 0 for a text model
  // Windows of no one size, end to end: where each starts, in rising order, the first at 0. The last ends at L. If not
  // empty, window_tokens and window_stride do not count.
  absl::Span<const uint32_t> window_starts = {};
  bool with_document = false;  // counts only for kWindows

  // L: what batches, limits and modes count.
  int64_t num_tokens() const { return image_tokens > 0 ? image_tokens : static_cast<int64_t>(ids.size()); }
};

// The windows of a row of kWindows of L tokens, without the vector of with_document.
inline int64_t NumWindows(const Row& row, int64_t L) {
  return row.window_starts.empty() ? NumWindows(L, row.window_tokens, row.window_stride)
                                   : static_cast<int64_t>(row.window_starts.size());
}

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

// What Encode asks whoever called it, between two steps of a long row (Encoder::max_unstepped_tokens).
class EncodeControl {
 public:
  virtual ~EncodeControl() = default;

  // Called on the thread inside Encode; the device has nothing of that row to do meanwhile where runs_nested_batches().
  // Work is in tokens over all layers scaled to the row's own: tokens_total is the row's length, and 0 < tokens_done <
  // tokens_total. In a batch of several long rows each counts for itself, one after the other.
  // May take its time. Where runs_nested_batches(), may call Encode of any encoder of that device, on this thread, with
  // a control of its own for rows that are long in turn. Not OK = Encode stops soon and returns that status; no result
  // is to be used.
  virtual absl::Status BetweenSteps(int64_t tokens_done, int64_t tokens_total) = 0;

  // Whether the step had better end now: somebody waits for the device, and may have it. Asked where
  // runs_nested_batches(), on any of the encoder's threads while the step runs, often: it is quick and never blocks.
  virtual bool WantsPause() const { return false; }
};

// One model on one device. A row's values depend on its own ids or pixels, mode and chunk_tokens alone: never on the
// rows beside it, its place among them, or the load (bit for bit).
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
  // control: asked between the steps of long rows, which changes no bit of them. Borrowed; null = nobody is asked.
  virtual absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) = 0;
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) {
    return Encode(rows, results, nullptr);
  }

  // A longer row runs in steps of a few tens of milliseconds, and gains nothing from company: it had better travel
  // alone. 0 = no row has steps. Constant.
  virtual int64_t max_unstepped_tokens() const { return 0; }

  // Whether EncodeControl::BetweenSteps may run other batches meanwhile (the CPU, one at a time). Where it may not,
  // they run beside the long row: max_concurrent_batches(). Constant.
  virtual bool runs_nested_batches() const { return false; }

  // The most memory of the device that running this row alone takes beside weights and what is there always: its
  // activations and its answer. Of ids, type_ids and pixels only the lengths are read. 0 = not known. Any thread.
  virtual int64_t RowBytes(const Row& row) const {
    (void)row;
    return 0;
  }

  // As many threads may be inside Encode at once: while one batch computes, another is prepared or answered. Constant.
  virtual int max_concurrent_batches() const { return 1; }

  // The tokens of a batch for which memory was made at load; 0 = the device sets none (the CPU). Constant.
  virtual int64_t max_batch_tokens() const { return 0; }

  // Any thread, beside Encode too; never waits for a batch. A lost device answers what it last knew.
  virtual DeviceUsage usage() const { return {}; }
};

}  // namespace lion

#endif  // LION_MODEL_ENCODER_H_
