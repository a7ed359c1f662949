// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ROWS_CALL_H_
#define LION_SERVER_ROWS_CALL_H_

// A Call that turns inputs into rows and rows into an answer: every way that a request takes, but for its messages.
//
// What differs from wire to wire is in the virtual methods: how bytes become lion.v1's inputs and a plan, and how the
// rows become an answer's bytes. Limits, queues, refusals, deadlines and metrics are the same for all. They are called
// in this order, by one thread at a time: ParseRequest, model_name, MakePlan, then inputs and MakeRow for each input,
// ReleaseRequest, BuildResponse.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/byte_buffer.h"
#include "lion/v1/encoder.pb.h"
#include "server/batcher.h"
#include "server/call.h"
#include "server/memory_budget.h"
#include "server/metrics.h"
#include "server/row_plan.h"
#include "server/served_model.h"
#include "server/validate.h"

namespace lion {

class RowsCall : public Call {
 public:
  using Call::Call;

  void Start() final;

 protected:
  using Inputs = google::protobuf::RepeatedPtrField<v1::Input>;

  virtual absl::string_view request_name() const = 0;  // "lion.v1.EmbedRequest"
  virtual bool ParseRequest() = 0;                     // from request_bytes_
  virtual const std::string& model_name() const = 0;
  virtual const Inputs& inputs() const = 0;
  // model is the one named, index its place. The inputs may be made here.
  virtual absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) = 0;
  virtual PlannedRow MakeRow(int i) const {
    return PlanRow(inputs()[i], i, plan_, served(), &context().tokenizers->parallel());
  }
  // Who is told how far a row has come (PendingRow::progress); null = nobody.
  virtual std::function<void(int64_t tokens_done, int64_t tokens_total)> MakeProgress() { return nullptr; }
  // False = one bad row fails the call, with its error and at once.
  virtual bool rows_stand_alone() const { return true; }
  virtual void ReleaseRequest() = 0;  // frees what the rows were made from
  // From rows_ and, where the rows ran, answers_ (which it may consume).
  virtual absl::Status BuildResponse(grpc::ByteBuffer* response) = 0;

  const ServedModel& served() const { return models()[plan_.model]; }
  void FillTimings(v1::Timings* timings) const;

  // The status of row i, whether it failed before it ran or while it did.
  const absl::Status& row_status(int i) const { return rows_[i].status.ok() ? answers_[i].status : rows_[i].status; }

  CallPlan plan_;
  std::vector<PlannedRow> rows_;    // one an input
  std::vector<RowAnswer> answers_;  // as many

 private:
  std::shared_ptr<RowsCall> self() { return std::static_pointer_cast<RowsCall>(shared_from_this()); }

  // The steps. Each ends by handing over to the next, or the call.
  void OnTokenizerThread(int64_t bytes, void (*step)(RowsCall&));
  void Parse(bool on_tokenizer_thread);
  void MakeRows();
  void Submit();
  void RowDone(int i, RowAnswer answer);
  void Collect();

  // False, with the call ended, if it could clearly not be answered before its deadline (server/batch_policy.h).
  bool InTime();
  // What a caller who is refused is told to wait, in milliseconds; -1 = a retry would be past its deadline.
  int64_t Pushback(absl::Duration wait) const;
  // Not OK if nobody waits for the answer any more.
  absl::Status CheckCaller() const;
  // Ends the call as refused for lack of room, or waits for it: then again is called when there may be some.
  template <typename WhenRoom>
  void NoRoom(RejectReason reason, const absl::Status& status, WhenRoom when_room);
  // The device's memory that a row needs in that form; 0 for those that run in what is always there.
  int64_t RowBytes(const PlannedRow& row, ComputeMode mode) const;
  // INVALID_ARGUMENT if that is more than there is for all, naming the form that needs less.
  absl::Status CheckMemory(int i) const;

  absl::Time tokenize_started_;
  absl::Duration tokenize_time_;
  int64_t num_tokens_ = 0;                    // of the good rows
  int64_t memory_bytes_ = 0;                  // that the long ones among them need
  std::optional<MemoryBudget::Hold> memory_;  // from when they are queued until the answer is on its way
  std::atomic<int> num_running_ = 0;
};

}  // namespace lion

#endif  // LION_SERVER_ROWS_CALL_H_
