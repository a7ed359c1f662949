// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/http_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/server/test_server.h"

namespace lion {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

struct Answer {
  int code = 0;  // 0: the connection was closed without one
  std::string header;
  std::string body;
  json parsed() const { return json::parse(body, nullptr, /*allow_exceptions=*/false); }
};

// A connection to the server's HTTP port.
class Connection {
 public:
  explicit Connection(const std::string& address) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to = {};
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~Connection() { close(fd_); }

  // As much of it as the other side takes.
  void Send(const std::string& bytes) const {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<size_t>(n);
    }
  }

  // One answer with a Content-Length.
  Answer Receive() {
    Answer answer;
    size_t end = std::string::npos;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!More()) return answer;
    }
    answer.header = absl::AsciiStrToLower(buffer_.substr(0, end + 2));
    buffer_.erase(0, end + 4);
    EXPECT_TRUE(absl::SimpleAtoi(answer.header.substr(answer.header.find(' ') + 1, 3), &answer.code));
    size_t length = 0;
    const std::string field = "\r\ncontent-length: ";
    const size_t at = answer.header.find(field) + field.size();
    EXPECT_TRUE(absl::SimpleAtoi(answer.header.substr(at, answer.header.find('\r', at) - at), &length));
    while (buffer_.size() < length && More()) continue;
    answer.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
    return answer;
  }

  // Until the other side has closed.
  void WaitForClose() {
    while (More()) continue;
  }

 private:
  bool More() {
    char bytes[65536];
    const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
    if (n > 0) buffer_.append(bytes, static_cast<size_t>(n));
    return n > 0;
  }

  const int fd_;
  std::string buffer_;
};

std::string Message(const std::string& line, const std::string& body, const std::string& headers = "") {
  return absl::StrCat(line, " HTTP/1.1\r\nHost: localhost\r\n", headers, "Content-Length: ", body.size(), "\r\n\r\n",
                      body);
}

Server::Options HttpOptions() {
  Server::Options options = TestServerOptions();
  options.http_listen = "127.0.0.1:0";
  return options;
}

class HttpEndpointTest : public ::testing::Test {
 protected:
  void Start(Server::Options options = HttpOptions(), Encoder* encoder = nullptr) {
    server_ = std::make_unique<TestServer>(std::move(options), encoder);
    server_->Open();
  }
  const std::string& address() { return (*server_)->http_address(); }
  Answer Ask(const std::string& line, const std::string& body, const std::string& headers = "") {
    Connection connection(address());
    connection.Send(Message(line, body, headers));
    return connection.Receive();
  }
  Answer Embed(const json& body, const std::string& headers = "") {
    return Ask("POST /v1/embeddings", body.dump(), headers);
  }
  double Counted(const std::string& rpc, const std::string& model, const std::string& code) {
    return server_->Metric(
        absl::StrCat("lion_rpc_requests_total{rpc=\"", rpc, "\",model=\"", model, "\",code=\"", code, "\"}"));
  }

  PuppetEncoder encoder_{TestEncoderOptions()};  // of the tests that Start with it; outlives the server
  std::unique_ptr<TestServer> server_;
};

TEST_F(HttpEndpointTest, EmbedsAsGrpcDoes) {
  Start();
  const Answer answer = Embed({{"input", json::array({{1, 2, 3}, {4}})}, {"model", "text"}});
  ASSERT_EQ(answer.code, 200) << answer.body;
  EXPECT_THAT(answer.header, HasSubstr("\r\ncontent-type: application/json\r\n"));
  EXPECT_EQ(Counted("http.Embeddings", "text", "OK"), 1);  // before it was answered
  EXPECT_EQ(server_->Metric("lion_rpc_in_flight{rpc=\"http.Embeddings\"}"), 0);

  grpc::ClientContext context;
  v1::EmbedResponse same;
  ASSERT_TRUE(server_->stub()->Embed(&context, WithInputs({IdsInput({1, 2, 3}), IdsInput({4})}), &same).ok());
  const json body = answer.parsed();
  EXPECT_EQ(body["model"], "text");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 4);
  for (int i = 0; i < 2; ++i) {
    const auto& values = same.results(i).vectors(0).values();
    EXPECT_EQ(body["data"][i]["embedding"].get<std::vector<float>>(), std::vector<float>(values.begin(), values.end()));
  }

  const json base64 = Embed({{"input", {1, 2, 3}}, {"encoding_format", "base64"}}).parsed();
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(base64["data"][0]["embedding"].get<std::string>(), &bytes));
  EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(same.results(0).vectors(0).values().data()), 12));
  EXPECT_EQ(Embed({{"input", "a text"}, {"dimensions", 2}}).parsed()["data"][0]["embedding"].size(), 2);
}

TEST_F(HttpEndpointTest, Classifies) {
  Start();
  const Answer answer = Ask("POST /v1/classify", R"({"input": [[1, 2], [3]], "top_k": 2})");
  ASSERT_EQ(answer.code, 200) << answer.body;
  const json first = answer.parsed()["data"][0];
  EXPECT_EQ(first["scores"].size(), 2);
  EXPECT_EQ(first["label"], first["scores"][0]["label"]);
  EXPECT_GE(first["scores"][0]["score"], first["scores"][1]["score"]);
  EXPECT_EQ(Counted("http.Classify", "text", "OK"), 1);
}

TEST_F(HttpEndpointTest, ListsModels) {
  Start();
  EXPECT_EQ(Ask("GET /v1/models", "").parsed()["data"].size(), 2);
  EXPECT_EQ(Ask("GET /v1/models/ids", "").parsed()["id"], "ids");
  EXPECT_EQ(Ask("GET /v1/models/nobody", "").code, 404);
  EXPECT_EQ(Counted("http.Models", "unknown", "NOT_FOUND"), 1);
}

TEST_F(HttpEndpointTest, ErrorsHaveTheirCodes) {
  Start();
  const std::pair<json, int> cases[] = {
      {{{"input", json::array()}}, 400},
      {{{"input", {1001}}}, 400},
      {{{"input", std::vector<int>(65, 1)}}, 400},
      {{{"input", "x"}, {"dimensions", 4}}, 400},
      {{{"input", "x"}, {"model", "nobody"}}, 404},
      {{{"input", "x"}, {"model", "ids"}}, 400},  // has no tokenizer
      {{{"input", std::vector<std::string>(17, "x")}}, 400},
      {{{"input", json::array({{1}, {1001}})}}, 400},  // one bad row fails all
      {{{"input", {777}}}, 500},
      {{{"input", {666}}}, 500},
  };
  for (const auto& [body, code] : cases) {
    const Answer answer = Embed(body);
    EXPECT_EQ(answer.code, code) << body << ": " << answer.body;
    EXPECT_TRUE(answer.parsed()["error"]["message"].is_string()) << answer.body;
  }
  EXPECT_EQ(Embed({{"input", json::array({{1}, {1001}})}}).parsed()["error"]["param"], "input");
  EXPECT_EQ(Ask("POST /v1/embeddings", "{").code, 400);
  EXPECT_EQ(Ask("POST /v1/classify", R"({"input": [1], "model": "ids"})").code, 400);  // has no head
  EXPECT_EQ(Ask("POST /v1/chat/completions", "{}").code, 404);
  EXPECT_EQ(Ask("GET /", "").code, 404);
  const Answer get = Ask("GET /v1/embeddings", "");
  EXPECT_EQ(get.code, 405);
  EXPECT_THAT(get.header, HasSubstr("\r\nallow: post\r\n"));
  EXPECT_EQ(Ask("POST /v1/models", "{}").code, 405);
  // Of the calls each is counted, of paths that are none nothing.
  EXPECT_EQ(Counted("http.Embeddings", "text", "INVALID_ARGUMENT"), 6);
  EXPECT_EQ(Counted("http.Embeddings", "unknown", "INVALID_ARGUMENT"), 2);
  EXPECT_EQ(Counted("http.Embeddings", "text", "INTERNAL"), 2);
}

TEST_F(HttpEndpointTest, KeysAreAskedForBeforeTheBody) {
  Server::Options options = HttpOptions();
  // SHA-256 of "sesame".
  auto keys = ApiKeys::Parse("ann d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272");
  ASSERT_TRUE(keys.ok()) << keys.status();
  options.api_keys = *keys;
  Start(std::move(options));
  EXPECT_EQ(Embed({{"input", {1}}}, "Authorization: Bearer sesame\r\n").code, 200);
  const Answer refused = Embed({{"input", {1}}});
  EXPECT_EQ(refused.code, 401);
  EXPECT_EQ(refused.parsed()["error"]["code"], "invalid_api_key");
  EXPECT_THAT(refused.header, HasSubstr("\r\nwww-authenticate: bearer\r\n"));
  EXPECT_EQ(Ask("GET /v1/models", "", "Authorization: Bearer wrong\r\n").code, 401);
  EXPECT_EQ(Ask("GET /health", "").code, 200);
  EXPECT_EQ(server_->Metric("lion_rejected_total{reason=\"unauthenticated\"}"), 2);
  // A stranger's large body is not waited for.
  Connection stranger(address());
  stranger.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{");
  EXPECT_EQ(stranger.Receive().code, 401);
}

TEST_F(HttpEndpointTest, ABodyAboveTheLimitIsRefused) {
  Server::Options options = HttpOptions();
  options.limits.max_message_bytes = 1000;
  Start(std::move(options));
  const std::string body = absl::StrCat("{\"input\": \"", std::string(2000, 'x'), "\"}");
  const Answer told = Ask("POST /v1/embeddings", body);
  EXPECT_EQ(told.code, 413);
  EXPECT_THAT(told.body, HasSubstr("the limit is 1000 (--max_message_mib)"));
  Connection huge(address());
  huge.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n");
  EXPECT_THAT(huge.Receive().code, ::testing::AnyOf(0, 400, 413));  // libmicrohttpd's own word
  // Not told how long it is, and without end.
  Connection chunked(address());
  chunked.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  chunked.Send(absl::StrCat("800\r\n", std::string(2048, 'x'), "\r\n0\r\n\r\n"));
  EXPECT_EQ(chunked.Receive().code, 413);
  Connection endless(address());
  endless.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 1024; ++i) endless.Send(absl::StrCat("10000\r\n", std::string(65536, 'x'), "\r\n"));
  endless.WaitForClose();
  EXPECT_EQ(Counted("http.Embeddings", "unknown", "RESOURCE_EXHAUSTED"), 2);
}

TEST_F(HttpEndpointTest, AConnectionServesManyRequestsAndBodiesInPieces) {
  Start();
  Connection connection(address());
  for (int i = 1; i <= 3; ++i) {
    const std::string message = Message("POST /v1/embeddings", R"({"input": [1, 2, 3]})");
    for (char c : message) connection.Send(std::string(1, c));
    EXPECT_EQ(connection.Receive().code, 200);
    EXPECT_EQ(Counted("http.Embeddings", "text", "OK"), i);
  }
  connection.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  connection.Send("8\r\n{\"input\"\r\n");
  connection.Send("7\r\n: [1]}\n\r\n0\r\n\r\n");
  EXPECT_EQ(connection.Receive().code, 200);
  // Long enough to be read on another thread.
  connection.Send(Message("POST /v1/embeddings", json({{"input", std::string(200000, ' ')}}).dump()));
  EXPECT_EQ(connection.Receive().code, 200);
}

TEST_F(HttpEndpointTest, ManyAtATime) {
  Start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this] {
      Connection connection(address());
      for (int i = 0; i < 50; ++i) {
        connection.Send(Message("POST /v1/embeddings", R"({"input": [[1, 2], [3]]})"));
        ASSERT_EQ(connection.Receive().code, 200);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Counted("http.Embeddings", "text", "OK"), 400);
}

TEST_F(HttpEndpointTest, AFullQueueSaysWhenToComeBack) {
  Server::Options options = HttpOptions();
  options.limits.max_queue_tokens = options.limits.max_request_tokens = 64;
  Start(std::move(options), &encoder_);
  const json ids = std::vector<int>(60, 1);
  Connection running(address()), waiting(address());
  running.Send(Message("POST /v1/embeddings", json({{"input", ids}}).dump()));
  encoder_.WaitForBatch();
  waiting.Send(Message("POST /v1/embeddings", json({{"input", ids}}).dump()));
  server_->WaitForMetric("lion_queue_sequences{model=\"text\"}", 1);
  const Answer full = Embed({{"input", ids}});
  EXPECT_EQ(full.code, 429);
  EXPECT_THAT(full.header, HasSubstr("\r\nretry-after: "));
  EXPECT_THAT(full.header, HasSubstr("\r\nretry-after-ms: "));
  EXPECT_EQ(full.parsed()["error"]["type"], "rate_limit_error");
  encoder_.Release();
  EXPECT_EQ(running.Receive().code, 200);
  EXPECT_EQ(waiting.Receive().code, 200);
}

// Who has something waiting may not have the queue's last eighth: with keys that is a key, over however many
// connections.
TEST_F(HttpEndpointTest, CallersAreKeysElseConnections) {
  for (const bool keyed : {false, true}) {
    Server::Options options = HttpOptions();
    options.limits.max_queue_tokens = options.limits.max_request_tokens = 80;
    if (keyed) {
      // SHA-256 of "a" and of "b".
      auto keys = ApiKeys::Parse(
          "ann ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\n"
          "ben 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d");
      ASSERT_TRUE(keys.ok()) << keys.status();
      options.api_keys = *keys;
    }
    PuppetEncoder encoder(TestEncoderOptions());
    Start(std::move(options), &encoder);
    const auto message = [](int tokens, const char* key) {
      return Message("POST /v1/embeddings", json({{"input", std::vector<int>(tokens, 1)}}).dump(),
                     absl::StrCat("Authorization: Bearer ", key, "\r\n"));
    };
    Connection running(address()), waiting(address()), same_key(address()), other_key(address());
    running.Send(message(1, "a"));
    encoder.WaitForBatch();
    waiting.Send(message(60, "a"));
    server_->WaitForMetric("lion_queue_tokens{model=\"text\"}", 60);
    same_key.Send(message(12, "a"));
    if (keyed) {
      EXPECT_EQ(same_key.Receive().code, 429);
      other_key.Send(message(12, "b"));
    }
    server_->WaitForMetric("lion_queue_tokens{model=\"text\"}", 72);
    encoder.Release();
    EXPECT_EQ((keyed ? other_key : same_key).Receive().code, 200);
    server_.reset();
  }
}

TEST_F(HttpEndpointTest, ACallerWhoHasGoneIsCancelled) {
  Start(HttpOptions(), &encoder_);
  const std::string cancelled = "lion_rpc_requests_total{rpc=\"http.Embeddings\",model=\"text\",code=\"CANCELLED\"}";
  // When it is known that a caller has gone is the kernel's to say, so until one has been noticed in time.
  while (server_->Metric(cancelled) < 1) {
    {
      Connection leaves(address());
      leaves.Send(Message("POST /v1/embeddings", R"({"input": [2]})"));
      encoder_.WaitForBatch();
    }
    EXPECT_EQ(Ask("GET /health", "").code, 200);
    encoder_.Finish();
    server_->WaitForMetric("lion_rpc_in_flight{rpc=\"http.Embeddings\"}", 0);
  }
  encoder_.Release();
}

TEST_F(HttpEndpointTest, ADeadlineThatAHeaderTellsIsKept) {
  Start(HttpOptions(), &encoder_);
  Connection late(address());
  late.Send(Message("POST /v1/embeddings", R"({"input": [2]})", "X-Stainless-Read-Timeout: 0.05\r\n"));
  // On a slow day it has passed before a batch is made.
  while (encoder_.num_batches() == 0 && Counted("http.Embeddings", "text", "DEADLINE_EXCEEDED") < 1) {
    std::this_thread::yield();
  }
  const absl::Time passed = absl::Now() + absl::Milliseconds(50);
  while (absl::Now() < passed) std::this_thread::yield();
  encoder_.Release();
  const Answer answer = late.Receive();
  EXPECT_EQ(answer.code, 504);
  EXPECT_EQ(Counted("http.Embeddings", "text", "DEADLINE_EXCEEDED"), 1);
}

TEST_F(HttpEndpointTest, HealthFollowsTheServer) {
  server_ = std::make_unique<TestServer>(HttpOptions());
  EXPECT_EQ(Ask("GET /health", "").code, 503);
  EXPECT_EQ(Embed({{"input", {1}}}).code, 503);
  server_->Open();
  const Answer answer = Ask("GET /health", "");
  EXPECT_EQ(answer.code, 200);
  EXPECT_EQ(answer.parsed()["status"], "SERVING");
  EXPECT_EQ(Ask("POST /health", "").code, 405);
}

TEST_F(HttpEndpointTest, ADrainAnswersWhatIsInsideAndRefusesWhatComes) {
  Start(HttpOptions(), &encoder_);
  Connection inside(address()), comes(address()), idle(address()), half(address());
  half.Send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  inside.Send(Message("POST /v1/embeddings", R"({"input": [1]})"));
  encoder_.WaitForBatch();
  std::thread drain([this] { EXPECT_TRUE((*server_)->Drain(absl::Now())); });
  Answer refused;
  do {
    refused = Ask("GET /health", "");
  } while (refused.code == 200);
  EXPECT_EQ(refused.code, 503);
  do {
    comes.Send(Message("GET /v1/models", ""));
    refused = comes.Receive();
  } while (refused.code == 200);
  EXPECT_EQ(refused.code, 503);
  EXPECT_THAT(refused.header, HasSubstr("\r\nconnection: close\r\n"));
  encoder_.Release();
  EXPECT_EQ(inside.Receive().code, 200);
  drain.join();
  idle.WaitForClose();
  half.WaitForClose();
}

TEST_F(HttpEndpointTest, WhatADrainCutsIsTold) {
  Server::Options options = HttpOptions();
  options.drain_timeout = absl::Milliseconds(1);
  Start(std::move(options), &encoder_);
  Connection inside(address());
  inside.Send(Message("POST /v1/embeddings", R"({"input": [1]})"));
  encoder_.WaitForBatch();
  EXPECT_FALSE((*server_)->Drain(absl::Now()));
  EXPECT_EQ(inside.Receive().code, 503);
  EXPECT_EQ(server_->Metric("lion_dropped_total{reason=\"drain\"}"), 1);
  encoder_.Release();
}

TEST_F(HttpEndpointTest, MoreConnectionsThanTheLimitAreClosed) {
  Start();
  ServiceContext context;
  HttpEndpoint::Options options;
  options.listen = "127.0.0.1:0";
  options.serving = [] { return true; };
  options.max_connections = 3;
  auto endpoint = HttpEndpoint::Create(&context, std::move(options));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string there = absl::StrCat("127.0.0.1:", (*endpoint)->port());
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < 3; ++i) {
    connections.push_back(std::make_unique<Connection>(there));
    connections.back()->Send(Message("GET /health", ""));
    EXPECT_EQ(connections.back()->Receive().code, 200);
  }
  Connection more(there);
  more.Send(Message("GET /health", ""));
  // libmicrohttpd leaves it in the kernel's queue until there is room, or closes it.
  connections.clear();
  EXPECT_THAT(more.Receive().code, ::testing::AnyOf(0, 200));
}

TEST_F(HttpEndpointTest, WhatIsNoHttpEndsItsConnectionAlone) {
  Start();
  for (const char* nonsense : {"\r\n\r\n\r\n", "hello\r\n\r\n", "POST\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01"}) {
    Connection connection(address());
    connection.Send(nonsense);
  }
  EXPECT_EQ(Embed({{"input", {1}}}).code, 200);
}

TEST(HttpEndpointCreateTest, NamesWhatItCannotListenOn) {
  ServiceContext context;
  HttpEndpoint::Options options;
  options.listen = "nowhere";
  EXPECT_THAT(HttpEndpoint::Create(&context, options).status().message(), HasSubstr("http address 'nowhere'"));
  options.listen = "127.0.0.1:0";
  auto first = HttpEndpoint::Create(&context, options);
  ASSERT_TRUE(first.ok());
  options.listen = absl::StrCat("127.0.0.1:", (*first)->port());
  const absl::Status taken = HttpEndpoint::Create(&context, options).status();
  EXPECT_TRUE(absl::IsUnavailable(taken)) << taken;
  EXPECT_THAT(taken.message(), HasSubstr(options.listen));
}

}  // namespace
}  // namespace lion
