// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// JPEG by libjpeg-turbo. Its errors come back by longjmp, which runs no destructors: the functions that it may leave so
// (those with a setjmp) have no objects of their own, only what Decoder owns outside of them.

#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h wants FILE

// After cstdio.
#include <jpeglib.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/image_input/decode.h"
#include "model/image_input/decoders.h"
#include "model/image_input/exif.h"

namespace lion {
namespace {

struct Decoder {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = "";

  ~Decoder() { jpeg_destroy_decompress(&info); }  // also where it was never made: all is zero
};

Decoder& DecoderOf(j_common_ptr info) { return *static_cast<Decoder*>(info->client_data); }

[[noreturn]] void Leave(j_common_ptr info, const char* message) {
  Decoder& decoder = DecoderOf(info);
  std::snprintf(decoder.message, sizeof(decoder.message), "%s", message);
  std::longjmp(decoder.jump, 1);
}

[[noreturn]] void OnError(j_common_ptr info) {
  char message[JMSG_LENGTH_MAX];
  info->err->format_message(info, message);
  Leave(info, message);
}

void IgnoreMessage(j_common_ptr) {}

// Warnings (a little extraneous data, say) are no errors to anybody's viewer.
void IgnoreWarning(j_common_ptr, int) {}

void BeginSource(j_decompress_ptr) {}
void EndSource(j_decompress_ptr) {}

// All bytes were there from the start, so whoever wants more has a file that was cut. (libjpeg's own source would add
// an end and make the rest grey.)
boolean FillSource(j_decompress_ptr info) { Leave(reinterpret_cast<j_common_ptr>(info), "it is cut short"); }

void SkipSource(j_decompress_ptr info, long num_bytes) {  // NOLINT(google-runtime-int): libjpeg's type
  if (num_bytes <= 0) return;
  jpeg_source_mgr& source = *info->src;
  if (static_cast<size_t>(num_bytes) > source.bytes_in_buffer) FillSource(info);
  source.next_input_byte += num_bytes;
  source.bytes_in_buffer -= static_cast<size_t>(num_bytes);
}

void CheckScans(j_common_ptr info) {
  if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxJpegScans) {
    Leave(info, "it has more than 64 scans");
  }
}
static_assert(kMaxJpegScans == 64, "the message above names it");

void Begin(absl::string_view encoded, Decoder* decoder) {
  jpeg_decompress_struct& info = decoder->info;
  info.err = jpeg_std_error(&decoder->errors);
  decoder->errors.error_exit = OnError;
  decoder->errors.output_message = IgnoreMessage;
  decoder->errors.emit_message = IgnoreWarning;
  info.client_data = decoder;
  jpeg_source_mgr& source = decoder->source;
  source.init_source = BeginSource;
  source.fill_input_buffer = FillSource;
  source.skip_input_data = SkipSource;
  source.resync_to_restart = jpeg_resync_to_restart;
  source.term_source = EndSource;
  source.next_input_byte = reinterpret_cast<const JOCTET*>(encoded.data());
  source.bytes_in_buffer = encoded.size();
}

// Up to the first scan. False = decoder->message says why not.
bool ReadHeader(Decoder* decoder) {
  if (setjmp(decoder->jump) != 0) return false;
  jpeg_decompress_struct& info = decoder->info;
  jpeg_create_decompress(&info);
  info.src = &decoder->source;
  decoder->progress.progress_monitor = CheckScans;
  info.progress = &decoder->progress;
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);  // EXIF
  jpeg_read_header(&info, TRUE);
  // Four components are CMYK, or YCCK, which libjpeg makes CMYK; all else it makes RGB.
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

// Adobe's CMYK, the only kind in practice, says how much ink is not there: 255 = none. Each colour's light is what its
// own ink and the black let through, rounded as Pillow rounds it.
void InvertedCmykToRgb(const uint8_t* cmyk, int64_t num_pixels, uint8_t* rgb) {
  for (int64_t i = 0; i < num_pixels; ++i, cmyk += 4, rgb += 3) {
    const int light = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * light + 128;
      rgb[c] = static_cast<uint8_t>(light - (((product >> 8) + product) >> 8));
    }
  }
}

bool ReadPixels(Decoder* decoder, Picture* picture) {
  if (setjmp(decoder->jump) != 0) return false;
  jpeg_decompress_struct& info = decoder->info;
  jpeg_start_decompress(&info);
  const bool cmyk = info.out_color_space == JCS_CMYK;
  JSAMPARRAY line = (*info.mem->alloc_sarray)(reinterpret_cast<j_common_ptr>(&info), JPOOL_IMAGE,
                                              info.output_width * static_cast<JDIMENSION>(info.output_components), 1);
  while (info.output_scanline < info.output_height) {
    uint8_t* const to = picture->row(info.output_scanline);
    JSAMPROW direct = to;
    jpeg_read_scanlines(&info, cmyk ? line : &direct, 1);
    if (cmyk) InvertedCmykToRgb(line[0], picture->width, to);
  }
  jpeg_finish_decompress(&info);
  return true;
}

absl::Status Broken(const Decoder& decoder) {
  return absl::InvalidArgumentError(absl::StrCat("this JPEG cannot be decoded: ", decoder.message));
}

int Orientation(const jpeg_decompress_struct& info) {
  for (const jpeg_marker_struct* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    const absl::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (absl::StartsWith(data, absl::string_view("Exif\0", 5))) return ExifOrientation(data);
  }
  return 1;
}

}  // namespace

absl::StatusOr<StoredPicture> DecodeJpeg(absl::string_view encoded, int64_t max_pixels) {
  Decoder decoder;
  Begin(encoded, &decoder);
  if (!ReadHeader(&decoder)) return Broken(decoder);
  const jpeg_decompress_struct& info = decoder.info;
  if (absl::Status status = CheckPixels(info.image_width, info.image_height, max_pixels); !status.ok()) return status;
  StoredPicture stored;
  stored.orientation = Orientation(info);
  stored.picture = Picture::OfSize(info.image_width, info.image_height);
  if (!ReadPixels(&decoder, &stored.picture)) return Broken(decoder);
  return stored;
}

}  // namespace lion
