// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_DOCUMENT_CALL_H_
#define LION_SERVER_DOCUMENT_CALL_H_

// One EmbedDocument, from its bytes to its vectors: a Call with a single row, whose answer is taken in pieces.
//
// The row goes the way of every other (rows_call.h): the same checks, queue, refusals and deadlines, and the same bits.
// When done is called with OK, its response is empty; NextMessage then gives the answer. The vectors exist once, as
// floats, until the call is destroyed; a message is made when it is asked for.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/byte_buffer.h"
#include "lion/v1/encoder.pb.h"
#include "server/rows_call.h"

namespace lion {

// No message of a document's answer is larger: half of what gRPC's clients take by default.
inline constexpr int64_t kMaxDocumentMessageBytes = int64_t{2} << 20;

class DocumentCall final : public RowsCall {
 public:
  // Told, from any thread, that tokens_done of tokens_total have run: 0 when the row is queued, all when it has run.
  using Progress = std::function<void(int64_t tokens_done, int64_t tokens_total)>;

  // context is borrowed and must outlive the call.
  DocumentCall(const ServiceContext* context, Options options, const grpc::ByteBuffer& request, Progress progress,
               std::function<void(CallResult)> done)
      : RowsCall(context, std::move(options), request, std::move(done)), progress_(std::move(progress)) {}

  // After done with OK: the next message of the answer, vectors in order and then the end; nullopt behind that. One
  // thread at a time. INTERNAL if it could not be serialised.
  absl::StatusOr<std::optional<grpc::ByteBuffer>> NextMessage();

  // A message about the way there.
  static grpc::ByteBuffer ProgressMessage(int64_t tokens_done, int64_t tokens_total);

 private:
  absl::string_view request_name() const override;
  bool ParseRequest() override;
  const std::string& model_name() const override { return request_.model(); }
  const Inputs& inputs() const override { return inputs_; }
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) override;
  std::function<void(int64_t, int64_t)> MakeProgress() override;
  void ReleaseRequest() override;
  absl::Status BuildResponse(grpc::ByteBuffer* response) override;
  absl::Status Reword(absl::Status status) const override;

  const Progress progress_;
  v1::EmbedDocumentRequest request_;
  Inputs inputs_;            // the one that request_ had
  v1::DocumentEnd end_;      // made when the row has run
  int64_t next_vector_ = 0;  // of NextMessage; beyond the last of the result = the end has been given
};

}  // namespace lion

#endif  // LION_SERVER_DOCUMENT_CALL_H_
