// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/bench.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "client/clock.h"
#include "client/outputs.h"
#include "nlohmann/json.hpp"

namespace lion::client {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kPatienceAfterInterrupt = absl::Seconds(1);
constexpr int kMaxLength = 1 << 24;

absl::Duration ToDuration(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

absl::Status Validate(const BenchOptions& options) {
  if (options.inputs.empty()) return absl::InvalidArgumentError("there are no inputs to send");
  if (options.rows < 1) return absl::InvalidArgumentError(absl::StrCat("rows: ", options.rows, " is below 1"));
  if (!(options.rate >= 0 && options.rate <= 1e6)) {
    return absl::InvalidArgumentError(absl::StrCat("rate: ", options.rate, " is not between 0 and 1,000,000"));
  }
  if (options.concurrency < 1)
    return absl::InvalidArgumentError(absl::StrCat("concurrency: ", options.concurrency, " is below 1"));
  if (options.max_in_flight < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_in_flight: ", options.max_in_flight, " is below 1"));
  }
  if (options.duration <= absl::ZeroDuration() || options.duration > absl::Hours(24)) {
    return absl::InvalidArgumentError(
        absl::StrCat("duration: ", absl::FormatDuration(options.duration), " is not above 0 and at most 24h"));
  }
  if (options.max_requests < 0 || options.max_requests > kMaxBenchRequests) {
    return absl::InvalidArgumentError(
        absl::StrCat("requests: ", options.max_requests, " is not between 0 and ", WithCommas(kMaxBenchRequests)));
  }
  return absl::OkStatus();
}

class Bench {
 public:
  Bench(Client* client, const BenchOptions& options, const std::atomic<bool>* interrupted,
        const std::function<void(const BenchReport&)>& tick)
      : client_(client), options_(options), interrupted_(interrupted), tick_(tick) {}

  BenchReport Run() {
    const int64_t most = options_.max_requests > 0 ? options_.max_requests : kMaxBenchRequests;
    const bool open = options_.rate > 0;
    ArrivalSchedule schedule(open ? options_.rate : 1, options_.poisson, options_.seed);
    start_ = SteadyNow();
    next_tick_ = start_ + kTick;
    const absl::Duration end = start_ + options_.duration;
    absl::Duration last = start_;
    for (int64_t i = 0; i < most; ++i) {
      const absl::Duration due = open ? start_ + schedule.Next() : AwaitFreeCaller(end);
      if (due >= end || !AwaitMoment(due)) break;
      last = std::max(due, SteadyNow());
      if (open && AtLimit()) continue;
      Send(due);
    }
    AwaitAnswers();
    absl::MutexLock lock(&mu_);
    report_.sending = last - start_;
    report_.elapsed = std::max(last_answer_, last) - start_;
    report_.interrupted = Interrupted();
    if (report_.ok > 0) {
      report_.mean_tokenize /= report_.ok;
      report_.mean_queue /= report_.ok;
      report_.mean_compute /= report_.ok;
    }
    report_.latency = Summarize(&latencies_);
    report_.failure_latency = Summarize(&failure_latencies_);
    return report_;
  }

 private:
  // One request on its way. Owned by its callback.
  struct CallState {
    v1::EmbedRequest embed_request;
    v1::EmbedResponse embed_response;
    v1::ClassifyRequest classify_request;
    v1::ClassifyResponse classify_response;
    absl::Duration due;
  };

  bool Interrupted() const { return interrupted_ != nullptr && interrupted_->load(); }

  void Tick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const absl::Duration now = SteadyNow();
    if (now < next_tick_) return;
    next_tick_ = now + kTick;
    if (tick_ == nullptr) return;
    BenchReport report = report_;
    report.elapsed = now - start_;
    mu_.Unlock();
    tick_(report);
    mu_.Lock();
  }

  // Closed loop: the moment at which a caller is free; `end` or later if none was before.
  absl::Duration AwaitFreeCaller(absl::Duration end) {
    absl::MutexLock lock(&mu_);
    while (num_in_flight_ >= options_.concurrency && !Interrupted()) {
      const absl::Duration now = SteadyNow();
      if (now >= end) return now;
      changed_.WaitWithTimeout(&mu_, std::min(end - now, kTick));
      Tick();
    }
    return SteadyNow();
  }

  // False if interrupted before.
  bool AwaitMoment(absl::Duration due) {
    absl::MutexLock lock(&mu_);
    while (!Interrupted()) {
      Tick();
      const absl::Duration left = due - SteadyNow();
      if (left <= absl::ZeroDuration()) return true;
      moment_.WaitWithTimeout(&mu_, std::min(left, kTick));
    }
    return false;
  }

  bool AtLimit() {
    absl::MutexLock lock(&mu_);
    if (num_in_flight_ < options_.max_in_flight) return false;
    ++report_.not_sent;
    return true;
  }

  void Send(absl::Duration due) {
    auto call = std::make_shared<CallState>();
    call->due = due;
    {
      absl::MutexLock lock(&mu_);
      ++num_in_flight_;
    }
    const auto fill = [&](auto* request) {
      for (int i = 0; i < options_.rows; ++i) {
        *request->add_inputs() = options_.inputs[next_input_];
        next_input_ = (next_input_ + 1) % options_.inputs.size();
      }
    };
    if (options_.classify) {
      call->classify_request = options_.classification;
      fill(&call->classify_request);
      client_->ClassifyAsync(
          &call->classify_request, &call->classify_response,
          [this, call](const absl::Status& status) { Count(status, call->due, call->classify_response); });
    } else {
      call->embed_request = options_.embed;
      fill(&call->embed_request);
      client_->EmbedAsync(&call->embed_request, &call->embed_response,
                          [this, call](const absl::Status& status) { Count(status, call->due, call->embed_response); });
    }
  }

  template <typename Response>
  void Count(const absl::Status& status, absl::Duration due, const Response& response) {
    const absl::Duration now = SteadyNow();
    absl::MutexLock lock(&mu_);
    ++report_.requests;
    last_answer_ = now;
    if (status.ok()) {
      ++report_.ok;
      latencies_.push_back(now - due);
      report_.mean_tokenize += ToDuration(response.timings().tokenize());
      report_.mean_queue += ToDuration(response.timings().queue());
      report_.mean_compute += ToDuration(response.timings().compute());
      for (const auto& result : response.results()) {
        if (result.has_error()) {
          ++report_.failed_rows;
          continue;
        }
        ++report_.rows;
        report_.tokens += result.token_count();
        ++report_.modes[ModeName(result.mode())];
      }
    } else {
      failure_latencies_.push_back(now - due);
      ++report_.errors[CodeName(status.code())];
      if (absl::IsResourceExhausted(status)) ++report_.refused;
    }
    --num_in_flight_;
    changed_.Signal();
  }

  void AwaitAnswers() {
    absl::MutexLock lock(&mu_);
    absl::Duration patience_ends = absl::InfiniteDuration();
    bool cancelled = false;
    while (num_in_flight_ > 0) {
      if (Interrupted() && patience_ends == absl::InfiniteDuration())
        patience_ends = SteadyNow() + kPatienceAfterInterrupt;
      if (!cancelled && SteadyNow() >= patience_ends) {
        cancelled = true;
        mu_.Unlock();
        client_->CancelAll();
        mu_.Lock();
        continue;
      }
      changed_.WaitWithTimeout(&mu_, kTick);
      Tick();
    }
  }

  Client* const client_;
  const BenchOptions& options_;
  const std::atomic<bool>* const interrupted_;
  const std::function<void(const BenchReport&)>& tick_;
  // The sending thread's.
  size_t next_input_ = 0;
  absl::Duration start_;
  absl::Duration next_tick_;

  absl::Mutex mu_;
  absl::CondVar changed_;  // an answer came
  absl::CondVar moment_;   // never signalled: an answer must not wake the open loop
  int64_t num_in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration last_answer_ ABSL_GUARDED_BY(mu_);
  BenchReport report_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Duration> latencies_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Duration> failure_latencies_ ABSL_GUARDED_BY(mu_);
};

std::string Short(absl::Duration d) {
  const double ms = absl::ToDoubleMilliseconds(d);
  if (ms >= 10'000) return absl::StrFormat("%.2f s", ms / 1000);
  if (ms < 0.1) return absl::StrFormat("%.0f us", ms * 1000);
  return ms >= 100 ? absl::StrFormat("%.0f ms", ms) : absl::StrFormat("%.2f ms", ms);
}

double PerSecond(int64_t count, const BenchReport& report) {
  const double seconds = absl::ToDoubleSeconds(report.elapsed);
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

std::string Latencies(const LatencySummary& l) {
  return absl::StrCat("p50 ", Short(l.p50), "  p90 ", Short(l.p90), "  p99 ", Short(l.p99), "  p99.9 ", Short(l.p999),
                      "  max ", Short(l.max), "  mean ", Short(l.mean));
}

std::string Counts(const std::map<std::string, int64_t>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) {
    absl::StrAppend(&text, text.empty() ? "" : "  ", name.empty() ? "unknown" : name, " ", WithCommas(count));
  }
  return text.empty() ? "none" : text;
}

nlohmann::ordered_json ToJson(const LatencySummary& l) {
  return {{"p50", absl::ToDoubleSeconds(l.p50)}, {"p90", absl::ToDoubleSeconds(l.p90)},
          {"p99", absl::ToDoubleSeconds(l.p99)}, {"p99_9", absl::ToDoubleSeconds(l.p999)},
          {"max", absl::ToDoubleSeconds(l.max)}, {"mean", absl::ToDoubleSeconds(l.mean)}};
}

}  // namespace

absl::Duration Percentile(absl::Span<const absl::Duration> sorted, double q) {
  // The tolerance keeps 0.9 * 10, which is not quite 9 in binary, at rank 9.
  const double rank = std::ceil(q * static_cast<double>(sorted.size()) - 1e-9);
  return sorted[static_cast<size_t>(std::clamp(rank, 1.0, static_cast<double>(sorted.size()))) - 1];
}

LatencySummary Summarize(std::vector<absl::Duration>* latencies) {
  LatencySummary summary;
  if (latencies->empty()) return summary;
  std::sort(latencies->begin(), latencies->end());
  summary.p50 = Percentile(*latencies, 0.5);
  summary.p90 = Percentile(*latencies, 0.9);
  summary.p99 = Percentile(*latencies, 0.99);
  summary.p999 = Percentile(*latencies, 0.999);
  summary.max = latencies->back();
  absl::Duration sum;
  for (const absl::Duration latency : *latencies) sum += latency;
  summary.mean = sum / static_cast<int64_t>(latencies->size());
  return summary;
}

ArrivalSchedule::ArrivalSchedule(double rate, bool poisson, uint64_t seed)
    : rate_(rate), poisson_(poisson), state_(seed) {}

absl::Duration ArrivalSchedule::Next() {
  if (!poisson_) return absl::Seconds(static_cast<double>(count_++) / rate_);
  // SplitMix64: the same times on every machine, which std::exponential_distribution does not promise.
  uint64_t z = (state_ += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  z ^= z >> 31;
  const double uniform = (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;  // in (0, 1)
  seconds_ -= std::log(uniform) / rate_;
  return absl::Seconds(seconds_);
}

std::vector<v1::Input> SyntheticInputs(int num, const std::vector<int>& lengths, uint32_t vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<v1::Input> inputs(static_cast<size_t>(num));
  for (v1::Input& input : inputs) {
    auto* ids = input.mutable_token_ids()->mutable_ids();
    const int length = lengths[random() % lengths.size()];
    ids->Reserve(length);
    for (int i = 0; i < length; ++i) ids->Add(static_cast<uint32_t>(random() % vocab));
  }
  return inputs;
}

absl::StatusOr<std::vector<int>> ParseLengths(absl::string_view text) {
  const auto bad = [&](absl::string_view piece) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", piece, "' is not a number of tokens between 1 and ", WithCommas(kMaxLength)));
  };
  const auto number = [&](absl::string_view piece, int* value) {
    return absl::SimpleAtoi(piece, value) && *value >= 1 && *value <= kMaxLength;
  };
  const std::pair<absl::string_view, absl::string_view> range = absl::StrSplit(text, absl::MaxSplits('-', 1));
  std::vector<int> lengths;
  if (absl::string_view(text).find('-') != absl::string_view::npos) {
    int low = 0;
    int high = 0;
    if (!number(range.first, &low)) return bad(range.first);
    if (!number(range.second, &high)) return bad(range.second);
    if (low > high) return absl::InvalidArgumentError(absl::StrCat("'", text, "' ends before it begins"));
    if (high - low >= 1'000'000)
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' spans more than 1,000,000 lengths"));
    for (int length = low; length <= high; ++length) lengths.push_back(length);
    return lengths;
  }
  for (absl::string_view piece : absl::StrSplit(text, ',')) {
    int length = 0;
    if (!number(piece, &length)) return bad(piece);
    lengths.push_back(length);
  }
  return lengths;
}

absl::StatusOr<BenchReport> RunBench(Client* client, const BenchOptions& options, const std::atomic<bool>* interrupted,
                                     const std::function<void(const BenchReport&)>& tick) {
  const absl::Status status = Validate(options);
  if (!status.ok()) return status;
  return Bench(client, options, interrupted, tick).Run();
}

std::string FormatReport(const BenchOptions& options, const BenchReport& report) {
  std::string text;
  if (options.rate > 0) {
    absl::StrAppendFormat(&text, "open loop       %g requests/s wanted, %s arrivals", options.rate,
                          options.poisson ? "Poisson" : "fixed");
  } else {
    absl::StrAppend(&text, "closed loop     ", options.concurrency, options.concurrency == 1 ? " caller" : " callers");
  }
  absl::StrAppend(&text, ", ", options.rows, options.rows == 1 ? " input" : " inputs", " a request",
                  report.interrupted ? ", interrupted" : "", "\n");
  absl::StrAppendFormat(
      &text, "requests        %s, sent in %.2f s, answered in %.2f s: %s ok, %s failed, of these %s refused\n",
      WithCommas(report.requests), absl::ToDoubleSeconds(report.sending), absl::ToDoubleSeconds(report.elapsed),
      WithCommas(report.ok), WithCommas(report.requests - report.ok), WithCommas(report.refused));
  if (report.not_sent > 0) {
    absl::StrAppend(&text, "not sent        ", WithCommas(report.not_sent), ": ", WithCommas(options.max_in_flight),
                    " requests were in flight already (--max_in_flight)\n");
  }
  absl::StrAppendFormat(&text, "throughput      %.1f requests/s  %.1f rows/s  %s tokens/s\n",
                        PerSecond(report.ok, report), PerSecond(report.rows, report),
                        WithCommas(std::llround(PerSecond(report.tokens, report))));
  absl::StrAppend(&text, "latency         ", report.ok > 0 ? Latencies(report.latency) : "none", "\n");
  if (report.ok > 0) {
    absl::StrAppend(&text, "in the server   tokenize ", Short(report.mean_tokenize), "  queue ",
                    Short(report.mean_queue), "  compute ", Short(report.mean_compute), "  (means)\n");
  }
  absl::StrAppend(&text, "modes           ", Counts(report.modes), "\n");
  absl::StrAppend(&text, "errors          ", Counts(report.errors),
                  report.failed_rows > 0 ? absl::StrCat("  failed rows ", WithCommas(report.failed_rows)) : "", "\n");
  if (report.requests > report.ok) absl::StrAppend(&text, "failed after    ", Latencies(report.failure_latency), "\n");
  return text;
}

std::string ReportJson(const BenchOptions& options, const BenchReport& report) {
  nlohmann::ordered_json json = {{"rpc", options.classify ? "classify" : "embed"},
                                 {"loop", options.rate > 0 ? "open" : "closed"},
                                 {"rate", options.rate},
                                 {"arrivals", options.poisson ? "poisson" : "fixed"},
                                 {"concurrency", options.concurrency},
                                 {"rows_per_request", options.rows},
                                 {"elapsed_seconds", absl::ToDoubleSeconds(report.elapsed)},
                                 {"sending_seconds", absl::ToDoubleSeconds(report.sending)},
                                 {"interrupted", report.interrupted},
                                 {"requests", report.requests},
                                 {"ok", report.ok},
                                 {"refused", report.refused},
                                 {"not_sent", report.not_sent},
                                 {"rows", report.rows},
                                 {"failed_rows", report.failed_rows},
                                 {"tokens", report.tokens},
                                 {"requests_per_second", PerSecond(report.ok, report)},
                                 {"rows_per_second", PerSecond(report.rows, report)},
                                 {"tokens_per_second", PerSecond(report.tokens, report)},
                                 {"latency_seconds", ToJson(report.latency)},
                                 {"failure_latency_seconds", ToJson(report.failure_latency)},
                                 {"server_mean_seconds",
                                  {{"tokenize", absl::ToDoubleSeconds(report.mean_tokenize)},
                                   {"queue", absl::ToDoubleSeconds(report.mean_queue)},
                                   {"compute", absl::ToDoubleSeconds(report.mean_compute)}}},
                                 {"modes", report.modes},
                                 {"errors", report.errors}};
  return json.dump() + "\n";
}

}  // namespace lion::client
