// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_document.h"

#include <algorithm>

namespace lion {
namespace {

constexpr int64_t kEmbedTokens = 65536;  // one pass over memory

std::vector<DocumentSlice> CutSlices(const std::vector<cuda::Segment>& segments) {
  std::vector<DocumentSlice> slices;
  for (size_t i = 0; i < segments.size(); ++i) {
    const int64_t length = segments[i].length;
    if (slices.empty() || slices.back().count + length > kSliceTokens) {
      slices.push_back({segments[i].start, 0, static_cast<int>(i), 0});
    }
    slices.back().count += length;
    ++slices.back().num_segments;
  }
  return slices;
}

// The tiles' borders are multiples of kTileTokens in the batch, which is what the products' alignment asks for.
class StepMaker {
 public:
  StepMaker(const CudaShape& shape, const CudaCounts& counts, DocumentPlan* plan)
      : T_(counts.T),
        again_(plan->form == DocumentForm::kAgain),
        plain_(counts.plain || shape.type == cuda::ElementType::kFloat32),
        passes_states_(counts.runs > 0),
        masked_(shape.variant != Variant::kLit),
        plan_(*plan) {}

  void Make() {
    for (int64_t t = 0; t < T_; t += kEmbedTokens) {
      plan_.embed.push_back({{DocumentWork::kEmbed, t, std::min(kEmbedTokens, T_ - t), -1}});
    }
    const int num_slices = static_cast<int>(plan_.slices.size());
    for (int s = 0; s < num_slices; ++s) {
      Project(s);
      if (!plain_ && passes_states_) Add(DocumentWork::kSums, s);
      if (s + 1 < num_slices) End();
    }
    if (plain_) step_.push_back({DocumentWork::kAttention, 0, T_, -1});
    if (!plain_ && passes_states_) step_.push_back({DocumentWork::kScan, 0, T_, -1});
    End();
    projected_ = 0;
    for (int s = 0; s < num_slices; ++s) {
      if (again_) {
        Project(s);
        if (masked_) Add(DocumentWork::kSumsAgain, s);
        End();
      }
      if (!plain_) Add(DocumentWork::kOutputs, s);
      Follow(s);
    }
  }

 private:
  void Add(DocumentWork::Kind kind, int s) { step_.push_back({kind, plan_.slices[s].first, plan_.slices[s].count, s}); }

  void End() {
    if (!step_.empty()) plan_.layer.push_back(std::move(step_));
    step_.clear();
  }

  int64_t EndOf(int s) const { return plan_.slices[s].first + plan_.slices[s].count; }

  // q, k, v of all tokens up to the slice's end.
  void Project(int s) {
    while (projected_ < EndOf(s)) {
      End();
      const int64_t count = std::min(kTileTokens, T_ - projected_);
      step_.push_back({DocumentWork::kProject, projected_, count, s});
      projected_ += count;
    }
  }

  // What follows attention, for every tile that has all of its y.
  void Follow(int s) {
    const int64_t end = EndOf(s);
    while (followed_ < end) {
      const int64_t count = std::min(kTileTokens, T_ - followed_);
      if (followed_ + count > end) return;  // the next slice has the rest of it
      for (DocumentWork::Kind kind : {DocumentWork::kOut, DocumentWork::kUp, DocumentWork::kDown}) {
        step_.push_back({kind, followed_, count, s});
        End();
      }
      followed_ += count;
    }
  }

  const int64_t T_;
  const bool again_;
  const bool plain_;
  const bool passes_states_;
  const bool masked_;
  DocumentPlan& plan_;
  DocumentStep step_;
  int64_t projected_ = 0;
  int64_t followed_ = 0;
};

// What ArrangeBatch reads of a batch that runs in steps.
CudaCounts CountsOf(DocumentForm form, const CudaBatch& batch, const std::vector<DocumentSlice>& slices) {
  CudaCounts counts = batch.counts;
  counts.tile = std::min(kTileTokens, counts.T);
  counts.slices = static_cast<int64_t>(slices.size());
  if (form == DocumentForm::kAgain) {
    counts.span = std::min(kSliceTokens, counts.T);
    counts.again_segments = counts.segments;
    for (const DocumentSlice& slice : slices) {
      counts.again_states = std::max<int64_t>(counts.again_states, slice.num_segments);
    }
  }
  return counts;
}

}  // namespace

bool CanRunAgain(const CudaShape& shape, const CudaBatch& batch) {
  return batch.rows.size() == 1 && batch.counts.runs == 1 && !batch.counts.plain &&
         shape.type != cuda::ElementType::kFloat32;
}

DocumentPlan PlanDocument(const CudaShape& shape, DocumentForm form, CudaBatch* batch) {
  DocumentPlan plan;
  plan.form = form;
  std::vector<cuda::Segment>& segments = batch->plan.segments;
  plan.slices = CutSlices(segments);
  batch->counts = CountsOf(form, *batch, plan.slices);
  for (const DocumentSlice& slice : plan.slices) {
    batch->slice_counts.insert(batch->slice_counts.end(), {slice.num_segments, 0});
  }
  if (form == DocumentForm::kAgain) {
    batch->again.reserve(segments.size());
    for (const DocumentSlice& slice : plan.slices) {
      for (int i = 0; i < slice.num_segments; ++i) {
        cuda::Segment& segment = segments[slice.first_segment + i];
        segment.start -= static_cast<int32_t>(slice.first);
        segment.row_start -= static_cast<int32_t>(slice.first);
        batch->again.push_back(segment);
        batch->again.back().state = i;
      }
    }
  }
  StepMaker(shape, batch->counts, &plan).Make();
  return plan;
}

int64_t DocumentBytes(const CudaShape& shape, DocumentForm form, const CudaBatch& batch) {
  return ArrangeBatch(shape, CountsOf(form, batch, CutSlices(batch.plan.segments))).device_bytes();
}

}  // namespace lion
