// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "bench/engine_measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

namespace lion::bench {
namespace {

constexpr int kMinBatchesPerThread = 2;
constexpr int64_t kCompanionTokens = 100;  // of the row that SameBits puts in front

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool SameValues(const std::vector<RowResult>& a, const std::vector<RowResult>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const RowResult& x, const RowResult& y) { return x.values == y.values; });
}

// Threads that share a number of batches.
class Round {
 public:
  Round(absl::Span<Encoder* const> encoders, const std::vector<Row>& rows, const std::vector<RowResult>& expected)
      : encoders_(encoders), rows_(rows), expected_(expected) {}

  // Seconds that num_batches take.
  absl::StatusOr<double> Run(int num_batches) {
    left_ = num_batches;
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (Encoder* encoder : encoders_) {
      for (int i = 0; i < encoder->max_concurrent_batches(); ++i)
        threads.emplace_back([this, encoder] { Work(encoder); });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = SecondsSince(start);
    if (!status_.ok()) return status_;
    return seconds;
  }

 private:
  void Work(Encoder* encoder) {
    std::vector<RowResult> results(rows_.size());
    while (left_.fetch_sub(1) > 0) {
      absl::Status status = encoder->Encode(rows_, absl::MakeSpan(results));
      if (status.ok() && !SameValues(results, expected_)) {
        status = absl::InternalError("the same batch was answered with other bits than before");
      }
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mu_);
      status_ = status;
      left_ = 0;
    }
  }

  const absl::Span<Encoder* const> encoders_;
  const std::vector<Row>& rows_;
  const std::vector<RowResult>& expected_;
  std::atomic<int> left_{0};
  std::mutex mu_;
  absl::Status status_;  // under mu_ while threads run
};

}  // namespace

RandomRows::RandomRows(int64_t num_rows, int64_t L, int64_t vocab_size, ComputeMode mode) : num_tokens_(num_rows * L) {
  for (int64_t b = 0; b < num_rows; ++b) {
    ids_.push_back(RandomIds(L, vocab_size, static_cast<uint32_t>(b + 1)));
    rows_.push_back({ids_.back(), {}, mode, 0, RowOutput::kPooledMean});
  }
}

absl::StatusOr<Throughput> MeasureThroughput(absl::Span<Encoder* const> encoders, const RandomRows& batch, int rounds,
                                             double min_seconds) {
  std::vector<RowResult> expected(batch.rows().size());
  const absl::Status first = encoders.front()->Encode(batch.rows(), absl::MakeSpan(expected));
  if (!first.ok()) return first;
  int num_threads = 0;
  for (Encoder* encoder : encoders) num_threads += encoder->max_concurrent_batches();
  Round round(encoders, batch.rows(), expected);
  const absl::StatusOr<double> warm = round.Run(num_threads);
  if (!warm.ok()) return warm.status();
  const double seconds_per_batch = *warm / num_threads;
  const int num_batches =
      std::max(kMinBatchesPerThread * num_threads, static_cast<int>(std::ceil(min_seconds / seconds_per_batch)));
  std::vector<double> rates;
  for (int r = 0; r < rounds; ++r) {
    const absl::StatusOr<double> seconds = round.Run(num_batches);
    if (!seconds.ok()) return seconds.status();
    rates.push_back(static_cast<double>(num_batches * batch.num_tokens()) / *seconds);
  }
  return Throughput{Median(rates), *std::min_element(rates.begin(), rates.end()),
                    *std::max_element(rates.begin(), rates.end())};
}

absl::StatusOr<std::map<std::string, double>> MeasureStages(CudaEncoder* encoder, StageTimer* timer,
                                                            const RandomRows& batch, int repeats) {
  std::vector<RowResult> results(batch.rows().size());
  std::map<std::string, std::vector<double>> times;
  for (int repeat = 0; repeat < repeats + 1; ++repeat) {  // the first warms up
    const absl::Status status = encoder->Encode(batch.rows(), absl::MakeSpan(results));
    if (!status.ok()) return status;
    for (const auto& [name, taken] : timer->Take()) {
      if (repeat > 0) times[name].push_back(taken);
    }
  }
  std::map<std::string, double> medians;
  for (const auto& [name, taken] : times) medians[name] = Median(taken);
  return medians;
}

absl::StatusOr<Latency> MeasureLatency(Encoder* encoder, int64_t L, int64_t vocab_size, ComputeMode mode, int repeats) {
  const RandomRows batch(1, L, vocab_size, mode);
  RowResult result;
  std::vector<double> milliseconds;
  for (int repeat = 0; repeat < repeats + repeats / 10; ++repeat) {  // the first tenth warms up
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = encoder->Encode(batch.rows(), {&result, 1});
    if (!status.ok()) return status;
    if (repeat >= repeats / 10) milliseconds.push_back(1e3 * SecondsSince(start));
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  return Latency{milliseconds[milliseconds.size() / 2], milliseconds[milliseconds.size() * 99 / 100]};
}

absl::StatusOr<bool> SameBits(Encoder* encoder, const RandomRows& batch, int64_t vocab_size) {
  std::vector<RowResult> whole(batch.rows().size());
  RowResult alone;
  RowResult behind[2];
  const RandomRows companion(1, kCompanionTokens, vocab_size, ComputeMode::kChunked);
  const Row two[] = {companion.rows().front(), batch.rows().front()};
  absl::Status status = encoder->Encode(batch.rows(), absl::MakeSpan(whole));
  if (status.ok()) status = encoder->Encode({batch.rows().data(), 1}, {&alone, 1});
  if (status.ok()) status = encoder->Encode(two, absl::MakeSpan(behind));
  if (!status.ok()) return status;
  return alone.values == whole.front().values && behind[1].values == alone.values;
}

Errors Difference(absl::Span<const float> actual, absl::Span<const double> truth) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (actual.size() != truth.size()) return {kInfinity, kInfinity};
  Errors errors;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double d = std::fabs(static_cast<double>(actual[i]) - truth[i]);
    if (!std::isfinite(d)) return {kInfinity, kInfinity};
    errors.rms += d * d / static_cast<double>(actual.size());
    errors.max = std::max(errors.max, d);
  }
  errors.rms = std::sqrt(errors.rms);
  return errors;
}

}  // namespace lion::bench
