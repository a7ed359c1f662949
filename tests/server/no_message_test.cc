// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Calls whose message never comes, from the wire's side.

#include "server/no_message.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

// One of each way to a reactor.
const std::vector<std::string> kRpcs = {"Embed", "ListModels", "EmbedDocument"};

std::string Requests(const std::string& rpc, const char* code) {
  return absl::StrCat("lion_rpc_requests_total{rpc=\"", rpc, "\",model=\"unknown\",code=\"", code, "\"}");
}

// A call of which the server has the headers and nothing else.
class HeadersOnly {
 public:
  HeadersOnly(const TestServer& server, const std::string& rpc) : stub_(server.channel()) {
    call_ = stub_.PrepareCall(&context_, absl::StrCat("/lion.v1.EncoderService/", rpc), &queue_);
    call_->StartCall(&queue_);
    Next();
    // What the connection carries next has been answered, so the server has seen what it carried before.
    server.Health("");
  }

  ~HeadersOnly() {
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void Cancel() { context_.TryCancel(); }
  void CloseWrites() {
    call_->WritesDone(&queue_);
    Next();
  }
  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, &queue_);
    Next();
    return status;
  }

 private:
  void Next() {
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue_.Next(&tag, &ok));
  }

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

void ExpectNobodyInside(const TestServer& server) {
  for (const std::string& rpc : kRpcs) {
    server.WaitForMetric(absl::StrCat("lion_rpc_in_flight{rpc=\"", rpc, "\"}"), 0);
  }
}

TEST(NoMessageTest, ACallerThatEndsWithoutAMessageIsToldSo) {
  TestServer server;
  server.Open();
  for (const std::string& rpc : kRpcs) {
    HeadersOnly call(server, rpc);
    call.CloseWrites();
    const grpc::Status status = call.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << rpc;
    EXPECT_EQ(status.error_message(), "request: the call carries no message");
    server.WaitForMetric(Requests(rpc, "INVALID_ARGUMENT"), 1);
    EXPECT_EQ(server.Metric(Requests(rpc, "CANCELLED")), -1);
  }
  ExpectNobodyInside(server);
}

TEST(NoMessageTest, ACallerThatGoesBeforeItsMessageHasCancelled) {
  TestServer server;
  server.Open();
  for (const std::string& rpc : kRpcs) {
    HeadersOnly call(server, rpc);
    call.Cancel();
    EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
    server.WaitForMetric(Requests(rpc, "CANCELLED"), 1);
    EXPECT_EQ(server.Metric(Requests(rpc, "INVALID_ARGUMENT")), -1) << rpc;
  }
  ExpectNobodyInside(server);
}

TEST(NoMessageTest, ACallerWithoutAKeyHearsOfThatAlone) {
  Server::Options options = TestServerOptions();
  options.api_keys = *ApiKeys::Parse(absl::StrCat("alice ", std::string(64, '0')));
  TestServer server(options);
  server.Open();
  HeadersOnly call(server, "EmbedDocument");
  call.CloseWrites();
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  server.WaitForMetric(Requests("EmbedDocument", "UNAUTHENTICATED"), 1);
}

}  // namespace
}  // namespace lion
