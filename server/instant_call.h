// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_INSTANT_CALL_H_
#define LION_SERVER_INSTANT_CALL_H_

// A Call that is answered at once, inside Start, from what the server knows: no rows, no queue.

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/bytes.h"
#include "server/call.h"

namespace lion {

// kAnswer: pure; it may set the index of the model that the request reaches.
template <typename Request, typename Response,
          absl::StatusOr<Response> (*kAnswer)(const ServiceContext& context, const ServedModels& models,
                                              const Request& request, int* model)>
class InstantCall final : public Call {
 public:
  using Call::Call;

  void Start() override {
    CallResult result;
    Request request;
    if (!ParseBytes(&request_bytes_, &request)) {
      result.status =
          absl::InvalidArgumentError(absl::StrCat("request does not parse as ", Request::descriptor()->full_name()));
      result.unparsable = true;
      return Finish(std::move(result));
    }
    int model = Metrics::kUnknownModel;
    absl::StatusOr<Response> response = kAnswer(context(), models(), request, &model);
    model_ = model;
    if (!response.ok()) return Fail(response.status());
    result.model = model;
    result.status = SerializeBytes(*response, &result.response);
    Finish(std::move(result));
  }
};

}  // namespace lion

#endif  // LION_SERVER_INSTANT_CALL_H_
