// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/scraped_metrics.h"

#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "prometheus/metric_type.h"
#include "server/process_stats.h"

namespace lion {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// A sample of family for each value that is there.
void Add(MetricFamily* family, std::vector<ClientMetric::Label> labels, std::optional<double> value) {
  if (!value.has_value()) return;
  ClientMetric& sample = family->metric.emplace_back();
  sample.label = std::move(labels);
  (family->type == MetricType::Counter ? sample.counter.value : sample.gauge.value) = *value;
}

void AddProcess(const ProcessStats& stats, std::vector<MetricFamily>* families) {
  const auto add = [families](const char* name, const char* help, MetricType type, std::optional<double> value) {
    Add(&families->emplace_back(MetricFamily{name, help, type, {}}), {}, value);
  };
  add("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", MetricType::Counter,
      stats.cpu_seconds);
  add("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", MetricType::Gauge,
      stats.start_time_seconds);
  add("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::Gauge,
      stats.resident_memory_bytes);
  add("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::Gauge, stats.virtual_memory_bytes);
  add("process_open_fds", "Number of open file descriptors.", MetricType::Gauge, stats.open_fds);
  add("process_max_fds", "Maximum number of open file descriptors.", MetricType::Gauge, stats.max_fds);
}

}  // namespace

void ScrapedMetrics::Replace(int model, const std::vector<Encoder*>& encoders, const std::shared_ptr<void>& owner) {
  std::vector<Device> before;  // released outside the lock
  absl::MutexLock lock(&mu_);
  before = devices_;
  for (size_t device = 0; device < devices_.size(); ++device) {
    devices_[device].encoders[model] = {encoders[device], owner};
  }
}

std::vector<MetricFamily> ScrapedMetrics::Collect() const {
  std::vector<Device> devices;
  {
    absl::MutexLock lock(&mu_);
    devices = devices_;
  }
  const ProcessStats stats = ReadProcessStats();
  std::vector<MetricFamily> families;
  AddProcess(stats, &families);

  MetricFamily memory = memory_;
  MetricFamily busy = busy_;
  for (const Device& device : devices) {
    DeviceUsage sum;
    for (const Replica& replica : device.encoders) {
      const DeviceUsage usage = replica.encoder->usage();
      sum.weights_bytes += usage.weights_bytes;
      sum.buffer_bytes += usage.buffer_bytes;
      sum.free_bytes = usage.free_bytes;  // of the device: all say the same
      sum.total_bytes = usage.total_bytes;
      sum.busy += usage.busy;
    }
    const bool own = sum.total_bytes > 0;
    const auto add_memory = [&](const char* kind, std::optional<double> value) {
      Add(&memory, {{"device", device.name}, {"kind", kind}}, value);
    };
    add_memory("used", own ? static_cast<double>(sum.total_bytes - sum.free_bytes) : stats.resident_memory_bytes);
    add_memory("total", own ? static_cast<double>(sum.total_bytes) : stats.physical_memory_bytes);
    if (own) add_memory("weights", static_cast<double>(sum.weights_bytes));
    if (own) add_memory("buffers", static_cast<double>(sum.buffer_bytes));
    if (own) Add(&busy, {{"device", device.name}}, absl::ToDoubleSeconds(sum.busy));
  }
  families.push_back(std::move(memory));
  families.push_back(std::move(busy));

  std::vector<MetricFamily> shown;
  for (MetricFamily& family : families) {
    if (!family.metric.empty()) shown.push_back(std::move(family));
  }
  return shown;
}

}  // namespace lion
