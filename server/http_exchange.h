// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_HTTP_EXCHANGE_H_
#define LION_SERVER_HTTP_EXCHANGE_H_

// One HTTP request that becomes a call: what UnaryReactor is to gRPC.
//
// Its way: 1. The endpoint's thread makes it from the header, feeds it the body, and calls Arrived and Run when all is
// here. 2. It is let in (admission.h). 3. The JSON is read (http_messages.h), a long one on a tokenizer thread. 4. The
// same Call as gRPC's runs. 5. On the thread that ends the call the answer is written as JSON, the outcome is counted,
// and done is called. 6. The endpoint sends reply() and, when that is over, calls Sent.
//
// done is called exactly once after Run, on any thread, maybe inside Run. Feed, Arrived, Run and Sent belong to one
// thread; Gone and Cut may come from any, at any time.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/call.h"
#include "server/gate.h"
#include "server/metrics.h"
#include "server/service_context.h"
#include "server/trace_context.h"

namespace lion {

struct HttpReply {
  int code = 200;
  std::string body;                       // JSON
  std::optional<int64_t> retry_after_ms;  // as HttpError's
};

// Bytes that exchanges hold, bodies and answers, and how many there may be before new bodies are refused.
struct HttpBudget {
  int64_t max_bytes = int64_t{256} << 20;
  std::atomic<int64_t> held_bytes = 0;
};

class HttpExchange : public InFlightCall, public std::enable_shared_from_this<HttpExchange> {
 public:
  struct Request {
    Rpc rpc = Rpc::kHttpEmbeddings;  // kHttpEmbeddings, kHttpClassify or kHttpModels
    std::string model;               // kHttpModels: the one asked for; empty = all
    std::optional<std::string> authorization;
    std::string peer;                                   // tells its connection from others (CallerOf)
    std::optional<TraceContext> trace;                  // the caller's, for the log
    int64_t content_length = -1;                        // -1 = not told
    absl::Duration timeout = absl::InfiniteDuration();  // how long the caller will wait
  };

  // Of a body that nobody will read so much is taken all the same: a connection that is closed over a body on its way
  // may lose the answer.
  static constexpr int64_t kMaxIgnoredBytes = 1 << 20;

  // context is borrowed; it must outlive the call. The budget is shared, because whoever ends the call may let go of
  // this last, after its endpoint has gone. models_loaded: what GET /v1/models says of them.
  HttpExchange(const ServiceContext* context, std::shared_ptr<HttpBudget> budget, absl::Time models_loaded,
               Request request);
  ~HttpExchange() override;

  // True if the body need not come: the request is refused already, and Run will complete it inside.
  bool refused() const { return !refusal_.ok(); }

  // A part of the body. False: it is out of all proportion, and the connection is to be closed.
  bool Feed(absl::string_view part);

  // All of it is here: the call begins. Before Run, and before Gone can come.
  void Arrived();

  void Run(std::function<void()> done);

  // After done.
  const HttpReply& reply() const { return reply_; }

  // The answer is on its way, or never will be. Once, last.
  void Sent();

  // The caller has gone.
  void Gone();

  // InFlightCall: ends it now with 503.
  void Cut() override;

 private:
  CallKind kind() const;
  std::optional<absl::string_view> authorization() const;
  uint64_t caller() const;  // CallerOf
  void Refuse(absl::Status status, int http_code);
  void Hold(int64_t bytes);  // changes what this holds of the budget; negative gives back
  void ReadBody();
  // OK, or what is wrong with the body; request is the call's then.
  absl::Status MakeRequest(grpc::ByteBuffer* request);
  // Called once: by the call, or in its place.
  void Complete(CallResult result);
  absl::StatusOr<std::string> WriteAnswer(CallResult* result);

  const ServiceContext* const context_;
  const std::shared_ptr<HttpBudget> budget_;
  const absl::Time models_loaded_;
  Request request_;
  absl::Status refusal_;
  int refusal_code_ = 0;  // 0 = what follows from refusal_
  std::string body_;
  int64_t body_bytes_ = 0;  // that came, kept or not
  std::atomic<int64_t> held_bytes_ = 0;
  absl::Time started_;
  absl::Time deadline_ = absl::InfiniteFuture();
  bool base64_ = false;
  bool inside_ = false;  // the gate
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::atomic<bool> expired_ = false;
  std::atomic<bool> completed_ = false;
  std::function<void()> done_;  // touched by whoever set completed_
  HttpReply reply_;
  absl::Mutex mu_;
  bool cut_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<Call> call_ ABSL_GUARDED_BY(mu_);  // from when its body has been read
};

}  // namespace lion

#endif  // LION_SERVER_HTTP_EXCHANGE_H_
