// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_BENCH_H_
#define LION_CLIENT_BENCH_H_

// Load for a server, and what it did under it.
//
// Open loop (rate > 0): requests leave at their own times, however slow the answers; a latency counts from the moment a
// request was meant to leave, so a stalled server or client cannot hide the wait of those that queued behind it (no
// coordinated omission). Closed loop (else): `concurrency` callers, each of which asks again once it is answered.
// Nothing is retried, so that refusals are seen. One connection.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

// The most requests of one run: each one's latency is kept.
inline constexpr int64_t kMaxBenchRequests = 10'000'000;

struct BenchOptions {
  bool classify = false;                    // else embed
  v1::EmbedRequest embed = {};              // what each request says beside its inputs, for embed …
  v1::ClassifyRequest classification = {};  // … and for classify
  std::vector<v1::Input> inputs = {};       // drawn from in turn; at least one
  int rows = 1;                             // inputs a request
  double rate = 0;                          // requests a second, open loop; 0 = closed loop
  bool poisson = true;                      // open loop: exponential gaps; false = equal ones
  int concurrency = 8;                      // closed loop
  int max_in_flight = 10'000;               // open loop: a request that would pass it is not sent, and counted as such
  absl::Duration duration = absl::Seconds(10);  // of sending; answers are awaited beyond it
  int64_t max_requests = 0;                     // 0 = as many as the duration allows (kMaxBenchRequests at most)
  uint64_t seed = 1;                            // of the arrival times
};

struct LatencySummary {
  absl::Duration p50, p90, p99, p999, max, mean;
};

// Nearest rank: the smallest value that at least a share q (in (0, 1]) of them does not exceed. sorted is ascending and
// not empty.
absl::Duration Percentile(absl::Span<const absl::Duration> sorted, double q);

// All zeros for no latencies. Sorts them.
LatencySummary Summarize(std::vector<absl::Duration>* latencies);

// The moments at which open-loop requests leave, as offsets from the start, ascending.
class ArrivalSchedule {
 public:
  // rate > 0 requests a second.
  ArrivalSchedule(double rate, bool poisson, uint64_t seed);
  absl::Duration Next();

 private:
  const double rate_;
  const bool poisson_;
  uint64_t state_;
  int64_t count_ = 0;
  double seconds_ = 0;
};

// Made-up inputs: num rows of token ids below vocab, their lengths drawn evenly from lengths. Same seed, same inputs.
std::vector<v1::Input> SyntheticInputs(int num, const std::vector<int>& lengths, uint32_t vocab, uint64_t seed);

// "128", "16,128,2048" (any of these) or "16-512" (all between) as lengths; INVALID_ARGUMENT naming what is wrong.
absl::StatusOr<std::vector<int>> ParseLengths(absl::string_view text);

struct BenchReport {
  absl::Duration elapsed;  // from the first request's moment to the last answer
  absl::Duration sending;  // of these, until the last request left
  int64_t requests = 0;    // sent and ended
  int64_t ok = 0;
  int64_t refused = 0;                                     // RESOURCE_EXHAUSTED
  int64_t not_sent = 0;                                    // kept back by max_in_flight
  int64_t rows = 0;                                        // answered well
  int64_t failed_rows = 0;                                 // in requests that were answered
  int64_t tokens = 0;                                      // run for the rows answered well
  std::map<std::string, int64_t> errors;                   // requests, by code
  std::map<std::string, int64_t> modes;                    // rows
  LatencySummary latency;                                  // of the requests that succeeded
  LatencySummary failure_latency;                          // of those that did not
  absl::Duration mean_tokenize, mean_queue, mean_compute;  // as the server times the requests that succeeded
  bool interrupted = false;
};

// Runs until duration, max_requests or interrupted (borrowed, may be null), then awaits what is in flight: after an
// interruption for a second, else until its deadline. tick (may be null) is called about ten times a second with what
// has been counted so far. INVALID_ARGUMENT for options outside their ranges.
absl::StatusOr<BenchReport> RunBench(Client* client, const BenchOptions& options, const std::atomic<bool>* interrupted,
                                     const std::function<void(const BenchReport&)>& tick);

// For people, several lines; for machines, one line of JSON (durations in seconds).
std::string FormatReport(const BenchOptions& options, const BenchReport& report);
std::string ReportJson(const BenchOptions& options, const BenchReport& report);

}  // namespace lion::client

#endif  // LION_CLIENT_BENCH_H_
