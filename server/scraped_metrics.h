// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_SCRAPED_METRICS_H_
#define LION_SERVER_SCRAPED_METRICS_H_

// The metrics that nobody counts, read when somebody asks: process_* by the names that all Prometheus clients use, and
// the devices' memory and busy time.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "model/encoder.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace lion {

class ScrapedMetrics : public prometheus::Collectable {
 public:
  struct Replica {
    const Encoder* encoder = nullptr;
    std::shared_ptr<void> owner;  // keeps it alive; null = somebody else does
  };
  struct Device {
    std::string name;               // "cpu", "cuda:1": the label
    std::vector<Replica> encoders;  // on it, one a model
  };

  // memory and busy: name, help and type of the devices' families, without samples; names stand in metrics.cc.
  ScrapedMetrics(std::vector<Device> devices, prometheus::MetricFamily memory, prometheus::MetricFamily busy)
      : devices_(std::move(devices)), memory_(std::move(memory)), busy_(std::move(busy)) {}

  // From here on model's use is that of these encoders, one a device. Thread-safe.
  void Replace(int model, const std::vector<Encoder*>& encoders, const std::shared_ptr<void>& owner);

  // Thread-safe; never waits for a batch. What cannot be read is left out.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable absl::Mutex mu_;
  std::vector<Device> devices_ ABSL_GUARDED_BY(mu_);
  const prometheus::MetricFamily memory_;
  const prometheus::MetricFamily busy_;
};

}  // namespace lion

#endif  // LION_SERVER_SCRAPED_METRICS_H_
