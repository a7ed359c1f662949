// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/document_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/answer.h"
#include "server/bytes.h"
#include "server/validate.h"

namespace lion {
namespace {

// What a message of vectors has beside them.
constexpr int64_t kMessageOverheadBytes = 64;
constexpr int64_t kVectorRoomBytes = kMaxDocumentMessageBytes - kMessageOverheadBytes;

}  // namespace

absl::string_view DocumentCall::request_name() const { return v1::EmbedDocumentRequest::descriptor()->full_name(); }

bool DocumentCall::ParseRequest() {
  if (!ParseBytes(&request_bytes_, &request_)) return false;
  inputs_.Add()->Swap(request_.mutable_input());
  return true;
}

absl::StatusOr<CallPlan> DocumentCall::MakePlan(int index, const ServedModel& model) {
  absl::StatusOr<CallPlan> plan = PlanDocument(request_, index, model, context().limits);
  if (plan.ok() && MaxVectorBytes(*plan) > kVectorRoomBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dimensions: a vector of ", plan->width, " values takes up to ", MaxVectorBytes(*plan),
        " bytes, messages of a document have room for ", kVectorRoomBytes, "; ask for fewer or a smaller vector_type"));
  }
  return plan;
}

std::function<void(int64_t, int64_t)> DocumentCall::MakeProgress() {
  progress_(0, rows_.front().num_tokens);
  return progress_;
}

void DocumentCall::ReleaseRequest() {
  request_ = v1::EmbedDocumentRequest();
  inputs_ = Inputs();
}

absl::Status DocumentCall::BuildResponse(grpc::ByteBuffer*) {
  const PlannedRow& row = rows_.front();
  progress_(row.num_tokens, row.num_tokens);
  end_.set_model(served().name);
  end_.set_model_version(served().info.version);
  end_.set_token_count(static_cast<uint32_t>(row.num_tokens));
  end_.set_truncated(row.truncated);
  end_.set_mode(ToProto(row.mode));
  end_.set_num_vectors(static_cast<uint64_t>(NumVectors(plan_, row)));
  FillTimings(end_.mutable_timings());
  return absl::OkStatus();
}

absl::Status DocumentCall::Reword(absl::Status status) const {
  absl::string_view rest = status.message();
  if (!absl::ConsumePrefix(&rest, "inputs[0]") && !absl::ConsumePrefix(&rest, "inputs")) return status;
  return absl::Status(status.code(), absl::StrCat("input", rest));
}

absl::StatusOr<std::optional<grpc::ByteBuffer>> DocumentCall::NextMessage() {
  RowResult& result = answers_.front().result;
  if (next_vector_ > result.num_vectors) return std::nullopt;
  v1::EmbedDocumentResponse message;
  const auto num_vectors = static_cast<int64_t>(end_.num_vectors());
  if (next_vector_ == result.num_vectors) {
    *message.mutable_end() = end_;
    ++next_vector_;
  } else if (next_vector_ == num_vectors) {
    google::protobuf::RepeatedPtrField<v1::Vector> document;
    FillVectors(plan_, rows_.front(), result, next_vector_, next_vector_ + 1, &document);
    *message.mutable_document() = std::move(document[0]);
    ++next_vector_;
  } else {
    const int64_t at_once = std::max<int64_t>(1, kVectorRoomBytes / MaxVectorBytes(plan_));
    const int64_t last = std::min(next_vector_ + at_once, num_vectors);
    message.mutable_vectors()->set_first_vector(static_cast<uint64_t>(next_vector_));
    FillVectors(plan_, rows_.front(), result, next_vector_, last, message.mutable_vectors()->mutable_vectors());
    next_vector_ = last;
  }
  grpc::ByteBuffer bytes;
  if (absl::Status status = SerializeBytes(message, &bytes); !status.ok()) return status;
  return bytes;
}

grpc::ByteBuffer DocumentCall::ProgressMessage(int64_t tokens_done, int64_t tokens_total) {
  v1::EmbedDocumentResponse message;
  message.mutable_progress()->set_tokens_done(static_cast<uint64_t>(tokens_done));
  message.mutable_progress()->set_tokens_total(static_cast<uint64_t>(tokens_total));
  grpc::ByteBuffer bytes;
  SerializeBytes(message, &bytes).IgnoreError();  // a few bytes
  return bytes;
}

}  // namespace lion
