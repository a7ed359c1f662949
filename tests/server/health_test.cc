// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/health.h"

#include <memory>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

namespace pb = grpc::health::v1;
using Status = pb::HealthCheckResponse;

class HealthTest : public testing::Test {
 protected:
  HealthTest() : health_("named") {
    grpc::ServerBuilder builder;
    builder.RegisterService(health_.service());
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    server_ = builder.BuildAndStart();
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
    stub_ = pb::Health::NewStub(channel_);
  }
  ~HealthTest() override {
    health_.EndWatches();
    server_->Shutdown();
  }

  grpc::Status Check(const std::string& service, Status::ServingStatus* status) {
    grpc::ClientContext context;
    pb::HealthCheckRequest request;
    request.set_service(service);
    Status response;
    const grpc::Status result = stub_->Check(&context, request, &response);
    *status = response.status();
    return result;
  }

  std::unique_ptr<grpc::ClientReader<Status>> Watch(grpc::ClientContext* context, const std::string& service) {
    pb::HealthCheckRequest request;
    request.set_service(service);
    return stub_->Watch(context, request);
  }

  HealthService health_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Health::Stub> stub_;
};

TEST_F(HealthTest, CheckKnowsTheProcessAndTheNamedService) {
  Status::ServingStatus status;
  ASSERT_TRUE(Check("", &status).ok());
  EXPECT_EQ(status, Status::SERVING);
  ASSERT_TRUE(Check("named", &status).ok());
  EXPECT_EQ(status, Status::NOT_SERVING);
  health_.SetServing(true);
  ASSERT_TRUE(Check("named", &status).ok());
  EXPECT_EQ(status, Status::SERVING);
  health_.SetServing(false);
  ASSERT_TRUE(Check("named", &status).ok());
  EXPECT_EQ(status, Status::NOT_SERVING);
  ASSERT_TRUE(Check("", &status).ok());
  EXPECT_EQ(status, Status::SERVING);
  EXPECT_EQ(Check("lamb", &status).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(HealthTest, GarbageIsInvalid) {
  const grpc::internal::RpcMethod rpc("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC, channel_);
  grpc::ClientContext context;
  grpc::Slice slice("\xff");
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  EXPECT_EQ(grpc::internal::BlockingUnaryCall(channel_.get(), rpc, &context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(HealthTest, WatchTellsEveryChangeOfItsService) {
  grpc::ClientContext named_context, process_context, unknown_context;
  const auto named = Watch(&named_context, "named");
  const auto process = Watch(&process_context, "");
  const auto unknown = Watch(&unknown_context, "lamb");
  Status status;
  ASSERT_TRUE(named->Read(&status));
  EXPECT_EQ(status.status(), Status::NOT_SERVING);
  ASSERT_TRUE(process->Read(&status));
  EXPECT_EQ(status.status(), Status::SERVING);
  ASSERT_TRUE(unknown->Read(&status));
  EXPECT_EQ(status.status(), Status::SERVICE_UNKNOWN);
  health_.SetServing(true);
  ASSERT_TRUE(named->Read(&status));
  EXPECT_EQ(status.status(), Status::SERVING);
  health_.SetServing(true);  // no change
  health_.SetServing(false);
  ASSERT_TRUE(named->Read(&status));
  EXPECT_EQ(status.status(), Status::NOT_SERVING);

  health_.EndWatches();
  EXPECT_FALSE(named->Read(&status));
  EXPECT_EQ(named->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(process->Read(&status));
  EXPECT_EQ(process->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(unknown->Read(&status));
  EXPECT_EQ(unknown->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  // And who comes now is told the same at once.
  grpc::ClientContext late_context;
  const auto late = Watch(&late_context, "named");
  EXPECT_FALSE(late->Read(&status));
  EXPECT_EQ(late->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(HealthTest, AWatcherThatGoesAwayIsForgotten) {
  Status status;
  {
    grpc::ClientContext context;
    const auto watch = Watch(&context, "named");
    ASSERT_TRUE(watch->Read(&status));
    context.TryCancel();
    EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  health_.SetServing(true);
  Status::ServingStatus now;
  ASSERT_TRUE(Check("named", &now).ok());
  EXPECT_EQ(now, Status::SERVING);
}

}  // namespace
}  // namespace lion
