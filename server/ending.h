// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ENDING_H_
#define LION_SERVER_ENDING_H_

// How the process around a Server ends: why, when, and with which exit code.
//
//   Ending ending;
//   options.on_device_lost = ending.WatchDevices(num_devices);
//   ... another thread: ending.Announce(Ending::Cause::kSignal) ...
//   const ProcessEnd end = DrainAtEnd(server.get(), &ending);

#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/batcher.h"
#include "server/server.h"

namespace lion {

// Thread-safe. Outlives the server that it watches.
class Ending {
 public:
  enum class Cause { kSignal, kNoDevice };

  // The first announcement sets the time; a loss of the last device counts whenever it comes.
  void Announce(Cause cause);

  // Until the first announcement; its time.
  absl::Time Wait();

  bool no_device() const;

  // For Server::Options::on_device_lost: logs each loss, and announces kNoDevice with the last.
  std::function<void(const LostDevice&)> WatchDevices(int num_devices);

 private:
  mutable absl::Mutex mu_;
  absl::CondVar announced_;
  std::optional<absl::Time> time_ ABSL_GUARDED_BY(mu_);
  bool no_device_ ABSL_GUARDED_BY(mu_) = false;
};

struct ProcessEnd {
  int exit_code = 0;
  // End by _exit: a batch may still run, for as long as its document is, or a lost device's driver hang. Nobody waits.
  bool at_once = false;
};

// Waits for the end, drains the server and logs what became of its calls. 0 after a signal, also when the timeout cut
// calls; 1 when no device was left, whether or not a signal came first.
ProcessEnd DrainAtEnd(Server* server, Ending* ending);

}  // namespace lion

#endif  // LION_SERVER_ENDING_H_
