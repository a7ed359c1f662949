// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/preprocessor.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/image_input/encode_for_test.h"

namespace lion {
namespace {

using ::testing::Each;
using ::testing::FloatEq;
using ::testing::HasSubstr;

// A file that is understood; fields behind it win.
std::string Config(const std::string& more = "") {
  return absl::StrCat(R"({"image_processor_type": "ViTImageProcessorFast", "do_resize": true,
    "size": {"shortest_edge": 6}, "resample": 3, "do_center_crop": true, "crop_size": {"height": 4, "width": 4},
    "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.25, 0],
    "image_std": [0.5, 1, 2], "do_pad": null, "data_format": "channels_first")",
                      more.empty() ? "" : ", ", more, "}");
}

std::string Error(const std::string& json) {
  const absl::StatusOr<ImagePreprocessor> parsed = ImagePreprocessor::Parse(json, "p.json");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << json;
  return std::string(parsed.status().message());
}

std::vector<float> Plane(const std::vector<float>& pixels, size_t c) {
  const size_t n = pixels.size() / 3;
  return {pixels.begin() + static_cast<ptrdiff_t>(c * n), pixels.begin() + static_cast<ptrdiff_t>((c + 1) * n)};
}

TEST(ImagePreprocessorTest, ScalesAndNormalisesEachChannel) {
  const absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(Config(), "p.json");
  ASSERT_TRUE(preprocessor.ok()) << preprocessor.status();
  EXPECT_EQ(preprocessor->size(), 4);
  Picture white = Picture::OfSize(30, 20);
  std::memset(white.rgb.get(), 255, 30 * 20 * 3);
  const absl::StatusOr<std::vector<float>> pixels = preprocessor->Prepare(EncodePng(white), 600);
  ASSERT_TRUE(pixels.ok()) << pixels.status();
  ASSERT_EQ(pixels->size(), 3u * 4 * 4);
  EXPECT_THAT(Plane(*pixels, 0), Each(FloatEq(1.0f)));
  EXPECT_THAT(Plane(*pixels, 1), Each(FloatEq(0.75f)));
  EXPECT_THAT(Plane(*pixels, 2), Each(FloatEq(0.5f)));
}

TEST(ImagePreprocessorTest, StepsThatAreOffAreNotTaken) {
  const absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(
      R"({"do_resize": false, "crop_size": 5, "do_rescale": false, "do_normalize": false})", "p.json");
  ASSERT_TRUE(preprocessor.ok()) << preprocessor.status();
  const Picture picture = PatternPicture(5, 5);
  const std::vector<float> pixels = preprocessor->Prepare(picture);
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < 25; ++i) EXPECT_EQ(pixels[c * 25 + i], picture.rgb[3 * i + c]);
  }
}

TEST(ImagePreprocessorTest, ErrorsOfPicturesPassThrough) {
  const absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(Config(), "p.json");
  ASSERT_TRUE(preprocessor.ok()) << preprocessor.status();
  EXPECT_THAT(std::string(preprocessor->Prepare(EncodePng(PatternPicture(5, 5)), 24).status().message()),
              HasSubstr("the limit is 24"));
}

TEST(ImagePreprocessorTest, WhatCannotBeFollowedIsRefusedByName) {
  const struct {
    const char* field;  // of Config, replaced
    const char* error;
  } cases[] = {
      {R"("resample": 0)", "p.json: resample: 0 is not one of 1 (Lanczos), 2 (bilinear), 3 (bicubic)"},
      {R"("resample": "cubic")", "p.json: resample: \"cubic\" is not one of"},
      {R"("size": 224)", "p.json: size: 224 is not {\"shortest_edge\": N} or {\"height\": N, \"width\": N}"},
      {R"("size": {"longest_edge": 224})", "p.json: size: {\"longest_edge\":224} is not"},
      {R"("size": {"shortest_edge": 224, "longest_edge": 300})", "p.json: size: "},
      {R"("size": {"shortest_edge": 0})", "p.json: size.shortest_edge: 0 is not a whole number from 1 to 8192"},
      {R"("size": {"shortest_edge": 8193})", "8193 is not a whole number from 1 to 8192"},
      {R"("size": {"height": 4.5, "width": 4})", "p.json: size.height: 4.5 is not a whole number"},
      {R"("size": null)", "p.json: size: is missing"},
      {R"("crop_size": {"height": 4, "width": 5})", "p.json: crop_size: 5 x 4: models take square pictures"},
      {R"("crop_size": {"shortest_edge": 4})", "p.json: crop_size: {\"shortest_edge\":4} is not"},
      {R"("do_center_crop": false)", "p.json: do_center_crop: must be true where size has shortest_edge"},
      {R"("do_resize": 1)", "p.json: do_resize: 1 is not true or false"},
      {R"("rescale_factor": "x")", "p.json: rescale_factor: \"x\" is not a number"},
      {R"("image_mean": [1, 2])", "p.json: image_mean: has 2 numbers, one for each of 3 channels is wanted"},
      {R"("image_mean": null)", "p.json: image_mean: is missing, and do_normalize is true"},
      {R"("image_std": [1, 0, 1])", "p.json: image_std: has a number below 1e-6"},
      {R"("image_processor_type": "ConvNextImageProcessor")", "p.json: image_processor_type: "},
      {R"("do_pad": true)", "p.json: do_pad: true is not supported"},
      {R"("do_convert_rgb": false)", "p.json: do_convert_rgb: false is not supported"},
      {R"("crop_pct": 0.9)", "p.json: crop_pct: what 0.9 means is not known here"},
  };
  for (const auto& [field, error] : cases) EXPECT_THAT(Error(Config(field)), HasSubstr(error)) << field;
  EXPECT_THAT(Error(R"({"size": {"height": 4, "width": 5}, "do_normalize": false})"), HasSubstr("size: 5 x 4"));
  EXPECT_THAT(Error(R"({"do_resize": false, "do_normalize": false})"),
              HasSubstr("do_center_crop: must be true where do_resize is false"));
  EXPECT_EQ(Error("[]"), "p.json: is not a JSON object");
  EXPECT_EQ(Error("{"), "p.json: is not a JSON object");
  EXPECT_EQ(Error(std::string(100'000, '[')), "p.json: is not a JSON object");
}

}  // namespace
}  // namespace lion
