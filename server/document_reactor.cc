// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/document_reactor.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/admission.h"
#include "server/call_log.h"
#include "server/document_call.h"
#include "server/metrics.h"
#include "server/no_message.h"
#include "server/status_map.h"

namespace lion {
namespace {

class DocumentReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public InFlightCall,
                              public std::enable_shared_from_this<DocumentReactor> {
 public:
  DocumentReactor(const ServiceContext* context, grpc::CallbackServerContext* rpc_context)
      : context_(context),
        rpc_context_(rpc_context),
        started_(context->clock->Now()),
        deadline_(DeadlineOf(*rpc_context)) {}

  void Start(const grpc::ByteBuffer& request) {
    const std::shared_ptr<DocumentReactor> self = shared_from_this();
    context_->metrics->RpcStarted(Rpc::kEmbedDocument);
    Call::Options options;
    options.started = started_;
    options.deadline = deadline_;
    options.caller = CallerOf(*context_, *rpc_context_);
    options.cancelled = cancelled_;
    call_ = std::make_shared<DocumentCall>(
        context_, std::move(options), request,
        // Weak, or the two would keep each other alive.
        [weak = weak_from_this()](int64_t done, int64_t total) {
          if (const auto reactor = weak.lock(); reactor != nullptr) reactor->OnProgress(done, total);
        },
        [self](CallResult result) { self->OnAnswer(std::move(result)); });
    // From here on Cut may come.
    const absl::Status status = Admit(*context_, *rpc_context_, self);
    {
      absl::MutexLock lock(&mu_);
      self_ = self;
      inside_ = status.ok();
      if (!status.ok()) {
        end_ = status;
        Pump();
      }
    }
    if (status.ok()) {
      call_->Start();
    } else {
      call_.reset();  // it will never end, and holds this
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) Abandon();
    Pump();
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mu_);
      Abandon();
      Pump();
    }
    context_->batcher->Sweep();
  }

  void OnDone() override {
    std::shared_ptr<DocumentReactor> self;  // the end of this, unless a row that was abandoned still holds it
    absl::MutexLock lock(&mu_);
    if (inside_) context_->gate->Leave(this);
    self = std::move(self_);
  }

  void Cut() override {
    call_->Cut();  // ends it as dropped, if it has not been answered
    absl::MutexLock lock(&mu_);
    if (!end_.has_value()) end_ = absl::UnavailableError("server stopped before the answer was sent");
    Pump();
  }

 private:
  struct Progress {
    int64_t done;
    int64_t total;
  };

  void OnProgress(int64_t done, int64_t total) {
    absl::MutexLock lock(&mu_);
    progress_ = Progress{done, total};
    Pump();
  }

  void OnAnswer(CallResult result) {
    absl::MutexLock lock(&mu_);
    if (result.status.ok()) {
      answered_ = true;
    } else if (!end_.has_value()) {
      // Ours first: a caller that cancelled has seen that already, whatever became of the row.
      if (result.retry_pushback_ms.has_value()) {
        rpc_context_->AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(*result.retry_pushback_ms));
      }
      end_ = std::move(result.status);
    }
    Pump();
  }

  // Nobody listens: ends the stream as soon as gRPC lets go of the write in progress.
  void Abandon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    absl::Status why = WhyCancelled(started_, deadline_, context_->clock->Now());
    // Past its deadline a row drops by itself, and is counted as that.
    if (absl::IsCancelled(why)) cancelled_->store(true, std::memory_order_release);
    end_ = std::move(why);
    context_->batcher->Sweep();
  }

  // Starts whatever can go on now: the next write, the next message, the end.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_ || writing_ || building_) return;
    if (end_.has_value()) return End(*end_);
    if (progress_.has_value()) {
      Write(DocumentCall::ProgressMessage(progress_->done, progress_->total));
      progress_.reset();
    } else if (answered_) {
      building_ = true;
      context_->executor->Run([self = shared_from_this()] { self->Build(); });
    }
  }

  // On the executor: the next message of the answer.
  void Build() {
    absl::StatusOr<std::optional<grpc::ByteBuffer>> message = call_->NextMessage();
    absl::MutexLock lock(&mu_);
    building_ = false;
    if (!message.ok()) {
      if (!end_.has_value()) end_ = message.status();
    } else if (!message->has_value()) {
      if (!end_.has_value()) end_ = absl::OkStatus();
    } else if (!end_.has_value()) {
      return Write(**message);
    }
    Pump();
  }

  void Write(const grpc::ByteBuffer& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    message_ = message;  // shares the slices
    writing_ = true;
    StartWrite(&message_);
  }

  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    finished_ = true;
    const absl::Time now = context_->clock->Now();
    if (status.ok() && now >= deadline_) status = absl::DeadlineExceededError("the deadline passed");
    EndCall(*context_, {Rpc::kEmbedDocument, call_->model(), status, std::max(now - started_, absl::ZeroDuration()),
                        TraceOf(*rpc_context_)});
    Finish(ToGrpcStatus(status));
  }

  const ServiceContext* const context_;
  grpc::CallbackServerContext* const rpc_context_;
  const absl::Time started_;
  const absl::Time deadline_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<DocumentCall> call_;  // set once, in Start

  // Held while gRPC is told to write or finish, which never calls back on the same thread.
  absl::Mutex mu_;
  grpc::ByteBuffer message_;  // gRPC's while writing_
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool building_ ABSL_GUARDED_BY(mu_) = false;             // the next message is being made
  bool answered_ ABSL_GUARDED_BY(mu_) = false;             // the call has ended with OK
  std::optional<Progress> progress_ ABSL_GUARDED_BY(mu_);  // the newest, not yet sent
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);   // how the stream ends now
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool inside_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<DocumentReactor> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* HandleDocument(const ServiceContext* context,
                                                           grpc::CallbackServerContext* rpc_context,
                                                           const grpc::ByteBuffer* request) {
  if (!request->Valid()) {
    return new NoMessageReactor<grpc::ServerWriteReactor<grpc::ByteBuffer>>(context, Rpc::kEmbedDocument, rpc_context);
  }
  auto reactor = std::make_shared<DocumentReactor>(context, rpc_context);
  reactor->Start(*request);
  return reactor.get();
}

}  // namespace lion
