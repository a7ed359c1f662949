// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_layers.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/kernels/cpu/rows.h"
#include "model/linear.h"
#include "model/weights.h"
#include "model/window_means.h"

namespace lion {
namespace {

// Copies n pieces of a row to places stride apart. Sizes known to the compiler are copied without a call.
template <size_t kBytes>
void ScatterPieces(const char* from, int64_t n, char* to, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * stride, from + i * kBytes, kBytes);
}

}  // namespace

void CpuLayers::Scatter(const void* from, int64_t bytes, int64_t n, void* to, int64_t stride) {
  const auto* pieces = static_cast<const char*>(from);
  auto* places = static_cast<char*>(to);
  switch (bytes) {
    case 64:
      return ScatterPieces<64>(pieces, n, places, stride);
    case 128:
      return ScatterPieces<128>(pieces, n, places, stride);
    case 256:
      return ScatterPieces<256>(pieces, n, places, stride);
    default:
      for (int64_t i = 0; i < n; ++i) std::memcpy(places + i * stride, pieces + i * bytes, bytes);
  }
}

std::vector<std::pair<const char*, double>> CpuStageTimes::Named() const {
  return {{"embed", seconds[kEmbed]}, {"products", seconds[kProducts]}, {"attention", seconds[kAttention]},
          {"gates", seconds[kGates]}, {"rows", seconds[kRows]},         {"heads", seconds[kHeads]}};
}

void StageClock::Start(bool on) {
  on_ = on;
  stage_ = Stage::kNumStages;
  times_ = CpuStageTimes();
}

void StageClock::To(Stage next) {
  if (!on_) return;
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  const double now = static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  if (stage_ != Stage::kNumStages) times_.seconds[stage_] += now - since_;
  stage_ = next;
  since_ = now;
}

CpuLayers::CpuLayers(const EncoderConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens,
                     int64_t value_width, int64_t num_gates)
    : config_(*config),
      weights_(*weights),
      dtype_(dtype),
      wide_(dtype == DType::kFloat32),
      chunk_tokens_(chunk_tokens),
      value_width_(value_width),
      num_gates_(num_gates),
      E_(config->hidden_width),
      H_(config->num_heads),
      D_(config->head_width),
      FF_(config->feed_forward_width) {}

CpuLayers::Room CpuLayers::RoomFor(const Row& row) const {
  return TakesWholeRows(row) ? Room::kParallel : row.mode == ComputeMode::kRecurrent ? Room::kLean : Room::kGroup;
}

int64_t CpuLayers::HeadStride(int64_t T) {
  // An odd number of cache lines between two heads, so that they do not all fall into one set; and a block of tokens
  // past the end, which kernels may read and drop.
  return (T + 15) / 16 * 16 + 17;
}

int64_t CpuLayers::QkvElements(int64_t stride) const {
  return H_ * stride * (2 * D_ + value_width_) + kAttentionBlock * std::max(D_, value_width_);
}

void CpuLayers::MakeHeads(Activations& a) const {
  a.stride = HeadStride(a.T);
  a.qkv = wide_ ? static_cast<void*>(a.buffers[1].Get<float>(QkvElements(a.stride)))
                : static_cast<void*>(a.buffers[1].Get<uint16_t>(QkvElements(a.stride)));
  a.log_a = num_gates_ > 0 ? a.buffers[2].Get<float>(num_gates_ * a.stride) : nullptr;
}

void CpuLayers::Prepare(std::vector<Slice> slices, Room room, Activations& a) const {
  a.slices = std::move(slices);
  a.T = 0;
  for (Slice& slice : a.slices) {
    slice.start = a.T;
    a.T += slice.L;
  }
  a.x = a.buffers[0].Get<float>((a.T + Linear::kMaxTileRows) * E_);
  if (room != Room::kLean) MakeHeads(a);
  a.y = room == Room::kParallel ? a.buffers[3].Get<float>((a.T + Linear::kMaxTileRows) * E_) : nullptr;
}

void CpuLayers::ViewSpan(const Activations& a, int64_t first, int64_t last, Activations& span) const {
  span.slices = a.slices;
  span.T = last - first;
  span.x = a.x + first * E_;
  span.y = nullptr;
  MakeHeads(span);
}

int64_t CpuLayers::RowBytes(const Row& row, int64_t num_workers) const {
  const int64_t L = row.num_tokens();
  const std::vector<CpuHeadProduct>& head = weights_.pooled_head;
  const int64_t width = head.empty() ? E_ : head.back().linear->out_width();
  int64_t bytes = 0;
  if (row.output == RowOutput::kTokens) bytes += L * E_ * 4;
  if (row.output == RowOutput::kWindows) {
    bytes += (NumWindows(row, L) + (row.with_document ? 1 : 0)) * width * 4;
    if (row.window_starts.empty()) {
      bytes += num_workers * WindowMeansScratch(L, E_, row.window_tokens, row.window_stride) * 4;
    }
  }
  if (L <= kSpanTokens) return bytes;  // in the workers' own buffers
  const Room room = RoomFor(row);
  const int64_t x = (L + Linear::kMaxTileRows) * E_ * 4;
  bytes += x;
  if (room != Room::kLean) {
    const int64_t stride = HeadStride(L);
    bytes += QkvElements(stride) * (wide_ ? 4 : 2) + num_gates_ * stride * 4;
  }
  if (room == Room::kParallel) return bytes + x + num_workers * WholeRowScratch(L);
  const int64_t span = SpanTokens(row);
  return bytes + (L + span - 1) / span * H_ * (2 * D_ * PaddedHeadWidth(value_width_) + 1) * 4;
}

void CpuLayers::Prepare(Workspace& w) const {
  w.in_scales.resize(kSpanTokens);
  w.hidden_scales.resize(kSpanTokens);
  w.row.resize(std::max(FF_, 3 * E_));
}

int64_t CpuLayers::SpanTokens(const Row& row) const {
  if (row.mode != ComputeMode::kChunked) return kSpanTokens;
  const int64_t C = row.chunk_tokens > 0 ? row.chunk_tokens : chunk_tokens_;
  return kSpanTokens / C * C;
}

void CpuLayers::MakeOperand(const float* x, int64_t r, Workspace& w) const {
  if (dtype_ == DType::kBFloat16) {
    ToBFloat16(x, w.in.Get<uint16_t>(kBufferRows * E_) + r * E_, E_);
  } else if (dtype_ == DType::kInt8) {
    Quantize(x, E_, Int8Row{w.in.Get<uint8_t>(kBufferRows * E_) + r * E_, Linear::Int8Offset(), &w.in_scales[r]});
  }
}

// Rows of x as a product's operand: themselves in fp32, else a rounded copy in w.in, with w.in_scales in int8.
const void* CpuLayers::Operand(const float* x, int64_t rows, Workspace& w) const {
  if (wide_) return x;
  for (int64_t r = 0; r < rows; ++r) MakeOperand(x + r * E_, r, w);
  return w.in.Get<uint8_t>(0);
}

void CpuLayers::Multiply(const Linear& linear, const void* operand, const float* scales, int64_t rows,
                         const UseRows& use) const {
  if (linear.on_tiles()) {
    linear.RunWhole(operand, scales, rows, Linear::After::kNothing,
                    [&](int64_t row, int64_t n, const void* z) { use(row, n, z, nullptr); });
  } else {
    linear.Run(operand, rows, [&](int64_t row, int64_t n, const void* z) { use(row, n, z, scales + row); });
  }
}

AttentionParams CpuLayers::HeadParams(const Activations& a, size_t layer, const Row& row, int64_t first, int64_t L,
                                      int64_t head) const {
  const int64_t element = wide_ ? 4 : 2;
  const char* q = static_cast<const char*>(a.qkv) + (head * a.stride + first) * D_ * element;
  AttentionParams p;
  p.L = L;
  p.D = static_cast<int>(D_);
  p.bfloat16 = !wide_;
  p.q = q;
  p.k = q + H_ * a.stride * D_ * element;
  p.v = static_cast<const char*>(a.qkv) + (2 * H_ * a.stride * D_ + (head * a.stride + first) * value_width_) * element;
  p.value_width = static_cast<int>(value_width_);
  p.stride = D_;
  p.v_stride = value_width_;
  if (config_.variant == Variant::kD) p.log_a = &weights_.layers[layer].log_lambda[head];
  if (config_.variant == Variant::kS) {
    p.log_a = a.log_a + head * a.stride + first;
    p.log_a_stride = 1;
  }
  p.y_stride = E_;
  p.mode = row.mode;
  p.C = row.chunk_tokens > 0 ? row.chunk_tokens : chunk_tokens_;
  return p;
}

void CpuLayers::Summarize(const Activations& a, size_t layer, int64_t first, int64_t last, SpanStates& states,
                          Workspace& w) const {
  w.clock.To(StageClock::Stage::kAttention);
  const int64_t size = D_ * PaddedHeadWidth(value_width_);
  states.forward.resize(H_ * size);
  states.backward.resize(H_ * size);
  states.decay.resize(H_);
  for (int64_t h = 0; h < H_; ++h) {
    SummarizeHead(HeadParams(a, layer, *a.slices.front().row, first, last - first, h), &states.forward[h * size],
                  &states.backward[h * size], &states.decay[h], &w.attention);
  }
}

void CpuLayers::PassStates(const Row& row, std::vector<SpanStates>& spans, int64_t head) const {
  const int64_t size = D_ * PaddedHeadWidth(value_width_);
  std::vector<float> state(size, 0.f);
  // The state that reaches a span takes the place of what it adds; the sum goes on to the next.
  auto pass = [&](float* added, float decay) {
    for (int64_t i = 0; i < size; ++i) {
      const float arrived = state[i];
      state[i] = std::fma(decay, arrived, added[i]);
      added[i] = arrived;
    }
  };
  if (config_.variant == Variant::kLit && row.mode != ComputeMode::kParallel) {
    // One state, the sum over all tokens, for every span.
    for (SpanStates& span : spans) pass(&span.forward[head * size], 1);
    for (SpanStates& span : spans) std::copy(state.begin(), state.end(), span.forward.begin() + head * size);
    return;
  }
  for (SpanStates& span : spans) pass(&span.forward[head * size], span.decay[head]);
  std::fill(state.begin(), state.end(), 0.f);
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    pass(&span->backward[head * size], span->decay[head]);
  }
}

void CpuLayers::Attend(const Activations& a, size_t layer, int64_t first, int64_t last, const SpanStates* states,
                       Workspace& w) const {
  w.clock.To(StageClock::Stage::kAttention);
  float* y = w.y.Get<float>(kBufferRows * E_);
  if (states == nullptr) {
    for (const Slice& slice : a.slices) {
      for (int64_t h = 0; h < H_; ++h) AttendRow(a, layer, slice, h, y + (slice.start - first) * E_, w);
    }
    return;
  }
  const int64_t size = D_ * PaddedHeadWidth(value_width_);
  for (int64_t h = 0; h < H_; ++h) {
    AttentionParams p = HeadParams(a, layer, *a.slices.front().row, first, last - first, h);
    p.y = y + h * D_;
    p.state_before = &states->forward[h * size];
    p.state_after = &states->backward[h * size];
    AttendHead(p, &w.attention);
  }
}

void CpuLayers::AttendWholeRow(const Activations& a, size_t layer, int64_t head, Workspace& w) const {
  w.clock.To(StageClock::Stage::kAttention);
  AttendRow(a, layer, a.slices.front(), head, a.y, w);
}

void CpuLayers::UpAndDown(const CpuLayerWeights& weights, const void* operand, int64_t T, const UseRows& use,
                          Workspace& w) const {
  w.clock.To(StageClock::Stage::kProducts);
  auto down = [&](int64_t row, int64_t rows, const void* hidden) {
    auto use_down = [&](int64_t down_row, int64_t down_rows, const void* z, const float* scales) {
      w.clock.To(StageClock::Stage::kRows);
      use(row + down_row, down_rows, z, scales);
      w.clock.To(StageClock::Stage::kProducts);
    };
    Multiply(*weights.down, hidden, w.hidden_scales.data(), rows, use_down);
  };
  if (!wide_ && weights.up->on_tiles() && weights.down->on_tiles()) {
    auto use_up = [&](int64_t row, int64_t rows, void* up) {
      if (dtype_ == DType::kBFloat16) return down(row, rows, up);
      w.clock.To(StageClock::Stage::kRows);
      uint8_t* q = w.hidden.Get<uint8_t>(kBufferRows * FF_);
      for (int64_t r = 0; r < rows; ++r) {
        Quantize(static_cast<const uint16_t*>(up) + r * FF_, FF_,
                 {q + r * FF_, Linear::Int8Offset(), &w.hidden_scales[r]});
      }
      w.clock.To(StageClock::Stage::kProducts);
      down(row, rows, q);
    };
    weights.up->RunWhole(operand, w.in_scales.data(), T, Linear::After::kGelu, use_up);
    w.clock.To(StageClock::Stage::kNumStages);
    return;
  }
  // Where down wants no more rows than up has made, GELU is done in place: at these sizes a second buffer costs.
  const bool in_place = weights.up->tile_rows() == weights.down->tile_rows();
  weights.up->Run(operand, T, [&](int64_t row, int64_t rows, void* up) {
    w.clock.To(StageClock::Stage::kRows);
    void* hidden = up;
    if (wide_) {
      if (!in_place) hidden = w.hidden.Get<float>(kBufferRows * FF_);
      GeluErf(static_cast<const float*>(up), static_cast<float*>(hidden), rows * FF_);
    } else if (dtype_ == DType::kBFloat16) {
      if (!in_place) hidden = w.hidden.Get<uint16_t>(kBufferRows * FF_);
      GeluErf(static_cast<const uint16_t*>(up), static_cast<uint16_t*>(hidden), rows * FF_);
    } else {
      uint8_t* q = w.hidden.Get<uint8_t>(kBufferRows * FF_);
      for (int64_t r = 0; r < rows; ++r) {
        GeluErfQuantize({static_cast<const uint16_t*>(up) + r * FF_, w.in_scales[row + r], weights.up->bias()}, FF_,
                        w.row.data(), {q + r * FF_, Linear::Int8Offset(), &w.hidden_scales[r]});
      }
      hidden = q;
    }
    w.clock.To(StageClock::Stage::kProducts);
    down(row, rows, hidden);
  });
  w.clock.To(StageClock::Stage::kNumStages);
}

// The rows (n, E) in w.pooled go through the products, one buffer to the other. Returns the last one's (n, width).
const float* CpuLayers::RunHead(const std::vector<CpuHeadProduct>& head, int64_t n, int64_t* width,
                                Workspace& w) const {
  *width = E_;
  float* in = w.pooled.Get<float>(0);
  PageBuffer* from = &w.pooled;
  PageBuffer* to = &w.head;
  for (const CpuHeadProduct& product : head) {
    const int64_t out_width = product.linear->out_width();
    float* out = to->Get<float>((n + Linear::kMaxTileRows) * out_width);
    product.linear->Run(in, n, [&](int64_t row, int64_t rows, const void* y) {
      std::memcpy(out + row * out_width, y, rows * out_width * sizeof(float));
    });
    *width = out_width;
    if (product.tanh) {
      for (int64_t i = 0; i < n * out_width; ++i) out[i] = std::tanh(out[i]);
    }
    in = out;
    std::swap(from, to);
  }
  return in;
}

void CpuLayers::MakeRoom(const Slice& slice) const {
  const std::vector<CpuHeadProduct>& head = weights_.pooled_head;
  const bool tokens = slice.row->output == RowOutput::kTokens;
  slice.result->num_vectors = NumParted(slice) + (MeansRow(*slice.row) ? 1 : 0);
  slice.result->width = tokens || head.empty() ? E_ : head.back().linear->out_width();
  slice.result->values.resize(slice.result->num_vectors * slice.result->width);
}

int64_t CpuLayers::NumParted(const Slice& slice) {
  if (slice.row->output == RowOutput::kTokens) return slice.L;
  return slice.row->output == RowOutput::kWindows ? NumWindows(*slice.row, slice.L) : 0;
}

bool CpuLayers::MeansRow(const Row& row) {
  return row.output == RowOutput::kPooledMean || (row.output == RowOutput::kWindows && row.with_document);
}

int64_t CpuLayers::FinishPart(const Row& row) {
  // About as many tokens as a short part of a step reads; windows that share running sums stay together.
  constexpr int64_t kPartTokens = 16384;
  if (row.output != RowOutput::kWindows) return kSpanTokens;
  if (!row.window_starts.empty()) {
    const int64_t mean = row.num_tokens() / static_cast<int64_t>(row.window_starts.size());
    return std::clamp<int64_t>(kPartTokens / std::max<int64_t>(1, mean), 1, kSpanTokens);
  }
  const int64_t group = (row.window_tokens + row.window_stride - 1) / row.window_stride;
  const int64_t part = std::clamp<int64_t>(kPartTokens / row.window_stride, group, std::max(kSpanTokens, group));
  return (part + group - 1) / group * group;
}

void CpuLayers::FinishVectors(const Activations& a, const Slice& slice, int64_t first, int64_t last,
                              Workspace& w) const {
  w.clock.To(StageClock::Stage::kHeads);
  const Row& row = *slice.row;
  const float* x = a.x + slice.start * E_;
  float* values = slice.result->values.data();
  if (row.output == RowOutput::kTokens) {
    std::copy(x + first * E_, x + last * E_, values + first * E_);
  } else {
    const bool same_size = row.window_starts.empty();
    float* scratch =
        same_size ? w.sums.Get<float>(WindowMeansScratch(slice.L, E_, row.window_tokens, row.window_stride)) : nullptr;
    for (int64_t start = first; start < last; start += kSpanTokens) {
      const int64_t n = std::min(kSpanTokens, last - start);
      float* means = w.pooled.Get<float>((n + Linear::kMaxTileRows) * E_);
      if (same_size) {
        WindowMeans(x, slice.L, E_, row.window_tokens, row.window_stride, start, start + n, scratch, means);
      } else {
        WindowMeans(x, slice.L, E_, row.window_starts, start, start + n, means);
      }
      int64_t width = 0;
      const float* out = RunHead(weights_.pooled_head, n, &width, w);
      std::copy(out, out + n * width, values + start * width);
    }
  }
  w.clock.To(StageClock::Stage::kNumStages);
}

// What MeanRows does of a whole row, in pieces and with its bits: here each kSumTokens rows add up in the first of
// them.
void CpuLayers::SumTokens(Activations& a, int64_t first, int64_t last, Workspace& w) const {
  w.clock.To(StageClock::Stage::kHeads);
  for (int64_t start = first; start < last; start += kSumTokens) {
    for (int64_t t = start + 1; t < std::min(last, start + kSumTokens); ++t) AddRow(a.x + start * E_, a.x + t * E_, E_);
  }
  w.clock.To(StageClock::Stage::kNumStages);
}

void CpuLayers::FinishMean(const Activations& a, const Slice& slice, Workspace& w) const {
  w.clock.To(StageClock::Stage::kHeads);
  float* mean = w.pooled.Get<float>((1 + Linear::kMaxTileRows) * E_);
  std::fill(mean, mean + E_, 0.f);
  for (int64_t t = 0; t < slice.L; t += kSumTokens) AddRow(mean, a.x + (slice.start + t) * E_, E_);
  for (int64_t e = 0; e < E_; ++e) mean[e] /= static_cast<float>(slice.L);
  WriteMean(slice, w);
  w.clock.To(StageClock::Stage::kNumStages);
}

// From the row's mean, in w.pooled, to the last of its vectors.
void CpuLayers::WriteMean(const Slice& slice, Workspace& w) const {
  int64_t width = 0;
  const float* out = RunHead(weights_.pooled_head, 1, &width, w);
  std::copy(out, out + width, slice.result->values.data() + (slice.result->num_vectors - 1) * width);
}

// The projections take all rows of the group that want them at once.
void CpuLayers::Finish(Activations& a, Workspace& w) const {
  std::vector<const Slice*> pooled;
  std::vector<const Slice*> classified;
  for (const Slice& slice : a.slices) {
    if (slice.row->output == RowOutput::kTokens || slice.row->output == RowOutput::kWindows) {
      MakeRoom(slice);
      FinishVectors(a, slice, 0, NumParted(slice), w);
      if (!MeansRow(*slice.row)) continue;
      MeanRows(a.x + slice.start * E_, slice.L, E_, w.pooled.Get<float>((1 + Linear::kMaxTileRows) * E_));
      WriteMean(slice, w);
    } else {
      (slice.row->output == RowOutput::kLogits ? classified : pooled).push_back(&slice);
    }
  }
  w.clock.To(StageClock::Stage::kHeads);
  auto project = [&](const std::vector<const Slice*>& slices, const std::vector<CpuHeadProduct>& head) {
    if (slices.empty()) return;
    const auto n = static_cast<int64_t>(slices.size());
    float* in = w.pooled.Get<float>((n + Linear::kMaxTileRows) * E_);
    for (int64_t r = 0; r < n; ++r) {
      const float* x = a.x + slices[r]->start * E_;
      const RowOutput output = slices[r]->row->output;
      if (output == RowOutput::kPooledMean || (output == RowOutput::kLogits && ClassifiesMean())) {
        MeanRows(x, slices[r]->L, E_, in + r * E_);
      } else {
        std::copy(x, x + E_, in + r * E_);
      }
    }
    int64_t width = 0;
    const float* out = RunHead(head, n, &width, w);
    for (int64_t r = 0; r < n; ++r) {
      slices[r]->result->values.assign(out + r * width, out + (r + 1) * width);
      slices[r]->result->num_vectors = 1;
      slices[r]->result->width = width;
    }
  };
  project(pooled, weights_.pooled_head);
  project(classified, weights_.classified_head);
  w.clock.To(StageClock::Stage::kNumStages);
}

}  // namespace lion
