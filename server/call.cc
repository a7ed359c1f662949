// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/call.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/duration.pb.h"
#include "lion/v1/encoder.pb.h"
#include "server/answer.h"
#include "server/bytes.h"
#include "server/list_models.h"
#include "server/row_plan.h"
#include "server/status_map.h"
#include "server/validate.h"

namespace lion {
namespace {

// Parsing and checking a message of this size takes a gRPC thread about as long as an RPC costs anyway; larger ones go
// to the tokenizer threads, so that health checks and small calls are not behind them.
constexpr size_t kMaxInlineBytes = 256 << 10;

// How near to its deadline a cancellation counts as the deadline's (see WhyCancelled).
constexpr absl::Duration kDeadlineSlack = absl::Milliseconds(20);
constexpr double kDeadlineSlackShare = 0.01;

void FillDuration(absl::Duration from, google::protobuf::Duration* to) {
  const int64_t nanos = std::max<int64_t>(absl::ToInt64Nanoseconds(from), 0);
  to->set_seconds(nanos / 1000000000);
  to->set_nanos(static_cast<int32_t>(nanos % 1000000000));
}

// Embed, Classify and Tokenize: everything but what differs by the messages' types.
class RowsCall : public Call {
 public:
  using Call::Call;

  void Start() override {
    if (request_bytes_.Length() <= kMaxInlineBytes) {
      Parse(/*on_tokenizer_thread=*/false);
      return;
    }
    OnTokenizerThread(static_cast<int64_t>(request_bytes_.Length()),
                      [](RowsCall& call) { call.Parse(/*on_tokenizer_thread=*/true); });
  }

 protected:
  using Inputs = google::protobuf::RepeatedPtrField<v1::Input>;

  virtual absl::string_view request_name() const = 0;  // "lion.v1.EmbedRequest"
  virtual bool ParseRequest() = 0;                     // from request_bytes_
  virtual const std::string& model_name() const = 0;
  virtual const Inputs& inputs() const = 0;
  virtual absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) const = 0;
  virtual PlannedRow MakeRow(int i) const { return PlanRow(inputs()[i], i, plan_, served()); }
  virtual void ReleaseRequest() = 0;  // frees what the rows were made from
  // From rows_ and, where the rows ran, answers_ (which it may consume).
  virtual absl::Status BuildResponse(grpc::ByteBuffer* response) = 0;

  const ServedModel& served() const { return context().models[plan_.model]; }
  void FillTimings(v1::Timings* timings) const;

  // The status of row i, whether it failed before it ran or while it did.
  const absl::Status& row_status(int i) const { return rows_[i].status.ok() ? answers_[i].status : rows_[i].status; }

  CallPlan plan_;
  std::vector<PlannedRow> rows_;    // one an input
  std::vector<RowAnswer> answers_;  // as many

 private:
  std::shared_ptr<RowsCall> self() { return std::static_pointer_cast<RowsCall>(shared_from_this()); }

  // The steps. Each ends by handing over to the next, or the call.
  void OnTokenizerThread(int64_t bytes, void (*step)(RowsCall&));
  void Parse(bool on_tokenizer_thread);
  void MakeRows();
  void Submit();
  void RowDone(int i, RowAnswer answer);
  void Collect();

  // Not OK if nobody waits for the answer any more.
  absl::Status CheckCaller() const;
  // Ends the call as refused for lack of room, or waits for it: then again is called when there may be some.
  template <typename WhenRoom>
  void NoRoom(const absl::Status& status, WhenRoom when_room);

  absl::Time tokenize_started_;
  absl::Duration tokenize_time_;
  int64_t num_tokens_ = 0;  // of the good rows
  std::atomic<int> num_running_ = 0;
};

void RowsCall::OnTokenizerThread(int64_t bytes, void (*step)(RowsCall&)) {
  const absl::Status status = context().tokenizers->Submit(bytes, [self = self(), step] { step(*self); });
  if (status.ok()) return;
  NoRoom(status, [this, bytes, step](std::function<void()> waited) {
    context().tokenizers->WhenRoom(bytes, [self = self(), bytes, step, waited = std::move(waited)] {
      waited();
      self->OnTokenizerThread(bytes, step);
    });
  });
}

template <typename WhenRoom>
void RowsCall::NoRoom(const absl::Status& status, WhenRoom when_room) {
  if (options().on_wait != nullptr) {
    options().on_wait(true);
    when_room([on_wait = options().on_wait] { on_wait(false); });
    return;
  }
  context().metrics->Rejected(RejectReason::kQueueFull);
  const absl::Duration wait = context().batcher->EstimatedWait();
  const bool too_late = context().clock->Now() + wait >= options().deadline;
  CallResult result;
  result.status = status;
  result.model = model_;
  result.retry_pushback_ms =
      too_late ? -1 : std::max<int64_t>(1, absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1))));
  Finish(std::move(result));
}

absl::Status RowsCall::CheckCaller() const {
  if (options().cancelled->load(std::memory_order_acquire)) return absl::CancelledError("the caller cancelled");
  if (context().clock->Now() >= options().deadline) {
    context().metrics->Rejected(RejectReason::kDeadline);
    return absl::DeadlineExceededError("the deadline passed before the call could be queued");
  }
  return absl::OkStatus();
}

void RowsCall::Parse(bool on_tokenizer_thread) {
  if (!ParseRequest()) {
    CallResult result;
    result.status = absl::InvalidArgumentError(absl::StrCat("request does not parse as ", request_name()));
    result.unparsable = true;
    return Finish(std::move(result));
  }
  absl::StatusOr<int> index = FindModel(context().models, model_name());
  if (!index.ok()) return Fail(index.status());
  model_ = *index;
  absl::StatusOr<CallPlan> plan = MakePlan(*index, context().models[*index]);
  if (!plan.ok()) return Fail(plan.status());
  plan_ = *std::move(plan);
  num_unanswered_ = inputs().size();

  int64_t text_bytes = 0;
  for (const v1::Input& input : inputs()) text_bytes += TextBytes(input);
  tokenize_started_ = context().clock->Now();
  if (text_bytes == 0 || on_tokenizer_thread) {
    MakeRows();
  } else {
    OnTokenizerThread(text_bytes, [](RowsCall& call) { call.MakeRows(); });
  }
}

void RowsCall::MakeRows() {
  if (finished()) return;
  const bool runs = options().kind != CallKind::kTokenize;
  rows_.reserve(inputs().size());
  for (int i = 0; i < inputs().size(); ++i) {
    if (absl::Status status = CheckCaller(); !status.ok()) return Fail(std::move(status));
    const bool tokenizes = TextBytes(inputs()[i]) > 0 && served().tokenizer != nullptr;
    const absl::Time started = context().clock->Now();
    rows_.push_back(MakeRow(i));
    if (tokenizes) context().metrics->Tokenized(plan_.model, context().clock->Now() - started);
    num_tokens_ += rows_.back().num_tokens;
    if (!runs) continue;
    if (absl::Status status = CheckTotalTokens(num_tokens_, context().limits); !status.ok()) {
      return Fail(std::move(status));
    }
  }
  tokenize_time_ = context().clock->Now() - tokenize_started_;
  if (absl::Status status = CheckAnyRow(rows_); !status.ok()) return Fail(std::move(status));
  // After the rows, so that what is wrong with such a request is said before that it is not served.
  if (plan_.windows) return Fail(absl::UnimplementedError("pooling: WINDOWS is not served yet"));
  answers_.resize(rows_.size());
  if (absl::Status status = CheckAnswerBytes(EstimateAnswerBytes(plan_, rows_, served().info)); !status.ok()) {
    return Fail(std::move(status));
  }
  if (!runs) return Collect();
  ReleaseRequest();
  Submit();
}

void RowsCall::Submit() {
  if (finished()) return;
  if (absl::Status status = CheckCaller(); !status.ok()) return Fail(std::move(status));
  const bool may_retry = options().on_wait != nullptr;  // then the rows must outlive a refusal
  std::vector<PendingRow> pending;
  for (size_t i = 0; i < rows_.size(); ++i) {
    PlannedRow& row = rows_[i];
    if (!row.status.ok()) continue;
    PendingRow out;
    out.model = plan_.model;
    out.ids = may_retry ? row.ids : std::move(row.ids);
    out.type_ids = may_retry ? row.type_ids : std::move(row.type_ids);
    out.mode = row.mode;
    out.chunk_tokens = row.mode == ComputeMode::kChunked ? plan_.chunk_tokens : 0;
    out.output = plan_.output;
    out.deadline = options().deadline;
    out.cancelled = options().cancelled;
    out.done = [self = self(), i](RowAnswer answer) { self->RowDone(static_cast<int>(i), std::move(answer)); };
    pending.push_back(std::move(out));
  }
  num_unanswered_ = static_cast<int>(pending.size());
  num_running_ = static_cast<int>(pending.size());
  const absl::Status status = context().batcher->Submit(std::move(pending));
  if (status.ok()) return;
  if (!absl::IsResourceExhausted(status)) return Fail(status);
  NoRoom(status, [this](std::function<void()> waited) {
    context().batcher->WhenRoom(num_tokens_, [self = self(), waited = std::move(waited)] {
      waited();
      self->Submit();
    });
  });
}

void RowsCall::RowDone(int i, RowAnswer answer) {
  answers_[i] = std::move(answer);
  --num_unanswered_;
  if (num_running_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  context().executor->Run([self = self()] { self->Collect(); });
}

void RowsCall::Collect() {
  if (finished()) return;
  const int num_rows = static_cast<int>(rows_.size());
  bool any_good = false;
  for (int i = 0; i < num_rows; ++i) {
    const absl::Status& status = row_status(i);
    any_good |= status.ok();
    // These are not the input's fault, and say of the whole call what happened to it.
    if (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) {
      return Fail(status);
    }
  }
  if (!any_good) return Fail(row_status(0));
  CallResult result;
  result.model = model_;
  result.status = BuildResponse(&result.response);
  Finish(std::move(result));
}

void RowsCall::FillTimings(v1::Timings* timings) const {
  const RowAnswer* slowest = nullptr;
  for (const RowAnswer& answer : answers_) {
    if (slowest == nullptr || answer.queue + answer.compute > slowest->queue + slowest->compute) slowest = &answer;
  }
  FillDuration(tokenize_time_, timings->mutable_tokenize());
  FillDuration(slowest->queue, timings->mutable_queue());
  FillDuration(slowest->compute, timings->mutable_compute());
  FillDuration(context().clock->Now() - options().started, timings->mutable_total());
}

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
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) const override {
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
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) const override {
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
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) const override {
    return PlanTokenize(request_, index, model, context().limits);
  }
  PlannedRow MakeRow(int i) const override { return PlanTokenizeRow(inputs()[i], i, plan_, served()); }
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
      result.status = SerializeBytes(ListModels(context().models, context().limits), &result.response);
    }
    Finish(std::move(result));
  }
};

template <typename Response>
grpc::ByteBuffer SerializeError(const ServiceContext& context, int model, const absl::Status& status) {
  Response response;
  if (model != Metrics::kUnknownModel) {
    response.set_model(context.models[model].name);
    response.set_model_version(context.models[model].info.version);
  }
  ToRowError(status, response.mutable_error());
  grpc::ByteBuffer bytes;
  SerializeBytes(response, &bytes).IgnoreError();  // a few hundred bytes
  return bytes;
}

}  // namespace

Call::Call(const ServiceContext* context, Options options, const grpc::ByteBuffer& request,
           std::function<void(CallResult)> done)
    : request_bytes_(request), context_(context), options_(std::move(options)), done_(std::move(done)) {}

void Call::Finish(CallResult result) {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return;
  // Moved out first: done may hold the last reference to what holds this call.
  const std::function<void(CallResult)> done = std::move(done_);
  if (absl::IsResourceExhausted(result.status) && !result.retry_pushback_ms.has_value()) result.retry_pushback_ms = -1;
  done(std::move(result));
}

void Call::Fail(absl::Status status) {
  CallResult result;
  result.status = std::move(status);
  result.model = model_;
  Finish(std::move(result));
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
