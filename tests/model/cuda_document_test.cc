// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_document.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/cuda_steps.h"

namespace lion {
namespace {

CudaShape Shape(Variant variant, DType dtype, bool layer_norm_after = false) {
  TextConfig config;
  config.variant = variant;
  config.hidden_width = 768;
  config.num_heads = 12;
  config.head_width = 64;
  config.feed_forward_width = 3072;
  config.layer_norm_after = layer_norm_after;
  return MakeCudaShape(config, dtype, cuda::kChunkTokens);
}

// Rows of which nothing reads more than the length.
struct Rows {
  std::vector<std::unique_ptr<uint32_t[]>> ids;
  std::vector<Row> rows;

  void Add(int64_t L, ComputeMode mode, RowOutput output = RowOutput::kPooledMean) {
    ids.push_back(std::make_unique<uint32_t[]>(L));
    rows.push_back({absl::MakeConstSpan(ids.back().get(), L), {}, mode, 0, output});
  }
};

CudaBatch Plan(const CudaShape& shape, const Rows& rows) {
  CudaBatch batch;
  PlanBatch(shape, rows.rows, &batch);
  return batch;
}

constexpr DType kDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFp8, DType::kFloat32};

// Walks a layer's steps as they will run, and sees that nothing is read before it is made or after it is gone.
void ExpectALayer(const CudaShape& shape, const DocumentPlan& plan, const CudaBatch& batch) {
  const int64_t T = batch.counts.T;
  const bool again = plan.form == DocumentForm::kAgain;
  const bool plain = batch.counts.plain || shape.type == cuda::ElementType::kFloat32;
  std::vector<bool> sums(plan.slices.size(), false);
  std::vector<bool> left_in_y(plan.slices.size(), false);
  int64_t projected = 0;  // q, k, v of all tokens before it were made, in this pass
  int64_t covered = 0;    // y likewise
  int64_t followed = 0;   // x is the next layer's
  DocumentWork::Kind next = DocumentWork::kOut;
  bool scanned = false;
  for (const DocumentStep& step : plan.layer) {
    EXPECT_GT(step.size(), 0u);
    EXPECT_LE(step.size(), 3u);
    for (const DocumentWork& work : step) {
      switch (work.kind) {
        case DocumentWork::kEmbed:
          ADD_FAILURE() << "once a batch, not once a layer";
          break;
        case DocumentWork::kProject:
          if (again && projected == T) projected = 0;  // the second pass
          EXPECT_EQ(work.first, projected);
          EXPECT_EQ(work.first % kTileTokens, 0);  // the products' alignment
          EXPECT_EQ(work.count, std::min(kTileTokens, T - work.first));
          if (again) {
            EXPECT_LE(work.first + work.count, plan.slices[work.slice].first + kSliceTokens);
          }
          projected += work.count;
          break;
        case DocumentWork::kSums:
        case DocumentWork::kSumsAgain:
          EXPECT_GE(projected, work.first + work.count);
          EXPECT_EQ(work.kind == DocumentWork::kSumsAgain, scanned);
          sums[work.slice] = true;
          left_in_y[work.slice] = !again || scanned;
          break;
        case DocumentWork::kScan:
          EXPECT_THAT(sums, testing::Each(true));
          EXPECT_EQ(projected, T);
          scanned = true;
          break;
        case DocumentWork::kAttention:
          EXPECT_TRUE(plain);
          EXPECT_EQ(projected, T);
          covered = T;
          break;
        case DocumentWork::kOutputs:
          EXPECT_FALSE(plain);
          EXPECT_EQ(scanned, batch.counts.runs > 0);
          if (scanned && shape.variant != Variant::kLit) {
            EXPECT_TRUE(left_in_y[work.slice]);
          }
          EXPECT_GE(projected, again ? work.first + work.count : T);
          EXPECT_EQ(work.first, covered);
          covered += work.count;
          break;
        case DocumentWork::kOut:
          EXPECT_EQ(work.first, followed);
          EXPECT_LE(work.first + work.count, covered);
          EXPECT_EQ(work.first % kTileTokens, 0);
          EXPECT_LE(work.count, kTileTokens);
          EXPECT_EQ(next, DocumentWork::kOut);
          next = DocumentWork::kUp;
          break;
        case DocumentWork::kUp:
          EXPECT_EQ(work.first, followed);
          EXPECT_EQ(next, DocumentWork::kUp);
          next = DocumentWork::kDown;
          break;
        case DocumentWork::kDown:
          EXPECT_EQ(work.first, followed);
          EXPECT_EQ(next, DocumentWork::kDown);
          next = DocumentWork::kOut;
          followed += work.count;
          break;
      }
    }
  }
  EXPECT_EQ(projected, T);
  EXPECT_EQ(covered, T);
  EXPECT_EQ(followed, T);
}

void ExpectSlices(const DocumentPlan& plan, const CudaBatch& batch) {
  int segment = 0;
  int64_t token = 0;
  for (const DocumentSlice& slice : plan.slices) {
    EXPECT_EQ(slice.first_segment, segment);
    EXPECT_EQ(slice.first, token);
    EXPECT_TRUE(slice.count <= kSliceTokens || slice.num_segments == 1);
    segment += slice.num_segments;
    token += slice.count;
  }
  EXPECT_EQ(segment, static_cast<int>(batch.plan.segments.size()));
  EXPECT_EQ(token, batch.counts.T);
  EXPECT_EQ(batch.slice_counts.size(), 2 * plan.slices.size());
}

TEST(PlanDocumentTest, EveryTokenGoesThroughEveryPartInOrder) {
  for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
    for (DType dtype : kDTypes) {
      const CudaShape shape = Shape(variant, dtype);
      for (int64_t L : {1025, 11264, 45056, 45057, 90112, 100000, 262144, 1048576, 1048577}) {
        Rows rows;
        rows.Add(L, ComputeMode::kChunked);
        for (DocumentForm form : {DocumentForm::kKept, DocumentForm::kAgain}) {
          CudaBatch batch = Plan(shape, rows);
          EXPECT_EQ(CanRunAgain(shape, batch), dtype != DType::kFloat32);
          if (form == DocumentForm::kAgain && !CanRunAgain(shape, batch)) continue;
          const DocumentPlan plan = PlanDocument(shape, form, &batch);
          ExpectSlices(plan, batch);
          ExpectALayer(shape, plan, batch);
        }
      }
    }
  }
}

TEST(PlanDocumentTest, BatchesOfAnyRows) {
  std::mt19937 random(1);
  const CudaShape shape = Shape(Variant::kS, DType::kBFloat16);
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  for (int i = 0; i < 60; ++i) {
    Rows rows;
    const int num_rows = 1 + static_cast<int>(random() % 40);
    for (int r = 0; r < num_rows; ++r) {
      rows.Add(1 + static_cast<int64_t>(random() % 16384), modes[random() % (i % 3 == 0 ? 3 : 2)]);
    }
    CudaBatch batch = Plan(shape, rows);
    if (num_rows > 1) {
      EXPECT_FALSE(CanRunAgain(shape, batch));
    }
    const DocumentPlan plan = PlanDocument(shape, DocumentForm::kKept, &batch);
    ExpectSlices(plan, batch);
    ExpectALayer(shape, plan, batch);
  }
}

TEST(PlanDocumentTest, OfARowAgainSegmentsStartWhereTheirSliceDoes) {
  const CudaShape shape = Shape(Variant::kS, DType::kBFloat16);
  Rows rows;
  rows.Add(100000, ComputeMode::kChunked);
  CudaBatch batch = Plan(shape, rows);
  const DocumentPlan plan = PlanDocument(shape, DocumentForm::kAgain, &batch);
  ASSERT_EQ(plan.slices.size(), 3u);
  for (const DocumentSlice& slice : plan.slices) {
    for (int i = 0; i < slice.num_segments; ++i) {
      const cuda::Segment& segment = batch.plan.segments[slice.first_segment + i];
      const cuda::Segment& again = batch.again[slice.first_segment + i];
      EXPECT_EQ(segment.start, i * cuda::kMaxSegmentTokens);
      EXPECT_EQ(again.start, segment.start);
      EXPECT_EQ(segment.state, slice.first_segment + i);
      EXPECT_EQ(again.state, i);
      EXPECT_EQ(again.index, segment.index);
      EXPECT_EQ(again.count, segment.count);
    }
  }
}

TEST(PlanDocumentTest, EmbedsEveryTokenOnce) {
  const CudaShape shape = Shape(Variant::kS, DType::kBFloat16);
  Rows rows;
  rows.Add(200001, ComputeMode::kChunked);
  CudaBatch batch = Plan(shape, rows);
  const DocumentPlan plan = PlanDocument(shape, DocumentForm::kKept, &batch);
  int64_t token = 0;
  for (const DocumentStep& step : plan.embed) {
    ASSERT_EQ(step.size(), 1u);
    EXPECT_EQ(step[0].kind, DocumentWork::kEmbed);
    EXPECT_EQ(step[0].first, token);
    token += step[0].count;
  }
  EXPECT_EQ(token, 200001);
}

TEST(PlanDocumentTest, ArraysLieApart) {
  for (DType dtype : kDTypes) {
    for (bool layer_norm_after : {false, true}) {
      const CudaShape shape = Shape(Variant::kS, dtype, layer_norm_after);
      for (DocumentForm form : {DocumentForm::kKept, DocumentForm::kAgain}) {
        Rows rows;
        rows.Add(100001, ComputeMode::kChunked);
        CudaBatch batch = Plan(shape, rows);
        if (form == DocumentForm::kAgain && !CanRunAgain(shape, batch)) continue;
        PlanDocument(shape, form, &batch);
        const CudaCounts& n = batch.counts;
        const CudaLayout layout = ArrangeBatch(shape, n);
        const int64_t span = form == DocumentForm::kAgain ? kSliceTokens : n.T;
        const int64_t state = shape.H * (2 * shape.Dp * shape.Dp + 1) * 4;
        const bool fp8 = shape.fp8;
        std::vector<std::pair<int64_t, int64_t>> arrays = {
            {layout.x, n.T * shape.Ep * shape.element},
            {layout.log_a, n.T * shape.H * 4},
            {layout.states, n.states * state},
            {layout.again_states, n.again_states * state},
            {layout.sum, kTileTokens * shape.Ep * shape.element},
            {layout.hidden, kTileTokens * shape.FFp * (fp8 ? 1 : shape.element)},
            {layout.x_fp8, fp8 ? n.T * shape.Ep : 0},
            {layout.x_scales, fp8 ? n.T * 4 : 0},
            {layout.y_fp8, fp8 ? kTileTokens * shape.Ep : 0},
            {layout.y_scales, fp8 ? kTileTokens * 4 : 0},
            {layout.normal_y, shape.y_float32 ? kTileTokens * shape.Ep * shape.element : 0},
            {layout.qkv, span * 3 * shape.Ep * shape.element},
            {layout.y, span * shape.Ep * (shape.y_float32 ? 4 : shape.element)}};
        if (!shape.y_float32) {
          EXPECT_LE(layout.normal_y, layout.qkv);
        }
        std::sort(arrays.begin(), arrays.end());
        int64_t end = 0;
        for (const auto& [offset, bytes] : arrays) {
          if (bytes == 0) continue;
          EXPECT_GE(offset, end);
          EXPECT_EQ(offset % 256, 0);
          end = offset + bytes;
        }
        EXPECT_LE(end, layout.work_bytes);
        EXPECT_EQ(layout.slice_counts % 256, 0);
        EXPECT_GE(layout.again_segments, layout.slice_counts + n.slices * 8);
        EXPECT_GE(layout.token_blocks,
                  layout.again_segments + n.again_segments * static_cast<int64_t>(sizeof(cuda::Segment)));
      }
    }
  }
}

// The header's formula, by its letters. MEAN's block sums find room in the place of q, k, v but in kAgain, where those
// beyond it count.
double Formula(const CudaShape& s, int64_t L, DocumentForm form) {
  const double T = static_cast<double>(L);
  const double e = static_cast<double>(s.element);
  const double heads = static_cast<double>(s.H * s.Dp);
  const double Ep = static_cast<double>(s.Ep);
  const double states =
      (T + (form == DocumentForm::kAgain ? kSliceTokens : 0)) / 1024 * static_cast<double>(s.H * (8 * s.Dp * s.Dp + 4));
  const double tile = kTileTokens * e * (Ep + static_cast<double>(s.FFp));
  const double each = e * Ep + (s.variant == Variant::kS ? 4 * static_cast<double>(s.H) : 0) + 8;
  if (form == DocumentForm::kKept) return T * (each + 4 * e * heads) + states + tile;
  return T * each + states + tile + std::max(kSliceTokens * 4 * e * heads, T / 64 * Ep * 4);
}

TEST(DocumentBytesTest, AreTheFormulas) {
  for (Variant variant : {Variant::kD, Variant::kS}) {
    for (DType dtype : {DType::kBFloat16, DType::kFloat32}) {
      const CudaShape shape = Shape(variant, dtype);
      for (int64_t L : {131072, 1048576, 10000000}) {
        Rows rows;
        rows.Add(L, ComputeMode::kChunked);
        const CudaBatch batch = Plan(shape, rows);
        for (DocumentForm form : {DocumentForm::kKept, DocumentForm::kAgain}) {
          if (form == DocumentForm::kAgain && !CanRunAgain(shape, batch)) continue;
          const double formula = Formula(shape, L, form);
          const auto bytes = static_cast<double>(DocumentBytes(shape, form, batch));
          EXPECT_GE(bytes, 0.99 * formula) << L;
          EXPECT_LE(bytes, 1.02 * formula) << L;
        }
      }
    }
  }
}

TEST(DocumentBytesTest, TenMillionTokensOfBaseFitAnH100) {
  const CudaShape shape = Shape(Variant::kS, DType::kBFloat16);
  Rows rows;
  rows.Add(10000000, ComputeMode::kChunked);
  const CudaBatch batch = Plan(shape, rows);
  EXPECT_LT(DocumentBytes(shape, DocumentForm::kAgain, batch), int64_t{22} << 30);
  EXPECT_LT(DocumentBytes(shape, DocumentForm::kKept, batch), int64_t{80} << 30);
}

TEST(DocumentBytesTest, AreThoseOfTheLayout) {
  const CudaShape shape = Shape(Variant::kS, DType::kBFloat16);
  for (DocumentForm form : {DocumentForm::kKept, DocumentForm::kAgain}) {
    Rows rows;
    rows.Add(300000, ComputeMode::kChunked, RowOutput::kTokens);
    CudaBatch batch = Plan(shape, rows);
    const int64_t bytes = DocumentBytes(shape, form, batch);
    PlanDocument(shape, form, &batch);
    EXPECT_EQ(bytes, ArrangeBatch(shape, batch.counts).device_bytes());
  }
}

// ----------------------------------------------------------------------------------------------------- steps in time

TEST(NextFlightTest, TakesAsManyStepsAsAFewTenthsOfAMillisecondHold) {
  EXPECT_EQ(NextFlight(1, 0.25), 1);
  EXPECT_EQ(NextFlight(1, 0.05), 2);
  EXPECT_EQ(NextFlight(8, 0.149), 16);
  EXPECT_EQ(NextFlight(8, 0.15), 8);
  EXPECT_EQ(NextFlight(8, 0.5), 8);
  EXPECT_EQ(NextFlight(8, 0.51), 4);
  EXPECT_EQ(NextFlight(1, 2), 1);
  EXPECT_EQ(NextFlight(64, 0.01), 64);
}

TEST(PrecedenceTest, ADocumentWaitsForBatchesAndNoLonger) {
  Precedence precedence;
  precedence.GiveWay(absl::InfiniteDuration());  // nobody is there
  absl::Notification entered;
  absl::Notification leave;
  std::atomic<bool> left{false};
  std::thread batch([&] {
    const Precedence::Batch first(&precedence);
    const Precedence::Batch second(&precedence);
    entered.Notify();
    leave.WaitForNotification();
    left = true;
  });
  entered.WaitForNotification();
  precedence.GiveWay(absl::ZeroDuration());  // gets on all the same
  EXPECT_FALSE(left);
  leave.Notify();
  precedence.GiveWay(absl::InfiniteDuration());
  EXPECT_TRUE(left);
  batch.join();
}

}  // namespace
}  // namespace lion
