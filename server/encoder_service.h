// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ENCODER_SERVICE_H_
#define LION_SERVER_ENCODER_SERVICE_H_

// lion.v1.EncoderService on gRPC's raw callback API.
//
// Raw, because gRPC 1.51's typed callback API hides a request that does not parse: the call ends UNIMPLEMENTED without
// a handler, and a stream loses the message and ends OK. So the handlers take bytes and parse them (call.h).

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "server/service_context.h"

namespace lion {

// To be registered with one server, which must be gone before it. context is borrowed.
std::unique_ptr<grpc::Service> MakeEncoderService(const ServiceContext* context);

}  // namespace lion

#endif  // LION_SERVER_ENCODER_SERVICE_H_
