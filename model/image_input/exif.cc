// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/exif.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace lion {
namespace {

// TIFF's numbers, in the byte order that its header names. Reads beyond the end give 0.
class TiffReader {
 public:
  TiffReader(absl::string_view bytes, bool big_endian) : bytes_(bytes), big_endian_(big_endian) {}

  uint32_t U16(uint64_t at) const { return Number(at, 2); }
  uint32_t U32(uint64_t at) const { return Number(at, 4); }

 private:
  uint32_t Number(uint64_t at, int width) const {
    if (at + width > bytes_.size()) return 0;
    uint32_t value = 0;
    for (int i = 0; i < width; ++i) {
      const uint32_t byte = static_cast<uint8_t>(bytes_[at + i]);
      value |= byte << (8 * (big_endian_ ? width - 1 - i : i));
    }
    return value;
  }

  const absl::string_view bytes_;
  const bool big_endian_;
};

}  // namespace

int ExifOrientation(absl::string_view exif) {
  constexpr uint32_t kOrientationTag = 0x0112;
  constexpr uint32_t kShort = 3;
  absl::ConsumePrefix(&exif, absl::string_view("Exif\0\0", 6));
  const bool big_endian = absl::StartsWith(exif, "MM");
  if (!big_endian && !absl::StartsWith(exif, "II")) return 1;
  const TiffReader tiff(exif, big_endian);
  if (tiff.U16(2) != 42) return 1;
  const uint64_t directory = tiff.U32(4);
  const uint32_t num_entries = tiff.U16(directory);
  for (uint32_t i = 0; i < num_entries; ++i) {
    const uint64_t entry = directory + 2 + uint64_t{12} * i;  // tag, type, count, value
    if (entry + 12 > exif.size()) return 1;
    if (tiff.U16(entry) != kOrientationTag) continue;
    const uint32_t orientation = tiff.U16(entry + 8);
    const bool good = tiff.U16(entry + 2) == kShort && tiff.U32(entry + 4) == 1 && orientation <= 8 && orientation > 0;
    return good ? static_cast<int>(orientation) : 1;
  }
  return 1;
}

Picture Oriented(Picture picture, int orientation) {
  if (orientation <= 1 || orientation > 8) return picture;
  const bool exchanged = orientation >= 5;                                  // rows become columns
  Picture out = exchanged ? Picture::OfSize(picture.height, picture.width)  //
                          : Picture::OfSize(picture.width, picture.height);
  // Whether the source's column (row) runs backwards as the output's pixel moves on.
  const bool back_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool back_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int64_t y = 0; y < out.height; ++y) {
    uint8_t* to = out.row(y);
    for (int64_t x = 0; x < out.width; ++x) {
      const int64_t along_x = exchanged ? y : x;
      const int64_t along_y = exchanged ? x : y;
      const int64_t from_x = back_x ? picture.width - 1 - along_x : along_x;
      const int64_t from_y = back_y ? picture.height - 1 - along_y : along_y;
      std::memcpy(to + 3 * x, picture.row(from_y) + 3 * from_x, 3);
    }
  }
  return out;
}

}  // namespace lion
