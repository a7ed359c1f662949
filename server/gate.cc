// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/gate.h"

namespace lion {

absl::Status Gate::Enter(const std::shared_ptr<InFlightCall>& call) {
  absl::MutexLock lock(&mu_);
  switch (state_) {
    case State::kLoading:
      return absl::UnavailableError("server is loading");
    case State::kDraining:
      return absl::UnavailableError("server is draining");
    case State::kServing:
      break;
  }
  inside_.emplace(call.get(), call);
  return absl::OkStatus();
}

void Gate::Leave(const InFlightCall* call) {
  absl::MutexLock lock(&mu_);
  inside_.erase(call);
}

void Gate::Open() {
  absl::MutexLock lock(&mu_);
  if (state_ == State::kLoading) state_ = State::kServing;
}

void Gate::StartDraining() {
  std::vector<std::shared_ptr<InFlightCall>> inside;
  {
    absl::MutexLock lock(&mu_);
    state_ = State::kDraining;
    inside = Inside();
  }
  for (const auto& call : inside) call->OnDrain();
}

void Gate::CutAll() {
  std::vector<std::shared_ptr<InFlightCall>> inside;
  {
    absl::MutexLock lock(&mu_);
    inside = Inside();
  }
  for (const auto& call : inside) call->Cut();
}

bool Gate::WaitUntilEmpty(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  const auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return inside_.empty(); };
  return mu_.AwaitWithTimeout(absl::Condition(&empty), timeout);
}

Gate::State Gate::state() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

int Gate::num_inside() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(inside_.size());
}

std::vector<std::shared_ptr<InFlightCall>> Gate::Inside() const {
  std::vector<std::shared_ptr<InFlightCall>> inside;
  for (const auto& [key, weak] : inside_) {
    if (auto call = weak.lock()) inside.push_back(std::move(call));
  }
  return inside;
}

}  // namespace lion
