// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_encoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "model/cuda_batch.h"
#include "model/cuda_document_runner.h"
#include "model/cuda_graphs.h"
#include "model/cuda_layers.h"
#include "model/cuda_memory.h"
#include "model/cuda_slot.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/model.h"
#include "model/row_check.h"

namespace lion {
namespace {

constexpr int kNumSlots = 2;
constexpr int64_t kReservedBytes = int64_t{256} << 20;
// Answers of a small batch up to this size are written to the host's memory by the kernels that make them: that takes
// no longer than a copy, which would have to start first.
constexpr int64_t kDirectBytes = int64_t{64} << 10;

absl::Status OpenDevice(int device) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::NotFoundError(absl::StrCat("cuda:", device, ": cudaGetDeviceCount: ", cudaGetErrorString(error)));
  }
  if (device < 0 || device >= count) {
    return absl::NotFoundError(absl::StrCat("cuda:", device, ": there are ", count, " CUDA devices"));
  }
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(device), "cudaSetDevice"));
  cudaDeviceProp properties;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  if (properties.major != 9 || properties.minor != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cuda:", device, ": ", properties.name, " has compute capability ",
                                                   properties.major, ".", properties.minor,
                                                   ", this build has code for 9.0"));
  }
  return absl::OkStatus();
}

}  // namespace

class CudaEncoder::Impl {
 public:
  explicit Impl(Options options) : options_(std::move(options)) {}
  ~Impl();

  absl::Status Init(const CudaShape& shape);
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult> results);
  absl::Status EncodeDocument(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control);
  absl::StatusOr<int> MeasureCrossover();
  int64_t EstimateBytes(absl::Span<const Row> rows) const;
  DeviceUsage usage() const;

  const Options& options() const { return options_; }
  const CudaLayers& layers() const { return *layers_; }
  const CudaShape& shape() const { return layers_->shape(); }

  // "cuda:1 is lost: CALL: what" for what CudaStatus says of a lost device; other statuses as they are.
  absl::Status NameLoss(absl::Status status) const {
    if (!absl::IsUnavailable(status)) return status;
    return absl::UnavailableError(absl::StrCat("cuda:", options_.device, " is lost: ", status.message()));
  }

 private:
  absl::Status ReserveStanding(int64_t free_bytes);
  absl::StatusOr<CudaSlot*> Acquire(bool* alone);
  absl::Status Release(CudaSlot* slot, absl::Status status);
  absl::Status NoteLoss(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasFreeSlot() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return std::find(std::begin(taken_), std::end(taken_), false) != std::end(taken_);
  }

  CudaLayout Arrange(const CudaBatch& batch, int* bucket) const;
  absl::Status EncodeIn(CudaSlot& slot, bool alone, absl::Span<const Row> rows, absl::Span<RowResult> results);
  absl::Status Compute(CudaSlot& slot, int bucket, const CudaLayout& layout, bool together);
  absl::Status Enqueue(CudaSlot& slot, const CudaRun& run, int bucket, bool together);
  CudaRun RunIn(const CudaBuffers& ends, const DeviceBuffer& work, const CudaLayout& layout,
                const CudaCounts& counts) const;

  Options options_;
  std::unique_ptr<CudaLayers> layers_;
  int64_t weights_bytes_ = 0;
  DeviceBuffer work_;                // every batch's but a large one's, in turn: the order of stream_ keeps them apart
  CudaStream stream_;                // every batch's kernels but a large one's
  std::vector<CudaBucket> buckets_;  // those that every slot has a graph for
  CudaSlot slots_[kNumSlots];        // each belongs to the call that took it

  absl::Mutex mu_;
  bool taken_[kNumSlots] ABSL_GUARDED_BY(mu_) = {};
  absl::Status lost_ ABSL_GUARDED_BY(mu_);

  absl::Mutex enqueue_mu_;  // held while a batch's kernels are enqueued, so that no two mix

  CudaDocumentRunner documents_;  // batches above max_batch_tokens

  std::atomic<int64_t> busy_ns_{0};
  mutable std::atomic<int64_t> free_bytes_{0};  // as last asked for
  mutable std::atomic<int64_t> total_bytes_{0};
  std::atomic<bool> is_lost_{false};
};

CudaEncoder::Impl::~Impl() {
  if (stream_.get() == nullptr) return;  // nothing was made; a device that is not there must not leave an error behind
  cudaSetDevice(options_.device);
  cudaStreamSynchronize(stream_.get());
}

// ---------------------------------------------------------------------------------------------------- making and
// memory

absl::Status CudaEncoder::Impl::Init(const CudaShape& shape) {
  LION_RETURN_IF_ERROR(OpenDevice(options_.device));
  // Above that of documents (model/cuda_steps.cc): what of their steps is enqueued stands back.
  int lowest = 0;
  int highest = 0;
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange"));
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaStreamCreateWithPriority(stream_.out(), cudaStreamNonBlocking, highest),
                                        "cudaStreamCreateWithPriority"));
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));

  const int64_t before = DeviceBytesOfThisThread();
  LION_RETURN_IF_ERROR(
      cuda::Assign(CudaLayers::Create(options_.config, options_.pipeline, shape, *options_.weights), &layers_));
  options_.weights = nullptr;  // all of it is on the device
  weights_bytes_ = DeviceBytesOfThisThread() - before;

  LION_RETURN_IF_ERROR(ReserveStanding(static_cast<int64_t>(free_bytes)));
  LION_RETURN_IF_ERROR(documents_.Create({options_.device, layers_.get(), &enqueue_mu_, &options_.on_stage}));
  // Copies that ran on the default stream are done before the first batch's stream reads what they wrote.
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  if (options_.graphs) {
    buckets_ = MakeBuckets(options_.max_batch_tokens);
    for (CudaSlot& slot : slots_) {
      LION_RETURN_IF_ERROR(cuda::Assign(
          CudaGraphs::Capture(*layers_, buckets_, slot.buffers.upload.At<char>(0), work_.At<char>(0), stream_.get()),
          &slot.graphs));
    }
  }
  return documents_.SetBudget(options_.memory_share);
}

// The buffers that stay. free_bytes: before the weights came.
absl::Status CudaEncoder::Impl::ReserveStanding(int64_t free_bytes) {
  if (options_.max_batch_tokens == 0) {
    const auto share = static_cast<int64_t>(options_.memory_share * static_cast<double>(free_bytes));
    const int64_t available = (share - weights_bytes_ - kReservedBytes) / 2;
    options_.max_batch_tokens = TokensForBytes(shape(), kNumSlots, available);
    if (options_.max_batch_tokens == 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "cuda:", options_.device, ": of ", share, " bytes of device memory weights take ", weights_bytes_,
          ", and half of what remains is too little for the buffers of ", kTokenStep, " tokens"));
    }
  }
  const CudaBytes bytes = BytesForTokens(shape(), options_.max_batch_tokens);
  const int64_t needed = bytes.work + kNumSlots * (bytes.upload + bytes.answers);
  size_t free_now = 0;
  size_t total_bytes = 0;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemGetInfo(&free_now, &total_bytes), "cudaMemGetInfo"));
  if (needed > static_cast<int64_t>(free_now)) {
    return absl::ResourceExhaustedError(absl::StrCat("max_batch_tokens ", options_.max_batch_tokens, " needs ", needed,
                                                     " bytes of device memory, and ", free_now,
                                                     " are free on cuda:", options_.device));
  }
  LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(bytes.work), &work_));
  for (CudaSlot& slot : slots_) LION_RETURN_IF_ERROR(slot.Create(bytes));
  return absl::OkStatus();
}

CudaLayout CudaEncoder::Impl::Arrange(const CudaBatch& batch, int* bucket) const {
  *bucket = ChooseBucket(buckets_, batch.counts);
  return ArrangeBatch(shape(), *bucket >= 0 ? InBucket(buckets_[*bucket], batch.counts) : batch.counts);
}

int64_t CudaEncoder::Impl::EstimateBytes(absl::Span<const Row> rows) const {
  CudaBatch batch;
  PlanBatch(shape(), rows, &batch);
  if (TokensOfRoom(rows) > options_.max_batch_tokens) return documents_.EstimateBytes(batch);
  int bucket = -1;
  return Arrange(batch, &bucket).device_bytes();
}

DeviceUsage CudaEncoder::Impl::usage() const {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (!is_lost_.load(std::memory_order_relaxed) && cudaSetDevice(options_.device) == cudaSuccess &&
      cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
    free_bytes_.store(static_cast<int64_t>(free_bytes), std::memory_order_relaxed);
    total_bytes_.store(static_cast<int64_t>(total_bytes), std::memory_order_relaxed);
  }
  DeviceUsage usage;
  usage.weights_bytes = weights_bytes_;
  usage.buffer_bytes = work_.bytes() + documents_.device_bytes();
  for (const CudaSlot& slot : slots_) usage.buffer_bytes += slot.buffers.device_bytes();
  usage.free_bytes = free_bytes_.load(std::memory_order_relaxed);
  usage.total_bytes = total_bytes_.load(std::memory_order_relaxed);
  usage.busy = absl::Nanoseconds(busy_ns_.load(std::memory_order_relaxed));
  return usage;
}

// ------------------------------------------------------------------------------------------------------------- batches

absl::StatusOr<CudaSlot*> CudaEncoder::Impl::Acquire(bool* alone) {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &Impl::HasFreeSlot));
  if (!lost_.ok()) return lost_;
  *alone = std::find(std::begin(taken_), std::end(taken_), true) == std::end(taken_);
  bool* taken = std::find(std::begin(taken_), std::end(taken_), false);
  *taken = true;
  return &slots_[taken - taken_];
}

absl::Status CudaEncoder::Impl::NoteLoss(absl::Status status) {
  if (!absl::IsUnavailable(status)) return status;
  if (lost_.ok()) lost_ = NameLoss(std::move(status));
  is_lost_.store(true, std::memory_order_relaxed);
  return lost_;
}

// What the batch's caller is told.
absl::Status CudaEncoder::Impl::Release(CudaSlot* slot, absl::Status status) {
  absl::MutexLock lock(&mu_);
  taken_[slot - slots_] = false;
  return NoteLoss(std::move(status));
}

absl::Status CudaEncoder::Impl::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) {
  bool alone = false;
  const absl::StatusOr<CudaSlot*> slot = Acquire(&alone);
  if (!slot.ok()) return slot.status();
  absl::Status status = Release(*slot, EncodeIn(**slot, alone, rows, results));
  documents_.GiveBack();
  return status;
}

absl::Status CudaEncoder::Impl::EncodeIn(CudaSlot& slot, bool alone, absl::Span<const Row> rows,
                                         absl::Span<RowResult> results) {
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(options_.device), "cudaSetDevice"));
  CudaLayout layout;
  {
    const Precedence::Batch before_documents(&documents_.precedence());
    PlanBatch(shape(), rows, &slot.batch);
    int bucket = -1;
    layout = Arrange(slot.batch, &bucket);
    // A small batch that finds the device idle has nothing to overlap with: one stream saves it two events.
    const bool together = options_.on_stage != nullptr || (alone && bucket >= 0);
    LION_RETURN_IF_ERROR(Compute(slot, bucket, layout, together));
  }
  TakeAnswers(shape(), slot.batch, layout, slot.buffers.host_answers.At<char>(0), results);
  return absl::OkStatus();
}

CudaRun CudaEncoder::Impl::RunIn(const CudaBuffers& ends, const DeviceBuffer& work, const CudaLayout& layout,
                                 const CudaCounts& counts) const {
  CudaRun run;
  run.counts = counts;
  run.layout = layout;
  run.upload = ends.upload.At<char>(0);
  run.work = work.At<char>(0);
  run.answers = ends.answers.At<char>(0);
  run.stream = stream_.get();
  run.on_stage = &options_.on_stage;
  return run;
}

absl::Status CudaEncoder::Impl::Compute(CudaSlot& slot, int bucket, const CudaLayout& layout, bool together) {
  const CudaBuffers& ends = slot.buffers;
  FillUpload(shape(), slot.batch, layout, ends.host_upload.At<char>(0));
  CudaRun run = RunIn(ends, work_, layout, slot.batch.counts);
  if (bucket >= 0 && layout.answer_bytes <= kDirectBytes) run.answers = ends.host_answers.At<char>(0);
  absl::Status status = Enqueue(slot, run, bucket, together);
  if (status.ok()) status = WaitForCuda(slot.done.get());
  if (!status.ok()) {
    // What was enqueued may still use the buffers. And this tells a lost device from a call that failed, whoever made
    // the status.
    for (cudaStream_t stream : {stream_.get(), slot.copies.get()}) {
      const absl::Status drained = cuda::CudaStatus(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      if (absl::IsUnavailable(drained) && !absl::IsUnavailable(status)) {
        status = absl::UnavailableError(status.message());
      }
    }
    cudaGetLastError();
    return status;
  }
  float milliseconds = 0;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventElapsedTime(&milliseconds, slot.started.get(), slot.computed.get()),
                                        "cudaEventElapsedTime"));
  busy_ns_.fetch_add(static_cast<int64_t>(milliseconds * 1e6f), std::memory_order_relaxed);
  return absl::OkStatus();
}

// together: the copies go on the kernels' stream.
absl::Status CudaEncoder::Impl::Enqueue(CudaSlot& slot, const CudaRun& run, int bucket, bool together) {
  const CudaBuffers& ends = slot.buffers;
  const cudaStream_t kernels = stream_.get();
  const cudaStream_t copies = together ? kernels : slot.copies.get();
  auto record = [](const CudaEvent& event, cudaStream_t stream) {
    return cuda::CudaStatus(cudaEventRecord(event.get(), stream), "cudaEventRecord");
  };
  auto follow = [](cudaStream_t stream, const CudaEvent& event) {
    return cuda::CudaStatus(cudaStreamWaitEvent(stream, event.get(), 0), "cudaStreamWaitEvent");
  };
  auto copy_up = [&] {
    return cuda::CudaStatus(cudaMemcpyAsync(ends.upload.data(), ends.host_upload.data(), run.layout.upload_bytes,
                                            cudaMemcpyHostToDevice, copies),
                            "cudaMemcpyAsync to the device");
  };
  auto copy_down = [&]() -> absl::Status {
    if (run.answers != ends.host_answers.data()) {
      LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemcpyAsync(ends.host_answers.data(), ends.answers.data(),
                                                            run.layout.answer_bytes, cudaMemcpyDeviceToHost, copies),
                                            "cudaMemcpyAsync to the host"));
    }
    return record(slot.done, copies);
  };

  if (!together) {
    LION_RETURN_IF_ERROR(copy_up());
    LION_RETURN_IF_ERROR(record(slot.uploaded, copies));
  }
  {
    absl::MutexLock lock(&enqueue_mu_);
    if (together) {
      run.Stage("upload");
      LION_RETURN_IF_ERROR(copy_up());
    } else {
      LION_RETURN_IF_ERROR(follow(kernels, slot.uploaded));
    }
    LION_RETURN_IF_ERROR(record(slot.started, kernels));
    if (bucket >= 0) {
      run.Stage("graph");
      LION_RETURN_IF_ERROR(slot.graphs.Launch(bucket, kernels));
    } else {
      LION_RETURN_IF_ERROR(layers_->EnqueueForward(run));
    }
    LION_RETURN_IF_ERROR(layers_->EnqueueHeads(run));
    LION_RETURN_IF_ERROR(record(slot.computed, kernels));
    if (together) {
      run.Stage("download");
      LION_RETURN_IF_ERROR(copy_down());
      run.Stage("end");
      return absl::OkStatus();
    }
  }
  LION_RETURN_IF_ERROR(follow(copies, slot.computed));
  return copy_down();
}

absl::Status CudaEncoder::Impl::EncodeDocument(absl::Span<const Row> rows, absl::Span<RowResult> results,
                                               EncodeControl* control) {
  {
    absl::MutexLock lock(&mu_);
    if (!lost_.ok()) return lost_;
  }
  absl::Duration busy;
  absl::Status status = cuda::CudaStatus(cudaSetDevice(options_.device), "cudaSetDevice");
  if (status.ok()) status = documents_.Encode(rows, results, control, &busy);
  busy_ns_.fetch_add(absl::ToInt64Nanoseconds(busy), std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  return NoteLoss(std::move(status));
}

absl::StatusOr<int> CudaEncoder::Impl::MeasureCrossover() {
  constexpr int64_t kTokens = 8192;  // fills the device
  constexpr int kRepeats = 8;
  const int64_t tokens = std::min(kTokens, options_.max_batch_tokens);
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(options_.device), "cudaSetDevice"));
  CudaEvent start;
  CudaEvent end;
  for (CudaEvent* event : {&start, &end}) {
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventCreate(event->out()), "cudaEventCreate"));
  }
  const CudaBuffers& ends = slots_[0].buffers;
  // The first layer's attention, on whatever lies in its buffers: its time does not depend on the values.
  auto measure = [&](int64_t L, ComputeMode mode, float* fastest) -> absl::Status {
    const std::vector<uint32_t> ids(L, 0);
    Row row{ids, {}, mode, 0, RowOutput::kPooledMean};
    if (shape().image) {
      // The largest square of at most L tokens.
      const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(L - 1)));
      row.ids = {};
      row.image_tokens = 1 + side * side;
    }
    const std::vector<Row> rows(tokens / L, row);
    CudaBatch batch;
    PlanBatch(shape(), rows, &batch);
    const CudaLayout layout = ArrangeBatch(shape(), batch.counts);
    FillUpload(shape(), batch, layout, ends.host_upload.At<char>(0));
    LION_RETURN_IF_ERROR(cuda::CudaStatus(
        cudaMemcpy(ends.upload.data(), ends.host_upload.data(), layout.upload_bytes, cudaMemcpyHostToDevice),
        "cudaMemcpy"));
    const CudaRun run = RunIn(ends, work_, layout, batch.counts);
    *fastest = std::numeric_limits<float>::infinity();
    for (int repeat = 0; repeat < kRepeats; ++repeat) {  // the first one loads the kernels
      float taken = 0;
      LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventRecord(start.get(), run.stream), "cudaEventRecord"));
      LION_RETURN_IF_ERROR(layers_->EnqueueAttention(run, 0));
      LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventRecord(end.get(), run.stream), "cudaEventRecord"));
      LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventSynchronize(end.get()), "cudaEventSynchronize"));
      LION_RETURN_IF_ERROR(
          cuda::CudaStatus(cudaEventElapsedTime(&taken, start.get(), end.get()), "cudaEventElapsedTime"));
      *fastest = std::min(*fastest, taken);
    }
    return absl::OkStatus();
  };
  int best = kCrossoverChoices[0];
  for (int L : kCrossoverChoices) {
    const auto* text = std::get_if<TextConfig>(&options_.config);
    if (L > tokens || (text != nullptr && text->max_positions > 0 && L > text->max_positions)) break;
    if (L == best) continue;
    float parallel = 0;
    float chunked = 0;
    LION_RETURN_IF_ERROR(measure(L, ComputeMode::kParallel, &parallel));
    LION_RETURN_IF_ERROR(measure(L, ComputeMode::kChunked, &chunked));
    if (parallel > chunked) break;
    best = L;
  }
  return best;
}

// ----------------------------------------------------------------------------------------------------------- the class

int CudaEncoder::NumDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // not to be found again by the next call's check
  return 0;
}

CudaEncoder::CudaEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CudaEncoder::~CudaEncoder() = default;

absl::StatusOr<std::unique_ptr<CudaEncoder>> CudaEncoder::Create(Options options) {
  constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();
  LION_RETURN_IF_ERROR(CheckDType(options.dtype, DeviceKind::kCuda));
  if (options.chunk_tokens == 0) options.chunk_tokens = cuda::kChunkTokens;
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens ", options.chunk_tokens, " is not from 1 to ", kMaxChunkTokens));
  }
  options.chunk_tokens =
      options.dtype == DType::kFloat32 ? std::min<int>(options.chunk_tokens, cuda::kChunkTokens) : cuda::kChunkTokens;
  if (options.max_batch_tokens < 0 || options.max_batch_tokens > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_tokens ", options.max_batch_tokens, " is not from 0 to ", kMaxTokens));
  }
  if (!(options.memory_share > 0 && options.memory_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("memory_share ", options.memory_share, " is not in (0, 1]"));
  }
  const CudaShape shape = MakeCudaShape(options.config, options.dtype, options.chunk_tokens);
  if (shape.patch_width_p > cuda::kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: patch_size ", shape.patch, " has ", shape.patch_width,
                                                   " values a patch, CUDA takes at most ", cuda::kMaxNormWidth));
  }
  if (shape.Ep > cuda::kMaxNormWidth || shape.H * shape.Dp > cuda::kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", shape.image ? "embed_dim " : "hidden_size ",
                                                   shape.E, " in ", shape.H, " heads is stored ", shape.H * shape.Dp,
                                                   " wide on CUDA, which takes at most ", cuda::kMaxNormWidth));
  }
  auto impl = std::make_unique<Impl>(std::move(options));
  const absl::Status status = impl->Init(shape);
  if (!status.ok()) return impl->NameLoss(status);
  return std::unique_ptr<CudaEncoder>(new CudaEncoder(std::move(impl)));
}

absl::Status CudaEncoder::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) {
  if (rows.size() != results.size()) return absl::InvalidArgumentError("results and rows differ in number");
  if (rows.empty()) return absl::OkStatus();
  LION_RETURN_IF_ERROR(CheckRows(impl_->options().config, classifies(), rows));
  int64_t T = 0;
  for (size_t b = 0; b < rows.size(); ++b) {
    const int64_t L = rows[b].num_tokens();
    if (max_row_tokens() > 0 && L > max_row_tokens()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rows[", b, "]: ", L, " tokens, at most ", max_row_tokens(),
          impl_->shape().image ? " are possible in a picture" : " are possible in float16 without layer_norm_after"));
    }
    T += L;
  }
  if (T > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", T, " tokens, at most ", std::numeric_limits<int32_t>::max(), " are possible"));
  }
  if (TokensOfRoom(rows) <= max_batch_tokens()) return impl_->Encode(rows, results);
  if (!impl_->shape().image) return impl_->EncodeDocument(rows, results, control);
  for (size_t first = 0; first < rows.size();) {
    size_t last = first;
    for (int64_t tokens = 0; last < rows.size(); ++last) {
      tokens += TokensOfRoom(rows.subspan(last, 1));
      if (tokens > max_batch_tokens()) break;
    }
    if (last == first) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rows[", first, "]: its windows and tokens need more room than max_batch_tokens ", max_batch_tokens()));
    }
    LION_RETURN_IF_ERROR(impl_->Encode(rows.subspan(first, last - first), results.subspan(first, last - first)));
    first = last;
  }
  return absl::OkStatus();
}

int CudaEncoder::max_concurrent_batches() const { return kNumSlots; }
int64_t CudaEncoder::max_batch_tokens() const { return impl_->options().max_batch_tokens; }
int64_t CudaEncoder::max_unstepped_tokens() const { return max_batch_tokens(); }
int64_t CudaEncoder::RowBytes(const Row& row) const {
  return row.num_tokens() > max_batch_tokens() ? impl_->EstimateBytes({&row, 1}) : 0;
}
DeviceUsage CudaEncoder::usage() const { return impl_->usage(); }
int64_t CudaEncoder::EstimateBytes(absl::Span<const Row> rows) const { return impl_->EstimateBytes(rows); }
absl::StatusOr<int> CudaEncoder::MeasureCrossover() { return impl_->MeasureCrossover(); }

int64_t CudaEncoder::max_row_tokens() const {
  if (const auto* image = std::get_if<ImageConfig>(&impl_->options().config)) {
    if (!image->positions) return max_batch_tokens();
    return std::min(max_batch_tokens(), ImageTokens(image->image_size, image->patch_size));
  }
  const auto& config = std::get<TextConfig>(impl_->options().config);
  if (impl_->options().dtype != DType::kFloat16 || config.layer_norm_after) return config.max_positions;
  return config.max_positions > 0 ? std::min(config.max_positions, kMaxFloat16Tokens) : kMaxFloat16Tokens;
}

bool CudaEncoder::classifies() const { return impl_->layers().has_head(kClassifiedHead); }
int64_t CudaEncoder::num_labels() const { return classifies() ? impl_->shape().answer_width[kClassifiedHead] : 0; }
int64_t CudaEncoder::embedding_width() const { return impl_->shape().answer_width[kPooledHead]; }
int CudaEncoder::chunk_tokens() const { return impl_->options().chunk_tokens; }
const std::vector<std::string>& CudaEncoder::unused_tensors() const { return impl_->layers().unused_tensors(); }

}  // namespace lion
