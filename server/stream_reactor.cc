// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/stream_reactor.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/admission.h"
#include "server/call_log.h"
#include "server/status_map.h"

namespace lion {
namespace {

// What says something about the stream rather than about one message.
bool EndsStream(const CallResult& result) {
  return result.unparsable || absl::IsUnavailable(result.status) || absl::IsCancelled(result.status) ||
         absl::IsDeadlineExceeded(result.status);
}

class StreamReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                            public InFlightCall,
                            public std::enable_shared_from_this<StreamReactor> {
 public:
  StreamReactor(const ServiceContext* context, Rpc rpc, CallType type, grpc::CallbackServerContext* rpc_context)
      : context_(context),
        rpc_(rpc),
        type_(type),
        caller_(CallerOf(*context, *rpc_context)),
        started_(context->clock->Now()),
        deadline_(DeadlineOf(*rpc_context)),
        trace_(TraceOf(*rpc_context)) {}

  void Start(const grpc::CallbackServerContext& rpc_context) {
    context_->metrics->RpcStarted(rpc_);
    const absl::Status status = Admit(*context_, rpc_context, shared_from_this());
    absl::MutexLock lock(&mu_);
    self_ = shared_from_this();
    inside_ = status.ok();
    if (!status.ok()) end_ = status;
    Pump();
  }

  void OnReadDone(bool ok) override {
    std::shared_ptr<Call> call;
    {
      absl::MutexLock lock(&mu_);
      reading_ = false;
      if (ok && !Ending() && draining_) end_ = absl::UnavailableError("server is draining");  // this one is not taken
      if (ok && !Ending()) {
        call = Take();
      } else {
        half_closed_ |= !ok;
        Pump();
      }
    }
    if (call == nullptr) return;
    call->Start();
    absl::MutexLock lock(&mu_);
    Pump();
  }

  void OnWriteDone(bool ok) override {
    std::shared_ptr<Slot> answered;  // freed outside the lock
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!slots_.empty()) {
      answered = std::move(slots_.front());
      slots_.pop_front();
    }
    if (!ok) Abandon(WhyCancelled(started_, deadline_, context_->clock->Now()));
    Pump();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mu_);
    Abandon(WhyCancelled(started_, deadline_, context_->clock->Now()));
    Pump();
  }

  void OnDone() override {
    std::shared_ptr<StreamReactor> self;  // the end of this, unless a call that was abandoned still holds it
    absl::MutexLock lock(&mu_);
    if (inside_) context_->gate->Leave(this);
    self = std::move(self_);
  }

  void OnDrain() override {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    Pump();
  }

  void Cut() override {
    std::vector<std::shared_ptr<Call>> cut;
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      end_ = absl::UnavailableError("server stopped before the answer was ready");
      for (const auto& slot : TakeUnwritten()) {
        if (slot->call != nullptr) cut.push_back(slot->call);
      }
      Pump();
    }
    for (const auto& call : cut) call->Cut();
  }

 private:
  // A message that was read.
  struct Slot {
    std::shared_ptr<Call> call;  // null when done: an answer that nobody reads must not hold a version of a model
    std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
    bool done = false;
    bool dropped = false;  // nobody waits for its answer
    grpc::ByteBuffer response;
    std::optional<absl::Status> end;  // instead of an answer: the stream ends here with this
  };

  bool Ending() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return finished_ || end_.has_value(); }

  // A slot and its call for the message in read_buffer_. To be started outside the lock: it may end at once.
  std::shared_ptr<Call> Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto slot = std::make_shared<Slot>();
    Call::Options options;
    options.kind = type_.kind;
    options.started = context_->clock->Now();
    options.deadline = deadline_;
    options.caller = caller_;
    options.cancelled = slot->cancelled;
    options.on_wait = [self = shared_from_this()](bool waits) { self->OnWait(waits); };
    slot->call = type_.make(
        context_, std::move(options), read_buffer_,
        [self = shared_from_this(), slot](CallResult result) { self->OnAnswer(slot.get(), std::move(result)); });
    read_buffer_.Clear();
    slots_.push_back(slot);
    return slot->call;
  }

  void OnWait(bool waits) {
    absl::MutexLock lock(&mu_);
    num_waiting_ += waits ? 1 : -1;
    Pump();
  }

  void OnAnswer(Slot* slot, CallResult result) {
    bool ends = EndsStream(result);
    if (!ends && !result.status.ok()) {
      std::optional<grpc::ByteBuffer> error = slot->call->ErrorAnswer(result.status);
      ends = !error.has_value();
      if (!ends) result.response = *std::move(error);
    }
    std::shared_ptr<Call> ended;  // freed outside the lock
    absl::MutexLock lock(&mu_);
    NoteModel();
    ended = std::move(slot->call);
    slot->done = true;
    if (slot->dropped) return;
    if (ends) {
      slot->end = std::move(result.status);
      // What was read after it is not answered, and nothing more is read.
      if (!end_.has_value()) end_ = slot->end;
      while (slots_.back().get() != slot) DropBack();
    } else {
      slot->response = result.response;
    }
    Pump();
  }

  // What the stream is counted under: the first model that a message reached. Before slots go.
  void NoteModel() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (auto slot = slots_.begin(); model_ == Metrics::kUnknownModel && slot != slots_.end(); ++slot) {
      if ((*slot)->call != nullptr) model_ = (*slot)->call->model();
    }
  }

  // The newest slot's answer is of no use any more.
  void DropBack() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    slots_.back()->dropped = true;
    slots_.back()->cancelled->store(true, std::memory_order_release);
    slots_.pop_back();
  }

  // All slots but the one that is being written.
  std::deque<std::shared_ptr<Slot>> TakeUnwritten() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    NoteModel();
    std::deque<std::shared_ptr<Slot>> taken;
    while (slots_.size() > (writing_ ? 1 : 0)) {
      slots_.back()->dropped = true;
      taken.push_front(std::move(slots_.back()));
      slots_.pop_back();
    }
    return taken;
  }

  // Nobody listens: ends the stream as soon as gRPC lets go of the write in progress.
  void Abandon(absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    const bool cancelled = absl::IsCancelled(why);
    end_ = std::move(why);
    for (const auto& slot : TakeUnwritten()) {
      // Past its deadline a row drops by itself, and is counted as that.
      if (cancelled) slot->cancelled->store(true, std::memory_order_release);
    }
    context_->batcher->Sweep();
  }

  // Starts whatever can go on now: the next write, the next read, the end.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    if (!writing_ && !slots_.empty() && slots_.front()->done) {
      Slot& front = *slots_.front();
      if (front.end.has_value()) return End(*front.end);
      writing_ = true;
      StartWrite(&front.response);
    }
    if (!reading_ && !half_closed_ && !draining_ && !end_.has_value() && num_waiting_ == 0 &&
        slots_.size() < kMaxStreamInFlight) {
      reading_ = true;
      StartRead(&read_buffer_);
    }
    if (!slots_.empty() || writing_) return;
    if (end_.has_value()) {
      End(*end_);
    } else if (half_closed_) {
      End(absl::OkStatus());
    } else if (draining_) {
      End(absl::UnavailableError("server is draining"));
    }
  }

  // By value: status may lie in a slot, and those go.
  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    finished_ = true;
    NoteModel();
    while (!slots_.empty()) DropBack();
    const absl::Duration duration = std::max(context_->clock->Now() - started_, absl::ZeroDuration());
    EndCall(*context_, {rpc_, model_, status, duration, trace_});
    Finish(ToGrpcStatus(status));
  }

  const ServiceContext* const context_;
  const Rpc rpc_;
  const CallType type_;
  const uint64_t caller_;
  const absl::Time started_;
  const absl::Time deadline_;
  const std::optional<TraceContext> trace_;

  // Held while gRPC is told to read, write or finish, which never calls back on the same thread.
  absl::Mutex mu_;
  grpc::ByteBuffer read_buffer_;  // gRPC's while reading_
  // Read and not yet answered on the wire, oldest first. The front is gRPC's while writing_.
  std::deque<std::shared_ptr<Slot>> slots_ ABSL_GUARDED_BY(mu_);
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mu_) = false;  // the caller will send nothing more
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  int num_waiting_ ABSL_GUARDED_BY(mu_) = 0;                 // messages that wait for room in a queue
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);     // how the stream ends when slots_ are answered
  int model_ ABSL_GUARDED_BY(mu_) = Metrics::kUnknownModel;  // the first reached
  bool inside_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<StreamReactor> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* HandleStream(const ServiceContext* context, Rpc rpc,
                                                                          CallType type,
                                                                          grpc::CallbackServerContext* rpc_context) {
  auto reactor = std::make_shared<StreamReactor>(context, rpc, type, rpc_context);
  reactor->Start(*rpc_context);
  return reactor.get();
}

}  // namespace lion
