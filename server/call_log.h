// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_CALL_LOG_H_
#define LION_SERVER_CALL_LOG_H_

// How calls end: each is counted, and one that failed leaves a line, with the trace that its caller named.
//
//   WARNING call failed rpc=Embed model=text code=INVALID_ARGUMENT field=inputs[3] duration_ms=1.2 trace_id=4bf9...
//
// Nothing of a caller's text is in it: of a status' message only the field that it begins with, of a traceparent only
// its hexadecimal ids. A flood is thinned for each code by itself, so that refusals do not hide faults: kBurst lines at
// once, then kLinesASecond; how many were left out stands in the next line of that code (suppressed=) and in
// lion_log_suppressed_total.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/service_context.h"
#include "server/trace_context.h"

namespace lion {

// Decides which lines are written. Thread-safe.
class CallLog {
 public:
  static constexpr double kLinesASecond = 5;
  static constexpr double kBurst = 50;

  // How many lines were left out since the last, if there may be one now; nullopt if this one is left out too.
  std::optional<int64_t> MayWrite(absl::StatusCode code, absl::Time now);

 private:
  struct Bucket {
    double lines = kBurst;
    absl::Time filled = absl::InfinitePast();
    int64_t suppressed = 0;
  };

  absl::Mutex mu_;
  std::array<Bucket, 17> buckets_ ABSL_GUARDED_BY(mu_);  // by code
};

struct EndedCall {
  Rpc rpc = Rpc::kEmbed;
  int model = Metrics::kUnknownModel;
  absl::Status status;
  absl::Duration duration;
  std::optional<TraceContext> trace;
};

// INTERNAL, UNKNOWN and DATA_LOSS are ours: errors. UNAVAILABLE and RESOURCE_EXHAUSTED want an operator: warnings. What
// is the caller's affair is information.
LogLevel LevelOf(absl::StatusCode code);

// What a line says of the call besides "call failed". model_name: the served name, or "unknown".
std::vector<LogField> FieldsOf(const EndedCall& call, const std::string& model_name, int64_t suppressed);

// Counts the call (Metrics::RpcEnded), and writes its line if it failed. Just before Finish.
void EndCall(const ServiceContext& context, const EndedCall& call);

// The caller's trace, nullopt if it names none.
std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& rpc);

}  // namespace lion

#endif  // LION_SERVER_CALL_LOG_H_
