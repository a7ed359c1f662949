// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_UNARY_REACTOR_H_
#define LION_SERVER_UNARY_REACTOR_H_

// One unary RPC: lets it in, runs its Call, counts its outcome, finishes it once.

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/call.h"
#include "server/metrics.h"
#include "server/service_context.h"

namespace lion {

// What a raw callback handler returns. response is filled before Finish; the reactor lives until OnDone. context is
// borrowed and outlives it.
grpc::ServerUnaryReactor* HandleUnary(const ServiceContext* context, Rpc rpc, CallType type,
                                      grpc::CallbackServerContext* rpc_context, const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response);

}  // namespace lion

#endif  // LION_SERVER_UNARY_REACTOR_H_
