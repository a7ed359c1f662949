// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/model_info.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lion::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

v1::ModelInfo TextModel() {
  v1::ModelInfo model;
  model.set_name("text");
  model.set_version("0123456789ab");
  model.set_variant("lion-s");
  model.set_input("text");
  model.set_dtype("float32");
  model.set_device("cpu");
  model.set_embeds(true);
  model.set_embedding_dimensions(768);
  model.set_pooling(v1::POOLING_MEAN);
  model.set_max_inputs(1024);
  model.set_max_queue_tokens(1 << 20);
  model.set_max_queue_bytes(256 << 20);
  model.set_max_memory_bytes(uint64_t{3} << 30);
  v1::ConnectionLimits* limits = model.mutable_connection_limits();
  limits->set_max_calls(4096);
  limits->mutable_max_idle()->set_seconds(90);
  limits->set_max_memory_bytes(1 << 30);
  limits->mutable_keepalive_interval()->set_seconds(300);
  limits->mutable_min_ping_interval()->set_nanos(500'000'000);
  return model;
}

v1::ModelInfo ImageModel() {
  v1::ModelInfo model = TextModel();
  model.set_input("image");
  v1::ImageInfo* image = model.mutable_image();
  image->set_size(224);
  image->set_patch_size(16);
  image->set_max_size(5792);
  image->set_channels(3);
  image->set_prepared_size(256);
  for (const char* type : {"image/jpeg", "image/png"}) image->add_media_types(type);
  image->set_max_image_pixels(50'000'000);
  return model;
}

TEST(ModelText, SaysEveryLimit) {
  const std::string text = ModelText(TextModel(), true);
  EXPECT_THAT(text, StartsWith("text  (default)\n"));
  EXPECT_THAT(text, HasSubstr("  the queue       up to 1,048,576 tokens, and before it 268,435,456 bytes of texts and "
                              "encoded pictures\n"));
  EXPECT_THAT(text, HasSubstr("  long rows       up to 3,221,225,472 bytes of memory together\n"));
  EXPECT_THAT(text,
              HasSubstr("  a connection    up to 4,096 calls at once; closed after 1m30s without a call; asked for "
                        "a sign of life after 5m of silence; pings 500ms apart or more\n"));
  EXPECT_THAT(text, HasSubstr("  connections     up to 1,073,741,824 bytes of memory together, incoming messages "
                              "included\n"));
  EXPECT_THAT(text, Not(HasSubstr("pictures        ")));
}

TEST(ModelText, LeavesOutWhatAnOlderServerDoesNotTell) {
  v1::ModelInfo model = TextModel();
  model.clear_max_queue_bytes();
  model.clear_max_memory_bytes();
  model.clear_connection_limits();
  const std::string text = ModelText(model, false);
  EXPECT_THAT(text, AllOf(StartsWith("text\n"), HasSubstr("  the queue       up to 1,048,576 tokens\n"),
                          Not(HasSubstr("long rows")), Not(HasSubstr("connection"))));
}

TEST(ModelText, SaysWhatPicturesAModelTakes) {
  v1::ModelInfo model = ImageModel();
  EXPECT_THAT(ModelText(model, false),
              AllOf(HasSubstr("  pictures        jpeg, png of up to 50,000,000 pixels, brought to 256 x 256\n"),
                    HasSubstr("  pixels          3 x S x S, S = 224 in training, any multiple of 16 up to 5,792\n")));
  model.mutable_image()->set_size_fixed(true);
  model.mutable_image()->set_prepared_size(0);
  EXPECT_THAT(ModelText(model, false),
              AllOf(HasSubstr("  pictures        no: pixels only, for want of a preprocessor_config.json\n"),
                    HasSubstr("  pixels          3 x S x S, S = 224 only\n")));
}

TEST(ModelJson, HasTheFieldsOfTheProto) {
  const std::string line = ModelJson(ImageModel());
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto json = nlohmann::json::parse(line);
  const auto* descriptor = v1::ModelInfo::descriptor();
  EXPECT_EQ(json.size(), descriptor->field_count());
  for (int i = 0; i < descriptor->field_count(); ++i) EXPECT_TRUE(json.contains(descriptor->field(i)->name())) << i;
  EXPECT_EQ(json["max_memory_bytes"], uint64_t{3} << 30);
  EXPECT_EQ(json["connection_limits"]["max_calls"], 4096);
  EXPECT_EQ(json["connection_limits"]["max_idle_seconds"], 90);
  EXPECT_EQ(json["connection_limits"]["min_ping_interval_seconds"], 0.5);
  EXPECT_TRUE(json["connection_limits"]["max_age_seconds"].is_null());
  EXPECT_EQ(json["image"].size(), v1::ImageInfo::descriptor()->field_count());
  EXPECT_EQ(json["image"]["prepared_size"], 256);
  EXPECT_EQ(json["image"]["media_types"], (std::vector<std::string>{"image/jpeg", "image/png"}));
  EXPECT_EQ(json["image"]["size_fixed"], false);
  EXPECT_TRUE(nlohmann::json::parse(ModelJson(TextModel()))["image"].is_null());
}

}  // namespace
}  // namespace lion::client
