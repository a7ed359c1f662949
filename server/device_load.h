// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_DEVICE_LOAD_H_
#define LION_SERVER_DEVICE_LOAD_H_

// What each device runs, how fast they have been, which are lost, and so how long a new row would wait and compute.
// Bookkeeping only: no thread, no lock, no clock; its user brings those. Devices are indices from 0.
//
// The speed is tokens a device-second, over all devices and models, recent batches weighing most. A batch counts from
// its start or the last end on its device, whichever is later: so one that waited behind another inside the device does
// not make it look slow.
// Rows that run in steps ("long") share their device with others, who so get about half of it, and do not wait for it.

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace lion {

class DeviceLoad {
 public:
  explicit DeviceLoad(int num_devices, int num_models = 1)
      : devices_(num_devices), num_left_(num_devices), speeds_(num_models) {}

  void BatchStarted(int device, int64_t tokens, bool is_long, absl::Time now);
  // The long row on that device has done so many tokens more.
  void Progressed(int device, int64_t tokens);

  struct Ended {
    int model = 0;
    int64_t tokens = 0;  // as it started, less what Progressed said
    bool is_long = false;
    absl::Time started;
    // What it counts for in the speed, and for how long it had the device to itself where that is known; 0 tokens = it
    // does not count (a device that fails at once is not fast).
    int64_t measured_tokens = 0;
    std::optional<absl::Duration> worked;
  };
  void BatchEnded(int device, const Ended& batch, absl::Time now);

  // Takes a device out for good. Once each.
  void Lose(int device);
  bool lost(int device) const { return devices_[device].lost; }
  int num_left() const { return num_left_; }

  // Which of two devices a row had better go to: true if a runs fewer batches, else fewer tokens, else comes first.
  bool IsFreer(int a, int b) const;

  // How long a row would wait behind that many tokens, if the devices that are left share them evenly; 0 before the
  // first batch has ended, and where none is left. behind_long: it waits for long rows that run, too (it is one).
  absl::Duration Wait(int64_t waiting_tokens, bool behind_long, absl::Time now) const {
    return WaitAt(SecondsPerToken(), waiting_tokens, behind_long, now);
  }

  // The same at the best speed that was seen lately: for decisions that must not rest on a slow moment.
  absl::Duration LeastWait(int64_t waiting_tokens, bool behind_long, absl::Time now) const {
    return WaitAt(LeastSecondsPerToken(), waiting_tokens, behind_long, now);
  }

  // How long a device takes for a batch of so many tokens of that model, by what batches of about that size took; 0
  // where none was seen. Small batches say nothing of large ones.
  absl::Duration Compute(int model, int64_t tokens) const;

 private:
  struct Device {
    int num_batches = 0;
    int64_t tokens = 0;
    int num_long = 0;         // of num_batches
    int64_t long_tokens = 0;  // of tokens
    absl::Time since;         // the start of the first batch that runs, or the end of the one before it
    bool lost = false;
  };

  // Decayed sums over batches; their quotient is a speed. Batches so weigh by how long they ran.
  struct Measured {
    double tokens = 0;
    double seconds = 0;

    void Add(int64_t more_tokens, absl::Duration more);
    double SecondsPerToken() const { return tokens > 0 ? seconds / tokens : 0; }
  };
  static constexpr int kNumSizes = 40;
  static int SizeOf(int64_t tokens);  // its power of two

  double SecondsPerToken() const { return all_.SecondsPerToken(); }
  double LeastSecondsPerToken() const;
  absl::Duration WaitAt(double seconds_per_token, int64_t waiting_tokens, bool behind_long, absl::Time now) const;

  std::vector<Device> devices_;
  int num_left_;
  Measured all_;
  std::vector<std::array<Measured, kNumSizes>> speeds_;  // of each model, by the batch's size
};

// When work begins that comes behind `waiting`, on devices that are busy for `busy` more and share what waits as they
// become free: the least t with sum over devices of max(0, t - busy) = waiting, waiting > 0; the least of busy if
// nothing waits. busy is not empty.
absl::Duration TimeUntilFree(absl::Duration waiting, std::vector<absl::Duration> busy);

}  // namespace lion

#endif  // LION_SERVER_DEVICE_LOAD_H_
