// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_document_runner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"

namespace lion {
namespace {

absl::StatusOr<int64_t> FreeBytes() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  return static_cast<int64_t>(free_bytes);
}

}  // namespace

absl::Status CudaDocumentRunner::Create(const Options& options) {
  options_ = options;
  absl::MutexLock lock(&mu_);
  LION_RETURN_IF_ERROR(steps_.Create());
  return options_.layers->AddStream(steps_.stream());
}

absl::Status CudaDocumentRunner::SetBudget(double share) {
  int64_t free_bytes = 0;
  LION_RETURN_IF_ERROR(cuda::Assign(FreeBytes(), &free_bytes));
  budget_ = static_cast<int64_t>(share * static_cast<double>(free_bytes));
  return absl::OkStatus();
}

DocumentForm CudaDocumentRunner::ChooseForm(const CudaBatch& batch, int64_t bytes) const {
  const CudaShape& shape = options_.layers->shape();
  return DocumentBytes(shape, DocumentForm::kKept, batch) > bytes && CanRunAgain(shape, batch) ? DocumentForm::kAgain
                                                                                               : DocumentForm::kKept;
}

int64_t CudaDocumentRunner::EstimateBytes(const CudaBatch& batch) const {
  return DocumentBytes(options_.layers->shape(), ChooseForm(batch, budget_), batch);
}

// Bytes that buffers may take, with those that are there.
absl::StatusOr<int64_t> CudaDocumentRunner::Available() const {
  int64_t free_bytes = 0;
  LION_RETURN_IF_ERROR(cuda::Assign(FreeBytes(), &free_bytes));
  return free_bytes + buffers_.device_bytes();
}

absl::Status CudaDocumentRunner::Reserve(const CudaLayout& layout, int64_t available) {
  unused_for_.store(0, std::memory_order_relaxed);
  if (Fits(layout, buffers_, buffers_.work)) return absl::OkStatus();
  if (layout.device_bytes() > available) {
    return absl::ResourceExhaustedError(absl::StrCat("the batch needs ", layout.device_bytes(),
                                                     " bytes of device memory, and ", available,
                                                     " are free on cuda:", options_.device));
  }
  Free();
  const absl::Status status = buffers_.Allocate({layout.upload_bytes, layout.work_bytes, layout.answer_bytes});
  bytes_.store(buffers_.device_bytes(), std::memory_order_relaxed);
  if (!status.ok()) Free();
  return status;
}

void CudaDocumentRunner::Free() {
  buffers_ = CudaBuffers();
  bytes_.store(0, std::memory_order_relaxed);
}

void CudaDocumentRunner::GiveBack() {
  if (bytes_.load(std::memory_order_relaxed) == 0) return;
  if (unused_for_.fetch_add(1, std::memory_order_relaxed) + 1 < kKeepFor || !mu_.TryLock()) return;
  Free();
  mu_.Unlock();
}

absl::Status CudaDocumentRunner::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results,
                                        EncodeControl* control, absl::Duration* busy) {
  const CudaShape& shape = options_.layers->shape();
  CudaBatch batch;
  PlanBatch(shape, rows, &batch);
  absl::MutexLock lock(&mu_);
  int64_t available = 0;
  LION_RETURN_IF_ERROR(cuda::Assign(Available(), &available));
  const DocumentPlan plan = PlanDocument(shape, ChooseForm(batch, std::min(budget_, available)), &batch);
  const CudaLayout layout = ArrangeBatch(shape, batch.counts);
  absl::Status status = Reserve(layout, available);
  if (status.ok()) status = Run(layout, plan, batch, control, busy);
  if (status.ok()) TakeAnswers(shape, batch, layout, buffers_.host_answers.At<char>(0), results);
  // Other models' documents want memory too, and to take so much again costs nothing beside a document of that size.
  if (buffers_.device_bytes() > budget_ / kKeepShare) Free();
  return status;
}

absl::Status CudaDocumentRunner::Run(const CudaLayout& layout, const DocumentPlan& plan, const CudaBatch& batch,
                                     EncodeControl* control, absl::Duration* busy) {
  FillUpload(options_.layers->shape(), batch, layout, buffers_.host_upload.At<char>(0));

  CudaRun run;
  run.counts = batch.counts;
  run.layout = layout;
  run.upload = buffers_.upload.At<char>(0);
  run.work = buffers_.work.At<char>(0);
  run.answers = buffers_.answers.At<char>(0);
  run.stream = steps_.stream();
  run.on_stage = options_.on_stage;
  const void* host_upload = buffers_.host_upload.data();
  char* host_answers = buffers_.host_answers.At<char>(0);
  const auto begin = [&] {
    run.Stage("upload");
    return cuda::CudaStatus(
        cudaMemcpyAsync(run.upload, host_upload, layout.upload_bytes, cudaMemcpyHostToDevice, run.stream),
        "cudaMemcpyAsync to the device");
  };
  const auto finish = [&]() -> absl::Status {
    LION_RETURN_IF_ERROR(options_.layers->EnqueueHeads(run));
    run.Stage("download");
    LION_RETURN_IF_ERROR(cuda::CudaStatus(
        cudaMemcpyAsync(host_answers, run.answers, layout.answer_bytes, cudaMemcpyDeviceToHost, run.stream),
        "cudaMemcpyAsync to the host"));
    run.Stage("end");
    return absl::OkStatus();
  };
  return steps_.Run({*options_.layers, plan, run, begin, finish}, options_.enqueue_mu, &precedence_, control, busy);
}

}  // namespace lion
