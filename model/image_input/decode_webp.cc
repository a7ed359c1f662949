// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// WebP, lossy and lossless, by libwebp.

#include <webp/decode.h>
#include <webp/demux.h>

#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "model/image_input/decoders.h"
#include "model/image_input/exif.h"

namespace lion {
namespace {

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("this WebP cannot be decoded: ", what));
}

int Orientation(const WebPDemuxer* demuxer) {
  WebPChunkIterator chunk{};
  int orientation = 1;
  if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk) != 0) {
    orientation =
        ExifOrientation(absl::string_view(reinterpret_cast<const char*>(chunk.chunk.bytes), chunk.chunk.size));
  }
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

}  // namespace

absl::StatusOr<StoredPicture> DecodeWebp(absl::string_view encoded, int64_t max_pixels) {
  const WebPData data = {reinterpret_cast<const uint8_t*>(encoded.data()), encoded.size()};
  WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
  const std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)> demuxer(WebPDemuxPartial(&data, &state), WebPDemuxDelete);
  if (state == WEBP_DEMUX_PARSING_HEADER || state == WEBP_DEMUX_PARSED_HEADER) return Broken("it is cut short");
  if (demuxer == nullptr || state == WEBP_DEMUX_PARSE_ERROR) return Broken("its parts do not fit together");

  const int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const int64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  if (width < 1 || height < 1) return Broken("it has no pixels");
  if (absl::Status status = CheckPixels(width, height, max_pixels); !status.ok()) return status;

  WebPIterator frame{};
  const std::unique_ptr<WebPIterator, void (*)(WebPIterator*)> release(&frame, WebPDemuxReleaseIterator);
  if (WebPDemuxGetFrame(demuxer.get(), 1, &frame) == 0) return Broken("it has no picture");
  WebPBitstreamFeatures features{};
  // The sizes are in the file twice: around the frame, and in it. libwebp would write as much as the inner ones say.
  if (WebPGetFeatures(frame.fragment.bytes, frame.fragment.size, &features) != VP8_STATUS_OK ||
      features.width != frame.width || features.height != frame.height || frame.x_offset < 0 || frame.y_offset < 0 ||
      frame.x_offset + features.width > width || frame.y_offset + features.height > height) {
    return Broken("its first frame does not fit into it");
  }
  StoredPicture stored;
  stored.orientation = Orientation(demuxer.get());
  stored.picture = Picture::OfSize(width, height);
  const size_t num_bytes = static_cast<size_t>(width * height * 3);
  // What the first frame of an animation leaves free is transparent black.
  if (frame.width < width || frame.height < height) std::memset(stored.picture.rgb.get(), 0, num_bytes);
  const int64_t offset = (frame.y_offset * width + frame.x_offset) * 3;
  if (WebPDecodeRGBInto(frame.fragment.bytes, frame.fragment.size, stored.picture.rgb.get() + offset,
                        num_bytes - static_cast<size_t>(offset), static_cast<int>(width * 3)) == nullptr) {
    return Broken(frame.complete != 0 ? "its pixels are broken" : "it is cut short");
  }
  return stored;
}

}  // namespace lion
