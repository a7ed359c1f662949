// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_SERVER_TEST_SERVER_H_
#define LION_TESTS_SERVER_TEST_SERVER_H_

// A whole Server on a free port of 127.0.0.1 around fake models, and what a caller needs to speak to it.
//
//   TestServer server;                                  // "text" with a tokenizer, "ids" without one and without a
//   head server.Open(); grpc::ClientContext context; v1::EmbedResponse response;
//   EXPECT_TRUE(server.stub()->Embed(&context, EmbedIds({1, 2, 3}), &response).ok());
//   EXPECT_EQ(server.Metric("lion_rpc_requests_total{rpc=\"Embed\",model=\"text\",code=\"OK\"}"), 1);

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "grpcpp/impl/rpc_method.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/byte_buffer.h"
#include "gtest/gtest.h"
#include "lion/v1/encoder.grpc.pb.h"
#include "server/server.h"
#include "tests/fakes/fake_encoder.h"

namespace lion {

inline v1::Input IdsInput(const std::vector<uint32_t>& ids, const std::vector<uint32_t>& type_ids = {}) {
  v1::Input input;
  input.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  input.mutable_token_ids()->mutable_type_ids()->Add(type_ids.begin(), type_ids.end());
  return input;
}

inline v1::Input TextInput(const std::string& text) {
  v1::Input input;
  input.set_text(text);
  return input;
}

template <typename Request = v1::EmbedRequest>
Request WithInputs(const std::vector<v1::Input>& inputs, const std::string& model = "") {
  Request request;
  request.set_model(model);
  for (const v1::Input& input : inputs) *request.add_inputs() = input;
  return request;
}

inline v1::EmbedRequest EmbedIds(const std::vector<uint32_t>& ids) { return WithInputs({IdsInput(ids)}); }

inline grpc::ByteBuffer ToBytes(const std::string& text) {
  grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

// The tokenizer of tests/model/testdata.
inline std::unique_ptr<Tokenizer> OpenTestTokenizer() {
  auto tokenizer = Tokenizer::Open(LION_SOURCE_DIR "/tests/model/testdata/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// What the fake models say of themselves: E = 4, W = 3, 1,000 ids, 2 types, 3 labels, a crossover of 8 tokens.
inline ModelInfo TestModelInfo() {
  ModelInfo info;
  info.version = "0123456789ab";
  info.variant = Variant::kS;
  info.variant_name = "lion-s";
  info.hidden_width = 4;
  info.embedding_width = 3;
  info.vocab_size = 1000;
  info.type_vocab_size = 2;
  info.classifies = true;
  info.labels = {"a", "b", "c"};
  info.normalize = true;
  info.chunk_tokens = 32;
  info.parallel_max_tokens = 8;
  return info;
}

inline FakeEncoder::Options TestEncoderOptions() {
  FakeEncoder::Options options;
  options.hidden_width = 4;
  options.embedding_width = 3;
  options.num_labels = 3;
  options.nan_id = 666;
  options.fail_id = 777;
  return options;
}

inline Server::Options TestServerOptions() {
  Server::Options options;
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "127.0.0.1:0";
  options.limits.max_inputs = 16;
  options.refusal_time = absl::ZeroDuration();
  return options;
}

// Passes a moment on the processor. For calls that are cancelled at any moment; yields would take minutes on a busy
// machine, where each is a turn of everybody else.
inline void Spin(int turns) {
  std::atomic<int> turn = 0;
  while (turn.fetch_add(1, std::memory_order_relaxed) < turns) {
  }
}

class TestServer {
 public:
  // encoder runs every model; null = a FakeEncoder of our own. It must outlive the server, and hold nothing when that
  // is destroyed.
  explicit TestServer(Server::Options options = TestServerOptions(), Encoder* encoder = nullptr)
      : TestServer(std::move(options), encoder == nullptr ? std::vector<Encoder*>() : std::vector<Encoder*>{encoder}) {}

  // The same with several devices, fake:0, fake:1, ...; none = a FakeEncoder of our own on the cpu.
  TestServer(Server::Options options, std::vector<Encoder*> encoders, int64_t max_batch_tokens = kMaxBatchTokensCpu)
      : own_encoder_(TestEncoderOptions()), tokenizer_(OpenTestTokenizer()) {
    ServedModel text;
    text.name = "text";
    text.info = TestModelInfo();
    text.tokenizer = tokenizer_.get();
    text.info.max_batch_tokens = max_batch_tokens;
    text.encoders = std::move(encoders);
    if (text.encoders.empty()) text.encoders = {&own_encoder_};
    if (text.encoders.size() > 1) {
      text.info.devices.clear();
      for (size_t i = 0; i < text.encoders.size(); ++i) text.info.devices.push_back(absl::StrCat("fake:", i));
      text.info.device = absl::StrJoin(text.info.devices, ",");
    }
    text.max_sequence_tokens = 64;
    ServedModel ids = text;
    ids.name = "ids";
    ids.tokenizer = nullptr;
    ids.info.classifies = false;
    ids.info.labels.clear();
    ids.info.normalize = false;
    ids.max_sequence_tokens = 100000;
    auto server = Server::Create(std::move(options), {text, ids});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = NewChannel();
    stub_ = v1::EncoderService::NewStub(channel_);
    health_ = grpc::health::v1::Health::NewStub(channel_);
  }

  void Open() { server_->Open(); }
  Server* operator->() { return server_.get(); }
  // Destroys the server; stubs stay.
  void Destroy() { server_.reset(); }

  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments);
  }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  v1::EncoderService::Stub* stub() const { return stub_.get(); }

  // Bytes for bytes, for what no stub would send.
  grpc::Status RawUnary(const char* method, const std::string& request) const {
    const std::string path = absl::StrCat("/lion.v1.EncoderService/", method);
    const grpc::internal::RpcMethod rpc(path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC, channel_);
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    return grpc::internal::BlockingUnaryCall(channel_.get(), rpc, &context, ToBytes(request), &response);
  }

  // "SERVING", "NOT_SERVING", or the error's message.
  std::string Health(const std::string& service) const {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    grpc::health::v1::HealthCheckResponse response;
    request.set_service(service);
    const grpc::Status status = health_->Check(&context, request, &response);
    if (!status.ok()) return status.error_message();
    return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
  }
  grpc::health::v1::Health::Stub* health() const { return health_.get(); }

  // The value of one sample, its name and labels in any order of labels: name{a="x",b="y"}. -1 if there is none.
  double Metric(const std::string& sample) const {
    const std::string wanted = Canonical(sample);
    for (absl::string_view line : absl::StrSplit(server_->metrics()->Text(), '\n')) {
      if (line.empty() || line[0] == '#') continue;
      const size_t space = line.rfind(' ');
      if (Canonical(line.substr(0, space)) != wanted) continue;
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << std::string(line);
      return value;
    }
    return -1;
  }

  // Until the metric has that value: for what happens soon after, and on another thread than, what the test did.
  void WaitForMetric(const std::string& sample, double value) const {
    while (Metric(sample) != value) std::this_thread::yield();
  }

 private:
  static std::string Canonical(absl::string_view sample) {
    const size_t brace = sample.find('{');
    if (brace == absl::string_view::npos) return std::string(sample);
    std::vector<std::string> labels = absl::StrSplit(sample.substr(brace + 1, sample.size() - brace - 2), ',');
    std::sort(labels.begin(), labels.end());
    return absl::StrCat(sample.substr(0, brace), "{", absl::StrJoin(labels, ","), "}");
  }

  FakeEncoder own_encoder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::EncoderService::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

}  // namespace lion

#endif  // LION_TESTS_SERVER_TEST_SERVER_H_
