// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/model_info.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "client/outputs.h"
#include "nlohmann/json.hpp"

namespace lion::client {
namespace {

using Json = nlohmann::ordered_json;

std::string Count(uint64_t number) { return WithCommas(static_cast<int64_t>(number)); }

std::string PoolingName(const v1::ModelInfo& model) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Pooling_Name(model.pooling()), "POOLING_"));
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string EncodedText(const v1::ImageInfo& image) {
  if (image.prepared_size() == 0) return "no: pixels only, for want of a preprocessor_config.json";
  const auto subtype = [](std::string* out, absl::string_view type) {
    absl::StrAppend(out, absl::StripPrefix(type, "image/"));
  };
  return absl::StrCat(absl::StrJoin(image.media_types(), ", ", subtype), " of up to ", Count(image.max_image_pixels()),
                      " pixels, brought to ", Count(image.prepared_size()), " x ", Count(image.prepared_size()));
}

std::string PixelsText(const v1::ImageInfo& image) {
  const std::string shape = absl::StrCat(image.channels(), " x S x S, S = ", Count(image.size()));
  if (image.size_fixed()) return absl::StrCat(shape, " only");
  return absl::StrCat(shape, " in training, any multiple of ", Count(image.patch_size()), " up to ",
                      Count(image.max_size()));
}

std::string ConnectionText(const v1::ConnectionLimits& limits) {
  std::string text = absl::StrCat("up to ", Count(limits.max_calls()), " calls at once");
  const auto add = [&](bool is_set, absl::string_view before, const google::protobuf::Duration& duration,
                       absl::string_view behind) {
    if (is_set) absl::StrAppend(&text, "; ", before, absl::FormatDuration(FromProto(duration)), behind);
  };
  add(limits.has_max_idle(), "closed after ", limits.max_idle(), " without a call");
  add(limits.has_max_age(), "told to end after ", limits.max_age(), "");
  add(limits.has_max_age_grace(), "then cut after ", limits.max_age_grace(), "");
  add(limits.has_keepalive_interval(), "asked for a sign of life after ", limits.keepalive_interval(), " of silence");
  add(limits.has_min_ping_interval(), "pings ", limits.min_ping_interval(), " apart or more");
  return text;
}

Json ImageJson(const v1::ImageInfo& image) {
  return {{"size", image.size()},
          {"patch_size", image.patch_size()},
          {"max_size", image.max_size()},
          {"size_fixed", image.size_fixed()},
          {"channels", image.channels()},
          {"prepared_size", image.prepared_size()},
          {"media_types", std::vector<std::string>(image.media_types().begin(), image.media_types().end())},
          {"max_image_pixels", image.max_image_pixels()}};
}

Json SecondsJson(bool is_set, const google::protobuf::Duration& duration) {
  return is_set ? Json(absl::ToDoubleSeconds(FromProto(duration))) : Json(nullptr);
}

Json ConnectionJson(const v1::ConnectionLimits& limits) {
  return {{"max_calls", limits.max_calls()},
          {"max_idle_seconds", SecondsJson(limits.has_max_idle(), limits.max_idle())},
          {"max_age_seconds", SecondsJson(limits.has_max_age(), limits.max_age())},
          {"max_age_grace_seconds", SecondsJson(limits.has_max_age_grace(), limits.max_age_grace())},
          {"max_memory_bytes", limits.max_memory_bytes()},
          {"keepalive_interval_seconds", SecondsJson(limits.has_keepalive_interval(), limits.keepalive_interval())},
          {"min_ping_interval_seconds", SecondsJson(limits.has_min_ping_interval(), limits.min_ping_interval())}};
}

}  // namespace

std::string ModelText(const v1::ModelInfo& model, bool is_default) {
  std::string text = absl::StrCat(model.name(), is_default ? "  (default)" : "", "\n");
  const auto add = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppendFormat(&text, "  %-15s %s\n", name, value);
  };
  add("version", model.version());
  add("model", absl::StrCat(model.variant(), ", ", model.input(), ", ", model.dtype(), " on ", model.device()));
  add("embeds", model.embeds()
                    ? absl::StrCat(WithCommas(model.embedding_dimensions()), " dimensions, pooling ",
                                   PoolingName(model), model.normalize() ? ", normalised" : ", not normalised")
                    : "no");
  constexpr int kShown = 8;
  const int shown = std::min(model.labels_size(), kShown);
  add("classifies", model.classifies()
                        ? absl::StrCat(WithCommas(model.labels_size()), " labels: ",
                                       absl::StrJoin(model.labels().begin(), model.labels().begin() + shown, ", "),
                                       model.labels_size() > shown ? ", …" : "")
                        : "no");
  add("mode", absl::StrCat("parallel up to ", WithCommas(model.parallel_max_tokens()), " tokens, then chunked by ",
                           WithCommas(model.chunk_tokens())));
  if (model.has_image()) {
    add("pictures", EncodedText(model.image()));
    add("pixels", PixelsText(model.image()));
  }
  add("a sequence", absl::StrCat("up to ", WithCommas(model.max_sequence_tokens()), " tokens"));
  add("a call", absl::StrCat("up to ", WithCommas(model.max_inputs()), " inputs, ", Count(model.max_request_tokens()),
                             " tokens, ", Count(model.max_message_bytes()), " bytes"));
  add("the queue",
      absl::StrCat("up to ", Count(model.max_queue_tokens()), " tokens",
                   model.max_queue_bytes() > 0 ? absl::StrCat(", and before it ", Count(model.max_queue_bytes()),
                                                              " bytes of texts and encoded pictures")
                                               : ""));
  if (model.max_memory_bytes() > 0) {
    add("long rows", absl::StrCat("up to ", Count(model.max_memory_bytes()), " bytes of memory together"));
  }
  if (model.has_connection_limits()) {
    add("a connection", ConnectionText(model.connection_limits()));
    add("connections", absl::StrCat("up to ", Count(model.connection_limits().max_memory_bytes()),
                                    " bytes of memory together, incoming messages included"));
  }
  return text;
}

std::string ModelJson(const v1::ModelInfo& model) {
  const Json json = {
      {"name", model.name()},
      {"version", model.version()},
      {"variant", model.variant()},
      {"input", model.input()},
      {"dtype", model.dtype()},
      {"device", model.device()},
      {"embeds", model.embeds()},
      {"embedding_dimensions", model.embedding_dimensions()},
      {"pooling", PoolingName(model)},
      {"normalize", model.normalize()},
      {"classifies", model.classifies()},
      {"labels", std::vector<std::string>(model.labels().begin(), model.labels().end())},
      {"max_sequence_tokens", model.max_sequence_tokens()},
      {"parallel_max_tokens", model.parallel_max_tokens()},
      {"chunk_tokens", model.chunk_tokens()},
      {"max_inputs", model.max_inputs()},
      {"max_request_tokens", model.max_request_tokens()},
      {"max_message_bytes", model.max_message_bytes()},
      {"max_queue_tokens", model.max_queue_tokens()},
      {"max_queue_bytes", model.max_queue_bytes()},
      {"max_memory_bytes", model.max_memory_bytes()},
      {"connection_limits", model.has_connection_limits() ? ConnectionJson(model.connection_limits()) : Json(nullptr)},
      {"image", model.has_image() ? ImageJson(model.image()) : Json(nullptr)}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace lion::client
