// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_INFERENCE_MESSAGES_H_
#define LION_SERVER_INFERENCE_MESSAGES_H_

// The Open Inference Protocol's messages to lion.v1's and back. Pure functions.
//
// Inputs of a text model, B sequences a call:
//   text             BYTES (B), or (B, 2) for pairs, UTF-8
//   input_ids        INT64 (B, L), in the place of text; (L) is one sequence. INT32 is taken too, here and below
//   attention_mask   INT64, shaped like input_ids: 1 where there is a token, and those stand together; 0 is padding,
//                    which never runs. Left out = all tokens
//   token_type_ids   INT64, shaped like input_ids. Left out = all 0
// Inputs of an image model, one of them, B pictures a call:
//   image            BYTES (B), encoded pictures (JPEG, PNG, WebP)
//   pixels           FP32 (B, 3, S, S), already normalised: B pictures of one size
// Outputs, one of them a call; the first that the model has where the call names none:
//   embedding        FP32 (B, W)
//   scores           FP32 (B, number of labels), in the order of the labels
// Contents are raw or typed; an answer's are as its request's were.
// Parameters: pooling ("cls", "mean"), normalize (bool), dimensions (integer), for embedding; raw_scores (bool), for
// scores; truncation ("error", "right", "left"), mode ("auto", "parallel", "chunked", "recurrent"), chunk_tokens
// (integer). What Triton's clients add of their own (priority, timeout, sequence_*, triton_*) is passed over.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/open_inference_grpc.pb.h"
#include "lion/v1/encoder.pb.h"
#include "server/served_model.h"

namespace lion {

// What a ModelInferRequest asks for. embed or classify holds it; model stays empty.
struct InferQuery {
  bool scores = false;  // the output: scores, of classify; else embedding, of embed
  v1::EmbedRequest embed;
  v1::ClassifyRequest classify;
};

// Texts and encoded pictures are moved out of request. NOT_FOUND for a version that the model has not; else
// INVALID_ARGUMENT naming the protocol's field, and for a tensor its element.
absl::StatusOr<InferQuery> FromInfer(inference::ModelInferRequest* request, const ServedModel& model, int max_inputs);

// An answer but for its output: of which model, and for which request.
inference::ModelInferResponse InferAnswer(const ServedModel& model, const std::string& id);

// Adds an output, FP32 of shape (num_rows, values.size() / num_rows), raw or typed.
void AddOutput(const std::string& name, int64_t num_rows, std::vector<float> values, bool raw,
               inference::ModelInferResponse* out);

// The inputs and outputs above, as this model has them; its labels are a property, a JSON array.
inference::ModelMetadataResponse InferMetadata(const ServedModel& model);

// An error of lion.v1's, said with the protocol's fields.
absl::Status InInferenceWords(const absl::Status& status);

inline constexpr char kEmbeddingOutput[] = "embedding";
inline constexpr char kScoresOutput[] = "scores";

}  // namespace lion

#endif  // LION_SERVER_INFERENCE_MESSAGES_H_
