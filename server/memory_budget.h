// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_MEMORY_BUDGET_H_
#define LION_SERVER_MEMORY_BUDGET_H_

// What the long rows that were taken may need together, so that several documents never add up to more than there is.
//
// A row that runs in steps (Encoder::max_unstepped_tokens) brings its own memory, Encoder::RowBytes of it; its call
// takes as much here before the row is queued, and gives it back when the answer is on its way. Shorter rows run in
// what the device always has. All methods are thread-safe and never block.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/live_models.h"

namespace lion {

class MemoryBudget {
 public:
  // Bytes that are taken; gives them back when destroyed.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Hold() {
      if (budget_ != nullptr) budget_->GiveBack(bytes_);
    }

   private:
    friend class MemoryBudget;
    Hold(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  // max_bytes: 0 = no limit.
  explicit MemoryBudget(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // nullopt if so many are not free now. More than max_bytes are never free.
  std::optional<Hold> Take(int64_t bytes);

  // Calls room once, when so many may be free (somebody else can be first): oldest waiter first, on the thread that
  // gives back; at once, on this thread, if nobody waits and they are free now, or never can be. room may call Take and
  // WhenRoom; it must not block.
  void WhenRoom(int64_t bytes, std::function<void()> room);

  int64_t max_bytes() const { return max_bytes_; }
  int64_t taken_bytes() const;

 private:
  struct Waiter {
    int64_t bytes;
    std::function<void()> room;
  };

  bool Fits(int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return max_bytes_ == 0 || bytes <= max_bytes_ - taken_;
  }
  void GiveBack(int64_t bytes);

  const int64_t max_bytes_;
  mutable absl::Mutex mu_;
  int64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Waiter> waiters_ ABSL_GUARDED_BY(mu_);
};

// What long rows may take where no flag says it: three quarters of the memory that is free now, of the machine or,
// where less, of its control group; on GPUs what is free on the one that has least. 0 where neither can be known.
int64_t DefaultMemoryBytes(const ServedModels& models);

}  // namespace lion

#endif  // LION_SERVER_MEMORY_BUDGET_H_
