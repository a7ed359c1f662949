// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/decode.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/image_input/encode_for_test.h"

// After cstdio: it wants FILE.
#include <jpeglib.h>

namespace lion {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string EncodeJpeg(const Picture& picture, bool progressive = false) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): libjpeg's type
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = static_cast<JDIMENSION>(picture.width);
  info.image_height = static_cast<JDIMENSION>(picture.height);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  if (progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  for (int64_t y = 0; y < picture.height; ++y) {
    JSAMPROW row = const_cast<uint8_t*>(picture.row(y));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string out(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return out;
}

Picture Plain(int64_t width, int64_t height, uint8_t value) {
  Picture picture = Picture::OfSize(width, height);
  std::memset(picture.rgb.get(), value, static_cast<size_t>(width * height * 3));
  return picture;
}

TEST(DecodeImageTest, WhatWasStoredWithoutLossComesBack) {
  const Picture picture = PatternPicture(19, 7);
  for (const std::string& encoded : {EncodePng(picture), EncodeWebp(picture)}) {
    const absl::StatusOr<Picture> decoded = DecodeImage(encoded, 19 * 7);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_TRUE(SamePixels(*decoded, picture));
  }
}

TEST(DecodeImageTest, JpegComesBackPlain) {
  for (const bool progressive : {false, true}) {
    const absl::StatusOr<Picture> decoded = DecodeImage(EncodeJpeg(Plain(33, 17, 200), progressive), 33 * 17);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_TRUE(SamePixels(*decoded, Plain(33, 17, 200)));
  }
}

TEST(DecodeImageTest, OnePixelTooManyIsRefused) {
  const Picture picture = PatternPicture(20, 10);
  for (const std::string& encoded : {EncodePng(picture), EncodeWebp(picture), EncodeJpeg(picture)}) {
    EXPECT_TRUE(DecodeImage(encoded, 200).ok());
    const absl::Status status = DecodeImage(encoded, 199).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), "20 x 10 pixels, the limit is 199 together (max_image_pixels)");
  }
}

TEST(DecodeImageTest, EveryCutIsRefused) {
  const Picture picture = PatternPicture(20, 10);
  for (const std::string& encoded :
       {EncodePng(picture), EncodeWebp(picture), EncodeJpeg(picture), EncodeJpeg(picture, true)}) {
    for (size_t bytes = 12; bytes < encoded.size(); ++bytes) {
      const absl::Status status = DecodeImage(absl::string_view(encoded).substr(0, bytes), 1000).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes;
      ASSERT_THAT(std::string(status.message()), HasSubstr("it is cut short")) << bytes;
    }
  }
}

TEST(DecodeImageTest, WhatIsBrokenIsRefusedInTheLibrarysWords) {
  std::string encoded = EncodePng(PatternPicture(20, 10));
  encoded[encoded.find("IDAT") + 8] ^= 0x55;
  EXPECT_THAT(std::string(DecodeImage(encoded, 1000).status().message()),
              StartsWith("this PNG cannot be decoded: IDAT: "));
}

TEST(DecodeImageTest, AnythingElseIsNamed) {
  EXPECT_EQ(DecodeImage("", 1).status().message(), "is empty");
  EXPECT_EQ(DecodeImage("GIF89a", 1).status().message(), "is neither JPEG, PNG nor WebP: it looks like a GIF");
  EXPECT_EQ(DecodeImage(absl::string_view("\0\1", 2), 1).status().message(),
            "is neither JPEG, PNG nor WebP: it begins with bytes 0001");
  EXPECT_THAT(std::string(DecodeImage("/9j/4AAQSkZJRg==", 1).status().message()), HasSubstr("base64"));
}

}  // namespace
}  // namespace lion
