// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: a picture as callers send it; or, if it begins with "{", a preprocessor_config.json.
//
// Whatever the bytes: an error is one line, and what is taken has the size that it promises.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "model/image_input/decode.h"
#include "model/image_input/exif.h"
#include "model/image_input/preprocessor.h"
#include "tests/fuzz/fuzz.h"

namespace {

constexpr int64_t kMaxPixels = 1 << 16;

const lion::ImagePreprocessor& Preprocessor() {
  static const auto* preprocessor = new absl::StatusOr<lion::ImagePreprocessor>(lion::ImagePreprocessor::Parse(
      R"({"size": {"shortest_edge": 40}, "crop_size": 32, "do_normalize": false})", "p.json"));
  return preprocessor->value();
}

void CheckPixels(const std::vector<float>& pixels, int64_t S) {
  FUZZ_CHECK(pixels.size() == static_cast<size_t>(3 * S * S), "3 S S");
  for (const float value : pixels) FUZZ_CHECK(std::isfinite(value), "finite");
}

void CheckPicture(absl::string_view encoded) {
  const absl::StatusOr<lion::Picture> picture = lion::DecodeImage(encoded, kMaxPixels);
  if (!picture.ok()) {
    lion::CheckOneLine(picture.status());
    return;
  }
  FUZZ_CHECK(picture->width >= 1 && picture->height >= 1 && picture->width * picture->height <= kMaxPixels, "size");
  CheckPixels(Preprocessor().Prepare(*picture), Preprocessor().size());
}

void CheckConfig(absl::string_view json) {
  const absl::StatusOr<lion::ImagePreprocessor> preprocessor = lion::ImagePreprocessor::Parse(json, "p.json");
  if (!preprocessor.ok()) {
    lion::CheckOneLine(preprocessor.status());
    FUZZ_CHECK(absl::StartsWith(preprocessor.status().message(), "p.json: "), preprocessor.status().ToString());
    return;
  }
  FUZZ_CHECK(preprocessor->size() >= 1 && preprocessor->size() <= lion::kMaxPreparedSize, "S");
  if (preprocessor->size() > 256) return;
  lion::Picture picture = lion::Picture::OfSize(7, 5);
  for (size_t i = 0; i < 7 * 5 * 3; ++i) picture.rgb[i] = static_cast<uint8_t>(i);
  CheckPixels(preprocessor->Prepare(picture), preprocessor->size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (absl::StartsWith(bytes, "{")) {
    CheckConfig(bytes);
  } else {
    CheckPicture(bytes);
    FUZZ_CHECK(lion::ExifOrientation(bytes) >= 1 && lion::ExifOrientation(bytes) <= 8, "1 to 8");
  }
  return 0;
}
