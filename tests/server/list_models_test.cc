// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/list_models.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

TEST(ListModelsTest, EveryFieldIsFilled) {
  ServedModel first;
  first.name = "first";
  first.info = TestModelInfo();
  first.max_sequence_tokens = 512;
  ServedModel second = first;
  second.name = "second";
  second.info.classifies = false;
  second.info.labels.clear();
  second.info.pooling = Pooling::kCls;
  second.info.normalize = false;
  second.info.dtype = DType::kBFloat16;
  ServiceLimits limits;
  limits.max_inputs = 7;
  limits.max_request_tokens = limits.max_queue_tokens = int64_t{5} << 32;
  limits.max_message_bytes = 1 << 20;
  limits.max_queue_bytes = 3 << 20;
  limits.max_memory_bytes = int64_t{7} << 32;
  ConnectionLimits connections;
  connections.max_calls = 5;
  connections.max_idle = absl::Minutes(1);
  connections.max_age = absl::Milliseconds(1500);
  connections.max_age_grace = absl::Seconds(2);
  connections.max_memory_bytes = int64_t{1} << 33;
  connections.keepalive_interval = absl::Seconds(7);
  connections.min_ping_interval = absl::Seconds(3);

  const v1::ListModelsResponse response = ListModels({first, second}, limits, connections);
  ASSERT_EQ(response.models_size(), 2);
  const v1::ModelInfo& a = response.models(0);
  EXPECT_EQ(a.name(), "first");
  EXPECT_EQ(a.version(), "0123456789ab");
  EXPECT_EQ(a.variant(), "lion-s");
  EXPECT_EQ(a.input(), "text");
  EXPECT_EQ(a.embedding_dimensions(), 3);
  EXPECT_EQ(a.max_sequence_tokens(), 512);
  EXPECT_THAT(a.labels(), testing::ElementsAre("a", "b", "c"));
  EXPECT_TRUE(a.embeds());
  EXPECT_TRUE(a.classifies());
  EXPECT_EQ(a.dtype(), "float32");
  EXPECT_EQ(a.device(), "cpu");
  EXPECT_EQ(a.pooling(), v1::POOLING_MEAN);
  EXPECT_TRUE(a.normalize());
  EXPECT_EQ(a.chunk_tokens(), 32);
  EXPECT_EQ(a.parallel_max_tokens(), 8);
  EXPECT_EQ(a.max_inputs(), 7);
  EXPECT_EQ(a.max_request_tokens(), uint64_t{5} << 32);
  EXPECT_EQ(a.max_message_bytes(), 1 << 20);
  EXPECT_EQ(a.max_queue_tokens(), uint64_t{5} << 32);
  EXPECT_EQ(a.max_queue_bytes(), 3 << 20);
  EXPECT_EQ(a.max_memory_bytes(), uint64_t{7} << 32);
  const v1::ConnectionLimits& c = a.connection_limits();
  EXPECT_EQ(c.max_calls(), 5);
  EXPECT_EQ(c.max_idle().seconds(), 60);
  EXPECT_EQ(c.max_age().seconds(), 1);
  EXPECT_EQ(c.max_age().nanos(), 500000000);
  EXPECT_EQ(c.max_age_grace().seconds(), 2);
  EXPECT_EQ(c.max_memory_bytes(), uint64_t{1} << 33);
  EXPECT_EQ(c.keepalive_interval().seconds(), 7);
  EXPECT_EQ(c.min_ping_interval().seconds(), 3);
  const v1::ModelInfo& b = response.models(1);
  EXPECT_EQ(b.name(), "second");
  EXPECT_FALSE(b.classifies());
  EXPECT_EQ(b.labels_size(), 0);
  EXPECT_EQ(b.pooling(), v1::POOLING_CLS);
  EXPECT_FALSE(b.normalize());
  EXPECT_EQ(b.dtype(), "bfloat16");
  // Nothing that the proto has is left unset.
  const auto* descriptor = a.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->is_repeated()) continue;
    EXPECT_TRUE(a.GetReflection()->HasField(a, field)) << field->name();
  }
}

TEST(ListModelsTest, WhatHasNoLimitIsNotSet) {
  ServedModel model;
  model.info = TestModelInfo();
  const v1::ListModelsResponse response = ListModels({model}, ServiceLimits(), ConnectionLimits());
  const v1::ConnectionLimits& limits = response.models(0).connection_limits();
  EXPECT_FALSE(limits.has_max_idle());
  EXPECT_FALSE(limits.has_max_age());
  EXPECT_FALSE(limits.has_max_age_grace());
  EXPECT_EQ(limits.max_calls(), 4096);
}

}  // namespace
}  // namespace lion
