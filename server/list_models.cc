// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/list_models.h"

#include <string>

#include "server/answer.h"

namespace lion {

v1::ListModelsResponse ListModels(const std::vector<ServedModel>& models, const ServiceLimits& limits) {
  v1::ListModelsResponse response;
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
  }
  return response;
}

}  // namespace lion
