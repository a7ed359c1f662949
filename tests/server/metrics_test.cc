// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/build_info.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::vector<ServedModel> TwoModels() {
  static FakeEncoder encoder;
  ServedModel a;
  a.name = "demo";
  a.info.version = "0123456789ab";
  a.info.variant_name = "lion-s";
  a.info.dtype = DType::kBFloat16;
  a.encoders = {&encoder};
  ServedModel b = a;
  b.name = "other";
  b.info.variant_name = "lion-lit";
  b.info.dtype = DType::kFloat32;
  return {a, b};
}

// Two models on two GPUs. Each says of itself what its Options hold.
std::vector<ServedModel> OnTwoGpus() {
  static FakeEncoder* encoders[4];
  for (int i = 0; i < 4; ++i) {
    DeviceUsage usage;
    usage.weights_bytes = 100 + i;
    usage.buffer_bytes = 1000 + i;
    usage.free_bytes = i % 2 == 0 ? 60000 : 70000;
    usage.total_bytes = 80000;
    usage.busy = absl::Milliseconds(1500 + i);
    if (encoders[i] == nullptr) encoders[i] = new FakeEncoder({.usage = usage});
  }
  std::vector<ServedModel> models = TwoModels();
  for (int i = 0; i < 2; ++i) {
    models[i].info.devices = {"cuda:0", "cuda:1"};
    models[i].info.device = "cuda:0,cuda:1";
    models[i].encoders = {encoders[2 * i], encoders[2 * i + 1]};
  }
  return models;
}

// The value of a series as it stands in the text, or -1 if it is not there.
double Value(const std::string& text, const std::string& series) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double value = 0;
    if (absl::ConsumePrefix(&line, series + " ") && absl::SimpleAtod(line, &value)) return value;
  }
  return -1;
}

TEST(MetricsTest, EverythingWithFewLabelsStandsAtZero) {
  const Metrics metrics(TwoModels());
  const std::string text = metrics.Text();
  std::vector<std::string> expected = {"lion_batch_retries_total", "lion_log_suppressed_total"};
  for (const char* what : {"api_keys", "tls", "model"}) {
    expected.push_back(absl::StrCat("lion_reloads_total{result=\"ok\",what=\"", what, "\"}"));
    expected.push_back(absl::StrCat("lion_reloads_total{result=\"refused\",what=\"", what, "\"}"));
  }
  for (const char* reason : {"queue_full", "deadline", "memory", "draining", "unauthenticated"}) {
    expected.push_back(absl::StrCat("lion_rejected_total{reason=\"", reason, "\"}"));
  }
  for (const char* reason : {"cancelled", "deadline", "drain"}) {
    expected.push_back(absl::StrCat("lion_dropped_total{reason=\"", reason, "\"}"));
  }
  for (const char* rpc :
       {"Embed", "EmbedStream", "Classify", "ClassifyStream", "Tokenize", "ListModels", "EmbedDocument"}) {
    expected.push_back(absl::StrCat("lion_rpc_in_flight{rpc=\"", rpc, "\"}"));
  }
  for (const char* model : {"demo", "other"}) {
    for (const char* mode : {"parallel", "chunked", "recurrent"}) {
      expected.push_back(absl::StrCat("lion_sequences_total{mode=\"", mode, "\",model=\"", model, "\"}"));
      expected.push_back(absl::StrCat("lion_tokens_total{mode=\"", mode, "\",model=\"", model, "\"}"));
    }
    for (const char* name :
         {"lion_queue_sequences", "lion_queue_tokens", "lion_bad_rows_total", "lion_sequence_tokens_count",
          "lion_queue_duration_seconds_count", "lion_tokenize_duration_seconds_count",
          "lion_compute_duration_seconds_count", "lion_batch_tokens_count", "lion_batch_sequences_count"}) {
      expected.push_back(absl::StrCat(name, "{model=\"", model, "\"}"));
    }
  }
  for (const std::string& series : expected) EXPECT_EQ(Value(text, series), 0) << series;
  EXPECT_THAT(text, Not(HasSubstr("\nlion_rpc_requests_total{")));
}

TEST(MetricsTest, InfoSeriesAreOne) {
  const Metrics metrics(TwoModels());
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text,
                  "lion_model_info{device=\"cpu\",dtype=\"bfloat16\",model=\"demo\",variant=\"lion-s\","
                  "version=\"0123456789ab\"}"),
            1);
  EXPECT_EQ(Value(text,
                  "lion_model_info{device=\"cpu\",dtype=\"float32\",model=\"other\",variant=\"lion-lit\","
                  "version=\"0123456789ab\"}"),
            1);
  EXPECT_FALSE(BuildVersion().empty());
  EXPECT_FALSE(BuildCommit().empty());
  EXPECT_EQ(Value(text, absl::StrCat("lion_build_info{commit=\"", std::string(BuildCommit()), "\",version=\"",
                                     std::string(BuildVersion()), "\"}")),
            1);
}

TEST(MetricsTest, ProcessAndDeviceAreRead) {
  const Metrics metrics(TwoModels());
  const std::string text = metrics.Text();
  for (const char* name : {"process_cpu_seconds_total", "process_start_time_seconds", "process_resident_memory_bytes",
                           "process_virtual_memory_bytes", "process_open_fds", "process_max_fds"}) {
    EXPECT_GE(Value(text, name), 0) << name;
  }
  EXPECT_GT(Value(text, "process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(Value(text, "process_start_time_seconds"), 1.7e9);  // later than 2023
  EXPECT_GE(Value(text, "process_open_fds"), 3);
  EXPECT_GT(Value(text, "process_max_fds"), Value(text, "process_open_fds"));
  EXPECT_GT(Value(text, "lion_device_memory_bytes{device=\"cpu\",kind=\"used\"}"), 1 << 20);
  EXPECT_EQ(Value(text, "lion_device_up{device=\"cpu\"}"), 1);
  EXPECT_EQ(Value(text, "lion_device_memory_bytes{device=\"cpu\",kind=\"weights\"}"), -1);
  EXPECT_GT(Value(text, "lion_device_memory_bytes{device=\"cpu\",kind=\"total\"}"),
            Value(text, "lion_device_memory_bytes{device=\"cpu\",kind=\"used\"}"));
}

TEST(MetricsTest, EachDeviceIsShown) {
  Metrics metrics(OnTwoGpus());
  metrics.DeviceLost(1);
  metrics.BatchRetried();
  const std::string text = metrics.Text();
  for (const char* device : {"cuda:0", "cuda:1"}) {
    for (const char* model : {"dtype=\"bfloat16\",model=\"demo\",variant=\"lion-s\"",
                              "dtype=\"float32\",model=\"other\",variant=\"lion-lit\""}) {
      EXPECT_EQ(
          Value(text, absl::StrCat("lion_model_info{device=\"", device, "\",", model, ",version=\"0123456789ab\"}")),
          1);
    }
  }
  const auto memory = [&text](const char* device, const char* kind) {
    return Value(text, absl::StrCat("lion_device_memory_bytes{device=\"", device, "\",kind=\"", kind, "\"}"));
  };
  EXPECT_EQ(memory("cuda:0", "total"), 80000);
  EXPECT_EQ(memory("cuda:0", "used"), 20000);
  EXPECT_EQ(memory("cuda:1", "used"), 10000);
  EXPECT_EQ(memory("cuda:0", "weights"), 100 + 102);  // of both models
  EXPECT_EQ(memory("cuda:1", "buffers"), 1001 + 1003);
  EXPECT_EQ(memory("cpu", "used"), -1);
  EXPECT_NEAR(Value(text, "lion_device_busy_seconds_total{device=\"cuda:0\"}"), 1.5 + 1.502, 1e-9);
  EXPECT_EQ(Value(text, "lion_device_up{device=\"cuda:0\"}"), 1);
  EXPECT_EQ(Value(text, "lion_device_up{device=\"cuda:1\"}"), 0);
  EXPECT_EQ(Value(text, "lion_batch_retries_total"), 1);
}

TEST(MetricsTest, CallsAreCountedTimedAndInFlight) {
  Metrics metrics(TwoModels());
  metrics.RpcStarted(Rpc::kEmbed);
  metrics.RpcStarted(Rpc::kEmbed);
  metrics.RpcStarted(Rpc::kListModels);
  EXPECT_EQ(Value(metrics.Text(), "lion_rpc_in_flight{rpc=\"Embed\"}"), 2);
  metrics.RpcEnded(Rpc::kEmbed, 1, absl::StatusCode::kOk, absl::Milliseconds(3));
  metrics.RpcEnded(Rpc::kEmbed, Metrics::kUnknownModel, absl::StatusCode::kNotFound, absl::Seconds(61));
  metrics.RpcEnded(Rpc::kListModels, Metrics::kUnknownModel, absl::StatusCode::kOk, -absl::Seconds(1));
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text, "lion_rpc_in_flight{rpc=\"Embed\"}"), 0);
  EXPECT_EQ(Value(text, "lion_rpc_requests_total{code=\"OK\",model=\"other\",rpc=\"Embed\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rpc_requests_total{code=\"NOT_FOUND\",model=\"unknown\",rpc=\"Embed\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rpc_requests_total{code=\"OK\",model=\"unknown\",rpc=\"ListModels\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_count{model=\"other\",rpc=\"Embed\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_bucket{model=\"other\",rpc=\"Embed\",le=\"0.0025\"}"), 0);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_bucket{model=\"other\",rpc=\"Embed\",le=\"0.005\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_bucket{model=\"unknown\",rpc=\"Embed\",le=\"60\"}"), 0);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_sum{model=\"unknown\",rpc=\"Embed\"}"), 61);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_sum{model=\"unknown\",rpc=\"ListModels\"}"), 0);
}

TEST(MetricsTest, WhatIsNoServedModelOrKnownCodeIsUnknown) {
  Metrics metrics(TwoModels());
  for (int model : {-2, 2, 1000}) {
    metrics.RpcEnded(Rpc::kTokenize, model, static_cast<absl::StatusCode>(99), absl::ZeroDuration());
  }
  EXPECT_EQ(Value(metrics.Text(), "lion_rpc_requests_total{code=\"UNKNOWN\",model=\"unknown\",rpc=\"Tokenize\"}"), 3);
}

TEST(MetricsTest, CodeNamesAreGrpcs) {
  EXPECT_EQ(CodeName(absl::StatusCode::kOk), "OK");
  EXPECT_EQ(CodeName(absl::StatusCode::kCancelled), "CANCELLED");
  EXPECT_EQ(CodeName(absl::StatusCode::kUnknown), "UNKNOWN");
  EXPECT_EQ(CodeName(absl::StatusCode::kUnauthenticated), "UNAUTHENTICATED");
  for (int code = 0; code <= 16; ++code) {
    EXPECT_EQ(CodeName(static_cast<absl::StatusCode>(code)),
              absl::StatusCodeToString(static_cast<absl::StatusCode>(code)));
  }
  EXPECT_EQ(CodeName(static_cast<absl::StatusCode>(17)), "UNKNOWN");
  EXPECT_EQ(CodeName(static_cast<absl::StatusCode>(-1)), "UNKNOWN");
}

TEST(MetricsTest, RowsAndBatches) {
  Metrics metrics(TwoModels());
  metrics.QueueChanged(0, 3, 300);
  metrics.QueueChanged(0, -1, -100);
  metrics.LeftQueue(0, absl::Milliseconds(2));
  metrics.Tokenized(0, absl::Microseconds(100));
  metrics.BatchEnded(0, 2, 200, absl::Milliseconds(40));
  metrics.SequenceEnded(0, ComputeMode::kParallel, 64);
  metrics.SequenceEnded(0, ComputeMode::kChunked, 65);
  metrics.SequenceEnded(1, ComputeMode::kRecurrent, 7);
  metrics.BadRow(1);
  metrics.Dropped(DropReason::kDeadline);
  metrics.Rejected(RejectReason::kQueueFull);
  metrics.Rejected(RejectReason::kUnauthenticated);
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text, "lion_queue_sequences{model=\"demo\"}"), 2);
  EXPECT_EQ(Value(text, "lion_queue_tokens{model=\"demo\"}"), 200);
  EXPECT_EQ(Value(text, "lion_queue_duration_seconds_sum{model=\"demo\"}"), 0.002);
  EXPECT_EQ(Value(text, "lion_tokenize_duration_seconds_bucket{model=\"demo\",le=\"0.0005\"}"), 1);
  EXPECT_EQ(Value(text, "lion_compute_duration_seconds_sum{model=\"demo\"}"), 0.04);
  EXPECT_EQ(Value(text, "lion_batch_tokens_sum{model=\"demo\"}"), 200);
  EXPECT_EQ(Value(text, "lion_batch_sequences_bucket{model=\"demo\",le=\"1\"}"), 0);
  EXPECT_EQ(Value(text, "lion_batch_sequences_bucket{model=\"demo\",le=\"2\"}"), 1);
  EXPECT_EQ(Value(text, "lion_sequences_total{mode=\"parallel\",model=\"demo\"}"), 1);
  EXPECT_EQ(Value(text, "lion_tokens_total{mode=\"chunked\",model=\"demo\"}"), 65);
  EXPECT_EQ(Value(text, "lion_tokens_total{mode=\"recurrent\",model=\"other\"}"), 7);
  // 64 is the upper bound of its bucket, 65 is not in it.
  EXPECT_EQ(Value(text, "lion_sequence_tokens_bucket{model=\"demo\",le=\"64\"}"), 1);
  EXPECT_EQ(Value(text, "lion_sequence_tokens_bucket{model=\"demo\",le=\"128\"}"), 2);
  EXPECT_EQ(Value(text, "lion_sequence_tokens_bucket{model=\"demo\",le=\"16777216\"}"), 2);
  EXPECT_EQ(Value(text, "lion_bad_rows_total{model=\"other\"}"), 1);
  EXPECT_EQ(Value(text, "lion_dropped_total{reason=\"deadline\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rejected_total{reason=\"queue_full\"}"), 1);
  EXPECT_EQ(Value(text, "lion_rejected_total{reason=\"unauthenticated\"}"), 1);
}

TEST(MetricsTest, ManyThreadsLoseNothing) {
  Metrics metrics(TwoModels());
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < 1000; ++i) {
        metrics.RpcStarted(Rpc::kEmbed);
        metrics.SequenceEnded(0, ComputeMode::kChunked, 2);
        metrics.RpcEnded(Rpc::kEmbed, i % 2, absl::StatusCode::kOk, absl::Milliseconds(1));
        if (i % 250 == 0) metrics.Text();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text, "lion_rpc_in_flight{rpc=\"Embed\"}"), 0);
  EXPECT_EQ(Value(text, "lion_rpc_requests_total{code=\"OK\",model=\"demo\",rpc=\"Embed\"}"), 2000);
  EXPECT_EQ(Value(text, "lion_rpc_duration_seconds_count{model=\"other\",rpc=\"Embed\"}"), 2000);
  EXPECT_EQ(Value(text, "lion_tokens_total{mode=\"chunked\",model=\"demo\"}"), 8000);
}

// GET path from 127.0.0.1:port: the whole answer, header included.
std::string Get(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
    if (send(fd, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  return answer;
}

TEST(MetricsListenTest, ServesTheTextAndNoForeignNames) {
  Metrics metrics(TwoModels());
  metrics.Dropped(DropReason::kDrain);
  const absl::StatusOr<int> port = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  ASSERT_GT(*port, 0);
  const std::string answer = Get(*port, "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(answer, HasSubstr("text/plain"));
  const std::string text = answer.substr(answer.find("\r\n\r\n") + 4);
  EXPECT_EQ(Value(text, "lion_dropped_total{reason=\"drain\"}"), 1);
  EXPECT_GT(Value(text, "process_resident_memory_bytes"), 0);
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "#")) continue;
    EXPECT_TRUE(absl::StartsWith(line, "lion_") || absl::StartsWith(line, "process_") ||
                absl::StartsWith(line, "exposer_"))
        << line;
  }
  EXPECT_EQ(metrics.Listen("127.0.0.1:0").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(MetricsListenTest, ASecondServerIsRefusedAndThePortIsFreeAfterwards) {
  std::string address;
  {
    Metrics first(TwoModels());
    const absl::StatusOr<int> port = first.Listen("127.0.0.1:0");
    ASSERT_TRUE(port.ok()) << port.status();
    address = absl::StrCat("127.0.0.1:", *port);
    Metrics second(TwoModels());
    const absl::Status refused = second.Listen(address).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(refused.message(), absl::StrCat("metrics: cannot listen on ", address, ": Address already in use"));
    EXPECT_EQ(second.Listen(absl::StrCat("0.0.0.0:", *port)).status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Get(*port, "/metrics"), StartsWith("HTTP/1.1 200 OK"));
  }
  Metrics third(TwoModels());
  EXPECT_TRUE(third.Listen(address).ok());
}

TEST(MetricsListenTest, BadAddresses) {
  struct Case {
    const char* address;
    absl::StatusCode code;
  };
  const Case cases[] = {
      {"", absl::StatusCode::kInvalidArgument},
      {"9464", absl::StatusCode::kInvalidArgument},
      {":9464", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:-1", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:65536", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:http", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:0,127.0.0.1:0", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:443s", absl::StatusCode::kInvalidArgument},
      {"::1:0", absl::StatusCode::kInvalidArgument},
      {"[]:0", absl::StatusCode::kInvalidArgument},
      {"192.0.2.1:0", absl::StatusCode::kUnavailable},  // TEST-NET-1: no machine has it
  };
  for (const Case& c : cases) {
    Metrics metrics(TwoModels());
    const absl::Status status = metrics.Listen(c.address).status();
    EXPECT_EQ(status.code(), c.code) << c.address << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.address));
  }
}

}  // namespace
}  // namespace lion
