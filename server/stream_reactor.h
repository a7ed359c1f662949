// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_STREAM_REACTOR_H_
#define LION_SERVER_STREAM_REACTOR_H_

// One stream: many requests in, one answer for each, in order. EmbedStream, ClassifyStream, and those of other wires.
//
// Behaviour. Messages are pipelined: up to kMaxInFlight are read and not yet answered on the wire, so a slow reader is
// bounded too. While a message waits for room in a queue, nothing more is read. A message that a unary call would
// refuse is answered in its turn with error set, where the wire has a place for that (Call::ErrorAnswer). The stream
// ends
//   OK                 when the caller has closed its side and everything read has been answered,
//   INVALID_ARGUMENT   at a message that does not parse, after the answers to those before it,
//   UNAVAILABLE        when the server drains, after the answers to all that were read,
//   DEADLINE_EXCEEDED or CANCELLED  at once,
// and never OK with fewer answers than messages.

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/call.h"
#include "server/metrics.h"
#include "server/service_context.h"

namespace lion {

// Messages of one stream that are read and not yet answered on the wire.
inline constexpr int kMaxStreamInFlight = 32;

// What a raw callback handler returns. The reactor lives until OnDone. context is borrowed and outlives it.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* HandleStream(const ServiceContext* context, Rpc rpc,
                                                                          CallType type,
                                                                          grpc::CallbackServerContext* rpc_context);

}  // namespace lion

#endif  // LION_SERVER_STREAM_REACTOR_H_
