// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_VALIDATE_H_
#define LION_SERVER_VALIDATE_H_

// What a call asks for, checked: everything that can be known without looking into its inputs. Pure functions.
//
// Every error is of the whole call and begins with the field. The inputs' own errors are row_plan.h's business.

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lion/v1/encoder.pb.h"
#include "model/encoder.h"
#include "model/image_input/decode.h"
#include "model/types.h"
#include "server/served_model.h"

namespace lion {

// protobuf's limit is 2 GiB a message; an answer that would pass this is refused before it is computed.
inline constexpr int64_t kMaxAnswerBytes = int64_t{2000} << 20;

// Limits of the whole server.
struct ServiceLimits {
  int max_inputs = 1024;                              // inputs a call
  int64_t max_request_tokens = int64_t{1} << 20;      // tokens a call; equals max_queue_tokens
  int64_t max_queue_tokens = int64_t{1} << 20;        // shown by ListModels
  int64_t max_message_bytes = int64_t{64} << 20;      // shown by ListModels; gRPC itself enforces it
  int64_t max_image_pixels = kDefaultMaxImagePixels;  // width times height of an encoded picture
  int64_t max_queue_bytes = int64_t{256} << 20;       // text that waits for tokenizer threads or is in work
  int64_t max_memory_bytes = 0;                       // of long rows together (memory_budget.h); 0 = no limit
  std::optional<ComputeMode> default_mode;            // of AUTO; nullopt = by length
};

// One call, checked. The same for all of its rows.
struct CallPlan {
  int model = 0;  // index
  RowOutput output = RowOutput::kPooledMean;
  v1::Truncation truncation = v1::TRUNCATION_ERROR;   // ERROR, RIGHT or LEFT
  std::optional<ComputeMode> mode;                    // nullopt = by length
  int chunk_tokens = 0;                               // 0 = the model's own
  bool spans = false;                                 // byte spans are wanted
  bool tokens = false;                                // token strings are wanted
  int64_t max_image_pixels = kDefaultMaxImagePixels;  // as ServiceLimits has it

  // Embed.
  int64_t window_tokens = 0;  // of kWindows, as Row has them
  int64_t window_stride = 0;
  bool sentences = false;      // windows of no one size, of window_tokens at most (server/sentence_windows.h)
  bool with_document = false;  // a vector of the whole row behind the windows'
  bool normalize = false;
  int64_t width = 0;                                     // values a vector travels with: after dimensions
  v1::VectorType vector_type = v1::VECTOR_TYPE_FLOAT32;  // never UNSPECIFIED

  // Classify.
  int top_k = 0;  // 0 = all
  bool raw_scores = false;
};

// The index of the model named; empty = 0. NOT_FOUND listing the known ones.
absl::StatusOr<int> FindModel(const std::vector<ServedModel>& models, absl::string_view name);

// INVALID_ARGUMENT naming field and limit; UNIMPLEMENTED for what this model, or this version, does not do.
absl::StatusOr<CallPlan> PlanEmbed(const v1::EmbedRequest& request, int index, const ServedModel& model,
                                   const ServiceLimits& limits);
absl::StatusOr<CallPlan> PlanDocument(const v1::EmbedDocumentRequest& request, int index, const ServedModel& model,
                                      const ServiceLimits& limits);
absl::StatusOr<CallPlan> PlanClassify(const v1::ClassifyRequest& request, int index, const ServedModel& model,
                                      const ServiceLimits& limits);
absl::StatusOr<CallPlan> PlanTokenize(const v1::TokenizeRequest& request, int index, const ServedModel& model,
                                      const ServiceLimits& limits);

}  // namespace lion

#endif  // LION_SERVER_VALIDATE_H_
