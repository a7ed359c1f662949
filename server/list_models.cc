// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/list_models.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "model/types.h"
#include "server/answer.h"

namespace lion {

namespace {

void FillDuration(absl::Duration from, google::protobuf::Duration* to) {
  absl::Duration rest;
  to->set_seconds(absl::IDivDuration(from, absl::Seconds(1), &rest));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

v1::ConnectionLimits ToProto(const ConnectionLimits& limits) {
  v1::ConnectionLimits out;
  out.set_max_calls(static_cast<uint32_t>(limits.max_calls));
  if (limits.max_idle != absl::InfiniteDuration()) FillDuration(limits.max_idle, out.mutable_max_idle());
  if (limits.max_age != absl::InfiniteDuration()) FillDuration(limits.max_age, out.mutable_max_age());
  if (limits.max_age_grace != absl::InfiniteDuration()) {
    FillDuration(limits.max_age_grace, out.mutable_max_age_grace());
  }
  out.set_max_memory_bytes(static_cast<uint64_t>(limits.max_memory_bytes));
  FillDuration(limits.keepalive_interval, out.mutable_keepalive_interval());
  FillDuration(limits.min_ping_interval, out.mutable_min_ping_interval());
  return out;
}

// The largest S whose tokens a row may have.
int64_t MaxImageSize(const ServedModel& model) {
  if (model.info.image_size_fixed) return model.info.image_size;
  const auto num_patches = static_cast<double>(std::max<int64_t>(model.max_sequence_tokens - 1, 0));
  auto patches_a_side = static_cast<int64_t>(std::sqrt(num_patches));
  if (1 + patches_a_side * patches_a_side > model.max_sequence_tokens) --patches_a_side;  // the root was rounded up
  return std::max<int64_t>(patches_a_side, 0) * model.info.patch_size;
}

v1::ImageInfo ToProto(const ServedModel& model, const ServiceLimits& limits) {
  v1::ImageInfo out;
  out.set_size(static_cast<uint32_t>(model.info.image_size));
  out.set_patch_size(static_cast<uint32_t>(model.info.patch_size));
  out.set_max_size(static_cast<uint32_t>(MaxImageSize(model)));
  out.set_size_fixed(model.info.image_size_fixed);
  out.set_channels(static_cast<uint32_t>(kImageChannels));
  out.set_max_image_pixels(static_cast<uint64_t>(limits.max_image_pixels));
  if (model.preprocessor == nullptr) return out;
  out.set_prepared_size(static_cast<uint32_t>(model.preprocessor->size()));
  for (const char* type : {"image/jpeg", "image/png", "image/webp"}) out.add_media_types(type);  // DecodeImage's
  return out;
}

}  // namespace

v1::ListModelsResponse ListModels(const std::vector<ServedModel>& models, const ServiceLimits& limits,
                                  const ConnectionLimits& connections) {
  v1::ListModelsResponse response;
  const v1::ConnectionLimits connection_limits = ToProto(connections);
  for (const ServedModel& model : models) {
    v1::ModelInfo* out = response.add_models();
    const ModelInfo& info = model.info;
    out->set_name(model.name);
    out->set_version(info.version);
    out->set_variant(info.variant_name);
    out->set_input(info.input);
    out->set_embedding_dimensions(static_cast<uint32_t>(info.embedding_width));
    out->set_max_sequence_tokens(static_cast<uint32_t>(model.max_sequence_tokens));
    for (const std::string& label : info.labels) out->add_labels(label);
    out->set_embeds(info.embeds);
    out->set_classifies(info.classifies);
    out->set_dtype(std::string(Name(info.dtype)));
    out->set_device(info.device);
    out->set_pooling(ToProto(info.pooling));
    out->set_normalize(info.normalize);
    out->set_chunk_tokens(static_cast<uint32_t>(info.chunk_tokens));
    out->set_parallel_max_tokens(static_cast<uint32_t>(info.parallel_max_tokens));
    out->set_max_inputs(static_cast<uint32_t>(limits.max_inputs));
    out->set_max_request_tokens(static_cast<uint64_t>(limits.max_request_tokens));
    out->set_max_message_bytes(static_cast<uint64_t>(limits.max_message_bytes));
    out->set_max_queue_tokens(static_cast<uint64_t>(limits.max_queue_tokens));
    out->set_max_queue_bytes(static_cast<uint64_t>(limits.max_queue_bytes));
    out->set_max_memory_bytes(static_cast<uint64_t>(limits.max_memory_bytes));
    *out->mutable_connection_limits() = connection_limits;
    if (info.input == "image") *out->mutable_image() = ToProto(model, limits);
  }
  return response;
}

}  // namespace lion
