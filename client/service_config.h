// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_SERVICE_CONFIG_H_
#define LION_CLIENT_SERVICE_CONFIG_H_

// The one service config that every LION client publishes and uses: calls go round all healthy replicas, and a call
// that was refused (queue full) or never reached a server (loading, draining, restarting) is tried up to four times.
// gRPC obeys the server's grpc-retry-pushback-ms by itself wherever a retry policy is set, and only there.

namespace lion::client {

inline constexpr char kServiceConfigJson[] = R"json({
  "loadBalancingConfig": [{"round_robin": {}}],
  "healthCheckConfig": {"serviceName": "lion.v1.EncoderService"},
  "methodConfig": [{
    "name": [{"service": "lion.v1.EncoderService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.2s",
      "maxBackoff": "5s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
})json";

}  // namespace lion::client

#endif  // LION_CLIENT_SERVICE_CONFIG_H_
