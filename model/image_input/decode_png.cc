// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// PNG by libpng. Its errors come back by longjmp, which runs no destructors: the functions that it may leave so (those
// with a setjmp) have no objects of their own, only what Decoder owns outside of them.

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "model/image_input/decoders.h"
#include "model/image_input/exif.h"

namespace lion {
namespace {

struct Decoder {
  png_structp png = nullptr;
  png_infop info = nullptr;
  absl::string_view rest;  // not read yet
  char message[128] = "";

  ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void OnError(png_structp png, png_const_charp message) {
  Decoder& decoder = *static_cast<Decoder*>(png_get_error_ptr(png));
  std::snprintf(decoder.message, sizeof(decoder.message), "%s", message);
  png_longjmp(png, 1);
}

void OnWarning(png_structp, png_const_charp) {}

void Read(png_structp png, png_bytep to, size_t num_bytes) {
  Decoder& decoder = *static_cast<Decoder*>(png_get_io_ptr(png));
  if (num_bytes > decoder.rest.size()) png_error(png, "it is cut short");
  std::memcpy(to, decoder.rest.data(), num_bytes);
  decoder.rest.remove_prefix(num_bytes);
}

// Chunks that change no pixel of ours. Skipped: some are compressed, and a small file may hold a thousand of them that
// unpack to megabytes each. tRNS says what is transparent, which nobody asks.
constexpr char kSkippedChunks[] =
    "bKGD\0cHRM\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0tEXt\0tIME\0tRNS\0zTXt";

bool ReadHeader(Decoder* decoder) {
  if (setjmp(png_jmpbuf(decoder->png)) != 0) return false;
  png_structp png = decoder->png;
  png_set_read_fn(png, decoder, Read);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // CheckPixels has ours
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, reinterpret_cast<png_const_bytep>(kSkippedChunks),
                              sizeof(kSkippedChunks) / 5);
  png_read_info(png, decoder->info);
  return true;
}

// rows has room for a pointer a row.
bool ReadPixels(Decoder* decoder, png_bytepp rows) {
  if (setjmp(png_jmpbuf(decoder->png)) != 0) return false;
  png_structp png = decoder->png;
  png_set_strip_16(png);
  png_set_expand(png);  // palettes, and grey of less than 8 bits
  png_set_gray_to_rgb(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, decoder->info);
  if (png_get_rowbytes(png, decoder->info) != size_t{png_get_image_width(png, decoder->info)} * 3) {
    png_error(png, "its rows are not RGB");  // no file leads here; a wrong width would write beyond the rows
  }
  png_read_image(png, rows);
  png_read_end(png, decoder->info);
  return true;
}

int Orientation(const Decoder& decoder) {
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(decoder.png, decoder.info, &size, &exif) == 0) return 1;
  return ExifOrientation(absl::string_view(reinterpret_cast<const char*>(exif), size));
}

absl::Status Broken(const Decoder& decoder) {
  return absl::InvalidArgumentError(absl::StrCat("this PNG cannot be decoded: ", decoder.message));
}

}  // namespace

absl::StatusOr<StoredPicture> DecodePng(absl::string_view encoded, int64_t max_pixels) {
  Decoder decoder;
  decoder.rest = encoded;
  decoder.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder, OnError, OnWarning);
  if (decoder.png == nullptr) return absl::ResourceExhaustedError("libpng has no memory");
  decoder.info = png_create_info_struct(decoder.png);
  if (decoder.info == nullptr) return absl::ResourceExhaustedError("libpng has no memory");
  if (!ReadHeader(&decoder)) return Broken(decoder);
  const int64_t width = png_get_image_width(decoder.png, decoder.info);
  const int64_t height = png_get_image_height(decoder.png, decoder.info);
  if (absl::Status status = CheckPixels(width, height, max_pixels); !status.ok()) return status;
  StoredPicture stored;
  stored.picture = Picture::OfSize(width, height);
  const auto rows = std::make_unique<png_bytep[]>(static_cast<size_t>(height));
  for (int64_t y = 0; y < height; ++y) rows[y] = stored.picture.row(y);
  if (!ReadPixels(&decoder, rows.get())) return Broken(decoder);
  stored.orientation = Orientation(decoder);
  return stored;
}

}  // namespace lion
