// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_CALL_H_
#define LION_SERVER_CALL_H_

// The life of one request, from its bytes to the bytes of its answer: what a unary RPC is, and one message of a stream.
//
// One request's way: 1. Start parses it on the caller's thread (a large one on a tokenizer thread) and checks it
// (validate.h). 2. Text becomes ids on a tokenizer thread; a request of ids alone skips that (row_plan.h). 3. The good
// rows go to the Batcher together. 4. The Batcher answers each; the last answer hands the call to the Executor. 5.
// There the answer is built (answer.h) and done is called.
//
// done is called exactly once, on whichever thread ends the call, maybe inside Start: with the answer, with the first
// error, or by Cut. A call keeps itself alive until then; late answers to a call that was cut are dropped.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/metrics.h"
#include "server/service_context.h"

namespace lion {

enum class CallKind { kEmbed, kClassify, kTokenize, kListModels };

struct CallResult {
  absl::Status status;
  grpc::ByteBuffer response;           // the serialised answer if status is OK
  int model = Metrics::kUnknownModel;  // index of the model reached
  bool unparsable = false;             // the bytes are not a request at all
  // With RESOURCE_EXHAUSTED: how long to wait before trying again; -1 = waiting cannot help.
  std::optional<int64_t> retry_pushback_ms;
};

class Call : public std::enable_shared_from_this<Call> {
 public:
  struct Options {
    CallKind kind = CallKind::kEmbed;
    absl::Time started;  // when the RPC, or the message, arrived: Timings.total counts from here
    absl::Time deadline = absl::InfiniteFuture();
    // Whose call it is (CallerOf): callers share queue and devices equally. 0 = nobody in particular.
    uint64_t caller = 0;
    // Set by the caller's side when nobody listens any more, who then calls Batcher::Sweep. Never null.
    std::shared_ptr<std::atomic<bool>> cancelled;
    // Null: where the queue is full the call ends with RESOURCE_EXHAUSTED. Else it waits for room, and says so:
    // on_wait(true) when it begins to, on_wait(false) when it goes on. Any thread.
    std::function<void(bool)> on_wait;
  };

  // context is borrowed and must outlive the call.
  static std::shared_ptr<Call> Create(const ServiceContext* context, Options options, const grpc::ByteBuffer& request,
                                      std::function<void(CallResult)> done);
  Call(const ServiceContext* context, Options options, const grpc::ByteBuffer& request,
       std::function<void(CallResult)> done);
  virtual ~Call() = default;

  // Once. Never blocks.
  virtual void Start() = 0;

  // Ends the call now with UNAVAILABLE, its unanswered rows counted as dropped (drain). Nothing if it has ended
  // already. Any thread, also before Start.
  void Cut();

  // The answer of a stream to a message that failed like this; the stream goes on. nullopt = it ends there with status.
  // By default lion.v1's (ErrorResponse).
  virtual std::optional<grpc::ByteBuffer> ErrorAnswer(const absl::Status& status) const;

  // The index of the model reached so far, or Metrics::kUnknownModel. Any thread.
  int model() const { return model_; }

 protected:
  // The one-shot: calls done unless somebody was first.
  void Finish(CallResult result);
  void Fail(absl::Status status);
  // Fail's status with the fields named as the call's own wire names them. By default lion.v1's names, as they come.
  virtual absl::Status Reword(absl::Status status) const { return status; }
  bool finished() const { return finished_.load(std::memory_order_acquire); }

  const ServiceContext& context() const { return *context_; }
  // What is served, as it was when this call was made. Positions in it are what model() and CallPlan::model count.
  const ServedModels& models() const { return *models_; }
  const Options& options() const { return options_; }

  grpc::ByteBuffer request_bytes_;  // until parsed
  std::atomic<int> model_ = Metrics::kUnknownModel;
  std::atomic<int> num_unanswered_ = 0;  // rows

 private:
  const ServiceContext* const context_;
  const Options options_;
  const std::shared_ptr<const ServedModels> models_;
  std::atomic<bool> finished_ = false;
  std::function<void(CallResult)> done_;  // touched by whoever set finished_
};

// What an RPC runs for each of its messages. A CallKind alone stands for lion.v1's own.
struct CallType {
  using Make = std::shared_ptr<Call> (*)(const ServiceContext* context, Call::Options options,
                                         const grpc::ByteBuffer& request, std::function<void(CallResult)> done);

  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr CallType(CallKind call_kind, Make make_call = &Call::Create, bool is_gated = true)
      : kind(call_kind), make(make_call), gated(is_gated) {}

  CallKind kind;
  Make make;   // never null
  bool gated;  // false = a unary call that is answered while the server loads or drains, too; it ends inside Start
};

// A Make of a class of Call's.
template <typename T>
std::shared_ptr<Call> MakeCall(const ServiceContext* context, Call::Options options, const grpc::ByteBuffer& request,
                               std::function<void(CallResult)> done) {
  return std::make_shared<T>(context, std::move(options), request, std::move(done));
}

// The answer to a message of a stream that a unary call would refuse. kind is kEmbed or kClassify; model may be
// Metrics::kUnknownModel.
grpc::ByteBuffer ErrorResponse(const ServiceContext& context, CallKind kind, int model, const absl::Status& status);

// Why a call was cancelled: DEADLINE_EXCEEDED if its deadline has passed at now, or nearly: the caller's own timer
// fires up to a network's delay earlier, and gRPC rounds what it sends of a deadline up by as much as 1 %. Else
// CANCELLED.
absl::Status WhyCancelled(absl::Time started, absl::Time deadline, absl::Time now);

}  // namespace lion

#endif  // LION_SERVER_CALL_H_
