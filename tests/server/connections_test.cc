// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/connections.h"

#include <sys/resource.h>

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

TEST(ConnectionsTest, OpenFilesAreRaisedToTheHardLimit) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(RaiseOpenFiles(), static_cast<int64_t>(before.rlim_max));
  rlimit after = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

// Three streams where two may run: the third waits in its client until one ends.
TEST(ConnectionsTest, CallsAtOnceOnAConnection) {
  Server::Options options = TestServerOptions();
  options.connections.max_calls = 2;
  TestServer server(options);
  server.Open();
  using Stream = grpc::ClientReaderWriter<v1::EmbedRequest, v1::EmbedResponse>;
  grpc::ClientContext contexts[2];
  std::vector<std::unique_ptr<Stream>> streams;
  for (grpc::ClientContext& context : contexts) {
    streams.push_back(server.stub()->EmbedStream(&context));
    v1::EmbedResponse response;
    ASSERT_TRUE(streams.back()->Write(EmbedIds({1})));
    ASSERT_TRUE(streams.back()->Read(&response));
  }
  grpc::ClientContext waits;
  waits.set_deadline(absl::ToChronoTime(Clock::Real()->Now() + absl::Milliseconds(50)));
  v1::EmbedResponse response;
  EXPECT_EQ(server.stub()->Embed(&waits, EmbedIds({1}), &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(server.Metric("lion_rpc_requests_total{rpc=\"Embed\",model=\"text\",code=\"OK\"}"), -1)
      << "it came through";
  ASSERT_TRUE(streams[0]->WritesDone());
  EXPECT_TRUE(streams[0]->Finish().ok());
  grpc::ClientContext has_room;
  EXPECT_TRUE(server.stub()->Embed(&has_room, EmbedIds({1}), &response).ok());
  streams[1]->WritesDone();
  EXPECT_TRUE(streams[1]->Finish().ok());
}

// A connection that is asked to end lets its stream finish, and its client opens another.
TEST(ConnectionsTest, AnOldConnectionEndsWithoutALostCall) {
  Server::Options options = TestServerOptions();
  options.connections.max_age = absl::Milliseconds(20);
  TestServer server(options);
  server.Open();
  grpc::ClientContext context;
  auto stream = server.stub()->EmbedStream(&context);
  v1::EmbedResponse response;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(stream->Write(EmbedIds({1}))) << i;
    ASSERT_TRUE(stream->Read(&response)) << i;
  }
  ASSERT_TRUE(stream->WritesDone());
  EXPECT_TRUE(stream->Finish().ok());
}

// The limit is gRPC's: a message that it has no memory for costs its call, and the others go on.
TEST(ConnectionsTest, MemoryForMessages) {
  Server::Options options = TestServerOptions();
  options.connections.max_memory_bytes = 1 << 20;
  TestServer small(options);
  TestServer large;
  small.Open();
  large.Open();
  const auto code = [](const TestServer& server, const v1::EmbedRequest& request) {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    return server.stub()->Embed(&context, request, &response).error_code();
  };
  v1::EmbedRequest request;
  request.set_model(std::string(16 << 20, 'm'));  // far more than small may hold, and nothing to compute
  for (int i = 0; i < 3; ++i) EXPECT_EQ(code(large, request), grpc::StatusCode::NOT_FOUND);
  // Both come to pass soon, and not at once: gRPC looks for memory beside the reading, and gives back what it held.
  while (code(small, request) != grpc::StatusCode::RESOURCE_EXHAUSTED) {
  }
  while (code(small, EmbedIds({1})) != grpc::StatusCode::OK) {
  }
}

}  // namespace
}  // namespace lion
