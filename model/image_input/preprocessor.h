// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_PREPROCESSOR_H_
#define LION_MODEL_IMAGE_INPUT_PREPROCESSOR_H_

// What lies between an encoded picture and an image model, as the model directory's preprocessor_config.json says:
// resize, centre crop, rescale, normalise. The file is Hugging Face's; docs/images.md lists what of it is understood.
//
//   absl::StatusOr<ImagePreprocessor> preprocessor = ImagePreprocessor::Parse(json, "m/preprocessor_config.json");
//   absl::StatusOr<std::vector<float>> pixels = preprocessor->Prepare(jpeg, kDefaultMaxImagePixels);

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/image_input/picture.h"
#include "model/image_input/resize.h"

namespace lion {

// The largest crop, which is the S of every picture prepared: 3 * S * S floats.
inline constexpr int64_t kMaxPreparedSize = 8192;

// Immutable; any thread.
class ImagePreprocessor {
 public:
  // file is the path that errors name. INVALID_ARGUMENT naming the field: a value out of its type or range, a step or a
  // filter that is not known here (a file that cannot be followed to the letter is refused, never approximated), or
  // settings after which not every picture is S x S.
  static absl::StatusOr<ImagePreprocessor> Parse(absl::string_view json, const std::string& file);

  // The one of a model directory, by its preprocessor_config.json; nullopt where it has none. Errors as Parse has them,
  // and NOT_FOUND or INVALID_ARGUMENT for a file that cannot be read, or whose S the model does not take: S must be a
  // multiple of patch_size, and image_size where image_size_fixed (ModelInfo).
  static absl::StatusOr<std::optional<ImagePreprocessor>> Load(const std::string& directory, int64_t image_size,
                                                               int64_t patch_size, bool image_size_fixed);

  // S: what Prepare gives is (3, S, S).
  int64_t size() const { return size_; }

  // The pixels of one encoded picture, (3, S, S), normalised. Errors as DecodeImage has them.
  absl::StatusOr<std::vector<float>> Prepare(absl::string_view encoded, int64_t max_pixels) const;
  // The same from a decoded one.
  std::vector<float> Prepare(const Picture& picture) const;

 private:
  ImagePreprocessor() = default;
  friend class PreprocessorFields;  // the parser

  int64_t size_ = 0;           // S
  int64_t shortest_edge_ = 0;  // what a picture's shorter side becomes, the longer one in proportion; 0 = S x S it is,
                               // unless keep_size_
  int64_t resized_width_ = 0;  // where shortest_edge_ is 0: what every picture is resized to
  int64_t resized_height_ = 0;
  bool keep_size_ = false;  // do_resize false: the crop is of the picture as it is
  Filter filter_ = Filter::kBicubic;
  // (3, 256): what a sample of 8 bits becomes in each channel: (sample * rescale_factor - mean) / std.
  std::vector<float> values_;
};

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_PREPROCESSOR_H_
