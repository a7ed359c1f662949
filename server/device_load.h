// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_DEVICE_LOAD_H_
#define LION_SERVER_DEVICE_LOAD_H_

// What each device runs, how fast they have been, which are lost, and so how long a new row would wait. Bookkeeping
// only: no thread, no lock, no clock; its user brings those. Devices are indices from 0.
//
// The speed is tokens a device-second, over all devices and models, recent batches weighing most. While several batches
// are on a device at once, the time between two ends counts for the one that ended: so a batch that waited behind
// another inside the device does not make it look slow.

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace lion {

class DeviceLoad {
 public:
  explicit DeviceLoad(int num_devices) : devices_(num_devices), num_left_(num_devices) {}

  void BatchStarted(int device, int64_t tokens, absl::Time now);
  // Of a batch that started. measures: it counts in the speed (a device that fails at once is not fast).
  void BatchEnded(int device, int64_t tokens, bool measures, absl::Time now);

  // Takes a device out for good. Once each.
  void Lose(int device);
  bool lost(int device) const { return devices_[device].lost; }
  int num_left() const { return num_left_; }

  // Which of two devices a row had better go to: true if a runs fewer batches, else fewer tokens, else comes first.
  bool IsFreer(int a, int b) const;

  // How long a row would wait behind that many tokens, if the devices that are left share them evenly; 0 before the
  // first batch has ended, and where none is left.
  absl::Duration Wait(int64_t waiting_tokens, absl::Time now) const;

 private:
  struct Device {
    int num_batches = 0;
    int64_t tokens = 0;
    absl::Time since;  // the start of the first batch that runs, or the end of the one before it
    bool lost = false;
  };

  std::vector<Device> devices_;
  int num_left_;
  // Decayed sums over the batches that ran; their quotient is the speed. Batches so weigh by how long they ran.
  double measured_tokens_ = 0;
  double measured_seconds_ = 0;
};

// When work begins that comes behind `waiting`, on devices that are busy for `busy` more and share what waits as they
// become free: the least t with sum over devices of max(0, t - busy) = waiting, waiting > 0; the least of busy if
// nothing waits. busy is not empty.
absl::Duration TimeUntilFree(absl::Duration waiting, std::vector<absl::Duration> busy);

}  // namespace lion

#endif  // LION_SERVER_DEVICE_LOAD_H_
