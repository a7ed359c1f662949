// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TEI_SERVICE_H_
#define LION_SERVER_TEI_SERVICE_H_

// tei.v1, the wire of text-embeddings-inference, over lion.v1's path: callers of that server need another address only.
//
// Served: Info; Embed and EmbedAll, Predict and PredictPair, Tokenize, each with its stream. What does not apply
// answers UNIMPLEMENTED and says so: EmbedSparse, Rerank, Decode. All is the first model's, since this wire names none.
// tei_messages.h says how fields are mapped. A stream ends with the status of the first message that fails, as there:
// the wire has no place for it. Keys, limits, queues, deadlines, metrics (rpc "tei.Embed", ...) and the drain are those
// of lion.v1; messages of errors name tei.v1's fields.

#include <memory>
#include <vector>

#include "grpcpp/impl/service_type.h"
#include "server/service_context.h"

namespace lion {

// tei.v1.Info, Embed, Predict, Rerank and Tokenize, to be registered with one server, which must be gone before them.
// context is borrowed.
std::vector<std::unique_ptr<grpc::Service>> MakeTeiServices(const ServiceContext* context);

}  // namespace lion

#endif  // LION_SERVER_TEI_SERVICE_H_
