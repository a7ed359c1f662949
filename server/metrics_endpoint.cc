// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/metrics_endpoint.h"

#include <microhttpd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/listen_socket.h"

namespace lion {
namespace {

constexpr unsigned kMaxConnections = 64;
constexpr unsigned kIdleSeconds = 30;  // then a connection on which nothing moves is closed

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
  const absl::StatusOr<ListenSocket> socket = ListenOn("metrics", address);
  if (!socket.ok()) return socket.status();
  auto impl = std::make_unique<Impl>();
  impl->text = std::move(text);
  impl->fd = socket->fd;
  impl->port = socket->port;
  impl->daemon = MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC, 0, nullptr, nullptr, &Handle, &impl->text,
                                  MHD_OPTION_LISTEN_SOCKET, socket->fd, MHD_OPTION_CONNECTION_LIMIT, kMaxConnections,
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
