// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_SERVER_RELAY_H_
#define LION_TESTS_SERVER_RELAY_H_

// A wire between a client and a server that a test can hold and cut: TCP on 127.0.0.1, bytes for bytes.
//
//   Relay relay(server->address());
//   auto channel = grpc::CreateChannel(relay.address(), ...);
//   relay.Hold();   // what the server sends stays here: after one flow-control window it cannot go on
//   relay.Cut();    // as when the client's process is killed: its sockets are gone
//
// Thread-safe.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"

namespace lion {

class Relay {
 public:
  // server: "127.0.0.1:PORT".
  explicit Relay(const std::string& server) {
    server_.sin_family = AF_INET;
    server_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server_.sin_port = htons(static_cast<uint16_t>(std::stoi(server.substr(server.rfind(':') + 1))));
    sockaddr_in own = server_;
    own.sin_port = 0;
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&own), sizeof(own)), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    socklen_t size = sizeof(own);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&own), &size), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(own.sin_port));
    EXPECT_EQ(pipe(wake_.data()), 0);
    thread_ = std::thread([this] { Run(); });
  }

  ~Relay() {
    {
      absl::MutexLock lock(&mu_);
      stop_ = true;
    }
    Wake();
    thread_.join();
    for (const int fd : {listener_, wake_[0], wake_[1]}) close(fd);
  }

  const std::string& address() const { return address_; }

  // From now on nothing that the server sends is passed on; what the client sends is.
  void Hold() { Set(&held_, true); }
  void Resume() { Set(&held_, false); }

  // Bytes from the server that lie here.
  int64_t held_bytes() const {
    absl::MutexLock lock(&mu_);
    int64_t bytes = 0;
    for (const Wire& wire : wires_) {
      int waiting = 0;
      if (ioctl(wire.server, FIONREAD, &waiting) == 0) bytes += waiting;
    }
    return bytes;
  }

  // Closes what is open on both sides, and lets nobody in any more.
  void Cut() { Set(&cut_, true); }

 private:
  struct Wire {
    int client;
    int server;
  };

  void Set(bool* flag, bool value) {
    {
      absl::MutexLock lock(&mu_);
      *flag = value;
    }
    Wake();
  }
  void Wake() { EXPECT_EQ(write(wake_[1], "", 1), 1); }

  // Passes on what there is; false at the end.
  static bool Pass(int from, int to) {
    std::array<char, 16384> buffer;
    const ssize_t n = read(from, buffer.data(), buffer.size());
    for (ssize_t sent = 0; sent < n;) {
      const ssize_t m = send(to, buffer.data() + sent, n - sent, MSG_NOSIGNAL);
      if (m <= 0) return false;
      sent += m;
    }
    return n > 0;
  }

  void Accept() {
    Wire wire;
    wire.client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    wire.server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected = connect(wire.server, reinterpret_cast<const sockaddr*>(&server_), sizeof(server_)) == 0;
    absl::MutexLock lock(&mu_);
    if (connected && !cut_) {
      wires_.push_back(wire);
    } else {
      Close(wire);
    }
  }

  static void Close(const Wire& wire) {
    // With a reset, as a process that is gone has it when something was still under way.
    const linger now = {.l_onoff = 1, .l_linger = 0};
    for (const int fd : {wire.client, wire.server}) {
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
      close(fd);
    }
  }

  void Run() {
    for (;;) {
      std::vector<pollfd> polled = {{wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
      {
        absl::MutexLock lock(&mu_);
        if (stop_ || cut_) {
          for (const Wire& wire : wires_) Close(wire);
          wires_.clear();
        }
        if (stop_) return;
        for (const Wire& wire : wires_) {
          polled.push_back({wire.client, POLLIN, 0});
          polled.push_back({held_ ? -1 : wire.server, POLLIN, 0});
        }
      }
      if (poll(polled.data(), polled.size(), -1) < 0) continue;
      char ignored;
      if (polled[0].revents != 0 && read(wake_[0], &ignored, 1) != 1) return;
      if (polled[1].revents != 0) Accept();
      // Only this thread adds and removes wires, so they stand as they were polled.
      std::list<Wire>::iterator wire;
      {
        absl::MutexLock lock(&mu_);
        wire = wires_.begin();
      }
      for (size_t i = 2; i < polled.size(); i += 2) {
        const bool good = (polled[i].revents == 0 || Pass(wire->client, wire->server)) &&
                          (polled[i + 1].revents == 0 || Pass(wire->server, wire->client));
        absl::MutexLock lock(&mu_);
        if (!good) Close(*wire);
        wire = good ? std::next(wire) : wires_.erase(wire);
      }
    }
  }

  sockaddr_in server_ = {};
  std::string address_;
  int listener_ = -1;
  std::array<int, 2> wake_ = {-1, -1};
  mutable absl::Mutex mu_;
  bool held_ ABSL_GUARDED_BY(mu_) = false;
  bool cut_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::list<Wire> wires_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace lion

#endif  // LION_TESTS_SERVER_RELAY_H_
