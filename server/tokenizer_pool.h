// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TOKENIZER_POOL_H_
#define LION_SERVER_TOKENIZER_POOL_H_

// Threads that turn text into ids and pictures into pixels, so that gRPC's own threads never do.
//
// Callers share them equally, in bytes of text: the next piece is always of the caller that has been served least, and
// of equals the one that came first. Within a caller they run in the order they came. A long piece lets shorter ones of
// anybody run between its parts (LetOthersIn), for as long as it ran itself: so a short text does not wait for the
// megabytes before it, and those have half of their thread or more.

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "model/tokenizer/tokenizer.h"
#include "server/clock.h"

namespace lion {

class TokenizerPool {
 public:
  struct Options {
    int num_threads = 1;                             // below 1 counts as 1
    int64_t max_pending_bytes = int64_t{256} << 20;  // text that waits or is being tokenized
    Clock* clock = Clock::Real();
  };

  // A piece may run between the parts of one that is so many times as long, or longer.
  static constexpr int64_t kNestedShare = 8;

  explicit TokenizerPool(const Options& options);
  // Runs what was taken and calls every room, then ends. Not from work or room; no call may be in progress but those of
  // work and room, which are served too.
  ~TokenizerPool();

  int num_threads() const;

  // Runs work on a pool thread. bytes is the text it holds, caller whose it is (0 = nobody in particular).
  // RESOURCE_EXHAUSTED naming the limit if the bytes do not fit now (work is not called); a single piece larger than
  // the limit is taken when nothing else is pending. A caller (not 0) of whom something is pending is refused the last
  // eighth of the limit, so that one who fills it does not shut out the others. Thread-safe, never blocks. work must
  // not throw; it may call Submit. bytes below 0 counts as 0. Its bytes are free again once work has returned and been
  // destroyed.
  absl::Status Submit(int64_t bytes, std::function<void()> work, uint64_t caller = 0);

  // For callers that would rather wait than be refused (streams): calls room once, when a Submit of that many bytes may
  // succeed again (it may still fail: somebody else can be first). On a pool thread, oldest waiter first; at once, on
  // this thread, if nobody waits and there is room now. room must not block or throw; it may call Submit and WhenRoom.
  void WhenRoom(int64_t bytes, std::function<void()> room, uint64_t caller = 0);

  // Where work can be interrupted, for it to call: runs pieces that wait and hold at most 1 / kNestedShare of the bytes
  // of the one that this thread runs, on this thread, for as long as that one has run since it last called. Nothing on
  // other threads. No lock may be held that another piece could want.
  void LetOthersIn();

  // Calls body(i) once for each i below n, ascending, and returns when all have returned: on this thread, which lets
  // others in between two, and on pool threads as they become free, which take one i at a time and then their turn
  // among what else waits. So a long text delays a short one by one part at most. body must not throw. Any thread, pool
  // threads too (this one alone does all where the others are busy: nothing waits for a thread to become free).
  void ForEach(size_t n, const std::function<void(size_t)>& body);
  // The same as a value, for Tokenizer::EncodeOptions; lives as long as the pool.
  const ParallelFor& parallel() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_TOKENIZER_POOL_H_
