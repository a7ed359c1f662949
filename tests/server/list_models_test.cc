// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/list_models.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/message.h"
#include "gtest/gtest.h"
#include "model/image_input/preprocessor.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

// Says each field of message that is left unset, but for repeated ones and those named.
void ExpectAllSet(const google::protobuf::Message& message, const std::vector<std::string>& but = {}) {
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->is_repeated() || std::count(but.begin(), but.end(), field->name()) > 0) continue;
    EXPECT_TRUE(message.GetReflection()->HasField(message, field)) << field->name();
  }
}

ServedModel TestImageModel() {
  ServedModel model;
  model.name = "vision";
  model.info = TestModelInfo();
  model.info.input = "image";
  model.info.image_size = 224;
  model.info.patch_size = 16;
  model.max_sequence_tokens = 1000;
  return model;
}

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
  ExpectAllSet(a, {"image"});
}

TEST(ListModelsTest, AnImageModelSaysWhatPicturesItTakes) {
  const absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(
      R"({"size": {"height": 256, "width": 256}, "image_mean": 0.5, "image_std": 0.25})", "preprocessor_config.json");
  ASSERT_TRUE(preprocessor.ok()) << preprocessor.status();
  ServedModel prepared = TestImageModel();
  prepared.preprocessor = &*preprocessor;
  ServedModel fixed = prepared;
  fixed.info.image_size_fixed = true;
  ServiceLimits limits;
  limits.max_image_pixels = int64_t{9} << 32;

  const v1::ListModelsResponse response = ListModels({prepared, fixed, TestImageModel()}, limits, ConnectionLimits());
  const v1::ImageInfo& a = response.models(0).image();
  EXPECT_EQ(a.size(), 224);
  EXPECT_EQ(a.patch_size(), 16);
  EXPECT_EQ(a.max_size(), 31 * 16);  // 1 + 31^2 = 962 tokens; 32 x 32 patches would be 1,025
  EXPECT_FALSE(a.size_fixed());
  EXPECT_EQ(a.channels(), 3);
  EXPECT_EQ(a.prepared_size(), 256);
  EXPECT_THAT(a.media_types(), testing::ElementsAre("image/jpeg", "image/png", "image/webp"));
  EXPECT_EQ(a.max_image_pixels(), uint64_t{9} << 32);
  EXPECT_EQ(response.models(1).image().max_size(), 224);
  ExpectAllSet(response.models(1).image());
  EXPECT_EQ(response.models(2).image().prepared_size(), 0);  // without a preprocessor
  EXPECT_EQ(response.models(2).image().media_types_size(), 0);
}

TEST(ListModelsTest, TheLargestPictureHasNoMoreTokensThanARow) {
  ServedModel model = TestImageModel();
  const auto max_size = [&](int64_t max_sequence_tokens) {
    model.max_sequence_tokens = max_sequence_tokens;
    return ListModels({model}, ServiceLimits(), ConnectionLimits()).models(0).image().max_size();
  };
  EXPECT_EQ(max_size(1), 0);
  EXPECT_EQ(max_size(2), 16);
  EXPECT_EQ(max_size(4), 16);
  EXPECT_EQ(max_size(5), 32);
  EXPECT_EQ(max_size(196), 13 * 16);
  EXPECT_EQ(max_size(197), 224);
  EXPECT_EQ(max_size(131'072), 362 * 16);
  EXPECT_EQ(max_size((int64_t{1} << 24) + 1), 4096 * 16);
  EXPECT_EQ(max_size(int64_t{1} << 24), 4095 * 16);
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
  EXPECT_FALSE(response.models(0).has_image());  // a text model
}

}  // namespace
}  // namespace lion
