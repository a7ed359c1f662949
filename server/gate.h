// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_GATE_H_
#define LION_SERVER_GATE_H_

// The door of the service: who may come in, and who is inside.
//
// A call enters when its handler begins and leaves in OnDone, when its answer is on its way. Before Open and after
// StartDraining nobody enters (UNAVAILABLE). All methods are thread-safe; calls are told outside the lock.

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lion {

// A call that is inside. Both methods may come at any time, from any thread, also after the call has ended.
class InFlightCall {
 public:
  virtual ~InFlightCall() = default;

  // The server drains: take nothing new, answer what was taken. Unary calls have nothing to do.
  virtual void OnDrain() {}

  // Time is up: end now with UNAVAILABLE, and count the rows that stay unanswered as dropped.
  virtual void Cut() = 0;
};

class Gate {
 public:
  enum class State { kLoading, kServing, kDraining };

  // OK and call is inside, or UNAVAILABLE saying why.
  absl::Status Enter(const std::shared_ptr<InFlightCall>& call);
  // Once for each call that entered.
  void Leave(const InFlightCall* call);

  void Open();           // kLoading -> kServing
  void StartDraining();  // -> kDraining; tells every call inside
  void CutAll();         // tells every call inside

  // True when nobody is inside; false if that has not come about after timeout.
  bool WaitUntilEmpty(absl::Duration timeout);

  State state() const;
  int num_inside() const;

 private:
  std::vector<std::shared_ptr<InFlightCall>> Inside() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kLoading;
  absl::flat_hash_map<const InFlightCall*, std::weak_ptr<InFlightCall>> inside_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lion

#endif  // LION_SERVER_GATE_H_
