// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_encoder.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/kernels/cpu/attention.h"
#include "model/kernels/cpu/rows.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/row_check.h"
#include "model/weights.h"

namespace lion {
namespace {

constexpr int64_t kGroupTokens = 256;   // what one worker takes through the layers at a time
constexpr int64_t kSharedTokens = 512;  // longer rows are shared by all workers
constexpr int64_t kTileTokens = Linear::kMaxTileRows;
constexpr float kAfterEps = 1e-5f;  // of layer_norm_after

// An aligned array that only grows, zero where it was never written. Its pages come straight from the kernel, large
// ones where it has them: a long row's buffers are made and dropped with it.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { Free(); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&&) = delete;

  // n elements; throws bad_alloc.
  template <class T>
  T* Get(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + kPage - 1) / kPage * kPage;
    if (size_ < bytes) {
      Free();  // nothing is worth copying
      void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (data == MAP_FAILED) throw std::bad_alloc();
      data_ = data;
      size_ = bytes;
      if (bytes >= kLargePage) madvise(data_, size_, MADV_HUGEPAGE);  // a wish: without it all is well, but slower
    }
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kLargePage = size_t{2} << 20;

  void Free() {
    if (data_ != nullptr) munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

struct LayerNormWeights {
  std::vector<float> gamma;
  std::vector<float> beta;
};

struct Layer {
  std::unique_ptr<Linear> qkv;   // E -> 3E
  std::unique_ptr<Linear> out;   // E -> E
  std::unique_ptr<Linear> up;    // E -> FF
  std::unique_ptr<Linear> down;  // FF -> E
  LayerNormWeights after;        // layer_norm_after, over the joined heads
  LayerNormWeights attention_norm;
  LayerNormWeights output_norm;
  std::vector<float> log_lambda;   // (H): LION-D
  std::vector<float> gate_weight;  // (E, Hp): LION-S, transposed
  std::vector<float> gate_bias;    // (Hp)
};

struct HeadLayer {
  std::unique_ptr<Linear> linear;
  bool tanh = false;
};

// One row's place in the packed buffers.
struct Slice {
  int64_t start = 0;
  int64_t L = 0;
  const Row* row = nullptr;
  RowResult* result = nullptr;
};

// The activations of one group of rows. Letters as in LION's formulas: T packed tokens, E wide.
struct Activations {
  std::vector<Slice> slices;
  int64_t T = 0;
  float* x = nullptr;      // (T + kTileTokens, E)
  float* y = nullptr;      // (T + kTileTokens, E): attention's output
  void* qkv = nullptr;     // (3, H, T, D), float, or bfloat16 if the products are not
  float* log_a = nullptr;  // (T, Hp): LION-S
  Buffer buffers[4];
};

// What a worker keeps to itself.
struct Workspace {
  Activations group;
  AttentionScratch attention;
  Buffer in;                                                       // bfloat16 or int8 operands: (2 kTileTokens, E)
  Buffer hidden;                                                   // (2 kTileTokens, FF)
  std::vector<float> in_scales = std::vector<float>(kTileTokens);  // int8: of each row of `in` and of `hidden`
  std::vector<float> hidden_scales = std::vector<float>(kTileTokens);
  std::vector<float> row;  // int8: one row of values, the widest there is
  Buffer pooled;
  Buffer head;
};

// Calls fn(worker, i) for i in [0, n): inline on one worker, or on all of them.
using Executor = std::function<void(int n, const std::function<void(int worker, int i)>&)>;

}  // namespace

struct CpuEncoder::Impl {
  Options options;
  TextConfig config;
  DType dtype = DType::kFloat32;
  bool wide = false;  // dtype is kFloat32; q, k and v are bfloat16 in the others
  int64_t E = 0;
  int64_t H = 0;
  int64_t D = 0;
  int64_t Hp = 0;  // H rounded up to 16
  int64_t FF = 0;

  const StoredTensor* word = nullptr;
  std::vector<float> type;      // (type_vocab, E)
  std::vector<float> position;  // (max_positions, E)
  LayerNormWeights embedding_norm;
  std::vector<Layer> layers;
  std::vector<HeadLayer> pooled_head;      // Dense
  std::vector<HeadLayer> classified_head;  // pooler, classifier
  std::vector<std::string> unused;
  std::vector<Workspace> workspaces;  // one a worker

  absl::Status Load();

  void Prepare(std::vector<Slice> slices, Activations& a) const;
  void Forward(Activations& a, const Executor& run);
  void Embed(Activations& a, int64_t first, int64_t last) const;
  void ProjectQkv(Activations& a, const Layer& layer, int64_t first, int64_t last, Workspace& w) const;
  void Attend(Activations& a, const Layer& layer, const Slice& slice, int64_t head, Workspace& w) const;
  void FeedForward(Activations& a, const Layer& layer, int64_t first, int64_t last, Workspace& w) const;
  void Finish(Activations& a, Workspace& w) const;
  AttentionParams HeadParams(const Activations& a, const Layer& layer, const Slice& slice, int64_t head) const;
  const void* Operand(const float* x, int64_t rows, Workspace& w) const;
};

absl::Status CpuEncoder::Impl::Load() {
  WeightReader reader(options.weights.get());
  const std::string bert = reader.Has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  auto norm = [&](const std::string& name) {
    return LayerNormWeights{reader.Read(name + ".weight", {E}), reader.Read(name + ".bias", {E})};
  };

  const std::string embeddings = bert + "embeddings.";
  word = reader.Map(embeddings + "word_embeddings.weight", {config.vocab_size, E});
  type = reader.Read(embeddings + "token_type_embeddings.weight", {config.type_vocab_size, E});
  if (config.max_positions > 0) {
    position = reader.Read(embeddings + "position_embeddings.weight", {config.max_positions, E});
  } else {
    reader.Ignore(embeddings + "position_embeddings.weight");
  }
  reader.Ignore(embeddings + "position_ids");
  embedding_norm = norm(embeddings + "LayerNorm");

  auto pack = [&](const std::string& name, int64_t N, int64_t K, DType type_of) -> std::unique_ptr<Linear> {
    const std::vector<float> weight = reader.Read(name + ".weight", {N, K});
    const std::vector<float> bias = reader.Read(name + ".bias", {N});
    if (!reader.status().ok()) return nullptr;
    return Linear::Pack(weight.data(), bias.data(), N, K, type_of);
  };
  for (int64_t n = 0; n < config.num_layers; ++n) {
    const std::string name = absl::StrCat(bert, "encoder.layer.", n, ".");
    const std::string self = name + "attention.self.";
    Layer layer;
    std::vector<float> weight;  // query, key and value as one product
    std::vector<float> bias;
    for (const char* part : {"query", "key", "value"}) {
      const std::vector<float> w = reader.Read(absl::StrCat(self, part, ".weight"), {E, E});
      const std::vector<float> b = reader.Read(absl::StrCat(self, part, ".bias"), {E});
      weight.insert(weight.end(), w.begin(), w.end());
      bias.insert(bias.end(), b.begin(), b.end());
    }
    if (config.layer_norm_after) layer.after = norm(self + "layer_norm");
    if (config.variant == Variant::kD) {
      layer.log_lambda = reader.Read(self + "ai", {H});
      LogLambda(&layer.log_lambda);
    }
    if (config.variant == Variant::kS) {
      const std::vector<float> w = reader.Read(self + "Wa_i.weight", {H, E});
      const std::vector<float> b = reader.Read(self + "Wa_i.bias", {H});
      if (!reader.status().ok()) return reader.status();
      layer.gate_weight.assign(E * Hp, 0.f);
      layer.gate_bias.assign(Hp, 0.f);
      for (int64_t h = 0; h < H; ++h) {
        layer.gate_bias[h] = b[h];
        for (int64_t e = 0; e < E; ++e) layer.gate_weight[e * Hp + h] = w[h * E + e];
      }
    }
    layer.out = pack(name + "attention.output.dense", E, E, options.dtype);
    layer.attention_norm = norm(name + "attention.output.LayerNorm");
    layer.up = pack(name + "intermediate.dense", FF, E, options.dtype);
    layer.down = pack(name + "output.dense", E, FF, options.dtype);
    layer.output_norm = norm(name + "output.LayerNorm");
    if (!reader.status().ok()) return reader.status();
    layer.qkv = Linear::Pack(weight.data(), bias.data(), 3 * E, E, options.dtype);
    layers.push_back(std::move(layer));
  }

  absl::StatusOr<HeadWeights> heads = ReadHeads(reader, bert, config, options.pipeline);
  if (!heads.ok()) return heads.status();
  unused = reader.Unused();
  // The heads are a few rows a batch: fp32 costs nothing there.
  auto pack_head = [](const std::vector<HeadProduct>& products, std::vector<HeadLayer>* head) {
    for (const HeadProduct& product : products) {
      const float* b = product.bias.empty() ? nullptr : product.bias.data();
      head->push_back({Linear::Pack(product.weight.data(), b, product.N, product.K, DType::kFloat32), product.tanh});
    }
  };
  pack_head(heads->pooled, &pooled_head);
  pack_head(heads->classified, &classified_head);
  return absl::OkStatus();
}

void CpuEncoder::Impl::Prepare(std::vector<Slice> slices, Activations& a) const {
  a.slices = std::move(slices);
  a.T = 0;
  for (Slice& slice : a.slices) {
    slice.start = a.T;
    a.T += slice.L;
  }
  a.x = a.buffers[0].Get<float>((a.T + kTileTokens) * E);
  a.y = a.buffers[1].Get<float>((a.T + kTileTokens) * E);
  a.qkv = wide ? static_cast<void*>(a.buffers[2].Get<float>(a.T * 3 * E))
               : static_cast<void*>(a.buffers[2].Get<uint16_t>(a.T * 3 * E));
  if (config.variant == Variant::kS) a.log_a = a.buffers[3].Get<float>(a.T * Hp);
}

// x of tokens [first, last): the three embeddings, summed and normalised.
void CpuEncoder::Impl::Embed(Activations& a, int64_t first, int64_t last) const {
  for (const Slice& slice : a.slices) {
    for (int64_t t = std::max(first, slice.start); t < std::min(last, slice.start + slice.L); ++t) {
      const int64_t i = t - slice.start;
      float* x = a.x + t * E;
      ReadElements(*word, static_cast<int64_t>(slice.row->ids[i]) * E, E, x);
      const int64_t type_id = slice.row->type_ids.empty() ? 0 : slice.row->type_ids[i];
      AddRow(x, type.data() + type_id * E, E);
      if (!position.empty()) AddRow(x, position.data() + i * E, E);
      LayerNorm(x, embedding_norm.gamma.data(), embedding_norm.beta.data(), static_cast<float>(config.layer_norm_eps),
                E);
    }
  }
}

// Rows of x as a product's operand: themselves in fp32, else a rounded copy in w.in, with w.in_scales in int8.
const void* CpuEncoder::Impl::Operand(const float* x, int64_t rows, Workspace& w) const {
  if (wide) return x;
  if (dtype == DType::kBFloat16) {
    uint16_t* copy = w.in.Get<uint16_t>(2 * kTileTokens * E);
    ToBFloat16(x, copy, rows * E);
    return copy;
  }
  uint8_t* copy = w.in.Get<uint8_t>(2 * kTileTokens * E);
  for (int64_t r = 0; r < rows; ++r) {
    Quantize(x + r * E, E, Int8Row{copy + r * E, Linear::Int8Offset(), &w.in_scales[r]});
  }
  return copy;
}

void CpuEncoder::Impl::ProjectQkv(Activations& a, const Layer& layer, int64_t first, int64_t last, Workspace& w) const {
  // A head's rows side by side: attention walks them once a direction, and the hardware fetches ahead only what is
  // near.
  const int64_t piece = D * (wide ? 4 : 2);
  auto lay_out = [&](int64_t t, const void* row) {
    const char* from = static_cast<const char*>(row);
    for (int64_t part = 0; part < 3 * H; ++part, from += piece) {
      std::memcpy(static_cast<char*>(a.qkv) + (part * a.T + t) * piece, from, piece);
    }
  };
  layer.qkv->Run(
      Operand(a.x + first * E, last - first, w), last - first, [&](int64_t row, int64_t rows, const void* y) {
        for (int64_t r = row; r < row + rows; ++r) {
          if (dtype == DType::kInt8) {
            auto* values = reinterpret_cast<uint16_t*>(w.row.data());
            Dequantize({static_cast<const uint16_t*>(y) + (r - row) * 3 * E, w.in_scales[r], layer.qkv->bias()}, values,
                       3 * E);
            lay_out(first + r, values);
          } else {
            lay_out(first + r, static_cast<const char*>(y) + (r - row) * 3 * H * piece);
          }
        }
      });
  if (config.variant == Variant::kS) {
    TextLogDecays(a.x + first * E, last - first, E, layer.gate_weight.data(), layer.gate_bias.data(), Hp,
                  a.log_a + first * Hp);
  }
}

AttentionParams CpuEncoder::Impl::HeadParams(const Activations& a, const Layer& layer, const Slice& slice,
                                             int64_t head) const {
  const int64_t element = wide ? 4 : 2;
  const char* q = static_cast<const char*>(a.qkv) + (head * a.T + slice.start) * D * element;
  AttentionParams p;
  p.L = slice.L;
  p.D = static_cast<int>(D);
  p.scale = 1.f / std::sqrt(static_cast<float>(D));
  p.bfloat16 = !wide;
  p.q = q;
  p.k = q + H * a.T * D * element;
  p.v = q + 2 * H * a.T * D * element;
  p.stride = D;
  if (config.variant == Variant::kD) p.log_a = &layer.log_lambda[head];
  if (config.variant == Variant::kS) {
    p.log_a = a.log_a + slice.start * Hp + head;
    p.log_a_stride = Hp;
  }
  p.y = a.y + slice.start * E + head * D;
  p.y_stride = E;
  p.mode = slice.row->mode;
  p.C = slice.row->chunk_tokens > 0 ? slice.row->chunk_tokens : options.chunk_tokens;
  return p;
}

void CpuEncoder::Impl::Attend(Activations& a, const Layer& layer, const Slice& slice, int64_t head,
                              Workspace& w) const {
  AttendHead(HeadParams(a, layer, slice, head), &w.attention);
}

// Everything of a layer after its attention, for tokens [first, last), at most kTileTokens of them.
void CpuEncoder::Impl::FeedForward(Activations& a, const Layer& layer, int64_t first, int64_t last,
                                   Workspace& w) const {
  const auto eps = static_cast<float>(config.layer_norm_eps);
  if (config.layer_norm_after) {
    for (int64_t t = first; t < last; ++t) {
      LayerNorm(a.y + t * E, layer.after.gamma.data(), layer.after.beta.data(), kAfterEps, E);
    }
  }
  // x = LayerNorm(x + product), row by row. scales: of the product's rows, in int8.
  auto add_norm = [&](int64_t t, int64_t rows, const void* y, const float* scales, const Linear& product,
                      const LayerNormWeights& norm) {
    for (int64_t r = 0; r < rows; ++r) {
      float* x = a.x + (t + r) * E;
      const float* gamma = norm.gamma.data();
      const float* beta = norm.beta.data();
      if (wide) {
        AddLayerNorm(x, static_cast<const float*>(y) + r * E, gamma, beta, eps, E);
      } else if (dtype == DType::kBFloat16) {
        AddLayerNorm(x, static_cast<const uint16_t*>(y) + r * E, gamma, beta, eps, E);
      } else {
        const ScaledRow row{static_cast<const uint16_t*>(y) + r * E, scales[r], product.bias()};
        AddLayerNorm(x, row, gamma, beta, eps, E);
      }
    }
  };
  layer.out->Run(Operand(a.y + first * E, last - first, w), last - first,
                 [&](int64_t row, int64_t rows, const void* y) {
                   add_norm(first + row, rows, y, &w.in_scales[row], *layer.out, layer.attention_norm);
                 });
  layer.up->Run(Operand(a.x + first * E, last - first, w), last - first, [&](int64_t row, int64_t rows, const void* y) {
    void* hidden = nullptr;
    if (wide) {
      hidden = w.hidden.Get<float>(2 * kTileTokens * FF);
      GeluErf(static_cast<const float*>(y), static_cast<float*>(hidden), rows * FF);
    } else if (dtype == DType::kBFloat16) {
      hidden = w.hidden.Get<uint16_t>(2 * kTileTokens * FF);
      GeluErf(static_cast<const uint16_t*>(y), static_cast<uint16_t*>(hidden), rows * FF);
    } else {
      uint8_t* q = w.hidden.Get<uint8_t>(2 * kTileTokens * FF);
      for (int64_t r = 0; r < rows; ++r) {
        GeluErfQuantize({static_cast<const uint16_t*>(y) + r * FF, w.in_scales[row + r], layer.up->bias()}, FF,
                        w.row.data(), {q + r * FF, Linear::Int8Offset(), &w.hidden_scales[r]});
      }
      hidden = q;
    }
    layer.down->Run(hidden, rows, [&](int64_t down_row, int64_t down_rows, const void* z) {
      add_norm(first + row + down_row, down_rows, z, &w.hidden_scales[down_row], *layer.down, layer.output_norm);
    });
  });
}

void CpuEncoder::Impl::Forward(Activations& a, const Executor& run) {
  const int tiles = static_cast<int>((a.T + kTileTokens - 1) / kTileTokens);
  auto for_tiles = [&](const std::function<void(int64_t first, int64_t last, Workspace & w)>& fn) {
    run(tiles,
        [&](int worker, int i) { fn(i * kTileTokens, std::min(a.T, (i + 1) * kTileTokens), workspaces[worker]); });
  };
  for_tiles([&](int64_t first, int64_t last, Workspace&) { Embed(a, first, last); });
  for (const Layer& layer : layers) {
    for_tiles([&](int64_t first, int64_t last, Workspace& w) { ProjectQkv(a, layer, first, last, w); });
    run(static_cast<int>(a.slices.size() * H),
        [&](int worker, int i) { Attend(a, layer, a.slices[i / H], i % H, workspaces[worker]); });
    for_tiles([&](int64_t first, int64_t last, Workspace& w) { FeedForward(a, layer, first, last, w); });
  }
  run(1, [&](int worker, int) { Finish(a, workspaces[worker]); });
}

// From last hidden states to answers. The projections take all rows of the group that want them at once.
void CpuEncoder::Impl::Finish(Activations& a, Workspace& w) const {
  std::vector<const Slice*> pooled;
  std::vector<const Slice*> classified;
  for (const Slice& slice : a.slices) {
    if (slice.row->output == RowOutput::kTokens) {
      const float* x = a.x + slice.start * E;
      slice.result->values.assign(x, x + slice.L * E);
      slice.result->num_vectors = slice.L;
      slice.result->width = E;
    } else {
      (slice.row->output == RowOutput::kLogits ? classified : pooled).push_back(&slice);
    }
  }

  // The rows' vectors go through the layers, one buffer to the other.
  auto project = [&](const std::vector<const Slice*>& slices, const std::vector<HeadLayer>& head) {
    if (slices.empty()) return;
    const auto n = static_cast<int64_t>(slices.size());
    int64_t width = E;
    float* in = w.pooled.Get<float>((n + kTileTokens) * E);
    for (int64_t r = 0; r < n; ++r) {
      const float* x = a.x + slices[r]->start * E;
      if (slices[r]->row->output == RowOutput::kPooledMean) {
        MeanRows(x, slices[r]->L, E, in + r * E);
      } else {
        std::copy(x, x + E, in + r * E);
      }
    }
    Buffer* from = &w.pooled;
    Buffer* to = &w.head;
    for (const auto& [linear, tanh] : head) {
      float* out = to->Get<float>((n + kTileTokens) * linear->out_width());
      linear->Run(in, n, [&, out_width = linear->out_width()](int64_t row, int64_t rows, const void* y) {
        std::memcpy(out + row * out_width, y, rows * out_width * sizeof(float));
      });
      width = linear->out_width();
      if (tanh) {
        for (int64_t i = 0; i < n * width; ++i) out[i] = std::tanh(out[i]);
      }
      in = out;
      std::swap(from, to);
    }
    for (int64_t r = 0; r < n; ++r) {
      slices[r]->result->values.assign(in + r * width, in + (r + 1) * width);
      slices[r]->result->num_vectors = 1;
      slices[r]->result->width = width;
    }
  };
  project(pooled, pooled_head);
  project(classified, classified_head);
}

CpuEncoder::CpuEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CpuEncoder::~CpuEncoder() = default;

absl::StatusOr<std::unique_ptr<CpuEncoder>> CpuEncoder::Create(Options options) {
  if (options.dtype != DType::kFloat32 && options.dtype != DType::kBFloat16 && options.dtype != DType::kInt8) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Name(options.dtype), " is not available on the CPU: float32, bfloat16 or int8"));
  }
  if (options.chunk_tokens == 0) options.chunk_tokens = kChunkTokens;
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens ", options.chunk_tokens, " is not from 1 to ", kMaxChunkTokens));
  }
  auto impl = std::make_unique<Impl>();
  impl->config = options.config;
  impl->dtype = options.dtype;
  impl->wide = options.dtype == DType::kFloat32;
  impl->E = options.config.hidden_width;
  impl->H = options.config.num_heads;
  impl->D = options.config.head_width;
  impl->Hp = (impl->H + 15) / 16 * 16;
  impl->FF = options.config.feed_forward_width;
  impl->workspaces.resize(options.pool->num_threads());
  for (Workspace& w : impl->workspaces) w.row.resize(std::max(impl->FF, 3 * impl->E));
  ComputePool* pool = options.pool;
  impl->options = std::move(options);
  absl::Status loaded;
  const absl::Status run = pool->Run(1, [&](int, int) {
    if (impl->dtype == DType::kInt8) loaded = Linear::CheckInt8();
    if (loaded.ok()) loaded = impl->Load();
  });
  if (!run.ok()) return run;
  if (!loaded.ok()) return loaded;
  return std::unique_ptr<CpuEncoder>(new CpuEncoder(std::move(impl)));
}

absl::Status CpuEncoder::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results) {
  if (rows.size() != results.size()) return absl::InvalidArgumentError("results and rows differ in number");
  const absl::Status status = CheckRows(impl_->config, classifies(), rows);
  if (!status.ok()) return status;

  ComputePool* pool = impl_->options.pool;
  std::vector<Slice> shared;
  std::vector<Slice> packed;
  int64_t packed_tokens = 0;
  for (size_t b = 0; b < rows.size(); ++b) {
    const Slice slice{0, static_cast<int64_t>(rows[b].ids.size()), &rows[b], &results[b]};
    (slice.L > kSharedTokens ? shared : packed).push_back(slice);
    if (slice.L <= kSharedTokens) packed_tokens += slice.L;
  }
  // Small batches are split so that every worker has a part of them.
  const int64_t share = (packed_tokens + pool->num_threads() - 1) / pool->num_threads();
  const int64_t target = std::clamp<int64_t>(share, 64, kGroupTokens);
  std::vector<std::vector<Slice>> groups;
  int64_t open_tokens = 0;
  for (const Slice& slice : packed) {
    if (groups.empty() || open_tokens + slice.L > target) {
      groups.emplace_back();
      open_tokens = 0;
    }
    groups.back().push_back(slice);
    open_tokens += slice.L;
  }

  absl::Status result = pool->Run(static_cast<int>(groups.size()), [&](int worker, int i) {
    Activations& a = impl_->workspaces[worker].group;
    impl_->Prepare(std::move(groups[i]), a);
    impl_->Forward(a, [worker](int n, const std::function<void(int, int)>& fn) {
      for (int j = 0; j < n; ++j) fn(worker, j);
    });
  });
  for (const Slice& slice : shared) {
    if (!result.ok()) return result;
    Activations a;  // freed after its row: a long one should not be paid for by those that follow
    result = Caught([&] { impl_->Prepare({slice}, a); });
    if (!result.ok()) return result;
    impl_->Forward(a, [pool, &result](int n, const std::function<void(int, int)>& fn) {
      if (result.ok()) result = pool->Run(n, fn);
    });
  }
  return result;
}

bool CpuEncoder::classifies() const { return !impl_->classified_head.empty(); }
int64_t CpuEncoder::num_labels() const { return classifies() ? impl_->classified_head.back().linear->out_width() : 0; }
int64_t CpuEncoder::embedding_width() const {
  return impl_->pooled_head.empty() ? impl_->E : impl_->pooled_head.back().linear->out_width();
}
int CpuEncoder::chunk_tokens() const { return impl_->options.chunk_tokens; }
const std::vector<std::string>& CpuEncoder::unused_tensors() const { return impl_->unused; }

int CpuEncoder::MeasureCrossover() {
  Impl& impl = *impl_;
  int best = kCrossoverChoices[0];
  impl.options.pool
      ->Run(1,
            [&](int worker, int) {
              Workspace& w = impl.workspaces[worker];
              for (int L : kCrossoverChoices) {
                if (L == best) continue;
                // The first layer's attention on zeros: its time does not depend on the values.
                const std::vector<uint32_t> ids(L, 0);
                Row row;
                row.ids = ids;
                RowResult unused_result;
                Activations a;
                impl.Prepare({Slice{0, L, &row, &unused_result}}, a);
                if (a.log_a != nullptr) std::fill(a.log_a, a.log_a + L * impl.Hp, -0.01f);
                auto seconds = [&](ComputeMode mode) {
                  row.mode = mode;
                  double fastest = 1e9;
                  for (int repeat = 0; repeat < 4; ++repeat) {  // the first one warms the caches
                    const auto start = std::chrono::steady_clock::now();
                    impl.Attend(a, impl.layers.front(), a.slices.front(), 0, w);
                    fastest = std::min(fastest,
                                       std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
                  }
                  return fastest;
                };
                if (seconds(ComputeMode::kParallel) > seconds(ComputeMode::kChunked)) return;
                best = L;
              }
            })
      .IgnoreError();  // a measurement that fails leaves what was measured so far
  return best;
}

}  // namespace lion
