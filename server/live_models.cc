// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/live_models.h"

#include <utility>

namespace lion {

LiveModels::LiveModels(ServedModels models) {
  absl::MutexLock lock(&mu_);
  newest_ = Counted(std::move(models));
}

LiveModels::~LiveModels() {
  std::shared_ptr<const ServedModels> last;  // its end takes the lock
  absl::MutexLock lock(&mu_);
  last = std::move(newest_);
}

std::shared_ptr<const ServedModels> LiveModels::Counted(ServedModels models) {
  ++num_sets_;
  return {new ServedModels(std::move(models)), [this](const ServedModels* set) {
            delete set;
            absl::MutexLock lock(&mu_);
            --num_sets_;
          }};
}

std::shared_ptr<const ServedModels> LiveModels::Get() const {
  absl::ReaderMutexLock lock(&mu_);
  return newest_;
}

void LiveModels::Set(ServedModels models) {
  std::shared_ptr<const ServedModels> before;  // its end, if nobody else holds it, takes the lock
  absl::MutexLock lock(&mu_);
  before = std::exchange(newest_, Counted(std::move(models)));
}

bool LiveModels::WaitForOldCalls(absl::Duration timeout) {
  const auto alone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return num_sets_ == 1; };
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&alone), timeout);
}

}  // namespace lion
