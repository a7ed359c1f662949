// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/bench.h"

#include <atomic>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/progress.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/fake_service.h"

namespace lion::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::vector<absl::Duration> Milliseconds(int n) {
  std::vector<absl::Duration> values;
  for (int i = 1; i <= n; ++i) values.push_back(absl::Milliseconds(i));
  return values;
}

TEST(PercentileTest, NearestRank) {
  const std::vector<absl::Duration> ten = Milliseconds(10);
  EXPECT_EQ(Percentile(ten, 0.5), absl::Milliseconds(5));
  EXPECT_EQ(Percentile(ten, 0.51), absl::Milliseconds(6));
  EXPECT_EQ(Percentile(ten, 0.9), absl::Milliseconds(9));
  EXPECT_EQ(Percentile(ten, 0.99), absl::Milliseconds(10));
  EXPECT_EQ(Percentile(ten, 1), absl::Milliseconds(10));
  EXPECT_EQ(Percentile(Milliseconds(1), 0.001), absl::Milliseconds(1));
  EXPECT_EQ(Percentile(Milliseconds(10'000), 0.999), absl::Milliseconds(9'990));
}

TEST(SummarizeTest, SortsAndSums) {
  std::vector<absl::Duration> values = {absl::Milliseconds(30), absl::Milliseconds(10), absl::Milliseconds(20)};
  const LatencySummary summary = Summarize(&values);
  EXPECT_EQ(summary.p50, absl::Milliseconds(20));
  EXPECT_EQ(summary.max, absl::Milliseconds(30));
  EXPECT_EQ(summary.mean, absl::Milliseconds(20));
  values.clear();
  EXPECT_EQ(Summarize(&values).max, absl::ZeroDuration());
}

TEST(ArrivalScheduleTest, FixedGapsDoNotDrift) {
  ArrivalSchedule schedule(3, false, 1);
  for (int i = 0; i < 30; ++i) schedule.Next();
  EXPECT_EQ(schedule.Next(), absl::Seconds(10));
}

TEST(ArrivalScheduleTest, PoissonHasTheRateAndTheSpread) {
  ArrivalSchedule schedule(100, true, 7);
  constexpr int kCount = 100'000;
  double last = 0;
  double squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double at = absl::ToDoubleSeconds(schedule.Next());
    ASSERT_GT(at, last);
    squares += (at - last) * (at - last);
    last = at;
  }
  EXPECT_NEAR(last / kCount, 0.01, 0.0002);   // the mean gap is 1 / rate, its error 1 / (rate sqrt(count))
  EXPECT_NEAR(squares / kCount, 2e-4, 1e-5);  // an exponential's second moment is 2 / rate^2
  ArrivalSchedule again(100, true, 7);
  ArrivalSchedule other(100, true, 8);
  const absl::Duration first = again.Next();
  EXPECT_EQ(ArrivalSchedule(100, true, 7).Next(), first);
  EXPECT_NE(other.Next(), first);
}

TEST(ParseLengthsTest, NumbersListsAndRanges) {
  EXPECT_THAT(ParseLengths("128").value(), ElementsAre(128));
  EXPECT_THAT(ParseLengths("16,128").value(), ElementsAre(16, 128));
  EXPECT_THAT(ParseLengths("3-5").value(), ElementsAre(3, 4, 5));
  for (const char* bad : {"", "0", "a", "1,", "5-3", "1-x", "-4", "99999999999"})
    EXPECT_FALSE(ParseLengths(bad).ok()) << bad;
}

TEST(SyntheticInputsTest, LengthsAndVocabulary) {
  const std::vector<v1::Input> inputs = SyntheticInputs(200, {2, 5}, 10, 1);
  int lengths = 0;
  for (const v1::Input& input : inputs) {
    const auto& ids = input.token_ids().ids();
    EXPECT_TRUE(ids.size() == 2 || ids.size() == 5);
    lengths |= ids.size();
    for (const uint32_t id : ids) EXPECT_LT(id, 10);
  }
  EXPECT_EQ(lengths, 7);  // both
}

class RunBenchTest : public ::testing::Test {
 protected:
  absl::StatusOr<BenchReport> Run(BenchOptions options, const std::atomic<bool>* interrupted = nullptr) {
    FakeServer server(&service_);
    std::unique_ptr<Client> client = Client::Create({.target = server.target(), .retry = false}).value();
    if (options.inputs.empty()) options.inputs = SyntheticInputs(3, {4}, 10, 1);
    return RunBench(client.get(), options, interrupted, nullptr);
  }
  FakeService service_;
};

TEST_F(RunBenchTest, ClosedLoopKeepsItsCallersBusyAndCountsAll) {
  const BenchReport report =
      Run({.rows = 2, .concurrency = 3, .duration = absl::Minutes(5), .max_requests = 60}).value();
  EXPECT_EQ(report.requests, 60);
  EXPECT_EQ(report.ok, 60);
  EXPECT_EQ(report.rows, 120);
  EXPECT_EQ(report.tokens, 480);
  EXPECT_THAT(report.modes, ElementsAre(Pair("parallel", 120)));
  EXPECT_TRUE(report.errors.empty());
  EXPECT_GT(report.latency.p50, absl::ZeroDuration());
  EXPECT_LE(report.latency.p50, report.latency.max);
  EXPECT_LE(service_.max_concurrent(), 3);
}

TEST_F(RunBenchTest, RefusalsAreCountedNotRetried) {
  service_.before_call = [](int call, const auto&, grpc::ServerContext*) {
    return call % 2 == 0 ? grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full") : grpc::Status::OK;
  };
  const BenchReport report =
      Run({.classify = true, .concurrency = 1, .duration = absl::Minutes(5), .max_requests = 10}).value();
  EXPECT_EQ(report.ok, 5);
  EXPECT_EQ(report.refused, 5);
  EXPECT_THAT(report.errors, ElementsAre(Pair("RESOURCE_EXHAUSTED", 5)));
  EXPECT_EQ(service_.num_calls(), 10);
}

// The first of two requests, 1 ms apart, is held for longer than that: what the second one waits for it counts.
TEST_F(RunBenchTest, OpenLoopMeasuresFromTheIntendedMoment) {
  std::atomic<bool> second_arrived = false;
  absl::Notification second;
  service_.before_call = [&](int call, const auto&, grpc::ServerContext*) {
    if (call == 1 && !second_arrived.exchange(true)) second.Notify();
    if (call == 0) second.WaitForNotification();  // only an open loop sends it meanwhile
    return grpc::Status::OK;
  };
  const BenchReport report =
      Run({.rate = 1000, .poisson = false, .duration = absl::Minutes(5), .max_requests = 2}).value();
  EXPECT_EQ(report.ok, 2);
  EXPECT_GE(report.latency.max, absl::Milliseconds(1));
}

TEST_F(RunBenchTest, OpenLoopHoldsBackAtItsBound) {
  absl::Notification finish;
  service_.before_call = [&](int, const auto&, grpc::ServerContext*) {
    finish.WaitForNotification();
    return grpc::Status::OK;
  };
  std::atomic<bool> interrupted = false;
  FakeServer server(&service_);
  std::unique_ptr<Client> client = Client::Create({.target = server.target(), .retry = false}).value();
  const BenchOptions options = {.inputs = SyntheticInputs(1, {4}, 10, 1),
                                .rate = 1000,
                                .max_in_flight = 2,
                                .duration = absl::Minutes(5),
                                .max_requests = 300};
  const BenchReport report = RunBench(client.get(), options, &interrupted, [&](const BenchReport& so_far) {
                               if (so_far.not_sent > 0 && !finish.HasBeenNotified()) finish.Notify();
                             }).value();
  EXPECT_GT(report.not_sent, 0);
  EXPECT_EQ(report.requests + report.not_sent, 300);
}

TEST_F(RunBenchTest, AnInterruptionReportsWhatThereIs) {
  std::atomic<bool> interrupted = false;
  service_.before_call = [&](int call, const auto&, grpc::ServerContext*) {
    if (call == 20) interrupted.store(true);
    return grpc::Status::OK;
  };
  const BenchReport report = Run({.concurrency = 2, .duration = absl::Minutes(5)}, &interrupted).value();
  EXPECT_TRUE(report.interrupted);
  EXPECT_GE(report.ok, 20);
  EXPECT_LE(report.ok, 23);
}

TEST_F(RunBenchTest, RefusesWhatMakesNoSense) {
  EXPECT_THAT(Run({.rows = 0}).status().message(), HasSubstr("rows"));
  EXPECT_THAT(Run({.rate = -1}).status().message(), HasSubstr("rate"));
  EXPECT_THAT(Run({.concurrency = 0}).status().message(), HasSubstr("concurrency"));
  EXPECT_THAT(Run({.duration = absl::ZeroDuration()}).status().message(), HasSubstr("duration"));
  EXPECT_THAT(Run({.max_requests = kMaxBenchRequests + 1}).status().message(), HasSubstr("requests"));
}

TEST(ReportTest, TextAndJson) {
  BenchReport report;
  report.elapsed = absl::Seconds(2);
  report.sending = absl::Seconds(1);
  report.requests = 12;
  report.ok = 10;
  report.refused = 2;
  report.rows = 10;
  report.tokens = 5000;
  report.errors["RESOURCE_EXHAUSTED"] = 2;
  report.modes["chunked"] = 10;
  report.latency = {.p50 = absl::Milliseconds(1),
                    .p90 = absl::Microseconds(50),
                    .p99 = {},
                    .p999 = {},
                    .max = absl::Seconds(12),
                    .mean = {}};
  const BenchOptions options = {.rate = 6};
  const std::string text = FormatReport(options, report);
  EXPECT_THAT(text, HasSubstr("12, sent in 1.00 s, answered in 2.00 s: 10 ok, 2 failed, of these 2 refused"));
  EXPECT_THAT(text, HasSubstr("5.0 requests/s  5.0 rows/s  2,500 tokens/s"));
  EXPECT_THAT(text, HasSubstr("p50 1.00 ms  p90 50 us"));
  EXPECT_THAT(text, HasSubstr("max 12.00 s"));
  EXPECT_THAT(text, HasSubstr("chunked 10"));
  const auto json = nlohmann::json::parse(ReportJson(options, report));
  EXPECT_EQ(json["loop"], "open");
  EXPECT_EQ(json["latency_seconds"]["p50"], 0.001);
  EXPECT_EQ(json["errors"]["RESOURCE_EXHAUSTED"], 2);
  EXPECT_EQ(json["tokens_per_second"], 2500);
}

TEST(ProgressTest, BarRatesAndTimeLeft) {
  EXPECT_EQ(FormatProgress({.rows = 1234, .failed_rows = 3, .tokens = 26'000, .done_bytes = 42, .total_bytes = 100},
                           absl::Seconds(21)),
            "[########------------]  42%  1,234 rows  58.8 rows/s  1,238 tokens/s  ETA 00:29  3 failed");
}

TEST(ProgressTest, UnknownTotals) {
  EXPECT_EQ(FormatProgress({.rows = 5, .tokens = 10}, absl::Seconds(2)), "5 rows  2.5 rows/s  5.0 tokens/s");
}

TEST(ProgressTest, Edges) {
  EXPECT_THAT(FormatProgress({.done_bytes = 0, .total_bytes = 100}, absl::Seconds(2)),
              HasSubstr("[--------------------]   0%  0 rows"));
  EXPECT_THAT(FormatProgress({.rows = 1, .done_bytes = 100, .total_bytes = 100}, absl::Seconds(2)),
              AllOf(HasSubstr("[####################] 100%"), HasSubstr("ETA 00:00")));
  EXPECT_THAT(FormatProgress({.rows = 1, .done_bytes = 1, .total_bytes = 7201}, absl::Seconds(1)),
              HasSubstr("ETA 2:00:00"));
  EXPECT_THAT(FormatProgress({.rows = 1, .done_bytes = 300, .total_bytes = 100}, absl::ZeroDuration()),
              HasSubstr("100%"));
}

TEST(ProgressTest, Summary) {
  EXPECT_EQ(FormatSummary({.rows = 1234, .failed_rows = 3, .tokens = 56'789}, absl::Seconds(21.8)),
            "1,234 rows, 56,789 tokens in 21.8 s (56.6 rows/s, 2,605 tokens/s), 3 failed");
}

}  // namespace
}  // namespace lion::client
