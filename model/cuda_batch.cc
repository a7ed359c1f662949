// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_batch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <variant>

#include "model/cuda_linear.h"

namespace lion {
namespace {

constexpr int64_t kAlignment = 256;  // of every array in a buffer: what cuBLASLt's algorithms were chosen for

int64_t RoundUp(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

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

// How often windows may add up a block each before they share sums of groups.
constexpr int64_t kMaxSumsABlock = 8;

int64_t NumBlocks(int64_t tokens) { return (tokens + cuda::kMeanBlockRows - 1) / cuda::kMeanBlockRows; }

// Blocks of a mean's sum over count tokens from start on; out counts on with them.
void CutBlocks(int64_t start, int64_t count, int64_t out, std::vector<cuda::TokenBlock>* blocks) {
  for (int64_t t = 0; t < count; t += cuda::kMeanBlockRows) {
    blocks->push_back({static_cast<int32_t>(start + t),
                       static_cast<int32_t>(std::min<int64_t>(cuda::kMeanBlockRows, count - t)), out + t});
  }
}

// A vector that is the mean over count tokens from start on.
void AddMean(int64_t start, int64_t count, CudaBatch::Group* group) {
  const auto first = static_cast<int32_t>(group->blocks.size());
  CutBlocks(start, count, 0, &group->blocks);
  group->rows.push_back({first, static_cast<int32_t>(group->blocks.size()) - first, static_cast<int32_t>(count)});
}

// The vectors of a row of L tokens from start on, cut into windows.
void AddWindows(int64_t start, int64_t L, int64_t size, int64_t stride, CudaBatch::Group* group) {
  const int64_t num_windows = NumWindows(L, size, stride);
  const int64_t g = std::gcd(size, stride);
  auto count = [&](int64_t w) { return std::min(size, L - w * stride); };
  const int64_t own_blocks = (num_windows - 1) * NumBlocks(size) + NumBlocks(count(num_windows - 1));
  const int64_t blocks_of_g = NumBlocks(g);
  const int64_t shared_blocks = L / g * blocks_of_g + NumBlocks(L % g);
  if (own_blocks <= shared_blocks) {
    for (int64_t w = 0; w < num_windows; ++w) AddMean(start + w * stride, count(w), group);
    return;
  }
  const auto first = static_cast<int64_t>(group->blocks.size());
  const int64_t group_size = size / g * blocks_of_g;
  const bool by_groups = num_windows * group_size > kMaxSumsABlock * shared_blocks;
  for (int64_t b = 0; by_groups && b < shared_blocks; b += group_size) {
    group->groups.push_back(
        {static_cast<int32_t>(first + b), static_cast<int32_t>(std::min(group_size, shared_blocks - b))});
  }
  for (int64_t t = 0; t < L; t += g) CutBlocks(start + t, std::min(g, L - t), 0, &group->blocks);
  for (int64_t w = 0; w < num_windows; ++w) {
    const int64_t n = count(w);
    const int64_t start_block = w * (stride / g) * blocks_of_g;
    const int64_t group_end = std::min((start_block / group_size + 1) * group_size, shared_blocks);
    group->rows.push_back({static_cast<int32_t>(first + start_block),
                           static_cast<int32_t>(n / g * blocks_of_g + NumBlocks(n % g)), static_cast<int32_t>(n),
                           by_groups ? static_cast<int32_t>(first + group_end) : 0});
  }
}

// All vectors of a row of kWindows. Returns how many they are.
int64_t AddWindowRow(int64_t start, int64_t L, const Row& row, CudaBatch::Group* group) {
  int64_t num_vectors = NumWindows(row, L);
  if (row.window_starts.empty()) {
    AddWindows(start, L, row.window_tokens, row.window_stride, group);
  } else {
    for (size_t w = 0; w < row.window_starts.size(); ++w) {
      const int64_t end = w + 1 < row.window_starts.size() ? int64_t{row.window_starts[w + 1]} : L;
      AddMean(start + row.window_starts[w], end - row.window_starts[w], group);
    }
  }
  if (row.with_document) {
    AddMean(start, L, group);
    ++num_vectors;
  }
  return num_vectors;
}

}  // namespace

int64_t TokensOfRoom(absl::Span<const Row> rows) {
  int64_t tokens = 0;
  for (const Row& row : rows) {
    const int64_t L = row.num_tokens();
    tokens += L;
    if (row.output == RowOutput::kWindows && row.with_document) tokens += NumBlocks(L);
  }
  return tokens;
}

CudaShape MakeCudaShape(const ModelConfig& model, DType dtype, int chunk_tokens) {
  const EncoderConfig& config = Common(model);
  const auto* text = std::get_if<TextConfig>(&model);
  const auto* image = std::get_if<ImageConfig>(&model);
  CudaShape shape;
  shape.variant = config.variant;
  shape.type = dtype == DType::kFloat32   ? cuda::ElementType::kFloat32
               : dtype == DType::kFloat16 ? cuda::ElementType::kFloat16
                                          : cuda::ElementType::kBFloat16;
  shape.fp8 = dtype == DType::kFp8;
  // What is normalised later, over the heads or by its row sums, may be beyond float16's numbers before.
  shape.y_float32 = dtype == DType::kFloat16 && (image != nullptr || text->layer_norm_after);
  shape.element = dtype == DType::kFloat32 ? 4 : 2;
  shape.chunk_tokens = chunk_tokens;
  shape.positions = text != nullptr && text->max_positions > 0;
  if (image != nullptr) {
    shape.image = true;
    shape.patch = image->patch_size;
    shape.patch_width = kImageChannels * shape.patch * shape.patch;
    shape.patch_width_p = RoundUp(shape.patch_width, 16);
    shape.classifies_mean = !image->cls_pooling;
    shape.num_paths = image->two_paths && config.variant != Variant::kLit ? 2 : 1;
  }
  shape.E = config.hidden_width;
  shape.Ep = RoundUp(shape.E, 16);
  shape.H = config.num_heads;
  shape.D = config.head_width;
  shape.Dp = shape.D <= 32 ? 32 : shape.D <= 64 ? 64 : 128;
  shape.FF = config.feed_forward_width;
  shape.FFp = RoundUp(shape.FF, 16);
  shape.max_head_width = shape.Ep;
  for (int head = 0; head < kNumCudaHeads; ++head) {
    shape.answer_width[head] = shape.E;
    shape.answer_stride[head] = shape.Ep;
  }
  return shape;
}

void PlanBatch(const CudaShape& shape, absl::Span<const Row> rows, CudaBatch* batch) {
  *batch = CudaBatch();
  batch->rows = rows;
  std::vector<cuda::PlanRow> plan_rows;
  plan_rows.reserve(rows.size());
  CudaCounts& counts = batch->counts;
  for (size_t b = 0; b < rows.size(); ++b) {
    const Row& row = rows[b];
    const int64_t L = row.num_tokens();
    plan_rows.push_back({L, row.mode, row.chunk_tokens > 0 ? row.chunk_tokens : shape.chunk_tokens});
    if (row.output == RowOutput::kTokens) {
      CutBlocks(counts.T, L, counts.token_rows, &batch->token_blocks);
      counts.token_rows += L;
    } else {
      CudaBatch::Group& group = batch->groups[row.output == RowOutput::kLogits ? kClassifiedHead : kPooledHead];
      int64_t num_vectors = 1;
      if (row.output == RowOutput::kWindows) {
        num_vectors = AddWindowRow(counts.T, L, row, &group);
      } else {  // CLS and logits start from the mean of one token
        const bool mean =
            row.output == RowOutput::kPooledMean || (row.output == RowOutput::kLogits && shape.classifies_mean);
        AddMean(counts.T, mean ? L : 1, &group);
      }
      group.indices.push_back(b);
      group.num_vectors.push_back(num_vectors);
    }
    counts.T += L;
  }
  batch->plan = cuda::PlanAttention(plan_rows, /*masked=*/shape.variant != Variant::kLit);
  counts.segments = static_cast<int64_t>(batch->plan.segments.size());
  counts.runs = static_cast<int64_t>(batch->plan.runs.size());
  counts.states = batch->plan.num_states;
  counts.plain = batch->plan.plain;
  counts.token_blocks = static_cast<int64_t>(batch->token_blocks.size());
  for (int head = 0; head < kNumCudaHeads; ++head) {
    counts.blocks[head] = static_cast<int64_t>(batch->groups[head].blocks.size());
    counts.rows[head] = static_cast<int64_t>(batch->groups[head].rows.size());
    counts.groups[head] = static_cast<int64_t>(batch->groups[head].groups.size());
  }
}

CudaCounts MaxCounts(const CudaShape& /*shape*/, int64_t T) {
  CudaCounts counts;
  counts.T = T;
  counts.segments = T;
  counts.runs = T / cuda::kSegmentTokens;
  counts.states = T / cuda::kSegmentTokens * 2;
  counts.plain = true;
  counts.token_blocks = T;
  counts.token_rows = T;
  for (int head = 0; head < kNumCudaHeads; ++head) counts.blocks[head] = counts.rows[head] = counts.groups[head] = T;
  return counts;
}

std::vector<CudaBucket> MakeBuckets(int64_t max_tokens) {
  // A graph saves a batch about 0.1 ms if nothing else is in flight; that is what 150 tokens of padding cost from some
  // hundred tokens on. Below, the time hardly depends on their number. (Base, bfloat16, H100.)
  constexpr int64_t kTokens[] = {64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024};
  constexpr int64_t kTokensOfARow = 4;  // on average; a batch of shorter rows takes a bucket of more tokens
  constexpr int64_t kMinSegments = 32;
  std::vector<CudaBucket> buckets;
  for (const int64_t T : kTokens) {
    if (T > max_tokens) break;
    CudaBucket bucket;
    bucket.T = T;
    bucket.segments = std::max(kMinSegments, T / kTokensOfARow);
    buckets.push_back(bucket);
    if (T <= cuda::kSegmentTokens) continue;
    bucket.runs = T / cuda::kSegmentTokens;
    bucket.states = bucket.runs * 2;
    buckets.push_back(bucket);
  }
  return buckets;
}

int ChooseBucket(absl::Span<const CudaBucket> buckets, const CudaCounts& counts) {
  if (counts.plain) return -1;
  const auto bucket = std::find_if(buckets.begin(), buckets.end(), [&counts](const CudaBucket& b) {
    return counts.T <= b.T && counts.segments <= b.segments && counts.runs <= b.runs && counts.states <= b.states;
  });
  return bucket == buckets.end() ? -1 : static_cast<int>(bucket - buckets.begin());
}

CudaCounts InBucket(const CudaBucket& bucket, CudaCounts counts) {
  counts.T = bucket.T;
  counts.segments = bucket.segments;
  counts.runs = bucket.runs;
  counts.states = bucket.states;
  counts.plain = false;
  return counts;
}

CudaLayout ArrangeBatch(const CudaShape& shape, const CudaCounts& counts) {
  CudaLayout layout;
  layout.T = counts.T;
  const int64_t T = counts.T;
  const int64_t M = CudaLinear::RoundRows(T);
  const bool steps = counts.tile > 0;
  const int64_t tile_rows = steps ? CudaLinear::RoundRows(std::min(counts.tile, T)) : M;
  const int64_t span = counts.span > 0 ? std::min(counts.span, T) : T;
  const int64_t span_rows = CudaLinear::RoundRows(span);
  const int64_t heads_width = shape.H * shape.Dp;
  Arranger upload;
  auto send = [&](int64_t n, size_t size) { return upload.Place(n * static_cast<int64_t>(size)); };
  layout.ids = send(T, sizeof(uint32_t));
  layout.type_ids = send(T, sizeof(uint32_t));
  layout.positions = send(shape.positions || shape.image ? T : 0, sizeof(uint32_t));
  layout.pixels = send(shape.image ? T * shape.patch_width : 0, sizeof(float));
  layout.segments = send(counts.segments, sizeof(cuda::Segment));
  layout.runs = send(counts.runs, sizeof(cuda::StateRun));
  layout.plan_counts = send(2, sizeof(int32_t));
  layout.slice_counts = send(2 * counts.slices, sizeof(int32_t));
  layout.again_segments = send(counts.again_segments, sizeof(cuda::Segment));
  layout.token_blocks = send(counts.token_blocks, sizeof(cuda::TokenBlock));
  for (int head = 0; head < kNumCudaHeads; ++head) {
    layout.blocks[head] = send(counts.blocks[head], sizeof(cuda::TokenBlock));
    layout.rows[head] = send(counts.rows[head], sizeof(cuda::PooledRow));
    layout.groups[head] = send(counts.groups[head], sizeof(cuda::BlockGroup));
  }
  layout.upload_bytes = upload.end();

  Arranger work;
  layout.x = work.Place(M * shape.Ep * shape.element);
  layout.log_a = work.Place(T * shape.num_gates() * 4);
  layout.path_log_a = work.Place(shape.image && shape.num_gates() > 0 ? T * shape.attention_heads() * 4 : 0);
  auto place_states = [&](int64_t n) {
    return work.Place(n > 0 ? cuda::AttentionStateBytes(static_cast<int>(n), static_cast<int>(shape.attention_heads()),
                                                        static_cast<int>(shape.Dp))
                            : 0);
  };
  layout.states = place_states(counts.states);
  layout.again_states = place_states(counts.again_states);
  layout.sum = work.Place(tile_rows * shape.Ep * shape.element);
  layout.normed = work.Place(shape.image ? M * shape.Ep * shape.element : 0);
  layout.x_fp8 = work.Place(shape.fp8 ? M * shape.Ep : 0);
  layout.x_scales = work.Place(shape.fp8 ? M * 4 : 0);
  auto place_hidden = [&] { layout.hidden = work.Place(tile_rows * shape.FFp * (shape.fp8 ? 1 : shape.element)); };
  auto place_y_fp8 = [&] {
    layout.y_fp8 = work.Place(shape.fp8 ? tile_rows * heads_width : 0);
    layout.y_scales = work.Place(shape.fp8 ? tile_rows * 4 : 0);
  };
  if (steps) {
    place_hidden();
    place_y_fp8();
    layout.normal_y = work.Place(shape.y_float32 ? tile_rows * heads_width * shape.element : 0);
  }
  const int64_t shared = work.end();
  layout.qkv = work.Place(span_rows * 3 * heads_width * shape.element);
  if (!steps) layout.normal_y = layout.qkv;  // a float16 row does not fit where the fp32 one lies that it is made of
  const int64_t attention_width = shape.attention_heads() * shape.Dp;
  if (shape.image) {
    layout.path_qkv = work.Place(M * 3 * attention_width * shape.element);
    layout.path_y = work.Place(M * attention_width * (shape.y_float32 ? 4 : shape.element));
  }
  layout.y = work.Place(span_rows * heads_width * (shape.y_float32 && !shape.image ? 4 : shape.element));
  // A row takes a kernel that adds up in fp32 before it rounds.
  const bool plain =
      shape.element < 4 && (counts.plain || (shape.type == cuda::ElementType::kFloat16 && shape.Dp == 128));
  layout.plain_y = work.Place(plain ? span * attention_width * 4 : 0);
  if (!steps) place_y_fp8();
  int64_t end = work.end();
  if (!steps) {
    work.MoveTo(shared);
    place_hidden();
    end = std::max(end, work.end());
  }
  work.MoveTo(shared);
  layout.patches = work.Place(M * shape.patch_width_p * shape.element);
  end = std::max(end, work.end());
  work.MoveTo(shared);
  const int64_t vectors = CudaLinear::RoundRows(std::max(counts.rows[kPooledHead], counts.rows[kClassifiedHead]));
  layout.sums = work.Place(std::max(counts.blocks[kPooledHead], counts.blocks[kClassifiedHead]) * shape.Ep * 4);
  for (int64_t& offset : layout.vectors) offset = work.Place(vectors * shape.max_head_width * 4);
  end = std::max(end, work.end());
  work.MoveTo(layout.vectors[1]);
  layout.prefixes = work.Place(std::max(counts.groups[kPooledHead] > 0 ? counts.blocks[kPooledHead] : 0,
                                        counts.groups[kClassifiedHead] > 0 ? counts.blocks[kClassifiedHead] : 0) *
                               shape.Ep * 4);
  layout.work_bytes = std::max(end, work.end());

  Arranger answers;
  layout.tokens = answers.Place(counts.token_rows * shape.E * 4);
  for (int head = 0; head < kNumCudaHeads; ++head) {
    layout.answers[head] = answers.Place(CudaLinear::RoundRows(counts.rows[head]) * shape.answer_stride[head] * 4);
  }
  layout.answer_bytes = answers.end();
  return layout;
}

CudaBytes BytesForTokens(const CudaShape& shape, int64_t T) {
  const CudaLayout layout = ArrangeBatch(shape, MaxCounts(shape, T));
  CudaBytes bytes;
  bytes.upload = layout.upload_bytes;
  bytes.work = layout.work_bytes;
  // A token gives at most one vector, of one of three kinds; each head's rows are rounded up on their own.
  const int64_t widest = std::max({shape.E, shape.answer_stride[kPooledHead], shape.answer_stride[kClassifiedHead]});
  bytes.answers = (T + kNumCudaHeads * CudaLinear::kRowStep) * widest * 4 + (1 + kNumCudaHeads) * kAlignment;
  return bytes;
}

int64_t TokensForBytes(const CudaShape& shape, int num_slots, int64_t bytes) {
  int64_t T = kMaxDerivedTokens;
  for (; T > 0; T -= kTokenStep) {
    const CudaBytes needed = BytesForTokens(shape, T);
    if (needed.work + num_slots * (needed.upload + needed.answers) <= bytes) break;
  }
  return T;
}

namespace {

void FillIds(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, char* to) {
  auto* ids = reinterpret_cast<uint32_t*>(to + layout.ids);
  auto* type_ids = reinterpret_cast<uint32_t*>(to + layout.type_ids);
  auto* positions = reinterpret_cast<uint32_t*>(to + layout.positions);
  for (const Row& row : batch.rows) {
    const size_t L = row.ids.size();
    ids = std::copy(row.ids.begin(), row.ids.end(), ids);
    type_ids = row.type_ids.empty() ? std::fill_n(type_ids, L, 0u)
                                    : std::copy(row.type_ids.begin(), row.type_ids.end(), type_ids);
    if (!shape.positions) continue;
    for (size_t t = 0; t < L; ++t) *positions++ = static_cast<uint32_t>(t);
  }
  // Whatever stood there is no id.
  const int64_t padding = layout.T - batch.counts.T;
  std::fill_n(ids, padding, 0u);
  std::fill_n(type_ids, padding, 0u);
  if (shape.positions) std::fill_n(positions, padding, 0u);
}

void FillPictures(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, char* to) {
  auto* index = reinterpret_cast<uint32_t*>(to + layout.ids);
  auto* start = reinterpret_cast<uint32_t*>(to + layout.type_ids);
  auto* side = reinterpret_cast<uint32_t*>(to + layout.positions);
  auto* pixels = reinterpret_cast<float*>(to + layout.pixels);
  int64_t T = 0;
  for (const Row& row : batch.rows) {
    const int64_t L = row.num_tokens();
    std::iota(index + T, index + T + L, 0u);
    std::fill_n(start + T, L, static_cast<uint32_t>(T));
    std::fill_n(side + T, L, static_cast<uint32_t>(std::lround(std::sqrt(static_cast<double>(L - 1)))));
    std::copy(row.pixels.begin(), row.pixels.end(), pixels + T * shape.patch_width);
    T += L;
  }
  // Padding: pictures of one token each.
  std::fill(index + T, index + layout.T, 0u);
  std::iota(start + T, start + layout.T, static_cast<uint32_t>(T));
  std::fill(side + T, side + layout.T, 1u);
}

}  // namespace

void FillUpload(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, char* to) {
  if (shape.image) {
    FillPictures(shape, batch, layout, to);
  } else {
    FillIds(shape, batch, layout, to);
  }
  auto put = [to](const auto& values, int64_t offset) {
    if (!values.empty()) std::memcpy(to + offset, values.data(), values.size() * sizeof(values[0]));
  };
  put(batch.plan.segments, layout.segments);
  put(batch.plan.runs, layout.runs);
  const int32_t plan_counts[] = {static_cast<int32_t>(batch.counts.segments), static_cast<int32_t>(batch.counts.runs)};
  std::memcpy(to + layout.plan_counts, plan_counts, sizeof(plan_counts));
  put(batch.slice_counts, layout.slice_counts);
  put(batch.again, layout.again_segments);
  put(batch.token_blocks, layout.token_blocks);
  for (int head = 0; head < kNumCudaHeads; ++head) {
    put(batch.groups[head].blocks, layout.blocks[head]);
    put(batch.groups[head].rows, layout.rows[head]);
    put(batch.groups[head].groups, layout.groups[head]);
  }
}

void TakeAnswers(const CudaShape& shape, const CudaBatch& batch, const CudaLayout& layout, const char* from,
                 absl::Span<RowResult> results) {
  const auto* tokens = reinterpret_cast<const float*>(from + layout.tokens);
  for (size_t b = 0; b < batch.rows.size(); ++b) {
    if (batch.rows[b].output != RowOutput::kTokens) continue;
    RowResult& result = results[b];
    result.num_vectors = batch.rows[b].num_tokens();
    result.width = shape.E;
    result.values.assign(tokens, tokens + result.num_vectors * shape.E);
    tokens += result.num_vectors * shape.E;
  }
  for (int head = 0; head < kNumCudaHeads; ++head) {
    const auto* vector = reinterpret_cast<const float*>(from + layout.answers[head]);
    const CudaBatch::Group& group = batch.groups[head];
    for (size_t i = 0; i < group.indices.size(); ++i) {
      RowResult& result = results[group.indices[i]];
      result.num_vectors = group.num_vectors[i];
      result.width = shape.answer_width[head];
      result.values.clear();
      result.values.reserve(result.num_vectors * result.width);
      for (int64_t v = 0; v < result.num_vectors; ++v, vector += shape.answer_stride[head]) {
        result.values.insert(result.values.end(), vector, vector + result.width);
      }
    }
  }
}

}  // namespace lion
