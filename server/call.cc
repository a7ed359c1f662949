// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/call.h"

#include <string>
#include <type_traits>
#include <utility>

#include "lion/v1/encoder.pb.h"
#include "server/answer.h"
#include "server/bytes.h"
#include "server/list_models.h"
#include "server/row_plan.h"
#include "server/rows_call.h"
#include "server/status_map.h"
#include "server/validate.h"

namespace lion {
namespace {

// How near to its deadline a cancellation counts as the deadline's (see WhyCancelled).
constexpr absl::Duration kDeadlineSlack = absl::Milliseconds(20);
constexpr double kDeadlineSlackShare = 0.01;

// What the message types have in common.
template <typename Request, typename Response>
class TypedCall : public RowsCall {
 public:
  using RowsCall::RowsCall;

 protected:
  absl::string_view request_name() const final { return Request::descriptor()->full_name(); }
  bool ParseRequest() final { return ParseBytes(&request_bytes_, &request_); }
  const std::string& model_name() const final { return request_.model(); }
  const Inputs& inputs() const final { return request_.inputs(); }
  void ReleaseRequest() final { request_ = Request(); }

  absl::Status BuildResponse(grpc::ByteBuffer* bytes) final {
    Response response;
    response.set_model(served().name);
    response.set_model_version(served().info.version);
    response.mutable_results()->Reserve(static_cast<int>(rows_.size()));
    for (int i = 0; i < static_cast<int>(rows_.size()); ++i) {
      auto* result = response.add_results();
      if (row_status(i).ok()) {
        FillResult(i, result);
      } else {
        ToRowError(row_status(i), result->mutable_error());
      }
    }
    FillLast(&response);
    return SerializeBytes(response, bytes);
  }

  virtual void FillResult(int i, std::remove_pointer_t<decltype(std::declval<Response>().add_results())>* result) = 0;
  virtual void FillLast(Response* response) const = 0;

  Request request_;
};

class EmbedCall final : public TypedCall<v1::EmbedRequest, v1::EmbedResponse> {
 public:
  using TypedCall::TypedCall;

 private:
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) override {
    return PlanEmbed(request_, index, model, context().limits);
  }
  void FillResult(int i, v1::EmbedResult* result) override {
    FillEmbedResult(plan_, rows_[i], std::move(answers_[i].result), result);
  }
  void FillLast(v1::EmbedResponse* response) const override { FillTimings(response->mutable_timings()); }
};

class ClassifyCall final : public TypedCall<v1::ClassifyRequest, v1::ClassifyResponse> {
 public:
  using TypedCall::TypedCall;

 private:
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) override {
    return PlanClassify(request_, index, model, context().limits);
  }
  void FillResult(int i, v1::ClassifyResult* result) override {
    FillClassifyResult(plan_, rows_[i], std::move(answers_[i].result), served().info, result);
  }
  void FillLast(v1::ClassifyResponse* response) const override { FillTimings(response->mutable_timings()); }
};

class TokenizeCall final : public TypedCall<v1::TokenizeRequest, v1::TokenizeResponse> {
 public:
  using TypedCall::TypedCall;

 private:
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) override {
    return PlanTokenize(request_, index, model, context().limits);
  }
  PlannedRow MakeRow(int i) const override {
    return PlanTokenizeRow(inputs()[i], i, plan_, served(), &context().tokenizers->parallel());
  }
  void FillResult(int i, v1::TokenizeResult* result) override { FillTokenizeResult(rows_[i], result); }
  void FillLast(v1::TokenizeResponse*) const override {}
};

class ListModelsCall final : public Call {
 public:
  using Call::Call;

  void Start() override {
    CallResult result;
    v1::ListModelsRequest request;
    if (!ParseBytes(&request_bytes_, &request)) {
      result.status = absl::InvalidArgumentError("request does not parse as lion.v1.ListModelsRequest");
      result.unparsable = true;
    } else {
      result.status = SerializeBytes(ListModels(models(), context().limits, context().connections), &result.response);
    }
    Finish(std::move(result));
  }
};

template <typename Response>
grpc::ByteBuffer SerializeError(const ServiceContext& context, int model, const absl::Status& status) {
  Response response;
  if (model != Metrics::kUnknownModel) {
    const std::shared_ptr<const ServedModels> models = context.models->Get();
    response.set_model((*models)[model].name);
    response.set_model_version((*models)[model].info.version);
  }
  ToRowError(status, response.mutable_error());
  grpc::ByteBuffer bytes;
  SerializeBytes(response, &bytes).IgnoreError();  // a few hundred bytes
  return bytes;
}

}  // namespace

Call::Call(const ServiceContext* context, Options options, const grpc::ByteBuffer& request,
           std::function<void(CallResult)> done)
    : request_bytes_(request),
      context_(context),
      options_(std::move(options)),
      models_(context->models->Get()),
      done_(std::move(done)) {}

void Call::Finish(CallResult result) {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return;
  // Moved out first: done may hold the last reference to what holds this call.
  const std::function<void(CallResult)> done = std::move(done_);
  if (absl::IsResourceExhausted(result.status) && !result.retry_pushback_ms.has_value()) result.retry_pushback_ms = -1;
  done(std::move(result));
}

void Call::Fail(absl::Status status) {
  CallResult result;
  result.status = Reword(std::move(status));
  result.model = model_;
  Finish(std::move(result));
}

std::optional<grpc::ByteBuffer> Call::ErrorAnswer(const absl::Status& status) const {
  return ErrorResponse(*context_, options_.kind, model_, status);
}

void Call::Cut() {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return;
  const std::function<void(CallResult)> done = std::move(done_);
  for (int i = num_unanswered_; i > 0; --i) context_->metrics->Dropped(DropReason::kDrain);
  CallResult result;
  result.status = absl::UnavailableError("server stopped before the answer was ready");
  result.model = model_;
  done(std::move(result));
}

std::shared_ptr<Call> Call::Create(const ServiceContext* context, Options options, const grpc::ByteBuffer& request,
                                   std::function<void(CallResult)> done) {
  const CallKind kind = options.kind;
  switch (kind) {
    case CallKind::kEmbed:
      return std::make_shared<EmbedCall>(context, std::move(options), request, std::move(done));
    case CallKind::kClassify:
      return std::make_shared<ClassifyCall>(context, std::move(options), request, std::move(done));
    case CallKind::kTokenize:
      return std::make_shared<TokenizeCall>(context, std::move(options), request, std::move(done));
    case CallKind::kListModels:
      break;
  }
  return std::make_shared<ListModelsCall>(context, std::move(options), request, std::move(done));
}

grpc::ByteBuffer ErrorResponse(const ServiceContext& context, CallKind kind, int model, const absl::Status& status) {
  return kind == CallKind::kClassify ? SerializeError<v1::ClassifyResponse>(context, model, status)
                                     : SerializeError<v1::EmbedResponse>(context, model, status);
}

absl::Status WhyCancelled(absl::Time started, absl::Time deadline, absl::Time now) {
  const absl::Duration slack = deadline == absl::InfiniteFuture()
                                   ? absl::ZeroDuration()
                                   : kDeadlineSlack + kDeadlineSlackShare * (deadline - started);
  if (deadline - now <= slack) return absl::DeadlineExceededError("the deadline passed");
  return absl::CancelledError("the caller cancelled");
}

}  // namespace lion
