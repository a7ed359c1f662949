// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_INFERENCE_SERVICE_H_
#define LION_SERVER_INFERENCE_SERVICE_H_

// inference.GRPCInferenceService, the Open Inference Protocol of KServe and Triton, over lion.v1's path.
//
// ModelInfer runs text or ids and answers with an embedding or with scores, a tensor of all rows: one bad row fails the
// call. ModelStreamInfer is the same in a stream, where errors are answered in their turn. inference_messages.h says
// how tensors and parameters are mapped. ServerLive, ServerReady and ModelReady answer while the server loads and
// drains too: true, then false. ServerMetadata, ModelMetadata and RepositoryIndex say what there is. Keys, limits,
// queues, deadlines, metrics (rpc "kserve.ModelInfer", ...) and the drain are those of lion.v1; messages of errors name
// the protocol's fields.

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "server/service_context.h"

namespace lion {

// To be registered with one server, which must be gone before it. context is borrowed.
std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext* context);

}  // namespace lion

#endif  // LION_SERVER_INFERENCE_SERVICE_H_
