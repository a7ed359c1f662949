// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/call_log.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace lion {
namespace {

// The field that a message begins with, "inputs[3]" or "options.mode"; empty if it begins with none.
absl::string_view FieldIn(absl::string_view message) {
  const absl::string_view field = message.substr(0, message.find(':'));
  const bool is_field =
      !field.empty() && field.size() < message.size() && field.size() <= 64 &&
      std::all_of(field.begin(), field.end(), [](char c) {
        return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_' || c == '.' || c == '[' || c == ']';
      });
  return is_field ? field : absl::string_view();
}

}  // namespace

std::optional<int64_t> CallLog::MayWrite(absl::StatusCode code, absl::Time now) {
  absl::MutexLock lock(&mu_);
  Bucket& bucket = buckets_[std::min<size_t>(static_cast<size_t>(code), buckets_.size() - 1)];
  const double filled = std::max(absl::ToDoubleSeconds(now - bucket.filled), 0.0) * kLinesASecond;  // clocks step back
  bucket.lines = std::min(bucket.lines + filled, kBurst);
  bucket.filled = now;
  if (bucket.lines < 1) {
    ++bucket.suppressed;
    return std::nullopt;
  }
  bucket.lines -= 1;
  return std::exchange(bucket.suppressed, 0);
}

LogLevel LevelOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return LogLevel::kError;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return LogLevel::kWarning;
    default:
      return LogLevel::kInfo;
  }
}

std::vector<LogField> FieldsOf(const EndedCall& call, const std::string& model_name, int64_t suppressed) {
  std::vector<LogField> fields = {
      {"rpc", std::string(Name(call.rpc))}, {"model", model_name}, {"code", std::string(CodeName(call.status.code()))}};
  if (const absl::string_view field = FieldIn(call.status.message()); !field.empty()) {
    fields.push_back({"field", std::string(field)});
  }
  fields.push_back({"duration_ms", absl::StrFormat("%.1f", absl::ToDoubleMilliseconds(call.duration)), true});
  if (call.trace.has_value()) {
    fields.push_back({"trace_id", call.trace->trace_id});
    fields.push_back({"parent_id", call.trace->parent_id});
  }
  if (suppressed > 0) fields.push_back({"suppressed", absl::StrFormat("%d", suppressed), true});
  return fields;
}

void EndCall(const ServiceContext& context, const EndedCall& call) {
  context.metrics->RpcEnded(call.rpc, call.model, call.status.code(), call.duration);
  if (call.status.ok() || context.call_log == nullptr) return;
  const std::optional<int64_t> suppressed = context.call_log->MayWrite(call.status.code(), context.clock->Now());
  if (!suppressed.has_value()) return context.metrics->LogSuppressed();
  const std::shared_ptr<const ServedModels> models = context.models->Get();
  const bool known = call.model >= 0 && call.model < static_cast<int>(models->size());
  LogEvent(LevelOf(call.status.code()), "call failed",
           FieldsOf(call, known ? (*models)[call.model].name : "unknown", *suppressed));
}

std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& rpc) {
  const auto& metadata = rpc.client_metadata();
  const auto it = metadata.find("traceparent");
  if (it == metadata.end()) return std::nullopt;
  return ParseTraceParent(absl::string_view(it->second.data(), it->second.size()));
}

}  // namespace lion
