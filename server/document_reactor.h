// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_DOCUMENT_REACTOR_H_
#define LION_SERVER_DOCUMENT_REACTOR_H_

// One EmbedDocument: lets it in, runs its DocumentCall, sends progress and then the vectors, counts its outcome.
//
// Behaviour. One message is under way at a time, and the next is made when gRPC has taken it: a caller that reads
// slowly makes nothing grow, and of the progress it missed it gets the newest. The stream ends
//   OK                 when the last message has been taken,
//   the call's status  where it failed: what a unary call of that document would end with,
//   UNAVAILABLE        when the time of a drain is up; until then a document that was let in goes on,
//   DEADLINE_EXCEEDED or CANCELLED  at once; the document is stopped at its next step.

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/service_context.h"

namespace lion {

// What a raw callback handler returns. The reactor lives until OnDone. context is borrowed and outlives it.
grpc::ServerWriteReactor<grpc::ByteBuffer>* HandleDocument(const ServiceContext* context,
                                                           grpc::CallbackServerContext* rpc_context,
                                                           const grpc::ByteBuffer* request);

}  // namespace lion

#endif  // LION_SERVER_DOCUMENT_REACTOR_H_
