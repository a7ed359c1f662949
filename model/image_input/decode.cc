// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/decode.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/image_input/decoders.h"
#include "model/image_input/exif.h"

namespace lion {
namespace {

using absl::string_view;

// What callers send by mistake, by the bytes it begins with.
string_view OtherFormat(string_view encoded) {
  if (absl::StartsWith(encoded, "GIF8")) return "a GIF";
  if (absl::StartsWith(encoded, "BM")) return "a BMP";
  if (absl::StartsWith(encoded, string_view("II*\0", 4)) || absl::StartsWith(encoded, string_view("MM\0*", 4))) {
    return "a TIFF";
  }
  if (encoded.size() >= 12 && encoded.substr(4, 4) == "ftyp") {
    if (absl::StartsWith(encoded.substr(8), "avi")) return "an AVIF";
    if (absl::StartsWith(encoded.substr(8), "hei") || absl::StartsWith(encoded.substr(8), "mif1")) return "a HEIF";
  }
  if (absl::StartsWith(encoded, "%PDF")) return "a PDF";
  if (absl::StartsWith(encoded, "<")) return "markup (SVG, HTML)";
  if (absl::StartsWith(encoded, "/9j/") || absl::StartsWith(encoded, "iVBOR") || absl::StartsWith(encoded, "UklGR")) {
    return "a picture in base64, where its bytes are wanted";
  }
  return "";
}

absl::Status UnknownFormat(string_view encoded) {
  if (encoded.empty()) return absl::InvalidArgumentError("is empty");
  const string_view other = OtherFormat(encoded);
  const std::string found = other.empty()
                                ? absl::StrCat("begins with bytes ", absl::BytesToHexString(encoded.substr(0, 8)))
                                : absl::StrCat("looks like ", other);
  return absl::InvalidArgumentError(absl::StrCat("is neither JPEG, PNG nor WebP: it ", found));
}

absl::StatusOr<StoredPicture> DecodeStored(string_view encoded, int64_t max_pixels) {
  if (absl::StartsWith(encoded, "\xff\xd8\xff")) return DecodeJpeg(encoded, max_pixels);
  if (absl::StartsWith(encoded, "\x89PNG\r\n\x1a\n")) return DecodePng(encoded, max_pixels);
  if (absl::StartsWith(encoded, "RIFF") && encoded.size() >= 12 && encoded.substr(8, 4) == "WEBP") {
    return DecodeWebp(encoded, max_pixels);
  }
  return UnknownFormat(encoded);
}

}  // namespace

absl::Status CheckPixels(int64_t width, int64_t height, int64_t max_pixels) {
  if (width <= max_pixels / height) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(width, " x ", height, " pixels, the limit is ", max_pixels, " together (max_image_pixels)"));
}

absl::StatusOr<Picture> DecodeImage(string_view encoded, int64_t max_pixels) {
  absl::StatusOr<StoredPicture> stored = DecodeStored(encoded, max_pixels);
  if (!stored.ok()) return stored.status();
  return Oriented(std::move(stored->picture), stored->orientation);
}

}  // namespace lion
