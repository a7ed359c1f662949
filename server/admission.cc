// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/admission.h"

#include <algorithm>
#include <chrono>
#include <functional>

namespace lion {

namespace {

std::optional<absl::string_view> Authorization(const grpc::CallbackServerContext& rpc) {
  const auto& metadata = rpc.client_metadata();
  const auto it = metadata.find("authorization");
  if (it == metadata.end()) return std::nullopt;
  return absl::string_view(it->second.data(), it->second.size());
}

absl::Status CheckKey(const ServiceContext& context, std::optional<absl::string_view> authorization) {
  if (context.api_keys == nullptr) return absl::OkStatus();
  absl::Status status = context.api_keys->Check(authorization);
  if (!status.ok()) context.metrics->Rejected(RejectReason::kUnauthenticated);
  return status;
}

}  // namespace

absl::Status CheckKey(const ServiceContext& context, const grpc::CallbackServerContext& rpc) {
  return CheckKey(context, Authorization(rpc));
}

absl::Status Admit(const ServiceContext& context, const grpc::CallbackServerContext& rpc,
                   const std::shared_ptr<InFlightCall>& call) {
  return Admit(context, Authorization(rpc), call);
}

absl::Status Admit(const ServiceContext& context, std::optional<absl::string_view> authorization,
                   const std::shared_ptr<InFlightCall>& call) {
  if (absl::Status status = CheckKey(context, authorization); !status.ok()) return status;
  absl::Status status = context.gate->Enter(call);
  if (!status.ok() && context.gate->state() == Gate::State::kDraining) {
    context.metrics->Rejected(RejectReason::kDraining);
  }
  return status;
}

uint64_t CallerOf(const ServiceContext& context, const grpc::CallbackServerContext& rpc) {
  return CallerOf(context, Authorization(rpc), rpc.peer());
}

uint64_t CallerOf(const ServiceContext& context, std::optional<absl::string_view> authorization,
                  absl::string_view peer) {
  const bool by_key = context.api_keys != nullptr && authorization.has_value();
  return std::max<uint64_t>(std::hash<std::string>()(std::string(by_key ? *authorization : peer)), 1);
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& rpc) {
  const std::chrono::system_clock::time_point deadline = rpc.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace lion
