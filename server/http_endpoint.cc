// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/http_endpoint.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "server/http_exchange.h"
#include "server/http_messages.h"
#include "server/listen_socket.h"
#include "server/peer_watch.h"

namespace lion {
namespace {

// A request whose body is slower than this is not waited for.
constexpr absl::Duration kMaxBodyTime = absl::Minutes(5);

constexpr char kTlsPriorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";

constexpr char kGet[] = "GET, HEAD";
constexpr char kPost[] = "POST";
constexpr char kModelPrefix[] = "/v1/models/";

std::optional<std::string> Header(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  if (value == nullptr) return std::nullopt;
  return value;
}

// The bytes of the other side's address and port.
std::string Peer(MHD_Connection* connection) {
  const sockaddr* peer = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
  const size_t bytes = peer->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  return std::string(reinterpret_cast<const char*>(peer), bytes);
}

// How long the caller will wait, by what clients and proxies say of it unasked: openai's in seconds, Envoy in
// milliseconds. What is no number of more than 0 says nothing.
absl::Duration Timeout(MHD_Connection* connection) {
  absl::Duration timeout = absl::InfiniteDuration();
  const std::pair<const char*, absl::Duration> headers[] = {{"x-stainless-read-timeout", absl::Seconds(1)},
                                                            {"x-envoy-expected-rq-timeout-ms", absl::Milliseconds(1)}};
  for (const auto& [name, unit] : headers) {
    double number = 0;
    const std::optional<std::string> value = Header(connection, name);
    if (value.has_value() && absl::SimpleAtod(*value, &number) && number > 0) {
      timeout = std::min(timeout, number * unit);
    }
  }
  return timeout;
}

struct Route {
  bool known = false;
  const char* allow = kGet;
  std::optional<Rpc> rpc;  // none: /health
  std::string model;
};

Route FindRoute(absl::string_view path) {
  if (path == "/health") return {true, kGet, std::nullopt, ""};
  if (path == "/v1/embeddings") return {true, kPost, Rpc::kHttpEmbeddings, ""};
  if (path == "/v1/classify") return {true, kPost, Rpc::kHttpClassify, ""};
  if (path == "/v1/models") return {true, kGet, Rpc::kHttpModels, ""};
  if (absl::ConsumePrefix(&path, kModelPrefix) && !path.empty()) {
    return {true, kGet, Rpc::kHttpModels, std::string(path)};
  }
  return {};
}

bool Allows(const Route& route, absl::string_view method) {
  if (route.allow == kPost) return method == MHD_HTTP_METHOD_POST;
  return method == MHD_HTTP_METHOD_GET || method == MHD_HTTP_METHOD_HEAD;
}

// What a request is until it has been answered; libmicrohttpd keeps it for us.
struct Pending {
  std::shared_ptr<HttpExchange> exchange;  // null: reply says it all
  HttpReply reply;
  const char* allow = nullptr;  // of 405
  absl::Time begun;
  bool at_once = false;  // refused by its header, and so long that its body must not come first
  bool ran = false;
};

}  // namespace

struct HttpEndpoint::Impl {
  Impl(const ServiceContext* borrowed, Options opts) : context(borrowed), options(std::move(opts)) {
    budget->max_bytes = options.max_held_bytes;
    started = context->clock->Now();
  }
  ~Impl();

  MHD_Result Handle(MHD_Connection* connection, const char* url, const char* method, absl::string_view part,
                    Pending** pending);
  std::unique_ptr<Pending> Begin(MHD_Connection* connection, const char* url, const char* method);
  void Suspend(MHD_Connection* connection, const std::shared_ptr<HttpExchange>& exchange);
  MHD_Result Send(MHD_Connection* connection, const Pending& pending);

  const ServiceContext* const context;
  const Options options;
  const std::shared_ptr<HttpBudget> budget = std::make_shared<HttpBudget>();
  absl::Time started;
  int fd = -1;
  int port = 0;
  PeerWatch watch;
  MHD_Daemon* daemon = nullptr;
  absl::Mutex mu;
  int num_suspended ABSL_GUARDED_BY(mu) = 0;
};

HttpEndpoint::Impl::~Impl() {
  if (daemon == nullptr) {
    if (fd >= 0) close(fd);
    return;
  }
  // A daemon must not be stopped while a connection is suspended.
  {
    absl::MutexLock lock(&mu);
    const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return num_suspended == 0; };
    mu.Await(absl::Condition(&none));
  }
  MHD_stop_daemon(daemon);  // closes fd
}

std::unique_ptr<Pending> HttpEndpoint::Impl::Begin(MHD_Connection* connection, const char* url, const char* method) {
  auto pending = std::make_unique<Pending>();
  pending->begun = context->clock->Now();
  const auto refuse = [&](int code, const std::string& message) {
    pending->reply = {code, WriteError(absl::InvalidArgumentError(message), std::nullopt, code).body, std::nullopt};
  };
  const Route route = FindRoute(url);
  if (!route.known) {
    refuse(MHD_HTTP_NOT_FOUND, "there is no such path; there are /v1/embeddings, /v1/classify, /v1/models and /health");
  } else if (!Allows(route, method)) {
    pending->allow = route.allow;
    refuse(MHD_HTTP_METHOD_NOT_ALLOWED, absl::StrCat("this path takes ", route.allow, " only"));
  } else if (!route.rpc.has_value()) {
    const bool serving = options.serving();
    pending->reply.code = serving ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    pending->reply.body = serving ? R"({"status":"SERVING"})" : R"({"status":"NOT_SERVING"})";
  } else {
    HttpExchange::Request request;
    request.rpc = *route.rpc;
    request.model = route.model;
    request.authorization = Header(connection, MHD_HTTP_HEADER_AUTHORIZATION);
    request.peer = Peer(connection);
    if (const auto trace = Header(connection, "traceparent"); trace.has_value()) {
      request.trace = ParseTraceParent(*trace);
    }
    request.timeout = Timeout(connection);
    if (const auto length = Header(connection, MHD_HTTP_HEADER_CONTENT_LENGTH); length.has_value()) {
      // libmicrohttpd has refused what is no number; what is too large for this one is too large.
      if (!absl::SimpleAtoi(*length, &request.content_length)) {
        request.content_length = std::numeric_limits<int64_t>::max();
      }
    }
    const bool is_long = request.content_length > HttpExchange::kMaxIgnoredBytes;
    pending->exchange = std::make_shared<HttpExchange>(context, budget, started, std::move(request));
    pending->at_once = is_long && pending->exchange->refused();
  }
  return pending;
}

// Called when a request's header is here (*pending is null), for each part of its body, when all of it is here, and
// when its connection goes on after having been suspended.
MHD_Result HttpEndpoint::Impl::Handle(MHD_Connection* connection, const char* url, const char* method,
                                      absl::string_view part, Pending** pending) {
  if (*pending == nullptr) {
    *pending = Begin(connection, url, method).release();
    if (!(*pending)->at_once) return MHD_YES;
    (*pending)->exchange->Arrived();
    (*pending)->exchange->Run([] {});  // refused: nothing runs
    return Send(connection, **pending);
  }
  const std::shared_ptr<HttpExchange>& exchange = (*pending)->exchange;
  if (!part.empty()) {
    if (context->clock->Now() - (*pending)->begun > kMaxBodyTime) return MHD_NO;
    return exchange == nullptr || exchange->Feed(part) ? MHD_YES : MHD_NO;
  }
  if (exchange == nullptr || (*pending)->ran) return Send(connection, **pending);
  (*pending)->ran = true;
  Suspend(connection, exchange);
  return MHD_YES;
}

void HttpEndpoint::Impl::Suspend(MHD_Connection* connection, const std::shared_ptr<HttpExchange>& exchange) {
  {
    absl::MutexLock lock(&mu);
    ++num_suspended;
  }
  MHD_suspend_connection(connection);
  const int peer = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
  exchange->Arrived();
  const uint64_t watched = watch.Begin(peer, [exchange] { exchange->Gone(); });
  exchange->Run([this, connection, watched] {
    watch.End(watched);
    MHD_resume_connection(connection);
    absl::MutexLock lock(&mu);  // the last that touches this
    --num_suspended;
  });
}

MHD_Result HttpEndpoint::Impl::Send(MHD_Connection* connection, const Pending& pending) {
  const HttpReply& reply = pending.exchange != nullptr ? pending.exchange->reply() : pending.reply;
  // Not copied: pending outlives the response's sending (see Completed).
  MHD_Response* response =
      MHD_create_response_from_buffer(reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_PERSISTENT);
  if (response == nullptr) return MHD_NO;  // no memory: the connection is closed
  const auto add = [response](const char* name, const std::string& value) {
    MHD_add_response_header(response, name, value.c_str());
  };
  add(MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
  if (pending.allow != nullptr) add(MHD_HTTP_HEADER_ALLOW, pending.allow);
  if (reply.code == MHD_HTTP_UNAUTHORIZED) add(MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
  if (reply.retry_after_ms.has_value() && *reply.retry_after_ms >= 0) {
    add(MHD_HTTP_HEADER_RETRY_AFTER, absl::StrCat((*reply.retry_after_ms + 999) / 1000));
    add("retry-after-ms", absl::StrCat(*reply.retry_after_ms));  // openai's clients prefer it
  } else if (reply.retry_after_ms.has_value()) {
    add("x-should-retry", "false");  // they obey it
  }
  // A server that drains: the next request had better go elsewhere.
  if (reply.code == MHD_HTTP_SERVICE_UNAVAILABLE) add(MHD_HTTP_HEADER_CONNECTION, "close");
  const MHD_Result result = MHD_queue_response(connection, static_cast<unsigned>(reply.code), response);
  MHD_destroy_response(response);
  return result;
}

HttpEndpoint::HttpEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpEndpoint::~HttpEndpoint() = default;

int HttpEndpoint::port() const { return impl_->port; }

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Create(const ServiceContext* context, Options options) {
  const absl::StatusOr<ListenSocket> socket = ListenOn("http", options.listen);
  if (!socket.ok()) return socket.status();
  auto impl = std::make_unique<Impl>(context, std::move(options));
  impl->fd = socket->fd;
  impl->port = socket->port;
  const Options& opts = impl->options;

  constexpr auto handle = [](void* self, MHD_Connection* connection, const char* url, const char* method,
                             const char* /*version*/, const char* part, size_t* part_bytes, void** pending) {
    const absl::string_view bytes(part, *part_bytes);
    *part_bytes = 0;
    return static_cast<Impl*>(self)->Handle(connection, url, method, bytes, reinterpret_cast<Pending**>(pending));
  };
  constexpr auto completed = [](void* /*self*/, MHD_Connection* /*connection*/, void** pending,
                                MHD_RequestTerminationCode /*how*/) {
    const std::unique_ptr<Pending> owned(static_cast<Pending*>(*pending));
    *pending = nullptr;
    if (owned != nullptr && owned->exchange != nullptr) owned->exchange->Sent();
  };
  const MHD_AccessHandlerCallback on_request = handle;
  const MHD_RequestCompletedCallback on_completed = completed;

  unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
  std::vector<MHD_OptionItem> more;
  if (!opts.tls.cert.empty()) {
    flags |= MHD_USE_TLS;
    more.push_back({MHD_OPTION_HTTPS_MEM_CERT, 0, const_cast<char*>(opts.tls.cert.c_str())});
    more.push_back({MHD_OPTION_HTTPS_MEM_KEY, 0, const_cast<char*>(opts.tls.key.c_str())});
    more.push_back({MHD_OPTION_HTTPS_PRIORITIES, 0, const_cast<char*>(kTlsPriorities)});
  }
  more.push_back({MHD_OPTION_END, 0, nullptr});
  impl->daemon = MHD_start_daemon(flags, 0, nullptr, nullptr, on_request, impl.get(), MHD_OPTION_LISTEN_SOCKET,
                                  impl->fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, nullptr,
                                  MHD_OPTION_CONNECTION_LIMIT, opts.max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
                                  opts.idle_seconds, MHD_OPTION_ARRAY, more.data(), MHD_OPTION_END);
  if (impl->daemon == nullptr) {
    return absl::UnavailableError(absl::StrCat("http: cannot serve on ", opts.listen, ": libmicrohttpd does not start",
                                               opts.tls.cert.empty() ? "" : ", maybe for the certificate or its key",
                                               ": ", std::strerror(errno)));
  }
  return std::unique_ptr<HttpEndpoint>(new HttpEndpoint(std::move(impl)));
}

}  // namespace lion
