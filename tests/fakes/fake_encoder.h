// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_FAKES_FAKE_ENCODER_H_
#define LION_TESTS_FAKES_FAKE_ENCODER_H_

// Two encoders without a model: FakeEncoder answers at once with values that follow from a row's own ids (of a
// picture: of its first pixels), PuppetEncoder
// holds each batch until the test says how it ends.
//
//   PuppetEncoder encoder;
//   ... submit a row ...
//   EXPECT_EQ(encoder.WaitForBatch().size(), 1);  // the batch is on the device now
//   ... submit more, cancel, move the clock ...
//   encoder.Finish();                             // or Finish(absl::InternalError("...")), Finish(Lost("fake:0"))
//   encoder.Release();                            // before the batcher is destroyed: nothing is held from here on

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "model/encoder.h"

namespace lion {

// What Encode says from the moment that its device is lost.
inline absl::Status Lost(const std::string& device) {
  return absl::UnavailableError(device + " is lost: cudaStreamSynchronize: unspecified launch failure");
}

// Works, simplified. Any number of calls at once.
class FakeEncoder : public Encoder {
 public:
  static constexpr uint32_t kZeroId = 1000000;  // a pooled row that begins with it gets zeros

  struct Options {
    int64_t hidden_width = 4;     // E
    int64_t embedding_width = 4;  // W
    int64_t num_labels = 3;
    std::optional<uint32_t> nan_id = std::nullopt;  // a row that holds this id gets NaN
    std::optional<uint32_t> fail_id =
        std::nullopt;                              // a batch that holds this id fails with INTERNAL "the device failed"
    std::string device = "cpu";                    // the name that Lost gives it
    std::optional<int> lost_after = std::nullopt;  // batches; then the device is lost
    std::optional<uint32_t> lose_id = std::nullopt;  // a batch that holds this id loses the device
    int max_concurrent_batches = 1;
    int64_t max_unstepped_tokens = 0;
    bool runs_nested_batches = false;
    DeviceUsage usage = {};
  };

  FakeEncoder() : FakeEncoder(Options()) {}
  explicit FakeEncoder(const Options& options) : options_(options) {}

  using Encoder::Encode;
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl*) override {
    if (results.size() != rows.size()) return absl::InvalidArgumentError("results and rows differ in number");
    if (options_.lost_after.has_value() && num_batches_++ >= *options_.lost_after) lost_ = true;
    for (const Row& row : rows) {
      if (options_.lose_id.has_value() && Holds(row, *options_.lose_id)) lost_ = true;
    }
    if (lost_) return Lost(options_.device);
    for (const Row& row : rows) {
      if (options_.fail_id.has_value() && Holds(row, *options_.fail_id)) {
        return absl::InternalError("the device failed");
      }
    }
    for (size_t b = 0; b < rows.size(); ++b) results[b] = Answer(rows[b]);
    return absl::OkStatus();
  }

  int max_concurrent_batches() const override { return options_.max_concurrent_batches; }
  int64_t max_unstepped_tokens() const override { return options_.max_unstepped_tokens; }
  bool runs_nested_batches() const override { return options_.runs_nested_batches; }
  DeviceUsage usage() const override { return options_.usage; }

  // What Encode gives for one row.
  RowResult Answer(const Row& row) const {
    RowResult result;
    if (!row.pixels.empty()) {
      Row as_ids = row;
      const std::vector<uint32_t> ids = PixelIds(row);
      as_ids.ids = ids;
      as_ids.pixels = {};
      return Answer(as_ids);
    }
    const int64_t L = row.ids.size();
    result.width = row.output == RowOutput::kTokens   ? options_.hidden_width
                   : row.output == RowOutput::kLogits ? options_.num_labels
                                                      : options_.embedding_width;
    result.num_vectors = row.output == RowOutput::kTokens    ? L
                         : row.output == RowOutput::kWindows ? NumWindows(row, L) + (row.with_document ? 1 : 0)
                                                             : 1;
    result.values.assign(result.num_vectors * result.width, 0.0f);
    if (row.output == RowOutput::kWindows) {
      AddWindows(row, &result);
      return result;
    }
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
    if (row.ids[0] == kZeroId) std::fill(result.values.begin(), result.values.end(), 0.0f);
    if (options_.nan_id.has_value() && Holds(row, *options_.nan_id)) {
      result.values[0] = std::numeric_limits<float>::quiet_NaN();
    }
    return result;
  }

 private:
  // (L): the first pixels in thousandths, as ids.
  static std::vector<uint32_t> PixelIds(const Row& row) {
    std::vector<uint32_t> ids;
    for (int64_t t = 0; t < row.image_tokens; ++t) {
      ids.push_back(static_cast<uint32_t>(std::lround(std::abs(row.pixels[t % row.pixels.size()]) * 1000)));
    }
    return ids;
  }
  static bool Holds(const Row& row, uint32_t id) {
    for (uint32_t i : row.ids) {
      if (i == id) return true;
    }
    return false;
  }
  static void AddWindows(const Row& row, RowResult* result) {
    const int64_t L = row.ids.size();
    const int64_t num_windows = NumWindows(row, L);
    for (int64_t w = 0; w < result->num_vectors; ++w) {
      int64_t first = w * row.window_stride;
      int64_t last = std::min(first + row.window_tokens, L);
      if (w == num_windows) {  // the whole row
        first = 0;
        last = L;
      } else if (!row.window_starts.empty()) {
        first = row.window_starts[w];
        last = w + 1 < num_windows ? int64_t{row.window_starts[w + 1]} : L;
      }
      for (int64_t t = first; t < last; ++t) {
        const uint32_t type = row.type_ids.empty() ? 0 : row.type_ids[t];
        for (int64_t e = 0; e < result->width; ++e) {
          result->values[w * result->width + e] += Value(row.ids[t], type, e) / static_cast<float>(last - first);
        }
      }
    }
  }
  static float Value(uint32_t id, uint32_t type, int64_t e) {
    return static_cast<float>((id * 31 + type * 17 + static_cast<uint32_t>(e) * 7 + 1) % 97) / 97.0f - 0.4f;
  }

  const Options options_;
  std::atomic<int> num_batches_ = 0;
  std::atomic<bool> lost_ = false;
};

// Moves when told. Its answers are FakeEncoder's. As many Encode calls at a time as Options says; the other methods are
// for the test's threads.
class PuppetEncoder : public Encoder {
 public:
  // A row of a batch that is held.
  struct HeldRow {
    std::vector<uint32_t> ids;
    std::vector<uint32_t> type_ids;
    ComputeMode mode;
    int chunk_tokens;
    RowOutput output;
  };

  PuppetEncoder() : PuppetEncoder(FakeEncoder::Options()) {}
  explicit PuppetEncoder(const FakeEncoder::Options& options) : fake_(options) {}

  using Encoder::Encode;
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) override {
    Batch batch;
    batch.control = control;
    for (const Row& row : rows) {
      batch.rows.push_back({{row.ids.begin(), row.ids.end()},
                            {row.type_ids.begin(), row.type_ids.end()},
                            row.mode,
                            row.chunk_tokens,
                            row.output});
    }
    {
      absl::MutexLock lock(&mu_);
      ++num_batches_;
      held_.push_back(&batch);
      changed_.SignalAll();
      while (!batch.told && !released_) {
        if (!batch.step.has_value()) {
          changed_.Wait(&mu_);
          continue;
        }
        const auto [done, total] = *std::exchange(batch.step, std::nullopt);
        mu_.Unlock();
        const absl::Status status =
            control == nullptr ? absl::InternalError("no control") : control->BetweenSteps(done, total);
        mu_.Lock();
        if (!status.ok()) return status;
        held_.push_front(&batch);
        changed_.SignalAll();
      }
      held_.erase(std::remove(held_.begin(), held_.end(), &batch), held_.end());
    }
    if (!batch.status.ok()) return batch.status;
    const absl::Status status = fake_.Encode(rows, results);
    for (int b : batch.nan_rows) results[b].values.back() = std::numeric_limits<float>::quiet_NaN();
    return status;
  }

  int max_concurrent_batches() const override { return fake_.max_concurrent_batches(); }
  int64_t max_unstepped_tokens() const override { return fake_.max_unstepped_tokens(); }
  bool runs_nested_batches() const override { return fake_.runs_nested_batches(); }

  // Waits until a batch is held and returns it; the oldest of several.
  std::vector<HeldRow> WaitForBatch() { return WaitForBatches(1).front(); }

  // Waits until the oldest that is held begins with that id.
  void WaitForRow(uint32_t id) {
    absl::MutexLock lock(&mu_);
    while (held_.empty() || held_.front()->rows[0].ids[0] != id) changed_.Wait(&mu_);
  }

  // Waits until at least n are held and returns all, the oldest first.
  std::vector<std::vector<HeldRow>> WaitForBatches(size_t n) {
    absl::MutexLock lock(&mu_);
    while (held_.size() < n) changed_.Wait(&mu_);
    std::vector<std::vector<HeldRow>> batches;
    for (const Batch* batch : held_) batches.push_back(batch->rows);
    return batches;
  }

  // Waits until a batch is held and lets the oldest end: with status, or OK with NaN in the rows named.
  void Finish(absl::Status status = absl::OkStatus(), std::set<int> nan_rows = {}) {
    absl::MutexLock lock(&mu_);
    while (held_.empty()) changed_.Wait(&mu_);
    Batch& batch = *held_.front();
    held_.pop_front();
    batch.status = std::move(status);
    batch.nan_rows = std::move(nan_rows);
    batch.told = true;
    changed_.SignalAll();
  }

  // Waits until a batch is held, and lets the oldest ask its control; then it is held again, if it may go on.
  void Step(int64_t tokens_done, int64_t tokens_total) {
    absl::MutexLock lock(&mu_);
    while (held_.empty()) changed_.Wait(&mu_);
    StepOldest(tokens_done, tokens_total);
  }

  // Lets go of the batches that are held, and holds none from now on.
  void Release() {
    absl::MutexLock lock(&mu_);
    released_ = true;
    changed_.SignalAll();
  }

  // The same if one is held now.
  void TryStep(int64_t tokens_done, int64_t tokens_total) {
    absl::MutexLock lock(&mu_);
    if (!held_.empty()) StepOldest(tokens_done, tokens_total);
  }

  // Waits until a batch is held, and asks the oldest's control.
  bool WantsPause() {
    absl::MutexLock lock(&mu_);
    while (held_.empty()) changed_.Wait(&mu_);
    return held_.front()->control->WantsPause();
  }

  // Encode calls so far, those held included.
  int num_batches() const {
    absl::MutexLock lock(&mu_);
    return num_batches_;
  }

 private:
  // On its Encode's stack. Guarded by mu_ while it is in held_, its Encode's own afterwards.
  struct Batch {
    std::vector<HeldRow> rows;
    EncodeControl* control = nullptr;
    absl::Status status;
    std::set<int> nan_rows;
    bool told = false;
    std::optional<std::pair<int64_t, int64_t>> step;
  };

  // It is not held until its control has answered.
  void StepOldest(int64_t tokens_done, int64_t tokens_total) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    held_.front()->step = std::make_pair(tokens_done, tokens_total);
    held_.pop_front();
    changed_.SignalAll();
  }

  FakeEncoder fake_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  bool released_ ABSL_GUARDED_BY(mu_) = false;
  int num_batches_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Batch*> held_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lion

#endif  // LION_TESTS_FAKES_FAKE_ENCODER_H_
