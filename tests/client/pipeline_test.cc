// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/pipeline.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_service.h"

namespace lion::client {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

v1::Input Text(std::string text) {
  v1::Input input;
  input.set_text(std::move(text));
  return input;
}

// Full batches leave; others only at the end. Pauses are too short to be noticed.
PipelineOptions Quick(int batch_size, int max_in_flight) {
  PipelineOptions options;
  options.batch_size = batch_size;
  options.max_in_flight = max_in_flight;
  options.max_wait = absl::InfiniteDuration();
  options.initial_backoff = absl::Milliseconds(1);
  return options;
}

struct Seen {
  int64_t index;
  std::string source;
  absl::Status status;
  float size;  // of the text, as the fake says
};

class PipelineTest : public ::testing::Test {
 protected:
  void Start() {
    server_ = std::make_unique<FakeServer>(&service_);
    client_ = Client::Create({.target = server_->target()}).value();
  }
  std::unique_ptr<Pipeline<EmbedRpc>> MakePipeline(const PipelineOptions& options) {
    return std::make_unique<Pipeline<EmbedRpc>>(client_.get(), v1::EmbedRequest(), options, [this](const auto& row) {
      EXPECT_EQ(row.result != nullptr, row.status.ok());
      seen_.push_back({row.index, row.source, row.status, row.status.ok() ? row.result->vectors(0).values(0) : -1});
      return true;
    });
  }
  void ExpectSizes(const std::vector<float>& sizes) {
    ASSERT_EQ(seen_.size(), sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(seen_[i].index, i);
      EXPECT_EQ(seen_[i].size, sizes[i]) << "row " << i;
    }
  }

  FakeService service_;
  std::unique_ptr<FakeServer> server_;
  std::unique_ptr<Client> client_;
  std::vector<Seen> seen_;
};

TEST_F(PipelineTest, ResultsComeInTheOrderOfInputsWhateverTheOrderOfAnswers) {
  // Calls are answered last first: each waits for the one after it, as long as there is one in flight.
  std::vector<absl::Notification> arrived(4);
  service_.before_call = [&](int, const auto& inputs, grpc::ServerContext*) {
    const size_t batch = (inputs[0].text().size() - 1) / 3;
    arrived[batch].Notify();
    if (batch < 3) arrived[batch + 1].WaitForNotification();
    return grpc::Status::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(3, 4));
  std::vector<float> sizes;
  for (int i = 1; i <= 11; ++i) {
    ASSERT_TRUE(pipeline->Add(Text(std::string(static_cast<size_t>(i), 'x')), absl::StrCat("line ", i)));
    sizes.push_back(static_cast<float>(i));
  }
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes(sizes);
  EXPECT_EQ(seen_[10].source, "line 11");
}

TEST_F(PipelineTest, SeveralCallsAreInFlight) {
  auto* all_four = new absl::Barrier(4);
  service_.before_call = [&](int, const auto&, grpc::ServerContext*) {
    if (all_four->Block()) delete all_four;  // for ever, were they sent one by one
    return grpc::Status::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(1, 4));
  for (int i = 0; i < 4; ++i) pipeline->Add(Text("x"), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, 1, 1, 1});
}

TEST_F(PipelineTest, NeverMoreCallsInFlightThanAllowed) {
  Start();
  auto pipeline = MakePipeline(Quick(2, 3));
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(pipeline->Add(Text("x"), ""));
  EXPECT_TRUE(pipeline->Finish().ok());
  EXPECT_EQ(seen_.size(), 500);
  EXPECT_LE(service_.max_concurrent(), 3);
  EXPECT_THAT(service_.call_sizes(), Each(2));
}

TEST_F(PipelineTest, NoRowsNoCalls) {
  Start();
  EXPECT_TRUE(MakePipeline(Quick(4, 2))->Finish().ok());
  EXPECT_EQ(service_.num_calls(), 0);
}

TEST_F(PipelineTest, BytesBoundABatch) {
  Start();
  PipelineOptions options = Quick(100, 2);
  options.max_batch_bytes = 1000;
  auto pipeline = MakePipeline(options);
  for (const int size : {300, 300, 300, 300, 5000, 10})
    pipeline->Add(Text(std::string(static_cast<size_t>(size), 'x')), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({300, 300, 300, 300, 5000, 10});
  std::vector<int> call_sizes = service_.call_sizes();
  std::sort(call_sizes.begin(), call_sizes.end());
  EXPECT_THAT(call_sizes, ElementsAre(1, 1, 1, 3));
}

TEST_F(PipelineTest, APartialBatchLeavesByItselfOnceItHasWaited) {
  Start();
  PipelineOptions options = Quick(64, 1);
  options.max_wait = absl::Milliseconds(1);
  absl::Notification emitted;
  Pipeline<EmbedRpc> pipeline(client_.get(), v1::EmbedRequest(), options, [&](const auto&) {
    emitted.Notify();
    return true;
  });
  pipeline.Add(Text("one line of somebody typing"), "");
  emitted.WaitForNotification();  // before Finish
  EXPECT_TRUE(pipeline.Finish().ok());
}

TEST_F(PipelineTest, RefusedRowsAreSentAgainAlone) {
  service_.before_row = [](int call, const v1::Input& input) {
    return call < 2 && input.text() == "busy" ? grpc::StatusCode::RESOURCE_EXHAUSTED : grpc::StatusCode::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(3, 1));
  for (const char* text : {"a", "busy", "ccc"}) pipeline->Add(Text(text), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, 4, 3});
  // Alone in its second call, it is all of that call, which gRPC then retries by itself.
  EXPECT_THAT(service_.call_sizes(), ElementsAre(3, 1, 1));
}

TEST_F(PipelineTest, ARowIsNotSentForEver) {
  service_.before_row = [](int, const v1::Input& input) {
    return input.text().size() == 4 ? grpc::StatusCode::UNAVAILABLE : grpc::StatusCode::OK;
  };
  Start();
  PipelineOptions options = Quick(2, 1);
  options.max_attempts = 1;
  auto pipeline = MakePipeline(options);
  pipeline->Add(Text("a"), "");
  pipeline->Add(Text("lost"), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, -1});
  EXPECT_TRUE(absl::IsUnavailable(seen_[1].status));
  EXPECT_EQ(seen_[1].status.message(), "no good: lost");
}

TEST_F(PipelineTest, ABadRowFailsAlone) {
  Start();
  auto pipeline = MakePipeline(Quick(3, 1));
  for (const char* text : {"a", "bad one", "ccc"}) pipeline->Add(Text(text), text);
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, -1, 3});
  EXPECT_EQ(seen_[1].status, absl::InvalidArgumentError("no good: bad one"));
  EXPECT_EQ(seen_[1].source, "bad one");
}

TEST_F(PipelineTest, WhereAllRowsAreBadEachHasItsOwnReason) {
  Start();
  auto pipeline = MakePipeline(Quick(3, 2));
  for (const char* text : {"bad a", "bad b", "bad c", "fine"}) pipeline->Add(Text(text), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({-1, -1, -1, 4});
  EXPECT_EQ(seen_[0].status.message(), "no good: bad a");
  EXPECT_EQ(seen_[1].status.message(), "no good: bad b");
  EXPECT_EQ(seen_[2].status.message(), "no good: bad c");
}

TEST_F(PipelineTest, RowsThatCouldNotBeReadKeepTheirPlace) {
  Start();
  auto pipeline = MakePipeline(Quick(2, 2));
  pipeline->Add(Text("a"), "");
  pipeline->AddFailed(absl::InvalidArgumentError("is not JSON"), "x.jsonl:2");
  pipeline->AddFailed(absl::InvalidArgumentError("is not JSON"), "x.jsonl:3");
  pipeline->AddFailed(absl::InvalidArgumentError("is not JSON"), "x.jsonl:4");
  pipeline->Add(Text("bb"), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, -1, -1, -1, 2});
  EXPECT_EQ(seen_[2].source, "x.jsonl:3");
}

TEST_F(PipelineTest, ACallThatFailsForGoodStopsEverything) {
  service_.before_call = [](int, const auto& inputs, grpc::ServerContext*) {
    return inputs[0].text() == "stop" ? grpc::Status(grpc::StatusCode::NOT_FOUND, "no such model") : grpc::Status::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(1, 1));
  EXPECT_TRUE(pipeline->Add(Text("a"), ""));
  EXPECT_TRUE(pipeline->Add(Text("bb"), ""));
  pipeline->Add(Text("stop"), "");
  int accepted = 0;
  while (pipeline->Add(Text("never"), "") && ++accepted < 1000) {
  }
  EXPECT_LT(accepted, 10);
  EXPECT_EQ(pipeline->Finish(), absl::NotFoundError("no such model"));
  ExpectSizes({1, 2});
}

TEST_F(PipelineTest, ADeadlineFailsItsRowsOnly) {
  service_.before_call = [](int, const auto& inputs, grpc::ServerContext*) {
    return inputs[0].text() == "slow" ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "too slow")
                                      : grpc::Status::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(1, 2));
  for (const char* text : {"a", "slow", "ccc"}) pipeline->Add(Text(text), "");
  EXPECT_TRUE(pipeline->Finish().ok());
  ExpectSizes({1, -1, 3});
}

TEST_F(PipelineTest, EmitMayStopIt) {
  Start();
  int emitted = 0;
  Pipeline<EmbedRpc> pipeline(client_.get(), v1::EmbedRequest(), Quick(1, 1),
                              [&](const auto&) { return ++emitted < 3; });
  for (int i = 0; i < 100 && pipeline.Add(Text("x"), ""); ++i) {
  }
  EXPECT_TRUE(absl::IsCancelled(pipeline.Finish()));
  EXPECT_EQ(emitted, 3);
}

TEST_F(PipelineTest, DestructionWithCallsInFlight) {
  absl::Notification started;
  absl::Notification ended;
  service_.before_call = [&](int call, const auto&, grpc::ServerContext*) {
    if (call == 0) started.Notify();
    ended.WaitForNotification();
    return grpc::Status::OK;
  };
  Start();
  auto pipeline = MakePipeline(Quick(1, 2));
  pipeline->Add(Text("a"), "");
  pipeline->Add(Text("b"), "");
  started.WaitForNotification();
  pipeline.reset();
  EXPECT_TRUE(seen_.empty());
  ended.Notify();
  server_.reset();  // its handlers use the notifications
}

TEST_F(PipelineTest, ClassifiesAndTokenizesToo) {
  Start();
  std::string label;
  Pipeline<ClassifyRpc> classify(client_.get(), v1::ClassifyRequest(), Quick(2, 1), [&](const auto& row) {
    label = row.result->scores(0).label();
    return true;
  });
  classify.Add(Text("abc"), "");
  EXPECT_TRUE(classify.Finish().ok());
  EXPECT_EQ(label, "long, or not");

  int num_ids = 0;
  Pipeline<TokenizeRpc> tokenize(client_.get(), v1::TokenizeRequest(), Quick(2, 1), [&](const auto& row) {
    num_ids = row.result->ids_size();
    return true;
  });
  tokenize.Add(Text("abc"), "");
  EXPECT_TRUE(tokenize.Finish().ok());
  EXPECT_EQ(num_ids, 3);
}

}  // namespace
}  // namespace lion::client
