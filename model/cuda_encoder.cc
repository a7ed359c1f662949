// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_encoder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/cuda_batch.h"
#include "model/cuda_layers.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/model.h"
#include "model/row_check.h"

namespace lion {

struct CudaEncoder::Impl {
  Options options;
  cudaStream_t stream = nullptr;
  std::unique_ptr<CudaLayers> layers;

  DeviceBuffer upload;
  DeviceBuffer work;
  DeviceBuffer answers;
  PinnedBuffer host_upload;
  PinnedBuffer host_answers;

  ~Impl();
  const CudaShape& shape() const { return layers->shape(); }
  absl::Status OpenDevice() const;
  absl::Status Reserve(const CudaLayout& layout);
  CudaRun Run(const CudaBatch& batch, const CudaLayout& layout) const;
  absl::Status SendUpload(const CudaLayout& layout) const;
  absl::Status FetchAnswers(const CudaRun& run) const;
};

CudaEncoder::Impl::~Impl() {
  if (stream == nullptr) return;  // nothing was made; a device that is not there must not leave its error behind
  cudaSetDevice(options.device);
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
}

absl::Status CudaEncoder::Impl::OpenDevice() const {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::NotFoundError(
        absl::StrCat("cuda:", options.device, ": cudaGetDeviceCount: ", cudaGetErrorString(error)));
  }
  if (options.device < 0 || options.device >= count) {
    return absl::NotFoundError(absl::StrCat("cuda:", options.device, ": there are ", count, " CUDA devices"));
  }
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(options.device), "cudaSetDevice"));
  cudaDeviceProp properties;
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties"));
  if (properties.major != 9 || properties.minor != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cuda:", options.device, ": ", properties.name,
                                                   " has compute capability ", properties.major, ".", properties.minor,
                                                   ", this build has code for 9.0"));
  }
  return absl::OkStatus();
}

// Makes every buffer large enough. All or nothing is not promised: a buffer that was freed for a larger one which then
// could not be had is empty, and the next call allocates it again.
absl::Status CudaEncoder::Impl::Reserve(const CudaLayout& layout) {
  const std::pair<DeviceBuffer*, int64_t> wanted[] = {
      {&upload, layout.upload_bytes}, {&work, layout.work_bytes}, {&answers, layout.answer_bytes}};
  int64_t more = 0;
  int64_t freed = 0;
  for (const auto& [buffer, bytes] : wanted) {
    if (buffer->bytes() >= bytes) continue;
    more += bytes;
    freed += buffer->bytes();
  }
  if (more > 0) {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
    const int64_t available = static_cast<int64_t>(free_bytes) + freed;
    if (more > available) {
      return absl::ResourceExhaustedError(absl::StrCat("the batch needs ", layout.device_bytes(),
                                                       " bytes of device memory, ", more, " of them new, and ",
                                                       available, " are free on cuda:", options.device));
    }
    for (const auto& [buffer, bytes] : wanted) {
      if (buffer->bytes() >= bytes) continue;
      *buffer = DeviceBuffer();
      LION_RETURN_IF_ERROR(cuda::Assign(DeviceBuffer::Allocate(bytes), buffer));
    }
  }
  for (const auto& [buffer, bytes] :
       {std::make_pair(&host_upload, layout.upload_bytes), std::make_pair(&host_answers, layout.answer_bytes)}) {
    if (buffer->bytes() >= bytes) continue;
    *buffer = PinnedBuffer();
    LION_RETURN_IF_ERROR(cuda::Assign(PinnedBuffer::Allocate(bytes), buffer));
  }
  return absl::OkStatus();
}

CudaRun CudaEncoder::Impl::Run(const CudaBatch& batch, const CudaLayout& layout) const {
  CudaRun run;
  run.counts = batch.counts;
  run.layout = layout;
  run.upload = upload.At<char>(0);
  run.work = work.At<char>(0);
  run.answers = answers.At<char>(0);
  run.stream = stream;
  run.on_stage = &options.on_stage;
  return run;
}

absl::Status CudaEncoder::Impl::SendUpload(const CudaLayout& layout) const {
  return cuda::CudaStatus(
      cudaMemcpyAsync(upload.data(), host_upload.data(), layout.upload_bytes, cudaMemcpyHostToDevice, stream),
      "cudaMemcpyAsync to the device");
}

absl::Status CudaEncoder::Impl::FetchAnswers(const CudaRun& run) const {
  run.Stage("download");
  LION_RETURN_IF_ERROR(cuda::CudaStatus(
      cudaMemcpyAsync(host_answers.data(), answers.data(), run.layout.answer_bytes, cudaMemcpyDeviceToHost, stream),
      "cudaMemcpyAsync to the host"));
  run.Stage("end");
  return absl::OkStatus();
}

int CudaEncoder::NumDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // not to be found again by the next call's check
  return 0;
}

CudaEncoder::CudaEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CudaEncoder::~CudaEncoder() = default;

absl::StatusOr<std::unique_ptr<CudaEncoder>> CudaEncoder::Create(Options options) {
  if (options.dtype != DType::kFloat32 && options.dtype != DType::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Name(options.dtype), " is not available on CUDA: float32 or bfloat16"));
  }
  if (options.chunk_tokens == 0) options.chunk_tokens = cuda::kChunkTokens;
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens ", options.chunk_tokens, " is not from 1 to ", kMaxChunkTokens));
  }
  if (options.max_batch_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_batch_tokens ", options.max_batch_tokens, " is not positive"));
  }
  const CudaShape shape = MakeCudaShape(options.config, options.dtype, options.chunk_tokens);
  if (shape.Ep > cuda::kMaxNormWidth || shape.H * shape.Dp > cuda::kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: hidden_size ", shape.E, " in ", shape.H,
                                                   " heads is stored ", shape.H * shape.Dp,
                                                   " wide on CUDA, which takes at most ", cuda::kMaxNormWidth));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  LION_RETURN_IF_ERROR(impl->OpenDevice());
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  LION_RETURN_IF_ERROR(cuda::Assign(
      CudaLayers::Create(impl->options.config, impl->options.pipeline, shape, *impl->options.weights), &impl->layers));
  impl->options.weights = nullptr;  // all of it is on the device
  LION_RETURN_IF_ERROR(
      impl->Reserve(ArrangeBatch(impl->shape(), MaxCounts(impl->shape(), impl->options.max_batch_tokens))));
  // Copies that ran on the default stream are done before the first batch's stream reads what they wrote.
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  return std::unique_ptr<CudaEncoder>(new CudaEncoder(std::move(impl)));
}

absl::Status CudaEncoder::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) {
  if (rows.size() != results.size()) return absl::InvalidArgumentError("results and rows differ in number");
  if (rows.empty()) return absl::OkStatus();
  Impl& impl = *impl_;
  LION_RETURN_IF_ERROR(CheckRows(impl.options.config, classifies(), rows));
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(impl.options.device), "cudaSetDevice"));
  CudaBatch batch;
  PlanBatch(impl.shape(), rows, &batch);
  if (batch.counts.T > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", batch.counts.T, " tokens, at most ",
                                                   std::numeric_limits<int32_t>::max(), " are possible"));
  }
  const CudaLayout layout = ArrangeBatch(impl.shape(), batch.counts);
  LION_RETURN_IF_ERROR(impl.Reserve(layout));
  FillUpload(impl.shape(), batch, layout, impl.host_upload.At<char>(0));
  const CudaRun run = impl.Run(batch, layout);
  run.Stage("upload");
  absl::Status status = impl.SendUpload(layout);
  if (status.ok()) status = impl.layers->EnqueueForward(run);
  if (status.ok()) status = impl.layers->EnqueueHeads(run);
  if (status.ok()) status = impl.FetchAnswers(run);
  // After a failure too: the next batch must not write into memory that a copy still reads.
  const absl::Status done = cuda::CudaStatus(cudaStreamSynchronize(impl.stream), "cudaStreamSynchronize");
  if (status.ok()) status = done;
  if (!status.ok()) return status;
  TakeAnswers(impl.shape(), batch, layout, impl.host_answers.At<char>(0), results);
  return absl::OkStatus();
}

int64_t CudaEncoder::EstimateBytes(absl::Span<const Row> rows) const {
  CudaBatch batch;
  PlanBatch(impl_->shape(), rows, &batch);
  return ArrangeBatch(impl_->shape(), batch.counts).device_bytes();
}

bool CudaEncoder::classifies() const { return impl_->layers->has_head(kClassifiedHead); }
int64_t CudaEncoder::num_labels() const { return classifies() ? impl_->shape().answer_width[kClassifiedHead] : 0; }
int64_t CudaEncoder::embedding_width() const { return impl_->shape().answer_width[kPooledHead]; }
int CudaEncoder::chunk_tokens() const { return impl_->options.chunk_tokens; }
const std::vector<std::string>& CudaEncoder::unused_tensors() const { return impl_->layers->unused_tensors(); }

absl::StatusOr<int> CudaEncoder::MeasureCrossover() {
  constexpr int64_t kTokens = 8192;  // fills the device
  constexpr int kRepeats = 8;
  Impl& impl = *impl_;
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(impl.options.device), "cudaSetDevice"));
  cudaEvent_t events[2] = {};
  for (cudaEvent_t& event : events) LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaEventCreate(&event), "cudaEventCreate"));
  absl::Status status;
  auto milliseconds = [&](int64_t L, ComputeMode mode) {
    // The first layer's attention, on whatever lies in its buffers: its time does not depend on the values.
    const std::vector<uint32_t> ids(L, 0);
    const std::vector<Row> rows(kTokens / L, Row{ids, {}, mode, 0, RowOutput::kPooledMean});
    CudaBatch batch;
    PlanBatch(impl.shape(), rows, &batch);
    const CudaLayout layout = ArrangeBatch(impl.shape(), batch.counts);
    auto check = [&](absl::Status next) {
      if (status.ok()) status = std::move(next);
      return status.ok();
    };
    float fastest = std::numeric_limits<float>::infinity();
    if (!check(impl.Reserve(layout))) return fastest;
    FillUpload(impl.shape(), batch, layout, impl.host_upload.At<char>(0));
    if (!check(impl.SendUpload(layout))) return fastest;
    const CudaRun run = impl.Run(batch, layout);
    for (int repeat = 0; repeat < kRepeats; ++repeat) {  // the first one loads the kernels
      float taken = 0;
      if (!check(cuda::CudaStatus(cudaEventRecord(events[0], impl.stream), "cudaEventRecord")) ||
          !check(impl.layers->EnqueueAttention(run, 0)) ||
          !check(cuda::CudaStatus(cudaEventRecord(events[1], impl.stream), "cudaEventRecord")) ||
          !check(cuda::CudaStatus(cudaEventSynchronize(events[1]), "cudaEventSynchronize")) ||
          !check(cuda::CudaStatus(cudaEventElapsedTime(&taken, events[0], events[1]), "cudaEventElapsedTime"))) {
        break;
      }
      fastest = std::min(fastest, taken);
    }
    // FillUpload of the next measurement must find the copy done.
    check(cuda::CudaStatus(cudaStreamSynchronize(impl.stream), "cudaStreamSynchronize"));
    return fastest;
  };
  int best = kCrossoverChoices[0];
  for (int L : kCrossoverChoices) {
    if (impl.options.config.max_positions > 0 && L > impl.options.config.max_positions) break;
    if (L == best) continue;
    if (milliseconds(L, ComputeMode::kParallel) > milliseconds(L, ComputeMode::kChunked)) break;
    best = L;
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  if (!status.ok()) return status;
  return best;
}

}  // namespace lion
