// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/validate.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/status_map.h"

namespace lion {
namespace {

// proto3 enums are open: any int32 arrives. allowed lists the names, zero included.
absl::Status BadEnum(absl::string_view field, int value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is not one of ", allowed));
}

absl::Status CheckNumInputs(int num_inputs, const ServiceLimits& limits) {
  if (num_inputs == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs: none given; a call has 1 to ", limits.max_inputs, " (max_inputs)"));
  }
  if (num_inputs > limits.max_inputs) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs: ", num_inputs, " given, the limit is ", limits.max_inputs, " a call (max_inputs)"));
  }
  return absl::OkStatus();
}

absl::Status PlanOptions(const v1::EncodeOptions& options, const ServiceLimits& limits, CallPlan* plan) {
  plan->max_image_pixels = limits.max_image_pixels;
  switch (options.truncation()) {
    case v1::TRUNCATION_UNSPECIFIED:
    case v1::TRUNCATION_ERROR:
      plan->truncation = v1::TRUNCATION_ERROR;
      break;
    case v1::TRUNCATION_RIGHT:
    case v1::TRUNCATION_LEFT:
      plan->truncation = options.truncation();
      break;
    default:
      return BadEnum("options.truncation", options.truncation(),
                     "TRUNCATION_UNSPECIFIED (0), TRUNCATION_ERROR (1), TRUNCATION_RIGHT (2), TRUNCATION_LEFT (3)");
  }
  switch (options.mode()) {
    case v1::COMPUTE_MODE_UNSPECIFIED:
    case v1::COMPUTE_MODE_AUTO:
      plan->mode = limits.default_mode;
      break;
    case v1::COMPUTE_MODE_PARALLEL:
      plan->mode = ComputeMode::kParallel;
      break;
    case v1::COMPUTE_MODE_CHUNKED:
      plan->mode = ComputeMode::kChunked;
      break;
    case v1::COMPUTE_MODE_RECURRENT:
      plan->mode = ComputeMode::kRecurrent;
      break;
    default:
      return BadEnum("options.mode", options.mode(),
                     "COMPUTE_MODE_UNSPECIFIED (0), COMPUTE_MODE_AUTO (1), COMPUTE_MODE_PARALLEL (2), "
                     "COMPUTE_MODE_CHUNKED (3), COMPUTE_MODE_RECURRENT (4)");
  }
  // It counts only for CHUNKED: where no row can be chunked it is not looked at.
  if (!plan->mode.has_value() || *plan->mode == ComputeMode::kChunked) {
    if (options.chunk_tokens() > kMaxChunkTokens) {
      return absl::InvalidArgumentError(absl::StrCat("options.chunk_tokens: ", options.chunk_tokens(),
                                                     " is above the limit of ", kMaxChunkTokens,
                                                     "; 0 leaves the choice to the server"));
    }
    plan->chunk_tokens = static_cast<int>(options.chunk_tokens());
  }
  return absl::OkStatus();
}

absl::Status PlanWindows(const v1::WindowOptions& windows, CallPlan* plan) {
  if (windows.size_tokens() == 0) {
    return absl::InvalidArgumentError("windows.size_tokens: 0; POOLING_WINDOWS needs a size of at least 1");
  }
  if (windows.stride_tokens() > windows.size_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat("windows.stride_tokens: ", windows.stride_tokens(),
                                                   " is above windows.size_tokens, which is ", windows.size_tokens()));
  }
  switch (windows.boundary()) {
    case v1::WINDOW_BOUNDARY_UNSPECIFIED:
    case v1::WINDOW_BOUNDARY_TOKEN:
      break;
    case v1::WINDOW_BOUNDARY_SENTENCE:
      if (windows.stride_tokens() != 0 && windows.stride_tokens() != windows.size_tokens()) {
        return absl::InvalidArgumentError(
            absl::StrCat("windows.stride_tokens: ", windows.stride_tokens(),
                         "; windows of WINDOW_BOUNDARY_SENTENCE do not overlap: 0, or size_tokens, which is ",
                         windows.size_tokens()));
      }
      plan->sentences = true;
      break;
    default:
      return BadEnum("windows.boundary", windows.boundary(),
                     "WINDOW_BOUNDARY_UNSPECIFIED (0), WINDOW_BOUNDARY_TOKEN (1), WINDOW_BOUNDARY_SENTENCE (2)");
  }
  plan->window_tokens = windows.size_tokens();
  plan->window_stride = windows.stride_tokens() == 0 ? windows.size_tokens() : windows.stride_tokens();
  return absl::OkStatus();
}

RowOutput OutputOf(Pooling pooling) {
  switch (pooling) {
    case Pooling::kCls:
      return RowOutput::kPooledCls;
    case Pooling::kMean:
      return RowOutput::kPooledMean;
    case Pooling::kTokens:
      break;
  }
  return RowOutput::kTokens;
}

// What Embed and EmbedDocument ask for in the same words. default_output: of an UNSPECIFIED pooling.
template <typename Request>
absl::Status PlanVectors(const Request& request, const ServedModel& model, RowOutput default_output, CallPlan* plan) {
  switch (request.pooling()) {
    case v1::POOLING_UNSPECIFIED:
      plan->output = default_output;
      break;
    case v1::POOLING_CLS:
      plan->output = RowOutput::kPooledCls;
      break;
    case v1::POOLING_MEAN:
      plan->output = RowOutput::kPooledMean;
      break;
    case v1::POOLING_TOKENS:
      plan->output = RowOutput::kTokens;
      break;
    case v1::POOLING_WINDOWS:
      plan->output = RowOutput::kWindows;
      break;
    default:
      return BadEnum("pooling", request.pooling(),
                     "POOLING_UNSPECIFIED (0), POOLING_CLS (1), POOLING_MEAN (2), POOLING_TOKENS (3), "
                     "POOLING_WINDOWS (4)");
  }
  const bool tokens = plan->output == RowOutput::kTokens;
  if (plan->output == RowOutput::kWindows) {
    if (absl::Status status = PlanWindows(request.windows(), plan); !status.ok()) return status;
  }
  plan->spans = tokens || plan->output == RowOutput::kWindows;
  plan->normalize = request.has_normalize() ? request.normalize() : model.info.normalize && !tokens;

  const int64_t width = tokens ? model.info.hidden_width : model.info.embedding_width;
  if (int64_t{request.dimensions()} > width) {
    return absl::InvalidArgumentError(absl::StrCat("dimensions: ", request.dimensions(), " is above the width of ",
                                                   tokens ? "a token's vector" : "the embedding", ", which is ",
                                                   width));
  }
  plan->width = request.dimensions() == 0 ? width : int64_t{request.dimensions()};

  switch (request.vector_type()) {
    case v1::VECTOR_TYPE_UNSPECIFIED:
      plan->vector_type = v1::VECTOR_TYPE_FLOAT32;
      break;
    case v1::VECTOR_TYPE_FLOAT32:
    case v1::VECTOR_TYPE_FLOAT32_BYTES:
    case v1::VECTOR_TYPE_FLOAT16_BYTES:
    case v1::VECTOR_TYPE_INT8_BYTES:
      plan->vector_type = request.vector_type();
      break;
    default:
      return BadEnum("vector_type", request.vector_type(),
                     "VECTOR_TYPE_UNSPECIFIED (0), VECTOR_TYPE_FLOAT32 (1), VECTOR_TYPE_FLOAT32_BYTES (2), "
                     "VECTOR_TYPE_FLOAT16_BYTES (3), VECTOR_TYPE_INT8_BYTES (4)");
  }
  return absl::OkStatus();
}

absl::Status CheckEmbeds(const ServedModel& model) {
  if (model.info.embeds) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("model: ", model.name, " does not embed"));
}

}  // namespace

absl::StatusOr<int> FindModel(const std::vector<ServedModel>& models, absl::string_view name) {
  if (name.empty()) return 0;
  for (size_t i = 0; i < models.size(); ++i) {
    if (models[i].name == name) return static_cast<int>(i);
  }
  const auto append_name = [](std::string* out, const ServedModel& model) { out->append(model.name); };
  return absl::NotFoundError(
      absl::StrCat("model: no model ", Quoted(name), "; this server has ", absl::StrJoin(models, ", ", append_name)));
}

absl::StatusOr<CallPlan> PlanEmbed(const v1::EmbedRequest& request, int index, const ServedModel& model,
                                   const ServiceLimits& limits) {
  CallPlan plan;
  plan.model = index;
  if (absl::Status status = CheckEmbeds(model); !status.ok()) return status;
  if (absl::Status status = CheckNumInputs(request.inputs_size(), limits); !status.ok()) return status;
  if (absl::Status status = PlanOptions(request.options(), limits, &plan); !status.ok()) return status;
  if (absl::Status status = PlanVectors(request, model, OutputOf(model.info.pooling), &plan); !status.ok()) {
    return status;
  }
  return plan;
}

absl::StatusOr<CallPlan> PlanDocument(const v1::EmbedDocumentRequest& request, int index, const ServedModel& model,
                                      const ServiceLimits& limits) {
  CallPlan plan;
  plan.model = index;
  if (model.info.input != "text") {
    return absl::InvalidArgumentError(absl::StrCat("model: ", model.name, " takes ", model.info.input,
                                                   "; EmbedDocument takes a text, a text pair or token ids"));
  }
  if (absl::Status status = CheckEmbeds(model); !status.ok()) return status;
  if (absl::Status status = PlanOptions(request.options(), limits, &plan); !status.ok()) return status;
  if (absl::Status status = PlanVectors(request, model, RowOutput::kWindows, &plan); !status.ok()) return status;
  if (request.with_document() && plan.output != RowOutput::kWindows) {
    return absl::InvalidArgumentError(
        "with_document: goes with POOLING_WINDOWS; POOLING_MEAN alone gives the document's vector");
  }
  plan.with_document = request.with_document();
  return plan;
}

absl::StatusOr<CallPlan> PlanClassify(const v1::ClassifyRequest& request, int index, const ServedModel& model,
                                      const ServiceLimits& limits) {
  CallPlan plan;
  plan.model = index;
  plan.output = RowOutput::kLogits;
  if (absl::Status status = CheckNumInputs(request.inputs_size(), limits); !status.ok()) return status;
  if (absl::Status status = PlanOptions(request.options(), limits, &plan); !status.ok()) return status;
  if (!model.info.classifies) {
    return absl::UnimplementedError(absl::StrCat("model: ", model.name, " has no classification head; it only embeds"));
  }
  constexpr uint32_t kLargest = std::numeric_limits<int>::max();
  plan.top_k = static_cast<int>(std::min(request.top_k(), kLargest));
  plan.raw_scores = request.raw_scores();
  return plan;
}

absl::StatusOr<CallPlan> PlanTokenize(const v1::TokenizeRequest& request, int index, const ServedModel&,
                                      const ServiceLimits& limits) {
  CallPlan plan;
  plan.model = index;
  plan.spans = true;
  plan.tokens = true;
  if (absl::Status status = CheckNumInputs(request.inputs_size(), limits); !status.ok()) return status;
  return plan;
}

}  // namespace lion
