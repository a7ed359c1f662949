// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/listen_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lion {
namespace {

struct HostPort {
  std::string host;  // without the brackets of an IPv6 address
  int port = 0;
};

absl::StatusOr<HostPort> ParseAddress(absl::string_view name, const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort parsed{address.substr(0, colon), -1};
  std::string& host = parsed.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of("[]:") != std::string::npos) {
    host.clear();
  }
  if (colon == std::string::npos || host.empty() || !absl::SimpleAtoi(address.substr(colon + 1), &parsed.port) ||
      parsed.port < 0 || parsed.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(name, " address '", address, "' is not HOST:PORT or [IPV6]:PORT"));
  }
  return parsed;
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t bytes = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return 0;
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

}  // namespace

absl::StatusOr<ListenSocket> ListenOn(absl::string_view name, const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseAddress(name, address);
  if (!parsed.ok()) return parsed.status();
  const auto unavailable = [&](const char* why) {
    return absl::UnavailableError(absl::StrCat(name, ": cannot listen on ", address, ": ", why));
  };
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(parsed->host.c_str(), absl::StrCat(parsed->port).c_str(), &hints, &found);
      error != 0) {
    return unavailable(gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;  // a port whose last connections linger is free
  if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
      bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) {
    return ListenSocket{fd, PortOf(fd)};
  }
  const int failure = errno;
  if (fd >= 0) close(fd);
  return unavailable(std::strerror(failure));
}

}  // namespace lion
