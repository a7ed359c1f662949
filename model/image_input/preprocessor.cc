// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/image_input/preprocessor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/config.h"
#include "model/image_input/decode.h"
#include "nlohmann/json.hpp"

namespace lion {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;

// Processors that do what the fields say and nothing else. Others read the same fields otherwise (ConvNext divides the
// size by crop_pct, say).
constexpr absl::string_view kProcessors[] = {"ViT", "DeiT", "CLIP", "Bit"};

// Fields that change no pixel, and are passed over.
constexpr absl::string_view kInertFields[] = {
    "processor_class", "_processor_class", "data_format",      "input_data_format", "return_tensors",
    "device",          "disable_grouping", "image_seq_length", "valid_kwargs",      "_valid_processor_keys"};

// Steps that are not taken here: absent, null or false.
constexpr absl::string_view kRefusedSteps[] = {"do_pad",        "do_flip_channel_order", "do_reduce_labels",
                                               "do_thumbnail",  "do_align_long_axis",    "do_color_quantize",
                                               "do_split_image"};

std::string Shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

int64_t FloorHalf(int64_t n) { return n >= 0 ? n / 2 : -((1 - n) / 2); }

}  // namespace

// One preprocessor_config.json. Keeps the first error; reads after it give defaults.
class PreprocessorFields {
 public:
  PreprocessorFields(const Json& object, const std::string& file) : object_(object), file_(file) {}

  absl::StatusOr<ImagePreprocessor> Read() {
    ImagePreprocessor out;
    CheckProcessor();
    ReadSizes(&out);
    ReadFilter(&out);
    ReadValues(&out);
    for (const absl::string_view step : kRefusedSteps) {
      const Json* value = Find(step);
      if (value != nullptr && *value != false) Fail(step, absl::StrCat(Shown(*value), " is not supported"));
    }
    // To RGB is what every picture is made anyway; a model of grey pictures would want otherwise.
    if (!Bool("do_convert_rgb", true)) Fail("do_convert_rgb", "false is not supported: models take RGB");
    RefuseTheRest();
    if (!status_.ok()) return status_;
    return out;
  }

 private:
  struct Size {
    int64_t width = 0;  // 0 = shortest_edge is set instead
    int64_t height = 0;
    int64_t shortest_edge = 0;
  };

  void Fail(absl::string_view field, absl::string_view what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", field, ": ", what));
  }

  // Null where it is absent, or null in the file.
  const Json* Find(absl::string_view name) {
    known_.emplace_back(name);
    const auto at = object_.find(std::string(name));
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  bool Bool(absl::string_view name, bool fallback) {
    const Json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) Fail(name, absl::StrCat(Shown(*value), " is not true or false"));
    return value->is_boolean() ? value->get<bool>() : fallback;
  }

  void CheckProcessor() {
    for (const absl::string_view name : {"image_processor_type", "feature_extractor_type"}) {
      const Json* value = Find(name);
      if (value == nullptr) continue;
      absl::string_view type = value->is_string() ? absl::string_view(value->get_ref<const std::string&>()) : "";
      absl::ConsumeSuffix(&type, "Fast");
      const bool stripped =
          absl::ConsumeSuffix(&type, "ImageProcessor") || absl::ConsumeSuffix(&type, "FeatureExtractor");
      if (stripped && std::find(std::begin(kProcessors), std::end(kProcessors), type) != std::end(kProcessors))
        continue;
      Fail(name, absl::StrCat(Shown(*value), " is not one of ", absl::StrJoin(kProcessors, ", "),
                              " (each with ImageProcessor behind it): what it does is not known here"));
    }
  }

  int64_t Side(absl::string_view field, const Json& value) {
    const bool good = value.is_number_integer() && value >= 1 && value <= kMaxPreparedSize;
    if (!good) Fail(field, absl::StrCat(Shown(value), " is not a whole number from 1 to ", kMaxPreparedSize));
    return good ? value.get<int64_t>() : 1;
  }

  // {"height": …, "width": …}, or {"shortest_edge": …} where that is allowed; number: what a bare number means.
  Size SizeAt(absl::string_view field, bool shortest_edge, bool number) {
    Size size;
    const Json* value = Find(field);
    if (value == nullptr) {
      Fail(field, "is missing");
      return size;
    }
    const absl::string_view forms =
        shortest_edge ? "{\"shortest_edge\": N} or {\"height\": N, \"width\": N}" : "{\"height\": N, \"width\": N}";
    if (value->is_number() && number) {
      size.width = size.height = Side(field, *value);
    } else if (value->is_object() && value->size() == 2 && value->contains("height") && value->contains("width")) {
      size.height = Side(absl::StrCat(field, ".height"), (*value)["height"]);
      size.width = Side(absl::StrCat(field, ".width"), (*value)["width"]);
    } else if (value->is_object() && value->size() == 1 && value->contains("shortest_edge") && shortest_edge) {
      size.shortest_edge = Side(absl::StrCat(field, ".shortest_edge"), (*value)["shortest_edge"]);
    } else {
      Fail(field, absl::StrCat(Shown(*value), " is not ", forms));
    }
    return size;
  }

  void ReadSizes(ImagePreprocessor* out) {
    const bool resize = Bool("do_resize", true);
    const bool crop = Bool("do_center_crop", object_.contains("crop_size"));
    Size size;
    if (resize) {
      size = SizeAt("size", /*shortest_edge=*/true, /*number=*/false);
    } else {
      Find("size");
    }
    out->keep_size_ = !resize;
    out->shortest_edge_ = size.shortest_edge;
    out->resized_width_ = size.width;
    out->resized_height_ = size.height;
    if (crop) {
      const Size cropped = SizeAt("crop_size", /*shortest_edge=*/false, /*number=*/true);
      if (cropped.width != cropped.height) {
        Fail("crop_size", absl::StrCat(cropped.width, " x ", cropped.height, ": models take square pictures"));
      }
      out->size_ = cropped.width;
      return;
    }
    Find("crop_size");
    if (!resize) return Fail("do_center_crop", "must be true where do_resize is false: pictures come in all sizes");
    if (size.shortest_edge > 0) {
      return Fail("do_center_crop", "must be true where size has shortest_edge: else pictures are not square");
    }
    if (size.width != size.height) {
      return Fail("size", absl::StrCat(size.width, " x ", size.height, ": models take square pictures"));
    }
    out->size_ = size.width;
  }

  // Pillow's numbers, as the file has them.
  void ReadFilter(ImagePreprocessor* out) {
    const Json* value = Find("resample");
    if (value == nullptr || *value == 3) return;
    if (*value == 1) {
      out->filter_ = Filter::kLanczos;
    } else if (*value == 2) {
      out->filter_ = Filter::kBilinear;
    } else {
      Fail("resample", absl::StrCat(Shown(*value), " is not one of 1 (Lanczos), 2 (bilinear), 3 (bicubic)"));
    }
  }

  double Number(absl::string_view field, const Json* value, double fallback) {
    if (value == nullptr) return fallback;
    const bool good = value->is_number() && std::abs(value->get<double>()) <= 1e6;
    if (!good) Fail(field, absl::StrCat(Shown(*value), " is not a number from -1e6 to 1e6"));
    return good ? value->get<double>() : fallback;
  }

  // One number a channel, or one for all.
  std::array<double, 3> Channels(absl::string_view field, double fallback, bool wanted) {
    std::array<double, 3> channels = {fallback, fallback, fallback};
    const Json* value = Find(field);
    if (!wanted) return channels;
    if (value == nullptr) {
      Fail(field, "is missing, and do_normalize is true");
    } else if (!value->is_array()) {
      channels.fill(Number(field, value, fallback));
    } else if (value->size() != 3) {
      Fail(field, absl::StrCat("has ", value->size(), " numbers, one for each of 3 channels is wanted"));
    } else {
      for (size_t c = 0; c < 3; ++c) channels[c] = Number(field, &(*value)[c], fallback);
    }
    return channels;
  }

  void ReadValues(ImagePreprocessor* out) {
    const bool rescale = Bool("do_rescale", true);
    const double factor = Number("rescale_factor", Find("rescale_factor"), 1.0 / 255.0);
    const bool normalize = Bool("do_normalize", true);
    const std::array<double, 3> mean = Channels("image_mean", 0.0, normalize);
    const std::array<double, 3> deviation = Channels("image_std", 1.0, normalize);
    if (std::any_of(deviation.begin(), deviation.end(), [](double d) { return d < 1e-6; })) {
      return Fail("image_std", "has a number below 1e-6, which would divide by nothing");
    }
    for (size_t c = 0; c < 3; ++c) {
      for (int sample = 0; sample < 256; ++sample) {
        const double scaled = rescale ? sample * factor : sample;
        out->values_.push_back(static_cast<float>((scaled - mean[c]) / deviation[c]));
      }
    }
  }

  void RefuseTheRest() {
    for (const absl::string_view name : kInertFields) known_.emplace_back(name);
    for (const auto& [name, value] : object_.items()) {
      if (value.is_null() || std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      const std::string shown = Shown(name);  // may hold anything
      Fail(shown.substr(1, shown.size() - 2), absl::StrCat("what ", Shown(value), " means is not known here"));
    }
  }

  const Json& object_;
  const std::string& file_;
  std::vector<std::string> known_;  // fields looked at
  absl::Status status_;
};

absl::StatusOr<ImagePreprocessor> ImagePreprocessor::Parse(absl::string_view json, const std::string& file) {
  const Json value = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() || !value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": is not a JSON object"));
  }
  return PreprocessorFields(value, file).Read();
}

absl::StatusOr<std::optional<ImagePreprocessor>> ImagePreprocessor::Load(const std::string& directory,
                                                                         int64_t image_size, int64_t patch_size,
                                                                         bool image_size_fixed) {
  const std::string file = absl::StrCat(directory, "/preprocessor_config.json");
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::nullopt;
  const absl::StatusOr<std::string> json = ReadTextFile(file, kMaxConfigBytes);
  if (!json.ok()) return json.status();
  absl::StatusOr<ImagePreprocessor> parsed = Parse(*json, file);
  if (!parsed.ok()) return parsed.status();
  const int64_t S = parsed->size();
  if (S % patch_size != 0 || (image_size_fixed && S != image_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": makes pictures of ", S, " x ", S, ", config.json's model takes ",
                     image_size_fixed ? absl::StrCat(image_size, " only") : absl::StrCat("multiples of ", patch_size)));
  }
  return std::optional<ImagePreprocessor>(*std::move(parsed));
}

absl::StatusOr<std::vector<float>> ImagePreprocessor::Prepare(absl::string_view encoded, int64_t max_pixels) const {
  absl::StatusOr<Picture> picture = DecodeImage(encoded, max_pixels);
  if (!picture.ok()) return picture.status();
  return Prepare(*picture);
}

std::vector<float> ImagePreprocessor::Prepare(const Picture& picture) const {
  int64_t width = resized_width_;
  int64_t height = resized_height_;
  if (keep_size_) {
    width = picture.width;
    height = picture.height;
  } else if (shortest_edge_ > 0) {
    // The longer side is cut to whole pixels, as transformers and torchvision do.
    const int64_t shorter = std::min(picture.width, picture.height);
    width = picture.width == shorter ? shortest_edge_ : shortest_edge_ * picture.width / shorter;
    height = picture.height == shorter ? shortest_edge_ : shortest_edge_ * picture.height / shorter;
  }
  const Window window = {FloorHalf(width - size_), FloorHalf(height - size_), size_, size_};
  const Picture cropped = ResizedWindow(picture, width, height, filter_, window);
  std::vector<float> pixels(static_cast<size_t>(3 * size_ * size_));
  for (int64_t c = 0; c < 3; ++c) {
    const float* values = values_.data() + 256 * c;
    float* to = pixels.data() + c * size_ * size_;
    for (int64_t i = 0; i < size_ * size_; ++i) to[i] = values[cropped.rgb[3 * i + c]];
  }
  return pixels;
}

}  // namespace lion
