// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/exif.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace lion {
namespace {

std::string Number(uint32_t value, int width, bool big_endian) {
  std::string out(static_cast<size_t>(width), '\0');
  for (int i = 0; i < width; ++i) {
    const auto byte = static_cast<char>(value >> (8 * i) & 0xff);
    out[static_cast<size_t>(big_endian ? width - 1 - i : i)] = byte;
  }
  return out;
}

// A TIFF header and a directory with another entry before the orientation.
std::string Exif(uint32_t orientation, bool big_endian, uint32_t type = 3, uint32_t count = 1) {
  const auto n = [big_endian](uint32_t value, int width) { return Number(value, width, big_endian); };
  std::string out = big_endian ? "MM" : "II";
  out += n(42, 2) + n(8, 4) + n(2, 2);
  out += n(0x010f, 2) + n(2, 2) + n(4, 4) + "abc" + '\0';
  out += n(0x0112, 2) + n(type, 2) + n(count, 4) + n(orientation, 2) + n(0, 2);
  return out + n(0, 4);
}

TEST(ExifOrientationTest, EitherByteOrderWithAndWithoutItsName) {
  for (uint32_t orientation = 1; orientation <= 8; ++orientation) {
    for (const bool big_endian : {false, true}) {
      const std::string exif = Exif(orientation, big_endian);
      EXPECT_EQ(ExifOrientation(exif), static_cast<int>(orientation));
      EXPECT_EQ(ExifOrientation(std::string("Exif\0\0", 6) + exif), static_cast<int>(orientation));
    }
  }
}

TEST(ExifOrientationTest, WhatMakesNoSenseIsUpright) {
  EXPECT_EQ(ExifOrientation(""), 1);
  EXPECT_EQ(ExifOrientation("II"), 1);
  EXPECT_EQ(ExifOrientation("something else altogether"), 1);
  EXPECT_EQ(ExifOrientation(Exif(0, false)), 1);
  EXPECT_EQ(ExifOrientation(Exif(9, false)), 1);
  EXPECT_EQ(ExifOrientation(Exif(6, false, /*type=*/4)), 1);
  EXPECT_EQ(ExifOrientation(Exif(6, false, /*type=*/3, /*count=*/2)), 1);
}

TEST(ExifOrientationTest, ACutBlockIsReadNoFurtherThanItGoes) {
  const std::string exif = Exif(6, true);
  for (size_t bytes = 0; bytes < exif.size(); ++bytes) {
    const std::string cut(exif.substr(0, bytes));
    EXPECT_EQ(ExifOrientation(cut), bytes < exif.size() - 4 ? 1 : 6) << bytes;
  }
  std::string far = exif;
  far.replace(4, 4, "\xff\xff\xff\xff");
  EXPECT_EQ(ExifOrientation(far), 1);
}

// One sample a pixel, as letters, row by row.
std::string Letters(const Picture& picture) {
  std::string out;
  for (int64_t y = 0; y < picture.height; ++y) {
    for (int64_t x = 0; x < picture.width; ++x) out += static_cast<char>(picture.row(y)[3 * x]);
    out += y + 1 < picture.height ? "/" : "";
  }
  return out;
}

TEST(OrientedTest, EachOfTheEight) {
  const std::vector<std::string> want = {"abc/def",  "abc/def",  "cba/fed",  "fed/cba", "def/abc",
                                         "ad/be/cf", "da/eb/fc", "fc/eb/da", "cf/be/ad"};
  for (int orientation = 0; orientation <= 8; ++orientation) {
    Picture picture = Picture::OfSize(3, 2);
    for (int i = 0; i < 18; ++i) picture.rgb[static_cast<size_t>(i)] = static_cast<uint8_t>('a' + i / 3);
    EXPECT_EQ(Letters(Oriented(std::move(picture), orientation)), want[static_cast<size_t>(orientation)])
        << orientation;
  }
}

}  // namespace
}  // namespace lion
