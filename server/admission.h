// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ADMISSION_H_
#define LION_SERVER_ADMISSION_H_

// What every handler asks before anything else: may this caller call, and is the server open?

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "server/gate.h"
#include "server/service_context.h"

namespace lion {

// UNAUTHENTICATED, counted in lion_rejected_total, if the server has keys and this caller shows none of them.
absl::Status CheckKey(const ServiceContext& context, const grpc::CallbackServerContext& rpc);

// OK: call is inside the gate and must leave it. UNAUTHENTICATED or UNAVAILABLE: it is not, and lion_rejected_total has
// counted it (a server that still loads is no rejection).
absl::Status Admit(const ServiceContext& context, const grpc::CallbackServerContext& rpc,
                   const std::shared_ptr<InFlightCall>& call);
// The same for what comes by another way than gRPC; authorization is that header, nullopt if none came.
absl::Status Admit(const ServiceContext& context, std::optional<absl::string_view> authorization,
                   const std::shared_ptr<InFlightCall>& call);

// Whom a call belongs to, for Call::Options::caller: its API key where the server has keys, else its connection. Not 0.
uint64_t CallerOf(const ServiceContext& context, const grpc::CallbackServerContext& rpc);
// The same by another way than gRPC; peer: whatever tells one connection from another.
uint64_t CallerOf(const ServiceContext& context, std::optional<absl::string_view> authorization,
                  absl::string_view peer);

// The RPC's deadline; InfiniteFuture if the caller set none.
absl::Time DeadlineOf(const grpc::CallbackServerContext& rpc);

}  // namespace lion

#endif  // LION_SERVER_ADMISSION_H_
