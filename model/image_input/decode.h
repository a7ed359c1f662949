// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_DECODE_H_
#define LION_MODEL_IMAGE_INPUT_DECODE_H_

// Encoded pictures of strangers to 8-bit RGB, by libjpeg-turbo, libpng and libwebp.
//
// What comes out is what Pillow's ImageOps.exif_transpose(image).convert("RGB") gives: grey is repeated, palettes are
// looked up, alpha is dropped, CMYK and YCCK are taken as Adobe stores them (inverted), EXIF's orientation is undone,
// colour profiles and gamma are ignored, of an animation the first frame is taken. Samples of 16 bits keep their high
// byte, grey ones too (where Pillow clips at 255 and so makes almost all of them white).
//
// Any thread; no state. Memory while it runs: 3 bytes a pixel, and for progressive JPEG up to 8 more.

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/image_input/picture.h"

namespace lion {

inline constexpr int64_t kDefaultMaxImagePixels = 50'000'000;

// More scans of a progressive JPEG are refused: each is a pass over the whole picture for a few bytes of file.
inline constexpr int kMaxJpegScans = 64;

// INVALID_ARGUMENT, without a field in front: neither JPEG, PNG nor WebP; broken or cut short (with the library's own
// words); width * height above max_pixels, which is seen in the header, before memory for pixels is taken.
absl::StatusOr<Picture> DecodeImage(absl::string_view encoded, int64_t max_pixels);

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_DECODE_H_
