// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/flags.h"

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kModels = {"some/model"};

struct Case {
  const char* name;
  std::function<void(FlagValues*)> sets;
  std::vector<const char*> names;  // what the refusal says
};

class RefusedFlagTest : public testing::TestWithParam<Case> {};

TEST_P(RefusedFlagTest, NamesFlagAndAllowedValues) {
  FlagValues flags;
  GetParam().sets(&flags);
  const absl::Status status = CheckFlags(flags, kModels, 2).status();
  ASSERT_FALSE(status.ok());
  for (const char* word : GetParam().names) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("\n")));
}

const Case kCases[] = {
    {"Mode", [](auto* f) { f->mode = "fast"; }, {"--mode=fast", "auto, parallel, chunked, recurrent"}},
    {"DType", [](auto* f) { f->dtype = "int4"; }, {"--dtype=int4", "bfloat16"}},
    {"Float16",
     [](auto* f) { f->dtype = "float16"; },
     {"--dtype=float16", "not available on cpu: it has float32, bfloat16, int8"}},
    {"Fp8", [](auto* f) { f->dtype = "fp8"; }, {"--dtype=fp8", "not available on cpu"}},
    {"Device", [](auto* f) { f->device = "tpu"; }, {"--device=tpu", "auto, cpu, cuda"}},
    {"DeviceEmpty", [](auto* f) { f->device = ""; }, {"--device=", "auto, cpu, cuda"}},
    {"Cuda", [](auto* f) { f->device = "cuda"; }, {"--device=cuda", "no CUDA"}},
    {"CudaList", [](auto* f) { f->device = "cuda:0,cuda:12"; }, {"--device=cuda:0,cuda:12", "no CUDA"}},
    {"CudaListBad", [](auto* f) { f->device = "cuda:0,"; }, {"--device=cuda:0,", "takes auto"}},
    {"CudaNotANumber", [](auto* f) { f->device = "cuda:zero"; }, {"cuda:zero", "takes auto"}},
    {"LogFormat", [](auto* f) { f->log_format = "xml"; }, {"--log_format=xml", "text, json"}},
    {"ParallelNegative", [](auto* f) { f->parallel_max_tokens = -1; }, {"--parallel_max_tokens=-1", "16384"}},
    {"ParallelLarge", [](auto* f) { f->parallel_max_tokens = 16385; }, {"--parallel_max_tokens=16385", "16384"}},
    {"ChunkNegative", [](auto* f) { f->chunk_tokens = -1; }, {"--chunk_tokens=-1", "128"}},
    {"ChunkLarge", [](auto* f) { f->chunk_tokens = 129; }, {"--chunk_tokens=129", "128"}},
    {"BatchNegative", [](auto* f) { f->max_batch_tokens = -5; }, {"--max_batch_tokens=-5"}},
    {"SequenceNegative", [](auto* f) { f->max_sequence_tokens = -5; }, {"--max_sequence_tokens=-5"}},
    {"QueueNegative", [](auto* f) { f->max_queue_tokens = -5; }, {"--max_queue_tokens=-5"}},
    {"InputsNegative", [](auto* f) { f->max_inputs = -5; }, {"--max_inputs=-5"}},
    {"ImagePixelsNegative", [](auto* f) { f->max_image_pixels = -1; }, {"--max_image_pixels=-1", "1 to 2147483648"}},
    {"MessageNegative", [](auto* f) { f->max_message_mib = -5; }, {"--max_message_mib=-5", "2047"}},
    {"ConnectionCalls", [](auto* f) { f->max_connection_calls = -1; }, {"--max_connection_calls=-1", "1048576"}},
    {"ConnectionIdle",
     [](auto* f) { f->max_connection_idle = absl::Microseconds(1); },
     {"--max_connection_idle", "1ms"}},
    {"ConnectionAge", [](auto* f) { f->max_connection_age = absl::Hours(600); }, {"--max_connection_age=600h", "576h"}},
    {"ConnectionGrace",
     [](auto* f) { f->max_connection_age_grace = -absl::Seconds(1); },
     {"--max_connection_age_grace=-1s", "576h"}},
    {"ConnectionMemory",
     [](auto* f) { f->max_connection_memory_mib = 255; },
     {"--max_connection_memory_mib=255", "--max_message_mib is 64"}},
    {"Keepalive", [](auto* f) { f->keepalive_interval = -absl::Seconds(1); }, {"--keepalive_interval=-1s"}},
    {"MinPing", [](auto* f) { f->min_ping_interval = -absl::Seconds(1); }, {"--min_ping_interval=-1s"}},
    {"ReloadInterval", [](auto* f) { f->reload_interval = -absl::Seconds(1); }, {"--reload_interval=-1s"}},
    {"MessageLarge", [](auto* f) { f->max_message_mib = 2048; }, {"--max_message_mib=2048", "2047"}},
    {"MemoryNegative", [](auto* f) { f->max_memory_mib = -1; }, {"--max_memory_mib=-1"}},
    {"QueueMibNegative", [](auto* f) { f->max_queue_mib = -1; }, {"--max_queue_mib=-1"}},
    {"ComputeThreads", [](auto* f) { f->compute_threads = -1; }, {"--compute_threads=-1"}},
    {"TokenizerThreads", [](auto* f) { f->tokenizer_threads = -1; }, {"--tokenizer_threads=-1"}},
    {"DrainDelay", [](auto* f) { f->drain_delay = absl::Seconds(-1); }, {"--drain_delay=-1s"}},
    {"DrainTimeout", [](auto* f) { f->drain_timeout = absl::Seconds(-1); }, {"--drain_timeout=-1s"}},
    {"ListenNoPort", [](auto* f) { f->listen = "0.0.0.0"; }, {"--listen=0.0.0.0", "HOST:PORT"}},
    {"ListenNoHost", [](auto* f) { f->listen = ":80"; }, {"--listen=:80", "HOST:PORT"}},
    {"ListenPortName", [](auto* f) { f->listen = "a:http"; }, {"--listen=a:http", "HOST:PORT"}},
    {"ListenPortLarge", [](auto* f) { f->listen = "a:65536"; }, {"--listen=a:65536", "65535"}},
    {"ListenIpv6NoPort", [](auto* f) { f->listen = "[::1]"; }, {"--listen=[::1]", "HOST:PORT"}},
    {"MetricsNoPort", [](auto* f) { f->metrics_listen = "a"; }, {"--metrics_listen=a", "HOST:PORT"}},
    {"SequenceAboveQueue",
     [](auto* f) {
       f->max_sequence_tokens = 201;
       f->max_queue_tokens = 200;
     },
     {"--max_sequence_tokens=201", "--max_queue_tokens is 200"}},
    {"CertWithoutKey", [](auto* f) { f->tls_cert = "x"; }, {"--tls_cert", "--tls_key"}},
    {"KeyWithoutCert", [](auto* f) { f->tls_key = "x"; }, {"--tls_key", "--tls_cert"}},
    {"CaWithoutCert", [](auto* f) { f->tls_client_ca = "x"; }, {"--tls_client_ca", "--tls_cert"}},
    {"HttpNoPort", [](auto* f) { f->http_listen = "a"; }, {"--http_listen=a", "HOST:PORT"}},
    {"HttpWithCa",
     [](auto* f) {
       f->http_listen = "127.0.0.1:0";
       f->tls_client_ca = "x";
     },
     {"--http_listen=127.0.0.1:0", "--tls_client_ca"}},
    {"ApiKeyFile", [](auto* f) { f->api_key_file = "/nowhere"; }, {"--api_key_file: /nowhere"}},
};

INSTANTIATE_TEST_SUITE_P(Cases, RefusedFlagTest, testing::ValuesIn(kCases),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(FlagsTest, ZeroIsTheDefault) {
  const absl::StatusOr<ServerConfig> config = CheckFlags(FlagValues(), kModels, 6);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->max_batch_tokens, 0);  // the device says
  EXPECT_EQ(config->devices, std::vector<std::string>{"cpu"});
  EXPECT_TRUE(config->measure_dtype);
  EXPECT_EQ(config->max_sequence_tokens, 131072);
  EXPECT_EQ(config->server.limits.max_queue_tokens, 1048576);
  EXPECT_EQ(config->server.limits.max_request_tokens, 1048576);
  EXPECT_EQ(config->server.max_tokenizer_bytes, 256 << 20);
  EXPECT_EQ(config->server.limits.max_inputs, 1024);
  EXPECT_EQ(config->server.limits.max_message_bytes, 64 << 20);
  EXPECT_EQ(config->server.limits.default_mode, std::nullopt);
  EXPECT_EQ(config->server.drain_timeout, absl::Seconds(30));
  EXPECT_EQ(config->server.drain_delay, absl::ZeroDuration());
  EXPECT_EQ(config->server.refusal_time, absl::Milliseconds(500));
  EXPECT_EQ(config->compute_threads, 6);
  EXPECT_EQ(config->server.tokenizer_threads, 3);
  EXPECT_EQ(config->dtype, DType::kFloat32);
  EXPECT_EQ(config->parallel_max_tokens, 0);
  EXPECT_EQ(config->chunk_tokens, 0);
  EXPECT_TRUE(config->server.tls.cert.empty());
  EXPECT_FALSE(config->server.api_keys.has_value());
  EXPECT_EQ(CheckFlags(FlagValues(), kModels, 1)->server.tokenizer_threads, 1);
}

TEST(FlagsTest, TheQueueHoldsEightOfTheLongestRows) {
  FlagValues flags;
  flags.max_sequence_tokens = 1000000;
  EXPECT_EQ(CheckFlags(flags, kModels, 1)->server.limits.max_queue_tokens, 8000000);
  // The other way round a default gives way.
  flags.max_sequence_tokens = 0;
  flags.max_queue_tokens = 200;
  EXPECT_EQ(CheckFlags(flags, kModels, 1)->max_sequence_tokens, 200);
}

TEST(FlagsTest, ValuesArrive) {
  FlagValues flags;
  flags.listen = "[::1]:0";
  flags.mode = "recurrent";
  flags.dtype = "bfloat16";
  flags.log_format = "json";
  flags.device = "cpu";
  flags.max_message_mib = 2047;
  flags.max_queue_mib = 4096;
  flags.drain_timeout = absl::Seconds(5);
  const absl::StatusOr<ServerConfig> config = CheckFlags(flags, kModels, 1);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server.listen, "[::1]:0");
  EXPECT_EQ(config->server.limits.default_mode, ComputeMode::kRecurrent);
  EXPECT_EQ(config->dtype, DType::kBFloat16);
  EXPECT_FALSE(config->measure_dtype);
  EXPECT_EQ(config->log_format, LogFormat::kJson);
  EXPECT_EQ(config->server.limits.max_message_bytes, int64_t{2047} << 20);
  EXPECT_EQ(config->server.max_tokenizer_bytes, int64_t{4096} << 20);
  EXPECT_EQ(config->server.drain_timeout, absl::Seconds(5));
}

TEST(FlagsTest, TheDeviceFollowsTheBuildAndTheMachine) {
  const struct {
    std::string device;
    int num_cuda_devices;  // -1 = a build without CUDA
    std::vector<std::string> chosen;
  } cases[] = {
      {"auto", -1, {"cpu"}},
      {"auto", 0, {"cpu"}},
      {"auto", 2, {"cuda:0", "cuda:1"}},
      {"cpu", 2, {"cpu"}},
      {"cuda", 1, {"cuda:0"}},
      {"cuda", 3, {"cuda:0", "cuda:1", "cuda:2"}},
      {"cuda:1", 2, {"cuda:1"}},
      {"cuda:1,cuda:0", 2, {"cuda:1", "cuda:0"}},  // the first is where the crossover is measured
      {"cuda:01", 2, {"cuda:1"}},
  };
  for (const auto& c : cases) {
    FlagValues flags;
    flags.device = c.device;
    const absl::StatusOr<ServerConfig> config = CheckFlags(flags, kModels, 1, c.num_cuda_devices);
    ASSERT_TRUE(config.ok()) << c.device << " " << config.status();
    EXPECT_EQ(config->devices, c.chosen);
    EXPECT_EQ(config->dtype, c.chosen[0] == "cpu" ? DType::kFloat32 : DType::kBFloat16);
    EXPECT_EQ(config->measure_dtype, c.chosen[0] == "cpu");
    EXPECT_EQ(config->max_batch_tokens, 0);  // the device says
  }
}

TEST(FlagsTest, BadDevices) {
  const struct {
    std::string device;
    int num_cuda_devices;
    const char* says;
  } cases[] = {
      {"", 2, "takes auto, cpu, cuda (every GPU), or a list like cuda:0,cuda:1"},
      {"gpu", 2, "takes auto"},
      {"cuda:", 2, "takes auto"},
      {"cuda:x", 2, "takes auto"},
      {"cuda:-1", 2, "takes auto"},
      {"cuda:+1", 2, "takes auto"},
      {"cuda: 1", 2, "takes auto"},
      {"cuda:99999999999", 2, "takes auto"},
      {"CUDA:0", 2, "takes auto"},
      {"cuda:0,", 2, "takes auto"},
      {",cuda:0", 2, "takes auto"},
      {"cuda:0 cuda:1", 2, "takes auto"},
      {"cuda:0,cpu", 2, "cpu stands alone"},
      {"cpu,cpu", 2, "cpu stands alone"},
      {"cpu,cuda:0", -1, "cpu stands alone"},
      {"cuda,cuda:0", 2, "cuda stands alone"},
      {"cuda:0,auto", 2, "auto stands alone"},
      {"cuda:0,cuda:1,cuda:0", 2, "cuda:0 is named twice"},
      {"cuda:1,cuda:01", 2, "cuda:1 is named twice"},
      {"cuda:2", 2, "there is no cuda:2; it takes cuda:0, cuda:1"},
      {"cuda:0,cuda:7", 1, "there is no cuda:7; it takes cuda:0"},
      {"cuda", 0, "no GPU is to be seen; it takes auto, cpu"},
      {"cuda:0", 0, "no GPU is to be seen"},
      {"cuda", -1, "this build has no CUDA; it takes auto, cpu"},
      {"cuda:0,cuda:1", -1, "this build has no CUDA"},
  };
  for (const auto& c : cases) {
    FlagValues flags;
    flags.device = c.device;
    const absl::Status status = CheckFlags(flags, kModels, 1, c.num_cuda_devices).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.device;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("--device=", c.device, ": ")));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
}

TEST(FlagsTest, ADTypeThatTheDeviceLacksIsRefusedWithWhatItHas) {
  FlagValues flags;
  flags.device = "cuda";
  flags.dtype = "int8";
  EXPECT_THAT(std::string(CheckFlags(flags, kModels, 1, 1).status().message()),
              HasSubstr("--dtype=int8: dtype int8 is not available on cuda: it has float32, bfloat16"));
}

TEST(FlagsTest, ModelsAreNamedByTheirFolderOrByHand) {
  const absl::StatusOr<ServerConfig> config =
      CheckFlags(FlagValues(), {"dir/one/", "two=dir/x=y", "./three/.", "A.b_c-9=/"}, 1);
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->models.size(), 4);
  EXPECT_EQ(config->models[0].name, "one");
  EXPECT_EQ(config->models[0].directory, "dir/one/");
  EXPECT_EQ(config->models[1].name, "two");
  EXPECT_EQ(config->models[1].directory, "dir/x=y");
  EXPECT_EQ(config->models[2].name, "three");
  EXPECT_EQ(config->models[3].name, "A.b_c-9");
}

TEST(FlagsTest, BadModels) {
  const struct {
    std::vector<std::string> models;
    const char* names;
  } cases[] = {
      {{}, "no model given"},
      {{"=dir"}, "=dir"},
      {{"name="}, "name="},
      {{""}, "names no directory"},
      {{"a b=dir"}, "'a b'"},
      {{"a/b=dir"}, "'a/b'"},
      {{std::string(65, 'n') + "=dir"}, "1 to 64"},
      {{"some dir/a b"}, "NAME="},
      {{"/"}, "NAME="},
      {{"unknown=dir"}, "unknown"},
      {{"x/unknown"}, "unknown"},
      {{"a/m", "b/m"}, "twice"},
      {{"m=a", "m=b"}, "twice"},
  };
  for (const auto& c : cases) {
    const absl::Status status = CheckFlags(FlagValues(), c.models, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.names;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.names));
  }
  EXPECT_TRUE(CheckFlags(FlagValues(), {std::string(64, 'n') + "=dir"}, 1).ok());
}

}  // namespace
}  // namespace lion
