// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_IMAGE_INPUT_ENCODE_FOR_TEST_H_
#define LION_TESTS_MODEL_IMAGE_INPUT_ENCODE_FOR_TEST_H_

// Pictures for tests, encoded without loss.

#include <webp/encode.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "model/image_input/picture.h"

// After the standard headers, which it does not bring along.
#include <png.h>

namespace lion {

// No two neighbours alike.
inline Picture PatternPicture(int64_t width, int64_t height) {
  Picture picture = Picture::OfSize(width, height);
  for (int64_t i = 0; i < width * height * 3; ++i) picture.rgb[i] = static_cast<uint8_t>((i * 37 + i / 11) % 256);
  return picture;
}

inline bool SamePixels(const Picture& a, const Picture& b) {
  return a.width == b.width && a.height == b.height &&
         std::memcmp(a.rgb.get(), b.rgb.get(), static_cast<size_t>(a.width * a.height * 3)) == 0;
}

inline std::string EncodePng(const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string out(bytes, '\0');
  if (png_image_write_to_memory(&image, out.data(), &bytes, 0, picture.rgb.get(), 0, nullptr) == 0) return "";
  out.resize(bytes);
  return out;
}

inline std::string EncodeWebp(const Picture& picture) {
  uint8_t* bytes = nullptr;
  const size_t size =
      WebPEncodeLosslessRGB(picture.rgb.get(), static_cast<int>(picture.width), static_cast<int>(picture.height),
                            static_cast<int>(picture.width * 3), &bytes);
  std::string out(reinterpret_cast<const char*>(bytes), size);
  WebPFree(bytes);
  return out;
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_IMAGE_INPUT_ENCODE_FOR_TEST_H_
