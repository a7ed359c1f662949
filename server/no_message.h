// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_NO_MESSAGE_H_
#define LION_SERVER_NO_MESSAGE_H_

// A call with one request whose handler gets no message: its caller went before it arrived, or ended its side without.
//
// gRPC calls the handler all the same, with a ByteBuffer that is not Valid(), and before it can say which of the two it
// was. So the call is ended at once, as what a caller that still listens must hear, INVALID_ARGUMENT, and counted in
// OnDone, when gRPC knows: as CANCELLED or DEADLINE_EXCEEDED if the caller had gone. It never enters the gate.

#include <algorithm>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "server/admission.h"
#include "server/call.h"
#include "server/call_log.h"
#include "server/metrics.h"
#include "server/service_context.h"
#include "server/status_map.h"

namespace lion {

// Reactor: grpc::ServerUnaryReactor or grpc::ServerWriteReactor. Owns itself until OnDone; context is borrowed and
// outlives it.
template <typename Reactor>
class NoMessageReactor final : public Reactor {
 public:
  NoMessageReactor(const ServiceContext* context, Rpc rpc, grpc::CallbackServerContext* rpc_context)
      : context_(context), rpc_(rpc), rpc_context_(rpc_context), started_(context->clock->Now()) {
    context->metrics->RpcStarted(rpc);
    status_ = CheckKey(*context, *rpc_context);
    if (status_.ok()) status_ = absl::InvalidArgumentError("request: the call carries no message");
    this->Finish(ToGrpcStatus(status_));
  }

  void OnDone() override {
    const absl::Time now = context_->clock->Now();
    if (rpc_context_->IsCancelled()) status_ = WhyCancelled(started_, DeadlineOf(*rpc_context_), now);
    EndCall(*context_, {rpc_, Metrics::kUnknownModel, status_, std::max(now - started_, absl::ZeroDuration()),
                        TraceOf(*rpc_context_)});
    delete this;
  }

 private:
  const ServiceContext* const context_;
  const Rpc rpc_;
  grpc::CallbackServerContext* const rpc_context_;
  const absl::Time started_;
  absl::Status status_;
};

}  // namespace lion

#endif  // LION_SERVER_NO_MESSAGE_H_
