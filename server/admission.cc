// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/admission.h"

#include <chrono>

namespace lion {

absl::Status Admit(const ServiceContext& context, const grpc::CallbackServerContext& rpc,
                   const std::shared_ptr<InFlightCall>& call) {
  std::optional<absl::string_view> authorization;
  const auto& metadata = rpc.client_metadata();
  if (const auto it = metadata.find("authorization"); it != metadata.end()) {
    authorization = absl::string_view(it->second.data(), it->second.size());
  }
  return Admit(context, authorization, call);
}

absl::Status Admit(const ServiceContext& context, std::optional<absl::string_view> authorization,
                   const std::shared_ptr<InFlightCall>& call) {
  if (context.api_keys != nullptr) {
    if (absl::Status status = context.api_keys->Check(authorization); !status.ok()) {
      context.metrics->Rejected(RejectReason::kUnauthenticated);
      return status;
    }
  }
  absl::Status status = context.gate->Enter(call);
  if (!status.ok() && context.gate->state() == Gate::State::kDraining) {
    context.metrics->Rejected(RejectReason::kDraining);
  }
  return status;
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& rpc) {
  const std::chrono::system_clock::time_point deadline = rpc.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

}  // namespace lion
