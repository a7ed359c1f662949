// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/metrics_endpoint.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lion {
namespace {

constexpr unsigned kMaxConnections = 64;
constexpr unsigned kIdleSeconds = 30;  // then a connection on which nothing moves is closed

struct HostPort {
  std::string host;  // without the brackets of an IPv6 address
  int port = 0;
};

absl::StatusOr<HostPort> ParseAddress(const std::string& address) {
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
    return absl::InvalidArgumentError(absl::StrCat("metrics address '", address, "' is not HOST:PORT or [IPV6]:PORT"));
  }
  return parsed;
}

// A socket that listens on the first of address's meanings.
absl::StatusOr<int> ListenOn(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  const auto unavailable = [&address](const char* why) {
    return absl::UnavailableError(absl::StrCat("metrics: cannot listen on ", address, ": ", why));
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
    return fd;
  }
  const int failure = errno;
  if (fd >= 0) close(fd);
  return unavailable(std::strerror(failure));
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t bytes = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return 0;
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

MHD_Result Send(MHD_Connection* connection, unsigned status, std::string_view body, const char* content_type) {
  MHD_Response* response =
      MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;  // no memory: the connection is closed
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

// Called when a request's header is here (*seen is null), for each part of its body, and when all of it is here.
MHD_Result Handle(void* text, MHD_Connection* connection, const char* url, const char* method, const char* /*version*/,
                  const char* /*body*/, size_t* body_bytes, void** seen) {
  static char marker;
  if (*seen == nullptr || *body_bytes > 0) {
    *seen = &marker;
    *body_bytes = 0;  // nobody reads it
    return MHD_YES;
  }
  const std::string_view verb = method;
  if (std::string_view(url) != "/metrics") return Send(connection, MHD_HTTP_NOT_FOUND, "not found\n", "text/plain");
  if (verb != MHD_HTTP_METHOD_GET && verb != MHD_HTTP_METHOD_HEAD) {
    return Send(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or HEAD only\n", "text/plain");
  }
  const std::string body = (*static_cast<const std::function<std::string()>*>(text))();
  return Send(connection, MHD_HTTP_OK, body, "text/plain; version=0.0.4; charset=utf-8");
}

}  // namespace

struct MetricsEndpoint::Impl {
  ~Impl() {
    if (daemon != nullptr) {
      MHD_stop_daemon(daemon);  // closes fd
    } else if (fd >= 0) {
      close(fd);
    }
  }

  std::function<std::string()> text;
  int fd = -1;
  int port = 0;
  MHD_Daemon* daemon = nullptr;
};

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Create(const std::string& address,
                                                                         std::function<std::string()> text) {
  const absl::StatusOr<int> fd = ListenOn(address);
  if (!fd.ok()) return fd.status();
  auto impl = std::make_unique<Impl>();
  impl->text = std::move(text);
  impl->fd = *fd;
  impl->port = PortOf(*fd);
  impl->daemon = MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC, 0, nullptr, nullptr, &Handle, &impl->text,
                                  MHD_OPTION_LISTEN_SOCKET, *fd, MHD_OPTION_CONNECTION_LIMIT, kMaxConnections,
                                  MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds, MHD_OPTION_END);
  if (impl->daemon == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("metrics: cannot serve on ", address, ": libmicrohttpd does not start: ", std::strerror(errno)));
  }
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(impl)));
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsEndpoint::~MetricsEndpoint() = default;

int MetricsEndpoint::port() const { return impl_->port; }

}  // namespace lion
