// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/unary_reactor.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/admission.h"
#include "server/call_log.h"
#include "server/no_message.h"
#include "server/status_map.h"

namespace lion {
namespace {

class UnaryReactor final : public grpc::ServerUnaryReactor,
                           public InFlightCall,
                           public std::enable_shared_from_this<UnaryReactor> {
 public:
  UnaryReactor(const ServiceContext* context, Rpc rpc, grpc::CallbackServerContext* rpc_context,
               grpc::ByteBuffer* response)
      : context_(context),
        rpc_(rpc),
        rpc_context_(rpc_context),
        response_(response),
        started_(context->clock->Now()),
        deadline_(DeadlineOf(*rpc_context)),
        trace_(TraceOf(*rpc_context)) {}

  void Start(const CallType& type, const grpc::ByteBuffer& request) {
    self_ = shared_from_this();
    context_->metrics->RpcStarted(rpc_);
    Call::Options options;
    options.kind = type.kind;
    options.started = started_;
    options.deadline = deadline_;
    options.caller = CallerOf(*context_, *rpc_context_);
    options.cancelled = cancelled_;
    call_ = type.make(context_, std::move(options), request,
                      [self = self_](CallResult result) { self->Complete(std::move(result)); });
    // From here on Cut may come.
    absl::Status admitted = type.gated ? Admit(*context_, *rpc_context_, self_) : CheckKey(*context_, *rpc_context_);
    if (!admitted.ok()) {
      call_.reset();
      Complete({.status = std::move(admitted), .response = {}, .retry_pushback_ms = std::nullopt});
      return;
    }
    inside_ = type.gated;
    call_->Start();
  }

  void OnCancel() override {
    const absl::Status why = WhyCancelled(started_, deadline_, context_->clock->Now());
    // Past its deadline a row drops by itself, and is counted as that.
    if (absl::IsDeadlineExceeded(why)) {
      expired_ = true;
    } else {
      cancelled_->store(true, std::memory_order_release);
    }
    context_->batcher->Sweep();
  }

  void OnDone() override {
    if (inside_) context_->gate->Leave(this);
    self_.reset();  // the end of this, unless the Batcher still holds a row of a call that was cut
  }

  void Cut() override { call_->Cut(); }

 private:
  // Called once: by the call, or in its place.
  void Complete(CallResult result) {
    const absl::Time now = context_->clock->Now();
    // The caller has seen these already, whatever became of the rows.
    if (cancelled_->load(std::memory_order_acquire)) {
      result.status = absl::CancelledError("the caller cancelled");
    } else if (result.status.ok() && (expired_ || now >= deadline_)) {
      result.status = absl::DeadlineExceededError("the deadline passed");
    }
    if (result.status.ok()) {
      *response_ = result.response;
    } else if (result.retry_pushback_ms.has_value()) {
      rpc_context_->AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(*result.retry_pushback_ms));
    }
    EndCall(*context_, {rpc_, result.model, result.status, std::max(now - started_, absl::ZeroDuration()), trace_});
    Finish(ToGrpcStatus(result.status));
  }

  const ServiceContext* const context_;
  const Rpc rpc_;
  grpc::CallbackServerContext* const rpc_context_;
  grpc::ByteBuffer* const response_;
  const absl::Time started_;
  const absl::Time deadline_;
  const std::optional<TraceContext> trace_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::atomic<bool> expired_ = false;
  std::shared_ptr<Call> call_;
  bool inside_ = false;
  std::shared_ptr<UnaryReactor> self_;  // until OnDone
};

}  // namespace

grpc::ServerUnaryReactor* HandleUnary(const ServiceContext* context, Rpc rpc, CallType type,
                                      grpc::CallbackServerContext* rpc_context, const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) {
  if (!request->Valid()) return new NoMessageReactor<grpc::ServerUnaryReactor>(context, rpc, rpc_context);
  // Not shared_from_this'd before make_shared has ended: hence two steps.
  auto reactor = std::make_shared<UnaryReactor>(context, rpc, rpc_context, response);
  reactor->Start(type, *request);
  return reactor.get();
}

}  // namespace lion
