// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_PEER_WATCH_H_
#define LION_SERVER_PEER_WATCH_H_

// Tells when the other side of a TCP connection has gone while nobody reads from it: libmicrohttpd looks away from a
// connection whose answer is being made.
//
// One thread, asleep in epoll. A peer that has closed only its sending half counts as gone: HTTP clients that want an
// answer keep it open.

#include <cstdint>
#include <functional>
#include <memory>

namespace lion {

class PeerWatch {
 public:
  PeerWatch();
  ~PeerWatch();  // ends the thread; no gone is called any more

  // Calls gone once, on the watch's thread and outside its lock, if the peer of fd goes before End. fd is borrowed and
  // must stay open until End. gone must not block. The number is End's. Thread-safe.
  uint64_t Begin(int fd, std::function<void()> gone);
  // Once for each Begin. gone may be running still when this returns.
  void End(uint64_t watch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_PEER_WATCH_H_
