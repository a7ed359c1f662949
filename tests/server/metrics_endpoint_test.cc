// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/metrics_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A connection to 127.0.0.1:port.
class Connection {
 public:
  explicit Connection(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Connection() { close(fd_); }

  void Send(const std::string& bytes) const {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }

  // Until the other side closes.
  std::string ReadAll() const {
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
    return answer;
  }

 private:
  const int fd_;
};

// The whole answer to a request of one line, header included.
std::string Ask(int port, const std::string& line) {
  const Connection connection(port);
  connection.Send(absl::StrCat(line, "\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
  return connection.ReadAll();
}

class MetricsEndpointTest : public ::testing::Test {
 protected:
  MetricsEndpointTest() {
    auto endpoint = MetricsEndpoint::Create("127.0.0.1:0", [this] {
      ++num_scrapes_;
      return text_;
    });
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }

  std::string Ask(const std::string& line) const { return lion::Ask(endpoint_->port(), line); }

  std::string text_ = "lion_x 1\n";
  int num_scrapes_ = 0;  // by the endpoint's thread; read when it has answered
  std::unique_ptr<MetricsEndpoint> endpoint_;
};

TEST_F(MetricsEndpointTest, GivesTheTextAsItStandsAtEachRequest) {
  for (int i = 1; i <= 3; ++i) {
    const std::string answer = Ask("GET /metrics HTTP/1.1");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nContent-Length: 9\r\n"));
    EXPECT_THAT(answer, EndsWith("\r\n\r\nlion_x 1\n"));
    EXPECT_EQ(num_scrapes_, i);
  }
  EXPECT_THAT(Ask("GET /metrics?name[]=lion_x HTTP/1.1"), StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(Ask("GET /metrics HTTP/1.0"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(MetricsEndpointTest, HeadIsTheHeaderAlone) {
  const std::string answer = Ask("HEAD /metrics HTTP/1.1");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Length: 9\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(MetricsEndpointTest, OtherPathsAndMethodsAreRefused) {
  for (const char* path : {"/", "/metric", "/metrics/", "/metricsx", "/METRICS", "/../metrics", "/a?/metrics"}) {
    EXPECT_THAT(Ask(absl::StrCat("GET ", path, " HTTP/1.1")), StartsWith("HTTP/1.1 404 Not Found\r\n")) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    const std::string answer = Ask(absl::StrCat(method, " /metrics HTTP/1.1"));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 Method Not Allowed\r\n")) << method;
    EXPECT_THAT(answer, HasSubstr("\r\nAllow: GET, HEAD\r\n"));
  }
  const Connection post(endpoint_->port());
  post.Send("POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_THAT(post.ReadAll(), StartsWith("HTTP/1.1 405 "));
  EXPECT_EQ(num_scrapes_, 0);
}

TEST_F(MetricsEndpointTest, WhatIsNoHttpEndsItsConnectionAlone) {
  for (const char* nonsense : {"\r\n\r\n\r\n", "hello\r\n\r\n", "GET\r\n\r\n", "GET /metrics HTTP/9.9\r\n\r\n"}) {
    const Connection connection(endpoint_->port());
    connection.Send(nonsense);
  }
  const Connection large(endpoint_->port());
  large.Send("GET /metrics HTTP/1.1\r\nX: ");
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(MetricsEndpointTest, LargeTextsAndManyAskersAtOnce) {
  text_.assign(5 << 20, 'x');
  std::vector<std::thread> askers;
  askers.reserve(8);
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([this] { EXPECT_GT(Ask("GET /metrics HTTP/1.1").size(), text_.size()); });
  }
  for (std::thread& asker : askers) asker.join();
}

TEST_F(MetricsEndpointTest, AConnectionThatIsOpenDoesNotHoldTheEnd) {
  const Connection idle(endpoint_->port());
  const Connection half(endpoint_->port());
  half.Send("GET /metr");
  text_.assign(64 << 20, 'x');
  const Connection unread(endpoint_->port());
  unread.Send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(Ask("GET / HTTP/1.1"), StartsWith("HTTP/1.1 404"));  // and so all are in
  const std::string address = absl::StrCat("127.0.0.1:", endpoint_->port());
  endpoint_.reset();
  EXPECT_THAT(idle.ReadAll(), "");
  const auto again = MetricsEndpoint::Create(address, [] { return std::string(); });
  EXPECT_TRUE(again.ok()) << again.status();
}

// As much thread-local storage as cuBLASLt and LibTorch bring along: glibc takes it from each thread's stack.
thread_local char storage[128 << 10];

TEST(MetricsEndpointThreadTest, ItsThreadStartsBesideMuchThreadLocalStorage) {
  storage[0] = 1;
  const auto endpoint = MetricsEndpoint::Create("127.0.0.1:0", [] { return std::string("x 1\n"); });
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_THAT(Ask((*endpoint)->port(), "GET /metrics HTTP/1.1"), EndsWith("x 1\n"));
}

TEST(MetricsEndpointAddressTest, APortInUseIsNamedWithItsReason) {
  const auto first = MetricsEndpoint::Create("127.0.0.1:0", [] { return std::string(); });
  ASSERT_TRUE(first.ok());
  for (const char* host : {"127.0.0.1", "0.0.0.0"}) {
    const std::string address = absl::StrCat(host, ":", (*first)->port());
    EXPECT_EQ(MetricsEndpoint::Create(address, [] { return std::string(); }).status(),
              absl::UnavailableError(absl::StrCat("metrics: cannot listen on ", address, ": Address already in use")));
  }
}

}  // namespace
}  // namespace lion
