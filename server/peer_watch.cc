// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/peer_watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace lion {

struct PeerWatch::Impl {
  struct Entry {
    int fd;
    std::function<void()> gone;
  };

  void Run() {
    for (;;) {
      epoll_event events[64];
      const int num_events = epoll_wait(epoll, events, 64, -1);
      for (int i = 0; i < num_events; ++i) {
        if (events[i].data.u64 == kStop) return;
        std::function<void()> gone;
        {
          absl::MutexLock lock(&mu);
          // Not there: it ended while the event was on its way. Its fd may be another connection's by now.
          const auto it = entries.find(events[i].data.u64);
          if (it != entries.end()) gone = std::move(it->second.gone);
        }
        if (gone != nullptr) gone();
      }
    }
  }

  static constexpr uint64_t kStop = 0;

  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  const int stop = eventfd(0, EFD_CLOEXEC);
  absl::Mutex mu;
  uint64_t next ABSL_GUARDED_BY(mu) = kStop + 1;
  absl::flat_hash_map<uint64_t, Entry> entries ABSL_GUARDED_BY(mu);
  std::thread thread;
};

PeerWatch::PeerWatch() : impl_(std::make_unique<Impl>()) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = Impl::kStop;
  epoll_ctl(impl_->epoll, EPOLL_CTL_ADD, impl_->stop, &event);
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
}

PeerWatch::~PeerWatch() {
  eventfd_write(impl_->stop, 1);
  impl_->thread.join();
  close(impl_->stop);
  close(impl_->epoll);
}

uint64_t PeerWatch::Begin(int fd, std::function<void()> gone) {
  absl::MutexLock lock(&impl_->mu);
  const uint64_t watch = impl_->next++;
  impl_->entries[watch] = {fd, std::move(gone)};
  epoll_event event = {};
  event.events = EPOLLRDHUP | EPOLLONESHOT;  // with EPOLLHUP and EPOLLERR, which always come
  event.data.u64 = watch;
  // Where the kernel refuses, nobody is told of this peer: its answer is made for nobody, as without a watch.
  epoll_ctl(impl_->epoll, EPOLL_CTL_ADD, fd, &event);
  return watch;
}

void PeerWatch::End(uint64_t watch) {
  std::function<void()> gone;  // destroyed outside the lock
  absl::MutexLock lock(&impl_->mu);
  const auto it = impl_->entries.find(watch);
  if (it == impl_->entries.end()) return;
  epoll_ctl(impl_->epoll, EPOLL_CTL_DEL, it->second.fd, nullptr);
  gone = std::move(it->second.gone);
  impl_->entries.erase(it);
}

}  // namespace lion
