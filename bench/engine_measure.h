// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_BENCH_ENGINE_MEASURE_H_
#define LION_BENCH_ENGINE_MEASURE_H_

// What is measured of an engine: throughput as a server drives it, where a batch's time goes, the latency of one row,
// and whether its answers are right.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/cuda_events.h"
#include "model/cuda_encoder.h"
#include "model/encoder.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"

namespace lion::bench {

// Rows of random ids, and the memory that they borrow.
class RandomRows {
 public:
  // num_rows rows of L ids below vocab_size, pooled to their means.
  RandomRows(int64_t num_rows, int64_t L, int64_t vocab_size, ComputeMode mode);

  const std::vector<Row>& rows() const { return rows_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  std::vector<std::vector<uint32_t>> ids_;
  std::vector<Row> rows_;
  int64_t num_tokens_ = 0;
};

// Tokens a second of several rounds.
struct Throughput {
  double median = 0;
  double min = 0;
  double max = 0;
};

// As the server drives its engines: encoder->max_concurrent_batches() threads an encoder, each of which encodes the
// same batch again and again; copies and the host's work are in it. One round, from the first call to the last answer,
// is about min_seconds long and 2 batches a thread at least. Every answer must have the bits of the first one: INTERNAL
// if not. The error of an Encode as it is.
absl::StatusOr<Throughput> MeasureThroughput(absl::Span<Encoder* const> encoders, const RandomRows& batch, int rounds,
                                             double min_seconds);

// Milliseconds a stage of one batch, the median over repeats; "" is the whole batch, first kernel to last copy. encoder
// was made with an on_stage that records into timer.
absl::StatusOr<std::map<std::string, double>> MeasureStages(CudaEncoder* encoder, StageTimer* timer,
                                                            const RandomRows& batch, int repeats);

struct Latency {
  double p50_ms = 0;
  double p99_ms = 0;
};

// Of Encode with one row of L tokens.
absl::StatusOr<Latency> MeasureLatency(Encoder* encoder, int64_t L, int64_t vocab_size, ComputeMode mode, int repeats);

// Whether the first row of the batch has the same bits alone and behind a row of another length.
absl::StatusOr<bool> SameBits(Encoder* encoder, const RandomRows& batch, int64_t vocab_size);

// Over the last hidden states of one row, against fp64.
struct Errors {
  double rms = 0;  // infinite where a value is not finite
  double max = 0;
};
Errors Difference(absl::Span<const float> actual, absl::Span<const double> truth);

}  // namespace lion::bench

#endif  // LION_BENCH_ENGINE_MEASURE_H_
