// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_batch.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion {
namespace {

using testing::Each;
using testing::ElementsAre;

CudaShape Shape(DType dtype = DType::kBFloat16) {
  TextConfig config;
  config.variant = Variant::kS;
  config.hidden_width = 150;
  config.num_heads = 3;
  config.head_width = 50;
  config.feed_forward_width = 100;
  config.max_positions = 5000;
  config.layer_norm_after = true;
  CudaShape shape = MakeCudaShape(config, dtype, cuda::kChunkTokens);
  shape.max_head_width = 400;
  shape.answer_width[kClassifiedHead] = 395;
  shape.answer_stride[kClassifiedHead] = 400;
  return shape;
}

// Rows and the ids that they borrow.
struct Rows {
  std::vector<std::vector<uint32_t>> ids;
  std::vector<Row> rows;

  void Add(int64_t L, ComputeMode mode, RowOutput output, int chunk_tokens = 0) {
    ids.emplace_back(L);
    for (size_t t = 0; t < ids.back().size(); ++t) ids.back()[t] = static_cast<uint32_t>(1000 * ids.size() + t);
    rows.push_back({ids.back(), {}, mode, chunk_tokens, output});
  }
};

Rows RandomRows(int64_t max_tokens, std::mt19937& random, bool plain) {
  Rows rows;
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits,
                               RowOutput::kWindows};
  const int64_t longest = 1 + static_cast<int64_t>(random() % max_tokens);
  for (int64_t left = max_tokens; left > 0;) {
    const int64_t L = 1 + static_cast<int64_t>(random() % std::min(left, longest));
    rows.Add(L, modes[random() % (plain ? 3 : 2)], outputs[random() % 5]);
    rows.rows.back().window_tokens = 1 + static_cast<int64_t>(random() % 300);
    rows.rows.back().window_stride = 1 + static_cast<int64_t>(random() % rows.rows.back().window_tokens);
    left -= L;
    if (random() % 8 == 0) break;
  }
  return rows;
}

CudaBatch Plan(const CudaShape& shape, const Rows& rows) {
  CudaBatch batch;
  PlanBatch(shape, rows.rows, &batch);
  return batch;
}

TEST(CudaShapeTest, KeepsAttentionsSumsWhereFloat16IsNormalised) {
  EXPECT_TRUE(Shape(DType::kFloat16).y_float32);
  EXPECT_FALSE(Shape(DType::kBFloat16).y_float32);
  EXPECT_TRUE(Shape(DType::kFp8).fp8);
}

TEST(CudaShapeTest, PadsToWhatTheKernelsTake) {
  const CudaShape shape = Shape();
  EXPECT_EQ(shape.Ep, 160);
  EXPECT_EQ(shape.Dp, 64);
  EXPECT_EQ(shape.FFp, 112);
  EXPECT_EQ(shape.element, 2);
  EXPECT_EQ(Shape(DType::kFloat32).element, 4);
  EXPECT_EQ(shape.answer_width[kPooledHead], 150);
  EXPECT_EQ(shape.answer_stride[kPooledHead], 160);
}

TEST(PlanBatchTest, CountsRowsOfEveryOutput) {
  Rows rows;
  rows.Add(130, ComputeMode::kParallel, RowOutput::kPooledMean);
  rows.Add(70, ComputeMode::kChunked, RowOutput::kTokens);
  rows.Add(5, ComputeMode::kRecurrent, RowOutput::kLogits);
  rows.Add(2, ComputeMode::kParallel, RowOutput::kPooledCls);
  const CudaBatch batch = Plan(Shape(), rows);
  EXPECT_EQ(batch.counts.T, 207);
  EXPECT_EQ(batch.counts.segments, 5);  // full attention is cut at 128 tokens
  EXPECT_EQ(batch.counts.runs, 0);
  EXPECT_TRUE(batch.counts.plain);
  EXPECT_EQ(batch.counts.token_rows, 70);
  EXPECT_EQ(batch.counts.token_blocks, 2);
  EXPECT_THAT(batch.counts.rows, ElementsAre(2, 1));
  EXPECT_THAT(batch.counts.blocks, ElementsAre(4, 1));  // 64 + 64 + 2 tokens and one; one
  EXPECT_THAT(batch.groups[kPooledHead].indices, ElementsAre(0, 3));
  EXPECT_THAT(batch.groups[kClassifiedHead].indices, ElementsAre(2));
  EXPECT_EQ(batch.groups[kPooledHead].rows[0].count, 130);
  EXPECT_EQ(batch.groups[kPooledHead].rows[1].first_block, 3);
  EXPECT_EQ(batch.groups[kPooledHead].rows[1].count, 1);
  EXPECT_EQ(batch.groups[kPooledHead].blocks[3].start, 205);
  EXPECT_EQ(batch.token_blocks[1].start, 130 + 64);
  EXPECT_EQ(batch.token_blocks[1].count, 6);
  EXPECT_EQ(batch.token_blocks[1].out, 64);
}

TEST(PlanBatchTest, ReplacesThePlanBefore) {
  Rows rows;
  rows.Add(600, ComputeMode::kChunked, RowOutput::kTokens);
  CudaBatch batch = Plan(Shape(), rows);
  Rows next;
  next.Add(3, ComputeMode::kParallel, RowOutput::kLogits);
  PlanBatch(Shape(), next.rows, &batch);
  EXPECT_EQ(batch.counts.T, 3);
  EXPECT_EQ(batch.counts.runs, 0);
  EXPECT_EQ(batch.counts.token_rows, 0);
  EXPECT_TRUE(batch.token_blocks.empty());
  EXPECT_EQ(batch.plan.segments.size(), 1u);
}

// Every window's blocks hold its tokens, each once and in order, and no row has more blocks or vectors than tokens.
TEST(PlanBatchTest, WindowsAreMeansOfTheirTokens) {
  std::mt19937 random(4);
  int by_groups = 0;
  for (int i = 0; i < 400; ++i) {
    const int64_t before = static_cast<int64_t>(random() % 70);
    const int64_t L = 1 + static_cast<int64_t>(random() % 2000);
    const int64_t size = 1 + static_cast<int64_t>(random() % (i % 4 == 0 ? 2500 : 300));
    const int64_t stride = i % 3 == 0 ? size : 1 + static_cast<int64_t>(random() % size);
    Rows rows;
    if (before > 0) rows.Add(before, ComputeMode::kChunked, RowOutput::kPooledMean);
    rows.Add(L, ComputeMode::kChunked, RowOutput::kWindows);
    rows.rows.back().window_tokens = size;
    rows.rows.back().window_stride = stride;
    const CudaBatch batch = Plan(Shape(), rows);
    const CudaBatch::Group& group = batch.groups[kPooledHead];
    const int64_t num_windows = NumWindows(L, size, stride);
    const size_t mean_rows = before > 0 ? 1 : 0;
    ASSERT_EQ(group.num_vectors.back(), num_windows);
    ASSERT_EQ(static_cast<int64_t>(group.rows.size()), num_windows + static_cast<int64_t>(mean_rows));
    EXPECT_EQ(batch.counts.rows[kPooledHead], num_windows + static_cast<int64_t>(mean_rows));
    EXPECT_LE(batch.counts.blocks[kPooledHead], L + before);
    EXPECT_LE(num_windows, L);
    for (int64_t w = 0; w < num_windows; ++w) {
      const cuda::PooledRow& row = group.rows[w + mean_rows];
      int64_t token = before + w * stride;
      for (int b = 0; b < row.num_blocks; ++b) {
        const cuda::TokenBlock& block = group.blocks[row.first_block + b];
        ASSERT_EQ(block.start, token);
        ASSERT_GT(block.count, 0);
        ASSERT_LE(block.count, cuda::kMeanBlockRows);
        token += block.count;
      }
      ASSERT_EQ(token, before + std::min(w * stride + size, L));
      ASSERT_EQ(row.count, std::min(size, L - w * stride));
      if (row.group_end == 0) continue;
      // Its blocks are what is left of its first one's group, and no more than the next one from its start.
      const int32_t end = row.first_block + row.num_blocks;
      const auto home = std::find_if(group.groups.begin(), group.groups.end(), [&row](const cuda::BlockGroup& g) {
        return g.first_block <= row.first_block && row.first_block < g.first_block + g.num_blocks;
      });
      ASSERT_NE(home, group.groups.end());
      ASSERT_EQ(row.group_end, home->first_block + home->num_blocks);
      ASSERT_GE(end, row.group_end);
      if (end > row.group_end) {
        ASSERT_NE(home + 1, group.groups.end());
        ASSERT_LE(end, (home + 1)->first_block + (home + 1)->num_blocks);
      }
      ++by_groups;
    }
  }
  EXPECT_GT(by_groups, 300);
}

// The whole row's mean, behind windows of any kind, is summed as kPooledMean's: the same bits. There is room for it.
TEST(PlanBatchTest, TheWholeRowsMeanHasItsOwnBlocks) {
  for (const int64_t L : {1, 64, 65, 1000}) {
    for (const int64_t size : {1, 7, 64, 300}) {
      for (const bool by_starts : {false, true}) {
        std::vector<uint32_t> own;
        for (int64_t t = 0; t < L; t += 1 + t % size) own.push_back(static_cast<uint32_t>(t));
        Rows rows;
        rows.Add(L, ComputeMode::kChunked, RowOutput::kWindows);
        Row& row = rows.rows.back();
        row.window_tokens = size;
        row.window_stride = (size + 1) / 2;
        if (by_starts) row.window_starts = own;
        row.with_document = true;
        const CudaBatch batch = Plan(Shape(), rows);
        const CudaBatch::Group& group = batch.groups[kPooledHead];
        const int64_t n = NumWindows(row, L);
        ASSERT_EQ(group.num_vectors.back(), n + 1);
        ASSERT_EQ(static_cast<int64_t>(group.rows.size()), n + 1);
        for (int64_t w = 0; by_starts && w < n; ++w) {
          const int64_t end = w + 1 < n ? int64_t{own[w + 1]} : L;
          EXPECT_EQ(group.rows[w].count, end - own[w]);
          EXPECT_EQ(group.blocks[group.rows[w].first_block].start, own[w]);
        }
        const cuda::PooledRow& whole = group.rows.back();
        EXPECT_EQ(whole.count, L);
        EXPECT_EQ(whole.group_end, 0);
        EXPECT_EQ(whole.num_blocks, (L + cuda::kMeanBlockRows - 1) / cuda::kMeanBlockRows);
        for (int b = 0; b < whole.num_blocks; ++b) {
          EXPECT_EQ(group.blocks[whole.first_block + b].start, b * cuda::kMeanBlockRows);
        }
        const int64_t room = TokensOfRoom(rows.rows);
        EXPECT_LE(batch.counts.blocks[kPooledHead], room);
        EXPECT_LE(batch.counts.rows[kPooledHead], room);
        EXPECT_EQ(room, L + whole.num_blocks);
      }
    }
  }
}

TEST(PlanBatchTest, WindowsThatOverlapALotAreSummedByGroups) {
  auto sums = [](int64_t L, int64_t size, int64_t stride) {
    Rows rows;
    rows.Add(L, ComputeMode::kChunked, RowOutput::kWindows);
    rows.rows[0].window_tokens = size;
    rows.rows[0].window_stride = stride;
    const CudaBatch batch = Plan(Shape(), rows);
    int64_t n = 0;
    for (const cuda::PooledRow& row : batch.groups[kPooledHead].rows) n += row.group_end == 0 ? row.num_blocks : 2;
    return n;
  };
  EXPECT_EQ(sums(1024, 256, 128), 7 * 4);
  EXPECT_EQ(sums(1024, 512, 64), 9 * 8);  // as often as not
  // Half of a long row in every window: what it costs does not grow with the window.
  EXPECT_EQ(sums(100000, 50000, 1), 50001 * 2);
}

TEST(PlanBatchTest, AWindowAsLongAsItsRowIsSummedAsItsMean) {
  for (int64_t stride : {1, 64, 999, 1500}) {
    Rows mean;
    mean.Add(1000, ComputeMode::kChunked, RowOutput::kPooledMean);
    Rows window;
    window.Add(1000, ComputeMode::kChunked, RowOutput::kWindows);
    window.rows[0].window_tokens = 1500;
    window.rows[0].window_stride = stride;
    const CudaBatch a = Plan(Shape(), mean);
    const CudaBatch b = Plan(Shape(), window);
    const auto& blocks = b.groups[kPooledHead].blocks;
    ASSERT_EQ(blocks.size(), a.groups[kPooledHead].blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      EXPECT_EQ(blocks[i].start, a.groups[kPooledHead].blocks[i].start);
      EXPECT_EQ(blocks[i].count, a.groups[kPooledHead].blocks[i].count);
    }
  }
}

struct Array {
  int64_t offset;
  int64_t bytes;
};

// Aligned, one behind the other, inside the buffer.
void ExpectApart(std::vector<Array> arrays, int64_t buffer_bytes) {
  std::sort(arrays.begin(), arrays.end(), [](const Array& a, const Array& b) {
    return std::make_pair(a.offset, a.bytes) < std::make_pair(b.offset, b.bytes);
  });
  int64_t end = 0;
  for (const Array& array : arrays) {
    EXPECT_EQ(array.offset % 256, 0);
    EXPECT_GE(array.offset, end);
    end = array.offset + array.bytes;
  }
  EXPECT_LE(end, buffer_bytes);
}

TEST(ArrangeBatchTest, KeepsArraysApart) {
  std::mt19937 random(1);
  for (DType dtype : DTypesOf(DeviceKind::kCuda)) {
    const CudaShape shape = Shape(dtype);
    for (int i = 0; i < 200; ++i) {
      const Rows rows = RandomRows(3000, random, true);
      const CudaBatch batch = Plan(shape, rows);
      const CudaCounts& n = batch.counts;
      const CudaLayout layout = ArrangeBatch(shape, n);
      std::vector<Array> up = {{layout.ids, n.T * 4},
                               {layout.type_ids, n.T * 4},
                               {layout.positions, n.T * 4},
                               {layout.segments, n.segments * static_cast<int64_t>(sizeof(cuda::Segment))},
                               {layout.runs, n.runs * static_cast<int64_t>(sizeof(cuda::StateRun))},
                               {layout.plan_counts, 8},
                               {layout.token_blocks, n.token_blocks * static_cast<int64_t>(sizeof(cuda::TokenBlock))}};
      std::vector<Array> down = {{layout.tokens, n.token_rows * shape.E * 4}};
      for (int head = 0; head < kNumCudaHeads; ++head) {
        up.push_back({layout.blocks[head], n.blocks[head] * static_cast<int64_t>(sizeof(cuda::TokenBlock))});
        up.push_back({layout.rows[head], n.rows[head] * static_cast<int64_t>(sizeof(cuda::PooledRow))});
        up.push_back({layout.groups[head], n.groups[head] * static_cast<int64_t>(sizeof(cuda::BlockGroup))});
        down.push_back({layout.answers[head], n.rows[head] * shape.answer_stride[head] * 4});
      }
      ExpectApart(up, layout.upload_bytes);
      ExpectApart(down, layout.answer_bytes);
      const int64_t heads_width = shape.H * shape.Dp;
      const std::vector<Array> lasting = {{layout.x, n.T * shape.Ep * shape.element},
                                          {layout.log_a, n.T * shape.H * 4},
                                          {layout.sum, n.T * shape.Ep * shape.element},
                                          {layout.x_fp8, shape.fp8 ? n.T * shape.Ep : 0},
                                          {layout.x_scales, shape.fp8 ? n.T * 4 : 0}};
      std::vector<Array> attention = lasting;
      attention.push_back({layout.qkv, n.T * 3 * heads_width * shape.element});
      attention.push_back({layout.y, n.T * heads_width * (shape.y_float32 ? 4 : shape.element)});
      attention.push_back({layout.y_fp8, shape.fp8 ? n.T * heads_width : 0});
      attention.push_back({layout.y_scales, shape.fp8 ? n.T * 4 : 0});
      ExpectApart(attention, layout.work_bytes);
      std::vector<Array> feed_forward = lasting;
      feed_forward.push_back({layout.hidden, n.T * shape.FFp * (shape.fp8 ? 1 : shape.element)});
      ExpectApart(feed_forward, layout.work_bytes);
      std::vector<Array> heads = lasting;
      heads.push_back({layout.sums, std::max(n.blocks[0], n.blocks[1]) * shape.Ep * 4});
      std::vector<Array> pooling = heads;
      pooling.push_back({layout.vectors[0], std::max(n.rows[0], n.rows[1]) * 400 * 4});
      pooling.push_back({layout.prefixes, n.groups[kPooledHead] > 0 ? n.blocks[kPooledHead] * shape.Ep * 4 : 0});
      ExpectApart(pooling, layout.work_bytes);
      for (int64_t offset : layout.vectors) heads.push_back({offset, std::max(n.rows[0], n.rows[1]) * 400 * 4});
      ExpectApart(heads, layout.work_bytes);
    }
  }
}

TEST(BytesForTokensTest, SufficeForAnyBatch) {
  std::mt19937 random(2);
  for (DType dtype : DTypesOf(DeviceKind::kCuda)) {
    const CudaShape shape = Shape(dtype);
    for (int64_t T : {1, 15, 17, 64, 257, 1000, 5000}) {
      const CudaBytes bytes = BytesForTokens(shape, T);
      const std::vector<CudaBucket> buckets = MakeBuckets(T);
      for (int i = 0; i < 200; ++i) {
        const Rows rows = RandomRows(T, random, i % 2 == 0);
        const CudaBatch batch = Plan(shape, rows);
        const int bucket = ChooseBucket(buckets, batch.counts);
        for (const CudaCounts& counts :
             {batch.counts, bucket < 0 ? batch.counts : InBucket(buckets[bucket], batch.counts)}) {
          const CudaLayout layout = ArrangeBatch(shape, counts);
          ASSERT_LE(layout.upload_bytes, bytes.upload) << T;
          ASSERT_LE(layout.work_bytes, bytes.work) << T;
          ASSERT_LE(layout.answer_bytes, bytes.answers) << T;
        }
      }
    }
  }
}

TEST(TokensForBytesTest, IsTheLargestStepThatFits) {
  const CudaShape shape = Shape();
  auto needed = [&](int64_t T) {
    const CudaBytes bytes = BytesForTokens(shape, T);
    return bytes.work + 2 * (bytes.upload + bytes.answers);
  };
  for (int64_t T : {1024, 2048, 30720, 65536}) {
    EXPECT_EQ(TokensForBytes(shape, 2, needed(T)), T);
    EXPECT_EQ(TokensForBytes(shape, 2, needed(T) - 1), T - 1024);
  }
  EXPECT_EQ(TokensForBytes(shape, 2, int64_t{1} << 40), kMaxDerivedTokens);
  EXPECT_EQ(TokensForBytes(shape, 2, 0), 0);
  EXPECT_EQ(TokensForBytes(shape, 2, -1), 0);
}

TEST(BucketTest, TheFirstThatServesIsChosen) {
  const std::vector<CudaBucket> buckets = MakeBuckets(100000);
  auto choose = [&](const Rows& rows) {
    const int index = ChooseBucket(buckets, Plan(Shape(), rows).counts);
    return index < 0 ? CudaBucket{} : buckets[index];
  };
  auto row = [](int64_t L, ComputeMode mode, int chunk_tokens = 0) {
    Rows rows;
    rows.Add(L, mode, RowOutput::kPooledMean, chunk_tokens);
    return rows;
  };
  EXPECT_EQ(choose(row(1, ComputeMode::kParallel)).T, 64);
  EXPECT_EQ(choose(row(64, ComputeMode::kChunked)).T, 64);
  EXPECT_EQ(choose(row(65, ComputeMode::kChunked)).T, 128);
  EXPECT_EQ(choose(row(128, ComputeMode::kParallel)).T, 128);
  // A chunked row passes states; the same row in the parallel form does not, and takes a graph without those kernels.
  EXPECT_EQ(choose(row(600, ComputeMode::kParallel)).runs, 0);
  EXPECT_GT(choose(row(600, ComputeMode::kChunked)).runs, 0);
  EXPECT_EQ(choose(row(600, ComputeMode::kChunked)).T, 640);
  EXPECT_EQ(choose(row(1024, ComputeMode::kChunked)).T, 1024);
  EXPECT_EQ(choose(row(1025, ComputeMode::kChunked)).T, 0);
  EXPECT_EQ(choose(row(8, ComputeMode::kRecurrent)).T, 0);
  Rows many;
  for (int i = 0; i < 33; ++i) many.Add(1, ComputeMode::kParallel, RowOutput::kPooledCls);
  EXPECT_EQ(choose(many).T, 192);  // 33 tokens, and more segments than the buckets below have
  EXPECT_TRUE(MakeBuckets(63).empty());
  EXPECT_EQ(MakeBuckets(300).back().T, 256);
}

TEST(BucketTest, AForwardPassReadsTheSamePlacesForEveryBatch) {
  std::mt19937 random(3);
  const CudaShape shape = Shape();
  const std::vector<CudaBucket> buckets = MakeBuckets(1024);
  int served = 0;
  for (int i = 0; i < 500; ++i) {
    const Rows rows = RandomRows(1 + static_cast<int64_t>(random() % 1024), random, false);
    const CudaBatch batch = Plan(shape, rows);
    const int bucket = ChooseBucket(buckets, batch.counts);
    if (bucket < 0) continue;
    ++served;
    const CudaLayout captured = ArrangeBatch(shape, InBucket(buckets[bucket], CudaCounts()));
    const CudaLayout layout = ArrangeBatch(shape, InBucket(buckets[bucket], batch.counts));
    for (auto place :
         {&CudaLayout::T, &CudaLayout::ids, &CudaLayout::type_ids, &CudaLayout::positions, &CudaLayout::segments,
          &CudaLayout::runs, &CudaLayout::plan_counts, &CudaLayout::x, &CudaLayout::sum, &CudaLayout::log_a,
          &CudaLayout::states, &CudaLayout::qkv, &CudaLayout::y, &CudaLayout::plain_y, &CudaLayout::hidden,
          &CudaLayout::x_fp8, &CudaLayout::x_scales, &CudaLayout::y_fp8, &CudaLayout::y_scales}) {
      ASSERT_EQ(layout.*place, captured.*place);
    }
  }
  EXPECT_GT(served, 200);
}

TEST(FillUploadTest, WritesIdsPlanAndPadding) {
  const CudaShape shape = Shape();
  const std::vector<uint32_t> type_ids = {1, 0, 1};
  Rows rows;
  rows.Add(3, ComputeMode::kParallel, RowOutput::kPooledMean);
  rows.Add(2, ComputeMode::kChunked, RowOutput::kTokens);
  rows.rows[0].type_ids = type_ids;
  const CudaBatch batch = Plan(shape, rows);
  const CudaLayout layout = ArrangeBatch(shape, InBucket(MakeBuckets(64).front(), batch.counts));
  std::string upload(layout.upload_bytes, '\xFF');
  FillUpload(shape, batch, layout, upload.data());
  auto read = [&](int64_t offset, int64_t n) {
    std::vector<uint32_t> values(n);
    std::memcpy(values.data(), upload.data() + offset, n * 4);
    return values;
  };
  const std::vector<uint32_t> ids = read(layout.ids, 64);
  EXPECT_THAT(std::vector<uint32_t>(ids.begin(), ids.begin() + 5), ElementsAre(1000, 1001, 1002, 2000, 2001));
  EXPECT_THAT(std::vector<uint32_t>(ids.begin() + 5, ids.end()), Each(0u));
  const std::vector<uint32_t> types = read(layout.type_ids, 64);
  EXPECT_THAT(std::vector<uint32_t>(types.begin(), types.begin() + 4), ElementsAre(1, 0, 1, 0));
  EXPECT_THAT(std::vector<uint32_t>(types.begin() + 4, types.end()), Each(0u));
  const std::vector<uint32_t> positions = read(layout.positions, 64);
  EXPECT_THAT(std::vector<uint32_t>(positions.begin(), positions.begin() + 5), ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(std::vector<uint32_t>(positions.begin() + 5, positions.end()), Each(0u));
  EXPECT_THAT(read(layout.plan_counts, 2), ElementsAre(2u, 0u));
  cuda::Segment segment;
  std::memcpy(&segment, upload.data() + layout.segments + sizeof(segment), sizeof(segment));
  EXPECT_EQ(segment.start, 3);
  EXPECT_EQ(segment.length, 2);
}

TEST(TakeAnswersTest, GivesEachRowItsVectors) {
  const CudaShape shape = Shape();
  Rows rows;
  rows.Add(2, ComputeMode::kParallel, RowOutput::kLogits);
  rows.Add(3, ComputeMode::kParallel, RowOutput::kTokens);
  rows.Add(4, ComputeMode::kParallel, RowOutput::kPooledMean);
  rows.Add(1, ComputeMode::kParallel, RowOutput::kTokens);
  rows.Add(4, ComputeMode::kParallel, RowOutput::kLogits);
  const CudaBatch batch = Plan(shape, rows);
  const CudaLayout layout = ArrangeBatch(shape, batch.counts);
  std::vector<float> answers(layout.answer_bytes / 4, -1);
  auto put = [&](int64_t offset, int64_t first, float value) { answers[offset / 4 + first] = value; };
  put(layout.tokens, 0, 1);
  put(layout.tokens, 3 * shape.E, 2);  // the first token of the second row of tokens
  put(layout.answers[kPooledHead], 149, 3);
  put(layout.answers[kClassifiedHead], 394, 4);
  put(layout.answers[kClassifiedHead], 400 + 394, 5);
  std::vector<RowResult> results(rows.rows.size());
  TakeAnswers(shape, batch, layout, reinterpret_cast<const char*>(answers.data()), absl::MakeSpan(results));
  const std::pair<int64_t, int64_t> sizes[] = {{1, 395}, {3, 150}, {1, 150}, {1, 150}, {1, 395}};
  for (size_t b = 0; b < results.size(); ++b) {
    EXPECT_EQ(results[b].num_vectors, sizes[b].first);
    EXPECT_EQ(results[b].width, sizes[b].second);
    EXPECT_EQ(results[b].values.size(), static_cast<size_t>(sizes[b].first * sizes[b].second));
  }
  EXPECT_EQ(results[0].values.back(), 4);
  EXPECT_EQ(results[1].values.front(), 1);
  EXPECT_EQ(results[2].values.back(), 3);
  EXPECT_EQ(results[3].values.front(), 2);
  EXPECT_EQ(results[4].values.back(), 5);
}

TEST(TakeAnswersTest, GivesARowOfWindowsOneVectorEach) {
  const CudaShape shape = Shape();
  Rows rows;
  rows.Add(2, ComputeMode::kParallel, RowOutput::kPooledMean);
  rows.Add(10, ComputeMode::kParallel, RowOutput::kWindows);
  rows.rows[1].window_tokens = 4;
  rows.rows[1].window_stride = 3;
  rows.Add(3, ComputeMode::kParallel, RowOutput::kPooledCls);
  const CudaBatch batch = Plan(shape, rows);
  const CudaLayout layout = ArrangeBatch(shape, batch.counts);
  std::vector<float> answers(layout.answer_bytes / 4, -1);
  for (int64_t v = 0; v < 5; ++v) {
    std::fill_n(answers.begin() + layout.answers[kPooledHead] / 4 + v * 160, 150, static_cast<float>(v));
  }
  std::vector<RowResult> results(3);
  TakeAnswers(shape, batch, layout, reinterpret_cast<const char*>(answers.data()), absl::MakeSpan(results));
  ASSERT_EQ(results[1].num_vectors, 3);
  ASSERT_EQ(results[1].values.size(), 450u);
  EXPECT_EQ(results[0].values.back(), 0);
  EXPECT_EQ(results[1].values[0], 1);
  EXPECT_EQ(results[1].values[150], 2);
  EXPECT_EQ(results[1].values[449], 3);
  EXPECT_EQ(results[2].values[0], 4);
}

}  // namespace
}  // namespace lion
