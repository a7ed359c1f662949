// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/cuda_linear.h"
#include "model/cuda_memory.h"
#include "model/kernels/cpu/rows.h"
#include "model/kernels/cuda/attention_launch.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/gemm_gelu_launch.h"
#include "model/kernels/cuda/rows_launch.h"
#include "model/model.h"
#include "model/row_check.h"
#include "model/weights.h"

namespace lion {
namespace {

constexpr float kAfterEps = 1e-5f;   // of layer_norm_after
constexpr int64_t kAlignment = 256;  // of every array in a buffer: what cuBLASLt's algorithms were chosen for

int64_t RoundUp(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

struct Norm {
  DeviceBuffer gamma;
  DeviceBuffer beta;
};

struct Layer {
  std::unique_ptr<CudaLinear> qkv;   // Ep -> 3 H Dp
  std::unique_ptr<CudaLinear> out;   // H Dp -> Ep
  std::unique_ptr<CudaLinear> up;    // Ep -> FFp
  std::unique_ptr<CudaLinear> down;  // FFp -> Ep
  Norm after;                        // layer_norm_after, over the joined heads
  Norm attention_norm;
  Norm output_norm;
  DeviceBuffer log_lambda;   // (H): LION-D
  DeviceBuffer gate_weight;  // PackGates: LION-S
  DeviceBuffer gate_bias;    // (H)
};

struct HeadLayer {
  std::unique_ptr<CudaLinear> linear;
  int64_t out_width = 0;  // without padding
  bool tanh = false;
};

// Vectors that leave through the same head.
struct Group {
  std::vector<cuda::TokenBlock> blocks;
  std::vector<cuda::PooledRow> rows;
  std::vector<RowResult*> results;
};

// What a batch needs of everything.
struct Counts {
  int64_t T = 0;
  int64_t segments = 0;
  int64_t runs = 0;
  int64_t states = 0;
  int64_t token_blocks = 0;
  int64_t token_rows = 0;  // tokens that are answers themselves
  int64_t blocks[2] = {};  // of the pooled and of the classified group
  int64_t rows[2] = {};
  bool plain = false;  // a row takes attention's plain kernel, which adds up in fp32
};

// One batch, planned on the host.
struct Batch {
  absl::Span<const Row> rows;
  cuda::AttentionPlan plan;
  std::vector<cuda::TokenBlock> token_blocks;
  Group groups[2];
  Counts counts;
};

// Offsets in bytes into the three buffers.
struct Layout {
  // Uploaded.
  int64_t ids = 0;
  int64_t type_ids = 0;
  int64_t positions = 0;
  int64_t segments = 0;
  int64_t runs = 0;
  int64_t plan_counts = 0;
  int64_t token_blocks = 0;
  int64_t blocks[2] = {};
  int64_t rows[2] = {};
  int64_t upload_bytes = 0;
  // Worked on. Arrays whose lives do not meet share a place: {qkv, y, plain_y}, {hidden} and {sums, vectors}.
  int64_t x = 0;
  int64_t delta = 0;
  int64_t log_a = 0;
  int64_t states = 0;
  int64_t qkv = 0;
  int64_t y = 0;
  int64_t plain_y = 0;
  int64_t hidden = 0;
  int64_t sums = 0;
  int64_t vectors[2] = {};
  int64_t work_bytes = 0;
  // Downloaded.
  int64_t tokens = 0;
  int64_t answers[2] = {};
  int64_t answer_bytes = 0;

  int64_t device_bytes() const { return upload_bytes + work_bytes + answer_bytes; }
};

// Lays arrays one behind the other.
class Arranger {
 public:
  int64_t Place(int64_t bytes) {
    const int64_t offset = end_;
    end_ = RoundUp(end_ + bytes, kAlignment);
    return offset;
  }
  int64_t end() const { return end_; }
  void MoveTo(int64_t offset) { end_ = offset; }

 private:
  int64_t end_ = 0;
};

}  // namespace

struct CudaEncoder::Impl {
  Options options;
  TextConfig config;
  cuda::ElementType type = cuda::ElementType::kFloat32;
  int64_t element = 4;  // bytes of the type
  int64_t E = 0;
  int64_t Ep = 0;  // stored width of x
  int64_t H = 0;
  int64_t D = 0;
  int64_t Dp = 0;  // stored width of a head
  int64_t FFp = 0;
  int64_t max_head_width = 0;  // the widest vector on its way through the heads, stored

  cudaStream_t stream = nullptr;
  std::unique_ptr<CublasLt> lt;
  DeviceBuffer words;
  DeviceBuffer types;
  DeviceBuffer position_table;
  Norm embedding_norm;
  std::vector<Layer> layers;
  std::vector<HeadLayer> heads[2];  // of the pooled group: Dense; of the classified one: pooler, classifier
  std::vector<std::string> unused;

  DeviceBuffer upload;
  DeviceBuffer work;
  DeviceBuffer answers;
  PinnedBuffer host_upload;
  PinnedBuffer host_answers;

  ~Impl();
  absl::Status OpenDevice() const;
  absl::Status Load();
  absl::Status LoadHeads(WeightReader& reader, const std::string& bert);
  absl::StatusOr<DeviceBuffer> UploadTable(const std::vector<float>& values, int64_t rows) const;

  Batch Plan(absl::Span<const Row> rows, absl::Span<RowResult> results) const;
  Layout Arrange(const Counts& counts) const;
  Counts MaxCounts(int64_t T) const;
  absl::Status Reserve(const Layout& layout);
  void FillUpload(const Batch& batch, const Layout& layout) const;
  absl::Status SendUpload(const Layout& layout);
  absl::Status Forward(const Batch& batch, const Layout& layout);
  absl::Status Attend(const Batch& batch, const Layout& layout, const Layer& layer);
  absl::Status Answer(const Batch& batch, const Layout& layout);
  void CopyAnswers(const Batch& batch, const Layout& layout, absl::Span<RowResult> results) const;
  cuda::GemmGeluParams UpGelu(const Layer& layer, int64_t T, const void* x, void* hidden) const;
  cuda::NormParams Normalize(const Norm& norm, float eps) const;
  cuda::GateParams Gates(size_t layer, const Layout& layout) const;
  int64_t AnswerWidth(int group) const;  // stored
  int64_t AnswerTrueWidth(int group) const;
  void Stage(const char* name) const {
    if (options.on_stage) options.on_stage(name, stream);
  }
};

CudaEncoder::Impl::~Impl() {
  if (stream == nullptr) return;  // nothing was made; a device that is not there must not leave its error behind
  cudaSetDevice(options.device);
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
}

// ------------------------------------------------------------------------------------------------------------- loading

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

// (rows, E) in fp32, each row padded to Ep. Rounding the tables would cost digits once more, and saves nothing: they
// are read once a batch.
absl::StatusOr<DeviceBuffer> CudaEncoder::Impl::UploadTable(const std::vector<float>& values, int64_t rows) const {
  std::vector<float> padded(rows * Ep, 0.f);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(values.data() + r * E, E, padded.data() + r * Ep);
  return Upload(padded.data(), rows * Ep * 4);
}

namespace {

// Where row n (or column k) of a stored matrix goes in the padded one.
using Place = std::function<int64_t(int64_t)>;
int64_t Same(int64_t i) { return i; }

// A product's weights on their way to the device: (N, K) with zeros between and behind.
struct PaddedWeights {
  PaddedWeights(int64_t padded_rows, int64_t padded_columns)
      : N(padded_rows), K(padded_columns), weight(padded_rows * padded_columns, 0.f), bias(padded_rows, 0.f) {}

  void Add(const std::vector<float>& w, const std::vector<float>& b, int64_t rows, int64_t columns, const Place& row,
           const Place& column) {
    for (int64_t n = 0; n < rows; ++n) {
      if (!b.empty()) bias[row(n)] = b[n];
      float* to = weight.data() + row(n) * K;
      for (int64_t k = 0; k < columns; ++k) to[column(k)] = w[n * columns + k];
    }
  }

  int64_t N;
  int64_t K;
  std::vector<float> weight;
  std::vector<float> bias;
};

std::vector<float> Spread(const std::vector<float>& values, int64_t padded, const Place& place) {
  std::vector<float> out(padded, 0.f);
  for (size_t i = 0; i < values.size(); ++i) out[place(static_cast<int64_t>(i))] = values[i];
  return out;
}

// Puts a StatusOr's value into *out.
template <class T>
absl::Status Assign(absl::StatusOr<T> from, T* out) {
  if (!from.ok()) return from.status();
  *out = *std::move(from);
  return absl::OkStatus();
}

}  // namespace

absl::Status CudaEncoder::Impl::Load() {
  WeightReader reader(options.weights.get());
  const std::string bert = reader.Has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const int64_t FF = config.feed_forward_width;
  const Place head = [this](int64_t i) { return i / D * Dp + i % D; };

  auto upload_floats = [](const std::vector<float>& values) {
    return Upload(values.data(), static_cast<int64_t>(values.size()) * 4);
  };
  auto load_norm = [&](const std::string& name, int64_t width, const Place& place, Norm* norm) {
    const std::vector<float> gamma = reader.Read(name + ".weight", {E});
    const std::vector<float> beta = reader.Read(name + ".bias", {E});
    LION_RETURN_IF_ERROR(reader.status());
    LION_RETURN_IF_ERROR(Assign(upload_floats(Spread(gamma, width, place)), &norm->gamma));
    return Assign(upload_floats(Spread(beta, width, place)), &norm->beta);
  };
  auto load_linear = [&](const std::string& name, int64_t N, int64_t K, int64_t padded_K, const Place& column,
                         std::unique_ptr<CudaLinear>* linear) {
    const std::vector<float> weight = reader.Read(name + ".weight", {N, K});
    const std::vector<float> bias = reader.Read(name + ".bias", {N});
    LION_RETURN_IF_ERROR(reader.status());
    PaddedWeights padded(RoundUp(N, 16), padded_K);
    padded.Add(weight, bias, N, K, Same, column);
    return Assign(CudaLinear::Create(lt.get(), padded.weight.data(), padded.bias.data(), padded.N, padded.K, type),
                  linear);
  };

  const std::string embeddings = bert + "embeddings.";
  auto load_table = [&](const std::string& name, int64_t rows, DeviceBuffer* table) {
    const std::vector<float> values = reader.Read(embeddings + name + ".weight", {rows, E});
    LION_RETURN_IF_ERROR(reader.status());
    return Assign(UploadTable(values, rows), table);
  };
  LION_RETURN_IF_ERROR(load_table("word_embeddings", config.vocab_size, &words));
  LION_RETURN_IF_ERROR(load_table("token_type_embeddings", config.type_vocab_size, &types));
  if (config.max_positions > 0) {
    LION_RETURN_IF_ERROR(load_table("position_embeddings", config.max_positions, &position_table));
  } else {
    reader.Ignore(embeddings + "position_embeddings.weight");
  }
  reader.Ignore(embeddings + "position_ids");
  LION_RETURN_IF_ERROR(load_norm(embeddings + "LayerNorm", Ep, Same, &embedding_norm));

  for (int64_t n = 0; n < config.num_layers; ++n) {
    const std::string name = absl::StrCat(bert, "encoder.layer.", n, ".");
    const std::string self = name + "attention.self.";
    Layer layer;
    PaddedWeights qkv(3 * H * Dp, Ep);
    int64_t part_start = 0;
    for (const char* part : {"query", "key", "value"}) {
      const std::vector<float> weight = reader.Read(absl::StrCat(self, part, ".weight"), {E, E});
      const std::vector<float> bias = reader.Read(absl::StrCat(self, part, ".bias"), {E});
      LION_RETURN_IF_ERROR(reader.status());
      qkv.Add(
          weight, bias, E, E, [&](int64_t i) { return part_start + head(i); }, Same);
      part_start += H * Dp;
    }
    LION_RETURN_IF_ERROR(
        Assign(CudaLinear::Create(lt.get(), qkv.weight.data(), qkv.bias.data(), qkv.N, qkv.K, type), &layer.qkv));
    if (config.layer_norm_after) LION_RETURN_IF_ERROR(load_norm(self + "layer_norm", H * Dp, head, &layer.after));
    if (config.variant == Variant::kD) {
      std::vector<float> log_lambda = reader.Read(self + "ai", {H});
      LION_RETURN_IF_ERROR(reader.status());
      LogLambda(&log_lambda);
      LION_RETURN_IF_ERROR(Assign(upload_floats(log_lambda), &layer.log_lambda));
    }
    if (config.variant == Variant::kS) {
      const std::vector<float> weight = reader.Read(self + "Wa_i.weight", {H, E});
      const std::vector<float> bias = reader.Read(self + "Wa_i.bias", {H});
      LION_RETURN_IF_ERROR(reader.status());
      LION_RETURN_IF_ERROR(Assign(upload_floats(cuda::PackGates(weight.data(), H, E)), &layer.gate_weight));
      LION_RETURN_IF_ERROR(Assign(upload_floats(bias), &layer.gate_bias));
    }
    LION_RETURN_IF_ERROR(load_linear(name + "attention.output.dense", E, E, H * Dp, head, &layer.out));
    LION_RETURN_IF_ERROR(load_norm(name + "attention.output.LayerNorm", Ep, Same, &layer.attention_norm));
    LION_RETURN_IF_ERROR(load_linear(name + "intermediate.dense", FF, E, Ep, Same, &layer.up));
    LION_RETURN_IF_ERROR(load_linear(name + "output.dense", E, FF, FFp, Same, &layer.down));
    LION_RETURN_IF_ERROR(load_norm(name + "output.LayerNorm", Ep, Same, &layer.output_norm));
    layers.push_back(std::move(layer));
  }
  return LoadHeads(reader, bert);
}

// The heads are a few rows a batch: fp32 costs nothing there.
absl::Status CudaEncoder::Impl::LoadHeads(WeightReader& reader, const std::string& bert) {
  max_head_width = Ep;
  auto add = [&](int group, const std::vector<float>& weight, const std::vector<float>& bias, int64_t N, int64_t K,
                 bool tanh) {
    PaddedWeights padded(RoundUp(N, 16), RoundUp(K, 16));
    padded.Add(weight, bias, N, K, Same, Same);
    HeadLayer layer;
    LION_RETURN_IF_ERROR(Assign(CudaLinear::Create(lt.get(), padded.weight.data(), padded.bias.data(), padded.N,
                                                   padded.K, cuda::ElementType::kFloat32),
                                &layer.linear));
    layer.out_width = N;
    layer.tanh = tanh;
    max_head_width = std::max(max_head_width, padded.N);
    heads[group].push_back(std::move(layer));
    return absl::OkStatus();
  };

  if (reader.Has("classifier.weight")) {
    int64_t labels = 0;
    LION_RETURN_IF_ERROR(Assign(CountLabels(*options.weights, config), &labels));
    for (const auto& [name, N, tanh] :
         {std::make_tuple(bert + "pooler.dense", E, true), std::make_tuple(std::string("classifier"), labels, false)}) {
      const std::vector<float> weight = reader.Read(name + ".weight", {N, E});
      const std::vector<float> bias = reader.Read(name + ".bias", {N});
      LION_RETURN_IF_ERROR(reader.status());
      LION_RETURN_IF_ERROR(add(1, weight, bias, N, E, tanh));
    }
  } else {
    reader.Ignore(bert + "pooler.dense.weight");
    reader.Ignore(bert + "pooler.dense.bias");
  }
  for (std::string& name : reader.Unused()) {
    if (name.rfind("cls.", 0) != 0) unused.push_back(std::move(name));  // the pretraining heads serve nobody
  }

  for (const DenseConfig& dense : options.pipeline.dense) {
    absl::StatusOr<std::unique_ptr<WeightFiles>> files = WeightFiles::OpenFile(dense.directory + "/model.safetensors");
    if (!files.ok()) return files.status();
    WeightReader dense_reader(files->get());
    const std::vector<float> weight = dense_reader.Read("linear.weight", {dense.out_width, dense.in_width});
    std::vector<float> bias;
    if (dense.bias) bias = dense_reader.Read("linear.bias", {dense.out_width});
    LION_RETURN_IF_ERROR(dense_reader.status());
    LION_RETURN_IF_ERROR(add(0, weight, bias, dense.out_width, dense.in_width, dense.tanh));
  }
  return absl::OkStatus();
}

// ------------------------------------------------------------------------------------------------------------ planning

int64_t CudaEncoder::Impl::AnswerWidth(int group) const {
  return heads[group].empty() ? Ep : heads[group].back().linear->out_width();
}

int64_t CudaEncoder::Impl::AnswerTrueWidth(int group) const {
  return heads[group].empty() ? E : heads[group].back().out_width;
}

Batch CudaEncoder::Impl::Plan(absl::Span<const Row> rows, absl::Span<RowResult> results) const {
  Batch batch;
  batch.rows = rows;
  std::vector<cuda::PlanRow> plan_rows;
  plan_rows.reserve(rows.size());
  Counts& counts = batch.counts;
  auto cut = [](std::vector<cuda::TokenBlock>& blocks, int64_t start, int64_t count, int64_t out) {
    for (int64_t t = 0; t < count; t += cuda::kMeanBlockRows) {
      blocks.push_back({static_cast<int32_t>(start + t),
                        static_cast<int32_t>(std::min<int64_t>(cuda::kMeanBlockRows, count - t)), out + t});
    }
  };
  for (size_t b = 0; b < rows.size(); ++b) {
    const Row& row = rows[b];
    const auto L = static_cast<int64_t>(row.ids.size());
    plan_rows.push_back({L, row.mode, row.chunk_tokens > 0 ? row.chunk_tokens : options.chunk_tokens});
    if (row.output == RowOutput::kTokens) {
      cut(batch.token_blocks, counts.T, L, counts.token_rows);
      counts.token_rows += L;
    } else {
      // CLS and logits start from the mean of one token.
      Group& group = batch.groups[row.output == RowOutput::kLogits ? 1 : 0];
      const int64_t count = row.output == RowOutput::kPooledMean ? L : 1;
      const auto first_block = static_cast<int32_t>(group.blocks.size());
      cut(group.blocks, counts.T, count, 0);
      group.rows.push_back(
          {first_block, static_cast<int32_t>(group.blocks.size()) - first_block, static_cast<int32_t>(count)});
      if (!results.empty()) group.results.push_back(&results[b]);
    }
    counts.T += L;
  }
  batch.plan = cuda::PlanAttention(plan_rows);
  counts.segments = static_cast<int64_t>(batch.plan.segments.size());
  counts.runs = static_cast<int64_t>(batch.plan.runs.size());
  counts.states = batch.plan.num_states;
  counts.plain = element < 4 && (batch.plan.plain || Dp == 128);
  counts.token_blocks = static_cast<int64_t>(batch.token_blocks.size());
  for (int g = 0; g < 2; ++g) {
    counts.blocks[g] = static_cast<int64_t>(batch.groups[g].blocks.size());
    counts.rows[g] = static_cast<int64_t>(batch.groups[g].rows.size());
  }
  return batch;
}

// No batch of T tokens exceeds this in any buffer.
Counts CudaEncoder::Impl::MaxCounts(int64_t T) const {
  Counts counts;
  counts.T = T;
  counts.segments = T;
  counts.runs = T / cuda::kSegmentTokens;
  counts.states = T / cuda::kSegmentTokens * 2;
  counts.plain = element < 4;
  counts.token_blocks = T;
  counts.token_rows = T;
  for (int g = 0; g < 2; ++g) counts.blocks[g] = counts.rows[g] = T;
  return counts;
}

Layout CudaEncoder::Impl::Arrange(const Counts& counts) const {
  Layout layout;
  const int64_t T = counts.T;
  const int64_t M = CudaLinear::RoundRows(T);
  Arranger upload_arranger;
  auto send = [&](int64_t n, size_t size) { return upload_arranger.Place(n * static_cast<int64_t>(size)); };
  layout.ids = send(T, sizeof(uint32_t));
  layout.type_ids = send(T, sizeof(uint32_t));
  layout.positions = send(config.max_positions > 0 ? T : 0, sizeof(uint32_t));
  layout.segments = send(counts.segments, sizeof(cuda::Segment));
  layout.runs = send(counts.runs, sizeof(cuda::StateRun));
  layout.plan_counts = send(2, sizeof(int32_t));
  layout.token_blocks = send(counts.token_blocks, sizeof(cuda::TokenBlock));
  for (int g = 0; g < 2; ++g) {
    layout.blocks[g] = send(counts.blocks[g], sizeof(cuda::TokenBlock));
    layout.rows[g] = send(counts.rows[g], sizeof(cuda::PooledRow));
  }
  layout.upload_bytes = upload_arranger.end();

  Arranger work_arranger;
  layout.x = work_arranger.Place(M * Ep * element);
  if (config.variant == Variant::kS) layout.log_a = work_arranger.Place(T * H * 4);
  layout.states =
      work_arranger.Place(counts.states > 0 ? cuda::AttentionStateBytes(static_cast<int>(counts.states),
                                                                        static_cast<int>(H), static_cast<int>(Dp))
                                            : 0);
  layout.delta = work_arranger.Place(M * Ep * element);
  const int64_t shared = work_arranger.end();
  layout.qkv = work_arranger.Place(M * 3 * H * Dp * element);
  layout.y = work_arranger.Place(M * H * Dp * element);
  layout.plain_y = work_arranger.Place(counts.plain ? T * H * Dp * 4 : 0);
  int64_t end = work_arranger.end();
  work_arranger.MoveTo(shared);
  layout.hidden = work_arranger.Place(M * FFp * element);
  end = std::max(end, work_arranger.end());
  work_arranger.MoveTo(shared);
  const int64_t vectors = CudaLinear::RoundRows(std::max(counts.rows[0], counts.rows[1]));
  layout.sums = work_arranger.Place(std::max(counts.blocks[0], counts.blocks[1]) * Ep * 4);
  for (int64_t& offset : layout.vectors) offset = work_arranger.Place(vectors * max_head_width * 4);
  layout.work_bytes = std::max(end, work_arranger.end());

  Arranger answer_arranger;
  layout.tokens = answer_arranger.Place(counts.token_rows * E * 4);
  for (int g = 0; g < 2; ++g) {
    layout.answers[g] = answer_arranger.Place(CudaLinear::RoundRows(counts.rows[g]) * AnswerWidth(g) * 4);
  }
  layout.answer_bytes = answer_arranger.end();
  return layout;
}

// Makes every buffer large enough. All or nothing is not promised: a buffer that was freed for a larger one which then
// could not be had is empty, and the next call allocates it again.
absl::Status CudaEncoder::Impl::Reserve(const Layout& layout) {
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
      LION_RETURN_IF_ERROR(Assign(DeviceBuffer::Allocate(bytes), buffer));
    }
  }
  for (const auto& [buffer, bytes] :
       {std::make_pair(&host_upload, layout.upload_bytes), std::make_pair(&host_answers, layout.answer_bytes)}) {
    if (buffer->bytes() >= bytes) continue;
    *buffer = PinnedBuffer();
    LION_RETURN_IF_ERROR(Assign(PinnedBuffer::Allocate(bytes), buffer));
  }
  return absl::OkStatus();
}

void CudaEncoder::Impl::FillUpload(const Batch& batch, const Layout& layout) const {
  auto* ids = host_upload.At<uint32_t>(layout.ids);
  auto* type_ids = host_upload.At<uint32_t>(layout.type_ids);
  auto* positions = host_upload.At<uint32_t>(layout.positions);
  for (const Row& row : batch.rows) {
    const size_t L = row.ids.size();
    ids = std::copy(row.ids.begin(), row.ids.end(), ids);
    type_ids = row.type_ids.empty() ? std::fill_n(type_ids, L, 0u)
                                    : std::copy(row.type_ids.begin(), row.type_ids.end(), type_ids);
    if (config.max_positions == 0) continue;
    for (size_t t = 0; t < L; ++t) *positions++ = static_cast<uint32_t>(t);
  }
  auto put = [this](const auto& values, int64_t offset) {
    if (!values.empty()) std::memcpy(host_upload.At<char>(offset), values.data(), values.size() * sizeof(values[0]));
  };
  put(batch.plan.segments, layout.segments);
  put(batch.plan.runs, layout.runs);
  put(std::vector<int32_t>{static_cast<int32_t>(batch.counts.segments), static_cast<int32_t>(batch.counts.runs)},
      layout.plan_counts);
  put(batch.token_blocks, layout.token_blocks);
  for (int g = 0; g < 2; ++g) {
    put(batch.groups[g].blocks, layout.blocks[g]);
    put(batch.groups[g].rows, layout.rows[g]);
  }
}

absl::Status CudaEncoder::Impl::SendUpload(const Layout& layout) {
  return cuda::CudaStatus(
      cudaMemcpyAsync(upload.data(), host_upload.data(), layout.upload_bytes, cudaMemcpyHostToDevice, stream),
      "cudaMemcpyAsync to the device");
}

// ----------------------------------------------------------------------------------------------------------- computing

cuda::NormParams CudaEncoder::Impl::Normalize(const Norm& norm, float eps) const {
  cuda::NormParams params;
  params.gamma = norm.gamma.At<float>(0);
  params.beta = norm.beta.At<float>(0);
  params.eps = eps;
  params.true_width = static_cast<int32_t>(E);
  params.num_true = static_cast<int32_t>(E);
  return params;
}

// The gates that layer reads, made where its x is; none past the last layer or without LION-S.
cuda::GateParams CudaEncoder::Impl::Gates(size_t layer, const Layout& layout) const {
  cuda::GateParams params;
  if (config.variant != Variant::kS || layer >= layers.size()) return params;
  params.H = static_cast<int>(H);
  params.weight = layers[layer].gate_weight.At<float>(0);
  params.bias = layers[layer].gate_bias.At<float>(0);
  params.log_a = work.At<float>(layout.log_a);
  return params;
}

absl::Status CudaEncoder::Impl::Attend(const Batch& batch, const Layout& layout, const Layer& layer) {
  cuda::AttentionParams params;
  params.type = type;
  params.H = static_cast<int>(H);
  params.D = static_cast<int>(Dp);
  params.scale = 1.f / std::sqrt(static_cast<float>(D));
  params.qkv = work.At<char>(layout.qkv);
  if (config.variant == Variant::kD) params.log_a = layer.log_lambda.At<float>(0);
  if (config.variant == Variant::kS) {
    params.log_a = work.At<float>(layout.log_a);
    params.log_a_token_stride = H;
  }
  params.y = work.At<char>(layout.y);
  params.segments = upload.At<cuda::Segment>(layout.segments);
  params.runs = upload.At<cuda::StateRun>(layout.runs);
  params.counts = upload.At<int32_t>(layout.plan_counts);
  params.max_segments = static_cast<int>(batch.counts.segments);
  params.max_runs = static_cast<int>(batch.counts.runs);
  params.max_states = static_cast<int>(batch.counts.states);
  params.only_one_tile = batch.plan.only_one_tile;
  params.plain = batch.plan.plain;
  if (batch.counts.plain) params.plain_y = work.At<float>(layout.plain_y);
  if (batch.counts.states > 0) params.states = work.At<char>(layout.states);
  return cuda::LaunchAttention(params, stream);
}

// hidden = gelu(x W1^T + b1) as one kernel.
cuda::GemmGeluParams CudaEncoder::Impl::UpGelu(const Layer& layer, int64_t T, const void* x, void* hidden) const {
  cuda::GemmGeluParams params;
  params.type = type;
  params.M = T;
  params.N = FFp;
  params.K = Ep;
  params.x = x;
  params.weight = layer.up->weight();
  params.bias = layer.up->bias();
  params.y = hidden;
  return params;
}

absl::Status CudaEncoder::Impl::Forward(const Batch& batch, const Layout& layout) {
  const int64_t T = batch.counts.T;
  const auto eps = static_cast<float>(config.layer_norm_eps);
  void* x = work.At<char>(layout.x);
  void* delta = work.At<char>(layout.delta);
  void* qkv = work.At<char>(layout.qkv);
  void* y = work.At<char>(layout.y);
  void* hidden = work.At<char>(layout.hidden);

  Stage("embed");
  cuda::EmbedParams embed;
  embed.type = type;
  embed.T = T;
  embed.W = static_cast<int>(Ep);
  embed.ids = upload.At<uint32_t>(layout.ids);
  embed.type_ids = upload.At<uint32_t>(layout.type_ids);
  if (config.max_positions > 0) embed.positions = upload.At<uint32_t>(layout.positions);
  embed.words = words.At<float>(0);
  embed.types = types.At<float>(0);
  if (config.max_positions > 0) embed.position_table = position_table.At<float>(0);
  embed.norm = Normalize(embedding_norm, eps);
  embed.gates = Gates(0, layout);
  embed.x = x;
  LION_RETURN_IF_ERROR(cuda::LaunchEmbed(embed, stream));

  for (size_t n = 0; n < layers.size(); ++n) {
    const Layer& layer = layers[n];
    Stage("qkv");
    LION_RETURN_IF_ERROR(layer.qkv->Run(x, T, qkv, stream));
    Stage("attention");
    LION_RETURN_IF_ERROR(Attend(batch, layout, layer));
    cuda::AddNormParams add;
    add.type = type;
    add.T = T;
    if (config.layer_norm_after) {
      Stage("norm after");
      add.W = static_cast<int>(H * Dp);
      add.x = y;
      add.norm = Normalize(layer.after, kAfterEps);
      add.norm.column_mask = static_cast<int32_t>(Dp - 1);
      add.norm.true_width = static_cast<int32_t>(D);
      LION_RETURN_IF_ERROR(cuda::LaunchAddNorm(add, stream));
    }
    Stage("out");
    LION_RETURN_IF_ERROR(layer.out->Run(y, T, delta, stream));
    Stage("add norm");
    add.W = static_cast<int>(Ep);
    add.x = x;
    add.delta = delta;
    add.norm = Normalize(layer.attention_norm, eps);
    LION_RETURN_IF_ERROR(cuda::LaunchAddNorm(add, stream));
    Stage("up");
    if (type == cuda::ElementType::kFloat32) {
      LION_RETURN_IF_ERROR(layer.up->Run(x, T, hidden, stream));
      LION_RETURN_IF_ERROR(cuda::LaunchGelu(type, hidden, T * FFp, stream));
    } else {
      LION_RETURN_IF_ERROR(cuda::LaunchGemmGelu(UpGelu(layer, T, x, hidden), stream));
    }
    Stage("down");
    LION_RETURN_IF_ERROR(layer.down->Run(hidden, T, delta, stream));
    Stage("add norm");
    add.norm = Normalize(layer.output_norm, eps);
    add.gates = Gates(n + 1, layout);
    LION_RETURN_IF_ERROR(cuda::LaunchAddNorm(add, stream));
  }
  return absl::OkStatus();
}

// From last hidden states to answers, and the copy down.
absl::Status CudaEncoder::Impl::Answer(const Batch& batch, const Layout& layout) {
  Stage("heads");
  const void* x = work.At<char>(layout.x);
  if (batch.counts.token_blocks > 0) {
    cuda::TokensParams tokens;
    tokens.type = type;
    tokens.W = static_cast<int>(Ep);
    tokens.E = static_cast<int>(E);
    tokens.x = x;
    tokens.blocks = upload.At<cuda::TokenBlock>(layout.token_blocks);
    tokens.num_blocks = static_cast<int>(batch.counts.token_blocks);
    tokens.out = answers.At<float>(layout.tokens);
    LION_RETURN_IF_ERROR(cuda::LaunchTokens(tokens, stream));
  }
  for (int g = 0; g < 2; ++g) {
    const int64_t n = batch.counts.rows[g];
    if (n == 0) continue;
    auto* answer = answers.At<float>(layout.answers[g]);
    float* out = heads[g].empty() ? answer : work.At<float>(layout.vectors[0]);
    cuda::PoolParams pool;
    pool.type = type;
    pool.W = static_cast<int>(Ep);
    pool.x = x;
    pool.blocks = upload.At<cuda::TokenBlock>(layout.blocks[g]);
    pool.num_blocks = static_cast<int>(batch.counts.blocks[g]);
    pool.rows = upload.At<cuda::PooledRow>(layout.rows[g]);
    pool.num_rows = static_cast<int>(n);
    pool.sums = work.At<float>(layout.sums);
    pool.pooled = out;
    LION_RETURN_IF_ERROR(cuda::LaunchPool(pool, stream));
    for (size_t i = 0; i < heads[g].size(); ++i) {
      const HeadLayer& layer = heads[g][i];
      const float* in = out;
      out = i + 1 == heads[g].size() ? answer : work.At<float>(layout.vectors[(i + 1) % 2]);
      LION_RETURN_IF_ERROR(layer.linear->Run(in, n, out, stream));
      if (layer.tanh) LION_RETURN_IF_ERROR(cuda::LaunchTanh(out, n * layer.linear->out_width(), stream));
    }
  }
  Stage("download");
  LION_RETURN_IF_ERROR(cuda::CudaStatus(
      cudaMemcpyAsync(host_answers.data(), answers.data(), layout.answer_bytes, cudaMemcpyDeviceToHost, stream),
      "cudaMemcpyAsync to the host"));
  Stage("end");
  return absl::OkStatus();
}

void CudaEncoder::Impl::CopyAnswers(const Batch& batch, const Layout& layout, absl::Span<RowResult> results) const {
  const auto* tokens = host_answers.At<float>(layout.tokens);
  for (size_t b = 0; b < batch.rows.size(); ++b) {
    if (batch.rows[b].output != RowOutput::kTokens) continue;
    RowResult& result = results[b];
    result.num_vectors = static_cast<int64_t>(batch.rows[b].ids.size());
    result.width = E;
    result.values.assign(tokens, tokens + result.num_vectors * E);
    tokens += result.num_vectors * E;
  }
  for (int g = 0; g < 2; ++g) {
    const auto* vector = host_answers.At<float>(layout.answers[g]);
    for (RowResult* result : batch.groups[g].results) {
      result->num_vectors = 1;
      result->width = AnswerTrueWidth(g);
      result->values.assign(vector, vector + result->width);
      vector += AnswerWidth(g);
    }
  }
}

// ------------------------------------------------------------------------------------------------------- the class

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
  auto impl = std::make_unique<Impl>();
  impl->config = options.config;
  impl->type = options.dtype == DType::kBFloat16 ? cuda::ElementType::kBFloat16 : cuda::ElementType::kFloat32;
  impl->element = options.dtype == DType::kBFloat16 ? 2 : 4;
  impl->E = options.config.hidden_width;
  impl->Ep = RoundUp(impl->E, 16);
  impl->H = options.config.num_heads;
  impl->D = options.config.head_width;
  impl->Dp = impl->D <= 32 ? 32 : impl->D <= 64 ? 64 : 128;
  impl->FFp = RoundUp(options.config.feed_forward_width, 16);
  if (impl->Ep > cuda::kMaxNormWidth || impl->H * impl->Dp > cuda::kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: hidden_size ", impl->E, " in ", impl->H,
                                                   " heads is stored ", impl->H * impl->Dp,
                                                   " wide on CUDA, which takes at most ", cuda::kMaxNormWidth));
  }
  impl->options = std::move(options);
  LION_RETURN_IF_ERROR(impl->OpenDevice());
  LION_RETURN_IF_ERROR(
      cuda::CudaStatus(cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
  LION_RETURN_IF_ERROR(Assign(CublasLt::Create(), &impl->lt));
  LION_RETURN_IF_ERROR(impl->Load());
  impl->options.weights = nullptr;  // all of it is on the device
  LION_RETURN_IF_ERROR(impl->Reserve(impl->Arrange(impl->MaxCounts(impl->options.max_batch_tokens))));
  // Copies that ran on the default stream are done before the first batch's stream reads what they wrote.
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
  return std::unique_ptr<CudaEncoder>(new CudaEncoder(std::move(impl)));
}

absl::Status CudaEncoder::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) {
  if (rows.size() != results.size()) return absl::InvalidArgumentError("results and rows differ in number");
  if (rows.empty()) return absl::OkStatus();
  Impl& impl = *impl_;
  LION_RETURN_IF_ERROR(CheckRows(impl.config, classifies(), rows));
  LION_RETURN_IF_ERROR(cuda::CudaStatus(cudaSetDevice(impl.options.device), "cudaSetDevice"));
  const Batch batch = impl.Plan(rows, results);
  if (batch.counts.T > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", batch.counts.T, " tokens, at most ",
                                                   std::numeric_limits<int32_t>::max(), " are possible"));
  }
  const Layout layout = impl.Arrange(batch.counts);
  LION_RETURN_IF_ERROR(impl.Reserve(layout));
  impl.FillUpload(batch, layout);
  impl.Stage("upload");
  absl::Status status = impl.SendUpload(layout);
  if (status.ok()) status = impl.Forward(batch, layout);
  if (status.ok()) status = impl.Answer(batch, layout);
  // After a failure too: the next batch must not write into memory that a copy still reads.
  const absl::Status done = cuda::CudaStatus(cudaStreamSynchronize(impl.stream), "cudaStreamSynchronize");
  if (status.ok()) status = done;
  if (!status.ok()) return status;
  impl.CopyAnswers(batch, layout, results);
  return absl::OkStatus();
}

int64_t CudaEncoder::EstimateBytes(absl::Span<const Row> rows) const {
  return impl_->Arrange(impl_->Plan(rows, {}).counts).device_bytes();
}

bool CudaEncoder::classifies() const { return !impl_->heads[1].empty(); }
int64_t CudaEncoder::num_labels() const { return classifies() ? impl_->AnswerTrueWidth(1) : 0; }
int64_t CudaEncoder::embedding_width() const { return impl_->AnswerTrueWidth(0); }
int CudaEncoder::chunk_tokens() const { return impl_->options.chunk_tokens; }
const std::vector<std::string>& CudaEncoder::unused_tensors() const { return impl_->unused; }

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
    const Batch batch = impl.Plan(rows, {});
    const Layout layout = impl.Arrange(batch.counts);
    auto check = [&](absl::Status next) {
      if (status.ok()) status = std::move(next);
      return status.ok();
    };
    float fastest = std::numeric_limits<float>::infinity();
    if (!check(impl.Reserve(layout))) return fastest;
    impl.FillUpload(batch, layout);
    if (!check(impl.SendUpload(layout))) return fastest;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {  // the first one loads the kernels
      float taken = 0;
      if (!check(cuda::CudaStatus(cudaEventRecord(events[0], impl.stream), "cudaEventRecord")) ||
          !check(impl.Attend(batch, layout, impl.layers.front())) ||
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
    if (impl.config.max_positions > 0 && L > impl.config.max_positions) break;
    if (L == best) continue;
    if (milliseconds(L, ComputeMode::kParallel) > milliseconds(L, ComputeMode::kChunked)) break;
    best = L;
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  if (!status.ok()) return status;
  return best;
}

}  // namespace lion
