// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_FAKES_FAKE_ENCODER_H_
#define LION_TESTS_FAKES_FAKE_ENCODER_H_

// Two encoders without a model: FakeEncoder answers at once with values that follow from a row's own ids, PuppetEncoder
// holds each batch until the test says how it ends.
//
//   PuppetEncoder encoder;
//   ... submit a row ...
//   EXPECT_EQ(encoder.WaitForBatch().size(), 1);  // the batch is on the device now
//   ... submit more, cancel, move the clock ...
//   encoder.Finish();                             // or Finish(absl::InternalError("..."))
//   encoder.Release();                            // before the batcher is destroyed: nothing is held from here on

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "model/encoder.h"

namespace lion {

// Works, simplified. Stateless: any number of calls at once.
class FakeEncoder : public Encoder {
 public:
  struct Options {
    int64_t hidden_width = 4;     // E
    int64_t embedding_width = 4;  // W
    int64_t num_labels = 3;
    std::optional<uint32_t> nan_id;   // a row that holds this id gets NaN
    std::optional<uint32_t> fail_id;  // a batch that holds this id fails with INTERNAL "the device failed"
  };

  FakeEncoder() : FakeEncoder(Options()) {}
  explicit FakeEncoder(const Options& options) : options_(options) {}

  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) override {
    if (results.size() != rows.size()) return absl::InvalidArgumentError("results and rows differ in number");
    for (const Row& row : rows) {
      if (options_.fail_id.has_value() && Holds(row, *options_.fail_id)) {
        return absl::InternalError("the device failed");
      }
    }
    for (size_t b = 0; b < rows.size(); ++b) results[b] = Answer(rows[b]);
    return absl::OkStatus();
  }

  // What Encode gives for one row.
  RowResult Answer(const Row& row) const {
    RowResult result;
    const int64_t L = row.ids.size();
    result.width = row.output == RowOutput::kTokens   ? options_.hidden_width
                   : row.output == RowOutput::kLogits ? options_.num_labels
                                                      : options_.embedding_width;
    result.num_vectors = row.output == RowOutput::kTokens ? L : 1;
    result.values.assign(result.num_vectors * result.width, 0.0f);
    for (int64_t t = 0; t < L; ++t) {
      const uint32_t type = row.type_ids.empty() ? 0 : row.type_ids[t];
      for (int64_t e = 0; e < result.width; ++e) {
        const float x = Value(row.ids[t], type, e);
        if (row.output == RowOutput::kTokens) {
          result.values[t * result.width + e] = x;
        } else if (row.output == RowOutput::kPooledMean) {
          result.values[e] += x / static_cast<float>(L);
        } else if (t == 0) {
          result.values[e] = x;
        }
      }
    }
    if (options_.nan_id.has_value() && Holds(row, *options_.nan_id)) {
      result.values[0] = std::numeric_limits<float>::quiet_NaN();
    }
    return result;
  }

 private:
  static bool Holds(const Row& row, uint32_t id) {
    for (uint32_t i : row.ids) {
      if (i == id) return true;
    }
    return false;
  }
  static float Value(uint32_t id, uint32_t type, int64_t e) {
    return static_cast<float>((id * 31 + type * 17 + static_cast<uint32_t>(e) * 7 + 1) % 97) / 97.0f - 0.4f;
  }

  const Options options_;
};

// Moves when told. Its answers are FakeEncoder's. One Encode at a time; the other methods are for the test's threads.
class PuppetEncoder : public Encoder {
 public:
  // A row of the batch that is held.
  struct HeldRow {
    std::vector<uint32_t> ids;
    std::vector<uint32_t> type_ids;
    ComputeMode mode;
    int chunk_tokens;
    RowOutput output;
  };

  PuppetEncoder() : PuppetEncoder(FakeEncoder::Options()) {}
  explicit PuppetEncoder(const FakeEncoder::Options& options) : fake_(options) {}

  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) override {
    absl::Status status;
    std::set<int> nan_rows;
    {
      absl::MutexLock lock(&mu_);
      ++num_batches_;
      if (!released_) {
        held_.clear();
        for (const Row& row : rows) {
          held_.push_back({{row.ids.begin(), row.ids.end()},
                           {row.type_ids.begin(), row.type_ids.end()},
                           row.mode,
                           row.chunk_tokens,
                           row.output});
        }
        state_ = State::kHeld;
        changed_.SignalAll();
        while (state_ != State::kTold && !released_) changed_.Wait(&mu_);
        state_ = State::kIdle;
        status = std::move(status_);
        nan_rows = std::move(nan_rows_);
        status_ = absl::OkStatus();
        nan_rows_.clear();
      }
    }
    if (!status.ok()) return status;
    status = fake_.Encode(rows, results);
    for (int b : nan_rows) results[b].values.back() = std::numeric_limits<float>::quiet_NaN();
    return status;
  }

  // Waits until a batch is held and returns it.
  std::vector<HeldRow> WaitForBatch() {
    absl::MutexLock lock(&mu_);
    while (state_ != State::kHeld) changed_.Wait(&mu_);
    return held_;
  }

  // Waits until a batch is held and lets it end: with status, or OK with NaN in the rows named.
  void Finish(absl::Status status = absl::OkStatus(), std::set<int> nan_rows = {}) {
    absl::MutexLock lock(&mu_);
    while (state_ != State::kHeld) changed_.Wait(&mu_);
    status_ = std::move(status);
    nan_rows_ = std::move(nan_rows);
    state_ = State::kTold;
    changed_.SignalAll();
  }

  // Lets go of the batch that is held, and holds none from now on.
  void Release() {
    absl::MutexLock lock(&mu_);
    released_ = true;
    changed_.SignalAll();
  }

  // Encode calls so far, a held one included.
  int num_batches() const {
    absl::MutexLock lock(&mu_);
    return num_batches_;
  }

 private:
  enum class State { kIdle, kHeld, kTold };

  FakeEncoder fake_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kIdle;
  bool released_ ABSL_GUARDED_BY(mu_) = false;
  int num_batches_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<HeldRow> held_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::set<int> nan_rows_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lion

#endif  // LION_TESTS_FAKES_FAKE_ENCODER_H_
