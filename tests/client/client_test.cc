// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/client.h"

#include <atomic>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/synchronization/notification.h"
#include "client/clock.h"
#include "client/service_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/fake_service.h"

namespace lion::client {
namespace {

using ::testing::HasSubstr;
using Health = grpc::health::v1::HealthCheckResponse;

v1::EmbedRequest OneText(const std::string& text) {
  v1::EmbedRequest request;
  request.add_inputs()->set_text(text);
  return request;
}

std::unique_ptr<Client> Connect(const FakeServer& server, ConnectOptions options = {}) {
  options.target = server.target();
  return Client::Create(options).value();
}

TEST(ClientTest, Embeds) {
  FakeService service;
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText("abc"));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->results(0).vectors(0).values(0), 3);
}

TEST(ClientTest, ServiceConfigIsJsonAndDocumentedWordForWord) {
  ASSERT_FALSE(nlohmann::json::parse(kServiceConfigJson, nullptr, false).is_discarded());
  std::ostringstream docs;
  docs << std::ifstream(LION_SOURCE_DIR "/docs/client.md").rdbuf();
  EXPECT_THAT(docs.str(), HasSubstr(kServiceConfigJson));
}

TEST(ClientTest, RetriesARefusalAfterTheServersPause) {
  FakeService service;
  service.before_call = [](int call, const auto&, grpc::ServerContext* context) {
    if (call >= 2) return grpc::Status::OK;
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "3");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  };
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText("abc"));
  EXPECT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(service.num_calls(), 3);
}

TEST(ClientTest, PushbackIsObeyedNotTheBackoff) {
  FakeService service;
  service.before_call = [](int call, const auto&, grpc::ServerContext* context) {
    if (call >= 1) return grpc::Status::OK;
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "1500");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  };
  FakeServer server(&service);
  const absl::Duration start = SteadyNow();
  EXPECT_TRUE(Connect(server)->Embed(OneText("abc")).ok());
  EXPECT_GE(SteadyNow() - start, absl::Milliseconds(1490));  // the config's own first backoff is 200 ms
}

TEST(ClientTest, NegativePushbackMeansNever) {
  FakeService service;
  service.before_call = [](int, const auto&, grpc::ServerContext* context) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "-1");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "can never fit");
  };
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText("abc"));
  EXPECT_TRUE(absl::IsResourceExhausted(response.status()));
  EXPECT_FALSE(MayRetry(response.status()));
  EXPECT_EQ(service.num_calls(), 1);
}

TEST(ClientTest, GivesUpAfterFourAttempts) {
  FakeService service;
  service.before_call = [](int, const auto&, grpc::ServerContext* context) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "1");
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  };
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText("abc"));
  EXPECT_TRUE(absl::IsUnavailable(response.status()));
  EXPECT_TRUE(MayRetry(response.status()));
  EXPECT_EQ(service.num_calls(), 4);
}

TEST(ClientTest, ALargeMessageIsRetriedToo) {
  FakeService service;
  service.before_call = [](int call, const auto&, grpc::ServerContext* context) {
    if (call >= 1) return grpc::Status::OK;
    context->AddTrailingMetadata("grpc-retry-pushback-ms", "1");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  };
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText(std::string(5 << 20, 'x')));
  EXPECT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(service.num_calls(), 2);
}

TEST(ClientTest, RetriesCanBeTurnedOff) {
  FakeService service;
  service.before_call = [](int, const auto&, grpc::ServerContext*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  };
  FakeServer server(&service);
  EXPECT_FALSE(Connect(server, {.retry = false})->Embed(OneText("abc")).ok());
  EXPECT_EQ(service.num_calls(), 1);
}

TEST(ClientTest, InvalidInputIsNotRetried) {
  FakeService service;
  FakeServer server(&service);
  const auto response = Connect(server)->Embed(OneText("bad"));
  EXPECT_TRUE(absl::IsInvalidArgument(response.status()));
  EXPECT_EQ(service.num_calls(), 1);
}

TEST(ClientTest, DeadlineEndsACall) {
  absl::Notification ended;
  FakeService service;
  service.before_call = [&](int, const auto&, grpc::ServerContext*) {
    ended.WaitForNotification();
    return grpc::Status::OK;
  };
  FakeServer server(&service);
  const auto response = Connect(server, {.deadline = absl::Milliseconds(50)})->Embed(OneText("abc"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(response.status())) << response.status();
  ended.Notify();
}

TEST(ClientTest, DestructionCancelsWhatIsInFlight) {
  absl::Notification started;
  absl::Notification ended;
  FakeService service;
  service.before_call = [&](int, const auto&, grpc::ServerContext*) {
    started.Notify();
    ended.WaitForNotification();
    return grpc::Status::OK;
  };
  FakeServer server(&service);
  const v1::EmbedRequest request = OneText("abc");
  v1::EmbedResponse response;
  absl::Status status;
  {
    std::unique_ptr<Client> client = Connect(server);
    client->EmbedAsync(&request, &response, [&](absl::Status s) { status = std::move(s); });
    started.WaitForNotification();
  }
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  ended.Notify();
}

TEST(ClientTest, SendsTheKey) {
  std::string seen;
  FakeService service;
  service.before_call = [&](int, const auto&, grpc::ServerContext* context) {
    const auto at = context->client_metadata().find("authorization");
    if (at != context->client_metadata().end()) seen.assign(at->second.data(), at->second.size());
    return grpc::Status::OK;
  };
  FakeServer server(&service);
  EXPECT_TRUE(Connect(server, {.api_key = "s3cret"})->Embed(OneText("abc")).ok());
  EXPECT_EQ(seen, "Bearer s3cret");
}

TEST(ClientTest, NoCallReachesAServerThatIsNotReady) {
  FakeService service;
  FakeServer server(&service);
  server.SetReady(false);
  std::unique_ptr<Client> client = Connect(server, {.deadline = absl::Milliseconds(300)});
  const auto response = client->Embed(OneText("abc"));
  EXPECT_FALSE(response.ok());
  EXPECT_EQ(service.num_calls(), 0);
  // Health, by a client that is in no haste.
  client = Connect(server);
  EXPECT_EQ(client->Health("").value(), Health::SERVING);
  EXPECT_EQ(client->Health("lion.v1.EncoderService").value(), Health::NOT_SERVING);
}

TEST(ClientTest, HealthOfAnUnknownServiceIsNotFound) {
  FakeService service;
  FakeServer server(&service);
  EXPECT_TRUE(absl::IsNotFound(Connect(server)->Health("nobody").status()));
}

TEST(ClientTest, NobodyListensIsUnavailable) {
  std::string target;
  {
    FakeService service;
    FakeServer server(&service);
    target = server.target();
  }
  const auto models = Client::Create({.target = target, .retry = false}).value()->ListModels();
  EXPECT_TRUE(absl::IsUnavailable(models.status())) << models.status();
}

TEST(ClientTest, OptionsThatMakeNoSense) {
  EXPECT_THAT(Client::Create({.target = ""}).status().message(), HasSubstr("target"));
  EXPECT_THAT(Client::Create({.deadline = absl::ZeroDuration()}).status().message(), HasSubstr("deadline"));
  EXPECT_THAT(Client::Create({.tls_cert = "a"}).status().message(), HasSubstr("tls_key"));
  EXPECT_THAT(Client::Create({.tls_ca = "/nowhere.pem"}).status().message(), HasSubstr("/nowhere.pem"));
}

}  // namespace
}  // namespace lion::client
