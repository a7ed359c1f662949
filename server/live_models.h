// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_LIVE_MODELS_H_
#define LION_SERVER_LIVE_MODELS_H_

// Which version of each model is served now, and whether anybody still needs the version before.
//
// A call takes the set once, when it begins, and keeps it until its answer is built: a reload in between changes
// nothing for it. Names, their number and their order never change while the process lives; everything else of a model
// may. All methods are thread-safe.
//
//   std::shared_ptr<const ServedModels> models = live.Get();     // a call
//   live.Set(with_a_new_version);                                // a reload: later calls get this set
//   live.WaitForOldCalls(absl::Seconds(1));                      // nobody holds the set before it any more

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/served_model.h"

namespace lion {

using ServedModels = std::vector<ServedModel>;  // at least one; the first is the default

class LiveModels {
 public:
  explicit LiveModels(ServedModels models);
  // Nobody may hold a set.
  ~LiveModels();

  // Never null.
  std::shared_ptr<const ServedModels> Get() const;

  // What Get gives from here on.
  void Set(ServedModels models);

  // True once only the newest set is held; false if that has not come about after timeout.
  bool WaitForOldCalls(absl::Duration timeout);

 private:
  std::shared_ptr<const ServedModels> Counted(ServedModels models) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  int num_sets_ ABSL_GUARDED_BY(mu_) = 0;  // that are held, the newest included
  std::shared_ptr<const ServedModels> newest_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lion

#endif  // LION_SERVER_LIVE_MODELS_H_
