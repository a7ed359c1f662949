// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace lion {
namespace {

// The number in a file that holds nothing else; nullopt for "max", or where there is no such file.
std::optional<int64_t> ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

std::optional<int64_t> AvailableBytes() {
  std::optional<int64_t> available;
  std::ifstream info("/proc/meminfo");
  std::string name, unit;
  for (int64_t kib = 0; info >> name >> kib; std::getline(info, unit)) {
    if (name == "MemAvailable:") available = kib << 10;
  }
  const std::optional<int64_t> most = ReadNumber("/sys/fs/cgroup/memory.max");
  const std::optional<int64_t> used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (most.has_value() && used.has_value()) {
    const int64_t left = std::max<int64_t>(*most - *used, 0);
    available = available.has_value() ? std::min(*available, left) : left;
  }
  return available;
}

}  // namespace

std::optional<MemoryBudget::Hold> MemoryBudget::Take(int64_t bytes) {
  absl::MutexLock lock(&mu_);
  if (!Fits(bytes)) return std::nullopt;
  taken_ += bytes;
  return Hold(this, bytes);
}

void MemoryBudget::WhenRoom(int64_t bytes, std::function<void()> room) {
  {
    absl::MutexLock lock(&mu_);
    const bool never = max_bytes_ > 0 && bytes > max_bytes_;
    if (!never && (!waiters_.empty() || !Fits(bytes))) {
      waiters_.push_back({bytes, std::move(room)});
      return;
    }
  }
  room();
}

void MemoryBudget::GiveBack(int64_t bytes) {
  std::vector<Waiter> woken;
  {
    absl::MutexLock lock(&mu_);
    taken_ -= bytes;
    int64_t together = 0;
    while (!waiters_.empty() && Fits(together + waiters_.front().bytes)) {
      together += waiters_.front().bytes;
      woken.push_back(std::move(waiters_.front()));
      waiters_.pop_front();
    }
  }
  for (Waiter& waiter : woken) waiter.room();
}

int64_t MemoryBudget::taken_bytes() const {
  absl::MutexLock lock(&mu_);
  return taken_;
}

int64_t DefaultMemoryBytes(const ServedModels& models) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const ServedModel& model : models) {
    for (const Encoder* encoder : model.encoders) {
      const DeviceUsage usage = encoder->usage();
      if (usage.total_bytes > 0) least = std::min(least, usage.free_bytes);
    }
  }
  if (least < std::numeric_limits<int64_t>::max()) return least;
  return AvailableBytes().value_or(0) / 4 * 3;
}

}  // namespace lion
