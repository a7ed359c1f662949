// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/rows_call.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/duration.pb.h"
#include "server/answer.h"
#include "server/batch_policy.h"

namespace lion {
namespace {

// Parsing and checking a message of this size takes a gRPC thread about as long as an RPC costs anyway; larger ones go
// to the tokenizer threads, so that health checks and small calls are not behind them.
constexpr size_t kMaxInlineBytes = 256 << 10;

void FillDuration(absl::Duration from, google::protobuf::Duration* to) {
  const int64_t nanos = std::max<int64_t>(absl::ToInt64Nanoseconds(from), 0);
  to->set_seconds(nanos / 1000000000);
  to->set_nanos(static_cast<int32_t>(nanos % 1000000000));
}

}  // namespace

void RowsCall::Start() {
  if (request_bytes_.Length() <= kMaxInlineBytes) {
    Parse(/*on_tokenizer_thread=*/false);
    return;
  }
  OnTokenizerThread(static_cast<int64_t>(request_bytes_.Length()),
                    [](RowsCall& call) { call.Parse(/*on_tokenizer_thread=*/true); });
}

void RowsCall::OnTokenizerThread(int64_t bytes, void (*step)(RowsCall&)) {
  const absl::Status status = context().tokenizers->Submit(
      bytes, [self = self(), step] { step(*self); }, options().caller);
  if (status.ok()) return;
  NoRoom(RejectReason::kQueueFull, status, [this, bytes, step](std::function<void()> waited) {
    context().tokenizers->WhenRoom(
        bytes,
        [self = self(), bytes, step, waited = std::move(waited)] {
          waited();
          self->OnTokenizerThread(bytes, step);
        },
        options().caller);
  });
}

template <typename WhenRoom>
void RowsCall::NoRoom(RejectReason reason, const absl::Status& status, WhenRoom when_room) {
  if (options().on_wait != nullptr) {
    options().on_wait(true);
    when_room([on_wait = options().on_wait] { on_wait(false); });
    return;
  }
  context().metrics->Rejected(reason);
  CallResult result;
  result.status = status;
  result.model = model_;
  result.retry_pushback_ms = Pushback(context().batcher->EstimatedWait());
  Finish(std::move(result));
}

int64_t RowsCall::Pushback(absl::Duration wait) const {
  if (context().clock->Now() + wait >= options().deadline) return -1;
  return std::max<int64_t>(1, absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1))));
}

int64_t RowsCall::RowBytes(const PlannedRow& row, ComputeMode mode) const {
  const Encoder& encoder = *served().encoders.front();
  const int64_t unstepped = encoder.max_unstepped_tokens();
  if (context().memory == nullptr || !row.status.ok() || unstepped == 0 || row.num_tokens <= unstepped) return 0;
  const int chunk_tokens = mode == ComputeMode::kChunked ? plan_.chunk_tokens : 0;
  return encoder.RowBytes({row.ids, row.type_ids, mode, chunk_tokens, plan_.output, plan_.window_tokens,
                           plan_.window_stride, row.pixels, row.pixels.empty() ? 0 : row.num_tokens, row.window_starts,
                           plan_.with_document});
}

absl::Status RowsCall::CheckMemory(int i) const {
  const PlannedRow& row = rows_[i];
  const int64_t limit = context().memory == nullptr ? 0 : context().memory->max_bytes();
  const int64_t bytes = limit == 0 ? 0 : RowBytes(row, row.mode);
  if (bytes <= limit) return absl::OkStatus();
  const int64_t least = RowBytes(row, ComputeMode::kRecurrent);
  return absl::InvalidArgumentError(
      absl::StrCat("inputs[", i, "]: ", row.num_tokens, " tokens need ", bytes, " bytes in the ",
                   std::string(Name(row.mode)), " form, ", bytes / row.num_tokens, " a token; the limit is ", limit,
                   " (max_memory_mib)", least <= limit ? absl::StrCat("; COMPUTE_MODE_RECURRENT needs ", least) : ""));
}

absl::Status RowsCall::CheckCaller() const {
  if (options().cancelled->load(std::memory_order_acquire)) return absl::CancelledError("the caller cancelled");
  if (context().clock->Now() >= options().deadline) {
    context().metrics->Rejected(RejectReason::kDeadline);
    return absl::DeadlineExceededError("the deadline passed before the call could be queued");
  }
  return absl::OkStatus();
}

void RowsCall::Parse(bool on_tokenizer_thread) {
  if (!ParseRequest()) {
    CallResult result;
    result.status = absl::InvalidArgumentError(absl::StrCat("request does not parse as ", request_name()));
    result.unparsable = true;
    return Finish(std::move(result));
  }
  absl::StatusOr<int> index = FindModel(models(), model_name());
  if (!index.ok()) return Fail(index.status());
  model_ = *index;
  absl::StatusOr<CallPlan> plan = MakePlan(*index, models()[*index]);
  if (!plan.ok()) return Fail(plan.status());
  plan_ = *std::move(plan);
  num_unanswered_ = inputs().size();

  int64_t num_bytes = 0;
  for (const v1::Input& input : inputs()) num_bytes += BytesToPrepare(input);
  tokenize_started_ = context().clock->Now();
  if (num_bytes == 0 || on_tokenizer_thread) {
    MakeRows();
  } else {
    OnTokenizerThread(num_bytes, [](RowsCall& call) { call.MakeRows(); });
  }
}

void RowsCall::MakeRows() {
  if (finished()) return;
  const bool runs = options().kind != CallKind::kTokenize;
  rows_.reserve(inputs().size());
  for (int i = 0; i < inputs().size(); ++i) {
    if (i > 0) context().tokenizers->LetOthersIn();
    if (absl::Status status = CheckCaller(); !status.ok()) return Fail(std::move(status));
    const bool can_prepare = inputs()[i].has_image() ? served().preprocessor != nullptr : served().tokenizer != nullptr;
    const bool prepares = can_prepare && BytesToPrepare(inputs()[i]) > 0;
    const absl::Time started = context().clock->Now();
    rows_.push_back(MakeRow(i));
    if (prepares) context().metrics->Tokenized(plan_.model, context().clock->Now() - started);
    if (!rows_.back().status.ok() && !rows_stand_alone()) return Fail(rows_.back().status);
    if (absl::Status status = CheckMemory(i); !status.ok()) {
      rows_.back() = PlannedRow();
      rows_.back().status = std::move(status);
    }
    num_tokens_ += rows_.back().num_tokens;
    if (!runs) continue;
    memory_bytes_ += RowBytes(rows_.back(), rows_.back().mode);
    if (absl::Status status = CheckTotalTokens(num_tokens_, context().limits); !status.ok()) {
      return Fail(std::move(status));
    }
  }
  tokenize_time_ = context().clock->Now() - tokenize_started_;
  if (absl::Status status = CheckAnyRow(rows_); !status.ok()) return Fail(std::move(status));
  answers_.resize(rows_.size());
  if (absl::Status status = CheckAnswerBytes(EstimateAnswerBytes(plan_, rows_, served().info)); !status.ok()) {
    return Fail(std::move(status));
  }
  if (!runs) return Collect();
  ReleaseRequest();
  Submit();
}

void RowsCall::Submit() {
  if (finished()) return;
  if (absl::Status status = CheckCaller(); !status.ok()) return Fail(std::move(status));
  if (options().on_wait == nullptr && !InTime()) return;  // a stream waits
  if (memory_bytes_ > 0 && !memory_.has_value()) {
    MemoryBudget* const memory = context().memory;
    if (memory->max_bytes() > 0 && memory_bytes_ > memory->max_bytes()) {
      return Fail(absl::InvalidArgumentError(absl::StrCat("inputs: their long rows need ", memory_bytes_,
                                                          " bytes together, the limit is ", memory->max_bytes(),
                                                          " (max_memory_mib)")));
    }
    memory_ = memory->Take(memory_bytes_);
    if (!memory_.has_value()) {
      const absl::Status full = absl::ResourceExhaustedError(
          absl::StrCat("memory: ", memory_bytes_, " bytes are needed, others have taken ", memory->taken_bytes(),
                       " of ", memory->max_bytes(), " (max_memory_mib)"));
      return NoRoom(RejectReason::kMemory, full, [this, memory](std::function<void()> waited) {
        memory->WhenRoom(memory_bytes_, [self = self(), waited = std::move(waited)] {
          waited();
          self->Submit();
        });
      });
    }
  }
  const bool may_retry = options().on_wait != nullptr;  // then the rows must outlive a refusal
  std::vector<PendingRow> pending;
  for (size_t i = 0; i < rows_.size(); ++i) {
    PlannedRow& row = rows_[i];
    if (!row.status.ok()) continue;
    PendingRow out;
    out.model = served().queue_index;
    out.ids = may_retry ? row.ids : std::move(row.ids);
    out.type_ids = may_retry ? row.type_ids : std::move(row.type_ids);
    if (!row.pixels.empty()) {
      out.pixels = may_retry ? row.pixels : std::move(row.pixels);
      out.image_tokens = row.num_tokens;
    }
    out.mode = row.mode;
    out.chunk_tokens = row.mode == ComputeMode::kChunked ? plan_.chunk_tokens : 0;
    out.output = plan_.output;
    out.window_tokens = plan_.window_tokens;
    out.window_stride = plan_.window_stride;
    out.window_starts = row.window_starts;  // the answer's spans need them too
    out.with_document = plan_.with_document;
    out.progress = MakeProgress();
    out.caller = options().caller;
    out.normalized_values = plan_.normalize ? plan_.width : 0;
    out.deadline = options().deadline;
    out.cancelled = options().cancelled;
    out.done = [self = self(), i](RowAnswer answer) { self->RowDone(static_cast<int>(i), std::move(answer)); };
    pending.push_back(std::move(out));
  }
  num_unanswered_ = static_cast<int>(pending.size());
  num_running_ = static_cast<int>(pending.size());
  const absl::Status status = context().batcher->Submit(std::move(pending));
  if (status.ok()) return;
  if (!absl::IsResourceExhausted(status)) return Fail(status);
  NoRoom(RejectReason::kQueueFull, status, [this](std::function<void()> waited) {
    context().batcher->WhenRoom(
        num_tokens_,
        [self = self(), waited = std::move(waited)] {
          waited();
          self->Submit();
        },
        options().caller);
  });
}

bool RowsCall::InTime() {
  const absl::Time deadline = options().deadline;
  if (deadline == absl::InfiniteFuture()) return true;
  int64_t longest = 0;
  for (const PlannedRow& row : rows_) longest = std::max(longest, row.status.ok() ? row.num_tokens : 0);
  const Batcher::Estimate estimate =
      context().batcher->EstimateCall(served().queue_index, options().caller, num_tokens_, longest);
  const absl::Duration left = deadline - context().clock->Now();
  const Chance chance = ChanceOf(left, estimate.wait, estimate.compute);
  if (chance == Chance::kGood) return true;
  context().metrics->Rejected(RejectReason::kDeadline);
  const auto in_ms = [](absl::Duration d) { return absl::StrCat(absl::ToInt64Milliseconds(d), " ms"); };
  CallResult result;
  result.model = model_;
  if (chance == Chance::kHopeless) {
    result.status = absl::DeadlineExceededError(absl::StrCat("inputs: ", num_tokens_, " tokens take about ",
                                                             in_ms(estimate.compute), " on an idle server, ",
                                                             in_ms(left), " are left until the deadline"));
  } else {
    result.status = absl::ResourceExhaustedError(
        absl::StrCat("queue too long for the deadline: about ", in_ms(estimate.wait), " to wait and ",
                     in_ms(estimate.compute), " to compute, ", in_ms(left), " are left"));
    result.retry_pushback_ms = Pushback(estimate.wait);
  }
  Finish(std::move(result));
  return false;
}

void RowsCall::RowDone(int i, RowAnswer answer) {
  answers_[i] = std::move(answer);
  --num_unanswered_;
  if (num_running_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  context().executor->Run([self = self()] { self->Collect(); });
}

void RowsCall::Collect() {
  if (finished()) return;
  const int num_rows = static_cast<int>(rows_.size());
  bool any_good = false;
  for (int i = 0; i < num_rows; ++i) {
    const absl::Status& status = row_status(i);
    any_good |= status.ok();
    // These are not the input's fault, and say of the whole call what happened to it.
    if (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) {
      return Fail(status);
    }
  }
  if (!any_good) return Fail(row_status(0));
  for (int i = 0; i < num_rows && !rows_stand_alone(); ++i) {
    if (!row_status(i).ok()) return Fail(row_status(i));
  }
  CallResult result;
  result.model = model_;
  result.status = BuildResponse(&result.response);
  Finish(std::move(result));
}

void RowsCall::FillTimings(v1::Timings* timings) const {
  const RowAnswer* slowest = nullptr;
  for (const RowAnswer& answer : answers_) {
    if (slowest == nullptr || answer.queue + answer.compute > slowest->queue + slowest->compute) slowest = &answer;
  }
  FillDuration(tokenize_time_, timings->mutable_tokenize());
  FillDuration(slowest->queue, timings->mutable_queue());
  FillDuration(slowest->compute, timings->mutable_compute());
  FillDuration(context().clock->Now() - options().started, timings->mutable_total());
}

}  // namespace lion
