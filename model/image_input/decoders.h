// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_DECODERS_H_
#define LION_MODEL_IMAGE_INPUT_DECODERS_H_

// What decode.cc is made of: one decoder a format, each in a file of its own with the library it uses.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/image_input/picture.h"

namespace lion {

// As stored; orientation says how it is to be turned (exif.h), 1 = not at all.
struct StoredPicture {
  Picture picture;
  int orientation = 1;
};

// encoded begins as files of that format do. Errors as DecodeImage has them.
absl::StatusOr<StoredPicture> DecodeJpeg(absl::string_view encoded, int64_t max_pixels);
absl::StatusOr<StoredPicture> DecodePng(absl::string_view encoded, int64_t max_pixels);
absl::StatusOr<StoredPicture> DecodeWebp(absl::string_view encoded, int64_t max_pixels);

// INVALID_ARGUMENT naming the limit if width * height passes it. Both are at least 1.
absl::Status CheckPixels(int64_t width, int64_t height, int64_t max_pixels);

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_DECODERS_H_
