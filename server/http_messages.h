// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_HTTP_MESSAGES_H_
#define LION_SERVER_HTTP_MESSAGES_H_

// OpenAI's JSON and lion.v1's messages, one made of the other. Pure functions; docs/http.md has the fields.
//
// A request is read as it is parsed, without a tree of it: an id of a million in a row costs four bytes. What follows
// from the model, from a row or from limits is left to those who check gRPC's calls; here is checked what JSON can get
// wrong.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lion/v1/encoder.pb.h"

namespace lion {

struct HttpEmbedRequest {
  v1::EmbedRequest request;
  bool base64 = false;  // encoding_format: vectors travel as base64 of little-endian floats, else as numbers
};

// The body of POST /v1/embeddings. INVALID_ARGUMENT naming the field: for what is no JSON object, an unknown field, one
// of another type, one given twice, more than max_inputs inputs.
absl::StatusOr<HttpEmbedRequest> ReadEmbeddings(absl::string_view json, int max_inputs);

// The same for POST /v1/classify.
absl::StatusOr<v1::ClassifyRequest> ReadClassify(absl::string_view json, int max_inputs);

// The answers. The error of the first row that failed, if one did: these formats have no place for it. response's
// vectors are values, or FLOAT32_BYTES if base64.
absl::StatusOr<std::string> WriteEmbeddings(const v1::EmbedResponse& response, bool base64);
absl::StatusOr<std::string> WriteClassify(const v1::ClassifyResponse& response);

// GET /v1/models. created: when the models were loaded, in seconds since 1970.
std::string WriteModels(const v1::ListModelsResponse& response, int64_t created);
// GET /v1/models/NAME. NOT_FOUND if there is none of that name.
absl::StatusOr<std::string> WriteModel(const v1::ListModelsResponse& response, absl::string_view name, int64_t created);

struct HttpError {
  int code = 500;
  std::string body;  // {"error": {"message", "type", "param", "code"}}
  // Milliseconds to wait before trying again; -1 = trying again cannot help; nullopt = nothing is said.
  std::optional<int64_t> retry_after_ms;
};

// status must not be OK. code: 0 = what follows from status. retry_after_ms: as CallResult's retry_pushback_ms.
HttpError WriteError(const absl::Status& status, std::optional<int64_t> retry_after_ms, int code = 0);

}  // namespace lion

#endif  // LION_SERVER_HTTP_MESSAGES_H_
