// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_LAYERS_H_
#define LION_MODEL_CPU_LAYERS_H_

// The stages of the CPU engine, each over a span of tokens that one worker takes: what runs, not when or where.
// CpuEncoder decides that. What is the same for text and pictures is here, the rest in cpu_text_layers.h and
// cpu_image_layers.h.
//
// A layer is two stages with the attention's borders between them:
//   Project        q, k, v and gates of a span from x
//   Summarize      of a span that is part of a longer row: what it adds to the states that pass through it
//   (PassStates)   the states at every span's borders, from all summaries in order
//   Attend, FeedForward    the rest of the layer, in place on x
// or, for rows whose attention takes the whole row at once (TakesWholeRows), Project of all spans, AttendWholeRow of
// each head, FeedForward of all spans. Spans of a row start at the row's own token 0 and are of one length, a multiple
// of the chunk: what a row's values are does not depend on who takes its spans. x stays fp32; q, k and v are float in
// float32, else bfloat16.

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/cpu_weights.h"
#include "model/encoder.h"
#include "model/kernels/cpu/attention.h"
#include "model/linear.h"
#include "model/page_buffer.h"
#include "model/types.h"

namespace lion {

// Where the workers' processor time goes, in seconds summed over them: for benchmarks. What other programs take of a
// worker's core does not count.
struct CpuStageTimes {
  enum Stage { kEmbed, kProducts, kAttention, kGates, kRows, kHeads, kNumStages };
  double seconds[kNumStages] = {};

  std::vector<std::pair<const char*, double>> Named() const;
};

// A worker's account of its processor time, if anybody asked for one.
class StageClock {
 public:
  using Stage = CpuStageTimes::Stage;

  void Start(bool on);
  // The time since the last call belonged to the stage named then. kNumStages: what follows belongs to none.
  void To(Stage next);
  const CpuStageTimes& times() const { return times_; }

 private:
  bool on_ = false;
  Stage stage_ = Stage::kNumStages;
  double since_ = 0;
  CpuStageTimes times_;
};

// One row's place in the packed buffers.
struct Slice {
  int64_t start = 0;
  int64_t L = 0;
  const Row* row = nullptr;
  RowResult* result = nullptr;
};

// The activations of rows packed end to end: T tokens. Made by CpuLayers::Prepare, reused for what comes next.
struct Activations {
  std::vector<Slice> slices;
  int64_t T = 0;
  int64_t stride = 0;      // tokens between two heads' arrays
  float* x = nullptr;      // (T + Linear::kMaxTileRows, E)
  void* qkv = nullptr;     // q and k (2, H, stride, D), then v (H, stride, width of v)
  float* log_a = nullptr;  // (gates, stride): LION-S
  float* y = nullptr;      // (T + Linear::kMaxTileRows, E): with Room::kParallel
  PageBuffer buffers[4];
};

// The states at a span's borders, for every head: (D, W) floats each, W = the width of v, padded (PaddedHeadWidth).
// Before PassStates: what the span alone adds, F at its end and B at its start. After: F at its start, B at its end.
struct SpanStates {
  std::vector<float> forward;
  std::vector<float> backward;
  std::vector<float> decay;  // (H): the product of the span's decays
};

// What a worker keeps to itself: buffers that stay, whose contents mean nothing from one piece of work to the next.
struct Workspace {
  StageClock clock;
  Activations group;
  Activations span;  // of a row with Room::kLean
  AttentionScratch attention;
  PageBuffer y;                  // (kSpanTokens + Linear::kMaxTileRows, E)
  PageBuffer in;                 // bfloat16 or int8 operands, as many rows
  PageBuffer hidden;             // (the same, FF)
  std::vector<float> in_scales;  // int8: of each row of `in` and of `hidden`
  std::vector<float> hidden_scales;
  std::vector<float> row;  // int8: one row of values, the widest there is
  PageBuffer sums;         // of windows (model/window_means.h)
  PageBuffer normed;       // pictures: LayerNorm(x) of a span, before it is an operand
  PageBuffer path;         // pictures: one head's q, k and v along a path
  PageBuffer path_y;       // pictures: one head's sums, in path order and in the picture's
  PageBuffer path_log_a;
  PageBuffer pooled;
  PageBuffer head;
};

class CpuLayers {
 public:
  // The most tokens of a span; what the buffers of a worker are made for.
  static constexpr int64_t kSpanTokens = 512;
  // And of what they hold for products to run in tiles.
  static constexpr int64_t kBufferRows = kSpanTokens + Linear::kMaxTileRows;
  static constexpr int64_t kSumTokens = 64;  // summed apart in a mean, as MeanRows does

  virtual ~CpuLayers() = default;

  // What activations have room for.
  enum class Room {
    kGroup,     // x, q, k, v and gates of all tokens
    kParallel,  // and y: attention over a whole row at once
    kLean,      // x alone: the spans of a row have the rest one at a time (ViewSpan)
  };
  // For a row that is cut into spans.
  Room RoomFor(const Row& row) const;
  // Whether its attention runs over the whole row at once, head by head, however long it is.
  virtual bool TakesWholeRows(const Row& row) const = 0;
  // The longest row that there may be of at most max_tokens, for max_tokens >= 1.
  virtual int64_t LargestRow(int64_t max_tokens) const = 0;
  // Lays out slices (their L, row and result set) in a. Throws bad_alloc.
  void Prepare(std::vector<Slice> slices, Room room, Activations& a) const;
  // span: the tokens [first, last) of a's only row as a row of their own, with a's x and its own q, k, v and gates.
  void ViewSpan(const Activations& a, int64_t first, int64_t last, Activations& span) const;
  // To be called once for each workspace.
  void Prepare(Workspace& w) const;

  // The length of a span of this row: at most kSpanTokens, a multiple of its chunk.
  int64_t SpanTokens(const Row& row) const;

  // What this row's activations, states and answer take while num_workers workers share it.
  int64_t RowBytes(const Row& row, int64_t num_workers) const;

  // Over tokens [first, last), at most kSpanTokens of them.
  virtual void Embed(Activations& a, int64_t first, int64_t last, Workspace& w) const = 0;
  virtual void Project(Activations& a, size_t layer, int64_t first, int64_t last, Workspace& w) const = 0;
  // For the row a.slices[0], of which [first, last) is a span.
  void Summarize(const Activations& a, size_t layer, int64_t first, int64_t last, SpanStates& states,
                 Workspace& w) const;
  // Of one head, over all spans of a row in order.
  void PassStates(const Row& row, std::vector<SpanStates>& spans, int64_t head) const;
  // y of [first, last): of whole rows (states null), or of a span of a.slices[0]. Ends in w.y.
  void Attend(const Activations& a, size_t layer, int64_t first, int64_t last, const SpanStates* states,
              Workspace& w) const;
  // y of one head over all of a.slices[0], into a.y: for rows that it takes whole.
  void AttendWholeRow(const Activations& a, size_t layer, int64_t head, Workspace& w) const;
  // y: attention's output for [first, last), overwritten.
  virtual void FeedForward(Activations& a, size_t layer, int64_t first, int64_t last, float* y, Workspace& w) const = 0;
  // From last hidden states to answers.
  void Finish(Activations& a, Workspace& w) const;
  // The same for a long row in parts. Room for all its vectors; then vectors [first, last) of those that are not of the
  // whole row (kTokens, kWindows), in any order; then, where one is (MeansRow), the sums of all tokens, at most
  // kSpanTokens from a multiple of kSumTokens on, in place of x, and at last FinishMean.
  void MakeRoom(const Slice& slice) const;
  static int64_t NumParted(const Slice& slice);  // vectors that are not of the whole row
  static int64_t FinishPart(const Row& row);     // as many of them at a time
  void FinishVectors(const Activations& a, const Slice& slice, int64_t first, int64_t last, Workspace& w) const;
  static bool MeansRow(const Row& row);
  void SumTokens(Activations& a, int64_t first, int64_t last, Workspace& w) const;
  void FinishMean(const Activations& a, const Slice& slice, Workspace& w) const;

 protected:
  // Rows of a product in the dtype's form: values, or, in int8 where scales is not null, what scales (one a row) and
  // the product's bias make values of.
  using UseRows = std::function<void(int64_t first, int64_t rows, const void* values, const float* scales)>;

  // weights and config are borrowed. chunk_tokens: C where a row names none. value_width: of v. num_gates: of a token
  // in a layer.
  CpuLayers(const EncoderConfig* config, const CpuWeights* weights, DType dtype, int chunk_tokens, int64_t value_width,
            int64_t num_gates);

  // y (L, E), of which the head's columns are written: one head's attention over the whole row of a slice.
  virtual void AttendRow(const Activations& a, size_t layer, const Slice& slice, int64_t head, float* y,
                         Workspace& w) const = 0;
  // Bytes that AttendRow keeps in a workspace, beside what the kernel does.
  virtual int64_t WholeRowScratch(int64_t /*L*/) const { return 0; }
  // What kLogits is made of: the mean over the rows, else row 0.
  virtual bool ClassifiesMean() const { return false; }

  // Copies n pieces of `bytes` bytes each, side by side, to places stride bytes apart.
  static void Scatter(const void* from, int64_t bytes, int64_t n, void* to, int64_t stride);
  AttentionParams HeadParams(const Activations& a, size_t layer, const Row& row, int64_t first, int64_t L,
                             int64_t head) const;
  // x (rows, E) as a product's operand; in int8 its scales are in w.in_scales. Stays until the next call.
  const void* Operand(const float* x, int64_t rows, Workspace& w) const;
  // One row of it: x (E) becomes row r of w.in. Nothing in fp32.
  void MakeOperand(const float* x, int64_t r, Workspace& w) const;
  // The product of rows of an operand, whose scales count in int8; use gets the rows in order, and may overwrite the
  // operand's and their scales.
  void Multiply(const Linear& linear, const void* operand, const float* scales, int64_t rows, const UseRows& use) const;
  // Down(GELU(Up(operand))), operand (T, E) made by Operand; use gets the rows in order.
  void UpAndDown(const CpuLayerWeights& weights, const void* operand, int64_t T, const UseRows& use,
                 Workspace& w) const;

  const EncoderConfig& config_;
  const CpuWeights& weights_;
  DType dtype_;
  bool wide_;  // dtype is kFloat32
  int chunk_tokens_;
  int64_t value_width_;
  int64_t num_gates_;
  int64_t E_;
  int64_t H_;
  int64_t D_;
  int64_t FF_;

 private:
  static int64_t HeadStride(int64_t T);
  int64_t QkvElements(int64_t stride) const;
  void MakeHeads(Activations& a) const;
  void WriteMean(const Slice& slice, Workspace& w) const;
  const float* RunHead(const std::vector<CpuHeadProduct>& head, int64_t n, int64_t* width, Workspace& w) const;
};

}  // namespace lion

#endif  // LION_MODEL_CPU_LAYERS_H_
