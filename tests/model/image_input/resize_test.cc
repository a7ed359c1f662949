// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// What resizing is by definition; that it gives Pillow's bits is parity_test.py's business.

#include "model/image_input/resize.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/model/image_input/encode_for_test.h"

namespace lion {
namespace {

constexpr Filter kFilters[] = {Filter::kBilinear, Filter::kBicubic, Filter::kLanczos};

Picture Whole(const Picture& picture, int64_t width, int64_t height, Filter filter) {
  return ResizedWindow(picture, width, height, filter, {0, 0, width, height});
}

TEST(ResizedWindowTest, TheSameSizeIsTheSamePicture) {
  const Picture picture = PatternPicture(13, 9);
  for (const Filter filter : kFilters) EXPECT_TRUE(SamePixels(Whole(picture, 13, 9, filter), picture));
}

TEST(ResizedWindowTest, APlainPictureStaysPlain) {
  Picture picture = Picture::OfSize(7, 50);
  std::memset(picture.rgb.get(), 255, 7 * 50 * 3);
  for (const Filter filter : kFilters) {
    const Picture resized = Whole(picture, 40, 11, filter);
    for (int64_t i = 0; i < 40 * 11 * 3; ++i) ASSERT_EQ(resized.rgb[i], 255);
  }
}

TEST(ResizedWindowTest, AWindowIsThatPartOfTheWhole) {
  const Picture picture = PatternPicture(31, 44);
  for (const Filter filter : kFilters) {
    const Picture whole = Whole(picture, 20, 60, filter);
    const Picture window = ResizedWindow(picture, 20, 60, filter, {3, 11, 14, 40});
    for (int64_t y = 0; y < 40; ++y) {
      for (int64_t x = 0; x < 14 * 3; ++x) ASSERT_EQ(window.row(y)[x], whole.row(y + 11)[x + 9]);
    }
  }
}

TEST(ResizedWindowTest, BeyondThePictureIsBlack) {
  Picture picture = Picture::OfSize(2, 1);
  std::memset(picture.rgb.get(), 200, 6);
  const Picture window = ResizedWindow(picture, 2, 1, Filter::kBicubic, {-1, -1, 4, 3});
  for (int64_t y = 0; y < 3; ++y) {
    for (int64_t x = 0; x < 4; ++x) EXPECT_EQ(window.row(y)[3 * x], y == 1 && (x == 1 || x == 2) ? 200 : 0);
  }
  const Picture outside = ResizedWindow(picture, 2, 1, Filter::kBicubic, {5, 0, 2, 1});
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(outside.rgb[i], 0);
}

TEST(ResizedWindowTest, AWindowOfAnImmenseResizeCostsTheWindow) {
  const Picture picture = PatternPicture(1, 50'000);
  const int64_t height = 50'000 * int64_t{8192};
  const Picture window = ResizedWindow(picture, 8192, height, Filter::kBicubic, {4000, height / 2, 4, 4});
  EXPECT_EQ(window.width, 4);
}

TEST(ResizedWindowTest, AnImmensePictureShrinksToItsMean) {
  Picture picture = Picture::OfSize(100'000, 1);
  for (int64_t x = 0; x < 100'000; ++x) std::memset(picture.row(0) + 3 * x, x % 2 == 0 ? 100 : 200, 3);
  EXPECT_EQ(Whole(picture, 1, 1, Filter::kBilinear).rgb[0], 150);
}

}  // namespace
}  // namespace lion
