// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_PICTURE_H_
#define LION_MODEL_IMAGE_INPUT_PICTURE_H_

// A decoded picture: what decoders make and what resizing takes.

#include <cstdint>
#include <memory>

namespace lion {

// Owns its bytes. Both sides at least 1 once filled.
struct Picture {
  int64_t width = 0;
  int64_t height = 0;
  std::unique_ptr<uint8_t[]> rgb;  // (height, width, 3), row-major, no padding

  // Bytes not set: whoever calls this fills them all.
  static Picture OfSize(int64_t width, int64_t height) {
    return {width, height, std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(width * height * 3))};
  }

  uint8_t* row(int64_t y) { return rgb.get() + y * width * 3; }
  const uint8_t* row(int64_t y) const { return rgb.get() + y * width * 3; }
};

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_PICTURE_H_
