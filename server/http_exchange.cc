// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/http_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/admission.h"
#include "server/bytes.h"
#include "server/call_log.h"
#include "server/http_messages.h"

namespace lion {
namespace {

// Reading JSON of this size takes the endpoint's one thread about a millisecond; longer bodies go to the tokenizer
// threads.
constexpr size_t kMaxInlineBytes = 32 << 10;

}  // namespace

HttpExchange::HttpExchange(const ServiceContext* context, std::shared_ptr<HttpBudget> budget, absl::Time models_loaded,
                           Request request)
    : context_(context), budget_(std::move(budget)), models_loaded_(models_loaded), request_(std::move(request)) {
  if (context_->api_keys != nullptr) {
    // Before the body, which a stranger need not send.
    refusal_ = context_->api_keys->Check(authorization());
  }
  const int64_t limit = context_->limits.max_message_bytes;
  if (refusal_.ok() && request_.content_length > limit) {
    Refuse(absl::ResourceExhaustedError(
               absl::StrCat("body: ", request_.content_length, " bytes, the limit is ", limit, " (--max_message_mib)")),
           413);
  }
}

HttpExchange::~HttpExchange() { Hold(-held_bytes_); }

void HttpExchange::Refuse(absl::Status status, int http_code) {
  refusal_ = std::move(status);
  refusal_code_ = http_code;
  Hold(-held_bytes_);
  std::string().swap(body_);
}

void HttpExchange::Hold(int64_t bytes) {
  held_bytes_ += bytes;
  budget_->held_bytes += bytes;
}

bool HttpExchange::Feed(absl::string_view part) {
  body_bytes_ += static_cast<int64_t>(part.size());
  const int64_t limit = context_->limits.max_message_bytes;
  if (refusal_.ok() && body_bytes_ > limit) {
    Refuse(absl::ResourceExhaustedError(absl::StrCat("body: above the limit of ", limit, " bytes (--max_message_mib)")),
           413);
  }
  if (!refusal_.ok()) return body_bytes_ <= limit + kMaxIgnoredBytes;
  // The first part is taken always: large bodies do not lock small ones out.
  if (budget_->held_bytes + static_cast<int64_t>(part.size()) > budget_->max_bytes && !body_.empty()) {
    context_->metrics->Rejected(RejectReason::kMemory);
    Refuse(absl::ResourceExhaustedError(
               absl::StrCat("body: requests over HTTP hold ", budget_->max_bytes, " bytes already; send it again")),
           429);
    return true;
  }
  Hold(static_cast<int64_t>(part.size()));
  body_.append(part.data(), part.size());
  return true;
}

std::optional<absl::string_view> HttpExchange::authorization() const {
  if (!request_.authorization.has_value()) return std::nullopt;
  return *request_.authorization;
}

uint64_t HttpExchange::caller() const { return CallerOf(*context_, authorization(), request_.peer); }

CallKind HttpExchange::kind() const {
  switch (request_.rpc) {
    case Rpc::kHttpClassify:
      return CallKind::kClassify;
    case Rpc::kHttpModels:
      return CallKind::kListModels;
    default:
      return CallKind::kEmbed;
  }
}

void HttpExchange::Arrived() {
  started_ = context_->clock->Now();
  deadline_ = started_ + request_.timeout;
  context_->metrics->RpcStarted(request_.rpc);
}

void HttpExchange::Run(std::function<void()> done) {
  done_ = std::move(done);
  const auto refuse = [this](absl::Status status) {
    CallResult result;
    result.status = std::move(status);
    if (refusal_code_ == 429) result.retry_pushback_ms = 1000;
    Complete(std::move(result));
  };
  if (!refusal_.ok()) {
    if (absl::IsUnauthenticated(refusal_)) context_->metrics->Rejected(RejectReason::kUnauthenticated);
    return refuse(refusal_);
  }
  if (absl::Status status = Admit(*context_, authorization(), shared_from_this()); !status.ok()) {
    return refuse(std::move(status));
  }
  inside_ = true;
  if (body_.size() <= kMaxInlineBytes) return ReadBody();
  const absl::Status status = context_->tokenizers->Submit(
      static_cast<int64_t>(body_.size()), [self = shared_from_this()] { self->ReadBody(); }, caller());
  if (!status.ok()) {
    context_->metrics->Rejected(RejectReason::kQueueFull);
    refusal_code_ = 429;
    refuse(status);
  }
}

absl::Status HttpExchange::MakeRequest(grpc::ByteBuffer* request) {
  const int max_inputs = context_->limits.max_inputs;
  switch (kind()) {
    case CallKind::kEmbed: {
      absl::StatusOr<HttpEmbedRequest> read = ReadEmbeddings(body_, max_inputs);
      if (!read.ok()) return read.status();
      base64_ = read->base64;
      return SerializeBytes(read->request, request);
    }
    case CallKind::kClassify: {
      absl::StatusOr<v1::ClassifyRequest> read = ReadClassify(body_, max_inputs);
      if (!read.ok()) return read.status();
      return SerializeBytes(*read, request);
    }
    default:
      return SerializeBytes(v1::ListModelsRequest(), request);
  }
}

void HttpExchange::ReadBody() {
  if (completed_) return;
  grpc::ByteBuffer request;
  const absl::Status status = MakeRequest(&request);
  std::string().swap(body_);
  Hold(-held_bytes_);
  if (!status.ok()) {
    CallResult result;
    result.status = status;
    return Complete(std::move(result));
  }
  Call::Options options;
  options.kind = kind();
  options.started = started_;
  options.deadline = deadline_;
  options.cancelled = cancelled_;
  options.caller = caller();
  const std::shared_ptr<Call> call =
      Call::Create(context_, std::move(options), request,
                   [self = shared_from_this()](CallResult result) { self->Complete(std::move(result)); });
  {
    absl::MutexLock lock(&mu_);
    if (cut_) return;
    call_ = call;
  }
  call->Start();
}

absl::StatusOr<std::string> HttpExchange::WriteAnswer(CallResult* result) {
  const absl::Status unreadable = absl::InternalError("the answer could not be read back");
  switch (kind()) {
    case CallKind::kEmbed: {
      v1::EmbedResponse response;
      if (!ParseBytes(&result->response, &response)) return unreadable;
      return WriteEmbeddings(response, base64_);
    }
    case CallKind::kClassify: {
      v1::ClassifyResponse response;
      if (!ParseBytes(&result->response, &response)) return unreadable;
      return WriteClassify(response);
    }
    default: {
      v1::ListModelsResponse response;
      if (!ParseBytes(&result->response, &response)) return unreadable;
      const int64_t created = absl::ToUnixSeconds(models_loaded_);
      if (request_.model.empty()) return WriteModels(response, created);
      return WriteModel(response, request_.model, created);
    }
  }
}

void HttpExchange::Complete(CallResult result) {
  if (completed_.exchange(true)) return;
  const absl::Time now = context_->clock->Now();
  // The caller has seen these already, whatever became of the rows.
  if (cancelled_->load(std::memory_order_acquire)) {
    result.status = absl::CancelledError("the caller cancelled");
  } else if (result.status.ok() && (expired_ || now >= deadline_)) {
    result.status = absl::DeadlineExceededError("the deadline passed");
  }
  if (result.status.ok()) {
    absl::StatusOr<std::string> answer = WriteAnswer(&result);
    if (answer.ok()) {
      reply_.body = *std::move(answer);
    } else {
      result.status = answer.status();
    }
  }
  if (!result.status.ok()) {
    HttpError error = WriteError(result.status, result.retry_pushback_ms, refusal_code_);
    reply_ = {error.code, std::move(error.body), error.retry_after_ms};
  }
  Hold(static_cast<int64_t>(reply_.body.size()));
  EndCall(*context_,
          {request_.rpc, result.model, result.status, std::max(now - started_, absl::ZeroDuration()), request_.trace});
  const std::function<void()> done = std::move(done_);
  done();
}

void HttpExchange::Sent() {
  if (inside_) context_->gate->Leave(this);
}

void HttpExchange::Gone() {
  // Past its deadline a row drops by itself, and is counted as that.
  if (absl::IsDeadlineExceeded(WhyCancelled(started_, deadline_, context_->clock->Now()))) {
    expired_ = true;
  } else {
    cancelled_->store(true, std::memory_order_release);
  }
  context_->batcher->Sweep();
}

void HttpExchange::Cut() {
  std::shared_ptr<Call> call;
  {
    absl::MutexLock lock(&mu_);
    cut_ = true;
    call = call_;
  }
  if (call != nullptr) return call->Cut();
  CallResult result;
  result.status = absl::UnavailableError("server stopped before the answer was ready");
  Complete(std::move(result));
}

}  // namespace lion
