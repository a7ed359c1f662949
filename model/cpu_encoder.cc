// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cpu_encoder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/cpu_image_layers.h"
#include "model/cpu_layers.h"
#include "model/cpu_text_layers.h"
#include "model/cpu_weights.h"
#include "model/kernels/cpu/attention.h"
#include "model/kernels/cpu/attention_amx.h"
#include "model/kernels/cpu/cpu_features.h"
#include "model/linear.h"
#include "model/model.h"
#include "model/row_check.h"

namespace lion {
namespace {

constexpr int64_t kMinGroupTokens = 64;  // smaller groups waste more of a product's tile than a second worker gains

using Time = std::chrono::steady_clock;

// The longest step: how soon a row is stopped, or shows its progress. A short row does not wait for its end: with one
// waiting, the step ends with the span that each worker has in hand.
constexpr std::chrono::milliseconds kStepTime(15);

// Calls fn(worker, i) for i in [0, n), n pieces of `work` each. Not OK = not all were called, and nothing more is to
// be.
using Executor = std::function<absl::Status(int n, double work, const std::function<void(int worker, int i)>& fn)>;

// Everything on one worker.
Executor OnWorker(int worker) {
  return [worker](int n, double, const std::function<void(int, int)>& fn) {
    for (int i = 0; i < n; ++i) fn(worker, i);
    return absl::OkStatus();
  };
}

// All workers, in steps of kStepTime, or less where control wants a pause, with a question to control between them.
class Steps {
 public:
  // total_work: of all Run calls together, which are a row of L tokens. control: null = nobody is asked.
  Steps(ComputePool* pool, EncodeControl* control, int64_t L, double total_work)
      : pool_(pool), control_(control), L_(L), total_work_(total_work) {}

  absl::Status Run(int n, double work, const std::function<void(int worker, int i)>& fn) {
    if (control_ == nullptr) return pool_->Run(n, fn);
    for (int first = 0; first < n;) {
      // Each worker takes one piece after the other until the step is over, and the step takes at least one.
      std::atomic<int> next = first;
      const absl::Status status = pool_->Run(std::min(pool_->num_threads(), n - first), [&](int worker, int) {
        // A pause that is wanted from the start does not leave workers without any.
        if (next.load() > first && Time::now() >= step_ends_) return;
        do {
          const int i = next.fetch_add(1);
          if (i >= n) return;
          fn(worker, i);
        } while (!StepIsOver());
      });
      if (!status.ok()) return status;
      const int last = std::min(next.load(), n);
      work_done_ += work * (last - first);
      first = last;
      if (!StepIsOver()) continue;
      const auto done = static_cast<int64_t>(static_cast<double>(L_) * work_done_ / total_work_);
      const absl::Status go_on = control_->BetweenSteps(std::clamp<int64_t>(done, 1, L_ - 1), L_);
      if (!go_on.ok()) return go_on;
      step_ends_ = Time::now() + kStepTime;
    }
    return absl::OkStatus();
  }

 private:
  bool StepIsOver() const { return Time::now() >= step_ends_ || control_->WantsPause(); }

  ComputePool* pool_;
  EncodeControl* control_;
  int64_t L_;
  double total_work_;
  double work_done_ = 0;
  Time::time_point step_ends_ = Time::now() + kStepTime;
};

}  // namespace

struct CpuEncoder::Impl {
  Options options;
  CpuWeights weights;
  std::unique_ptr<CpuLayers> layers;
  // One a worker. Nothing in them outlives a step, so a nested Encode uses them too.
  std::vector<Workspace> workspaces;
  std::atomic<int> num_encodes = 0;  // one inside another

  // A token's products in the two halves of a layer, in multiply-adds over E: what work is counted in.
  double ProjectWork() const { return 3.0 * config().hidden_width; }
  double RestWork() const { return static_cast<double>(config().hidden_width) + 2.0 * config().feed_forward_width; }
  const EncoderConfig& config() const { return Common(options.config); }

  void EncodeGroup(std::vector<Slice> slices, Workspace& w) const;
  absl::Status EncodeLongRow(const Slice& slice, Activations& a, const Executor& run);
};

void CpuEncoder::Impl::EncodeGroup(std::vector<Slice> slices, Workspace& w) const {
  Activations& a = w.group;
  layers->Prepare(std::move(slices), CpuLayers::Room::kGroup, a);
  layers->Embed(a, 0, a.T, w);
  for (size_t n = 0; n < weights.layers.size(); ++n) {
    layers->Project(a, n, 0, a.T, w);
    layers->Attend(a, n, 0, a.T, nullptr, w);
    layers->FeedForward(a, n, 0, a.T, w.y.Get<float>(0), w);
  }
  layers->Finish(a, w);
}

absl::Status CpuEncoder::Impl::EncodeLongRow(const Slice& slice, Activations& a, const Executor& run) {
  const bool by_head = layers->TakesWholeRows(*slice.row);
  const CpuLayers::Room room = layers->RoomFor(*slice.row);
  const bool lean = room == CpuLayers::Room::kLean;
  layers->Prepare({slice}, room, a);
  const int64_t span = layers->SpanTokens(*slice.row);
  const auto num_spans = static_cast<int>((a.T + span - 1) / span);
  std::vector<SpanStates> states(by_head ? 0 : num_spans);
  const auto H = static_cast<int>(config().num_heads);
  const size_t num_layers = weights.layers.size();
  absl::Status status;
  for (size_t n = 0; n <= num_layers; ++n) {
    // The end of a layer and the beginning of the next, while the span is in the caches.
    const double work = (n > 0 ? RestWork() : 0) + (n < num_layers ? ProjectWork() : 0);
    status = run(num_spans, work * static_cast<double>(span), [&](int worker, int i) {
      Workspace& w = workspaces[worker];
      const int64_t first = i * span;
      const int64_t last = std::min(a.T, first + span);
      // In the recurrent form q, k and v live as long as the span's turn, and are made twice.
      Activations& s = lean ? w.span : a;
      const int64_t s_first = lean ? 0 : first;
      const int64_t s_last = lean ? last - first : last;
      if (n == 0) layers->Embed(a, first, last, w);
      if (lean) layers->ViewSpan(a, first, last, s);
      if (n > 0 && by_head) {
        layers->FeedForward(a, n - 1, first, last, a.y + first * config().hidden_width, w);
      } else if (n > 0) {
        if (lean) layers->Project(s, n - 1, s_first, s_last, w);
        layers->Attend(s, n - 1, s_first, s_last, &states[i], w);
        layers->FeedForward(s, n - 1, s_first, s_last, w.y.Get<float>(0), w);
      }
      if (n < num_layers) {
        layers->Project(s, n, s_first, s_last, w);
        if (!by_head) layers->Summarize(s, n, s_first, s_last, states[i], w);
      }
      w.clock.To(StageClock::Stage::kNumStages);
    });
    if (!status.ok()) return status;
    if (n == num_layers) break;
    status = run(H, /*work=*/0, [&](int worker, int h) {
      workspaces[worker].clock.To(StageClock::Stage::kAttention);
      if (by_head) {
        layers->AttendWholeRow(a, n, h, workspaces[worker]);
      } else {
        layers->PassStates(*slice.row, states, h);
      }
      workspaces[worker].clock.To(StageClock::Stage::kNumStages);
    });
    if (!status.ok()) return status;
  }
  const int64_t vectors = CpuLayers::NumParted(slice);
  const bool means_row = CpuLayers::MeansRow(*slice.row);
  if (vectors == 0 && !means_row) {
    return run(1, /*work=*/0, [&](int worker, int) { layers->Finish(a, workspaces[worker]); });
  }
  layers->MakeRoom(slice);
  const int64_t part = CpuLayers::FinishPart(*slice.row);
  status = run(static_cast<int>((vectors + part - 1) / part), /*work=*/0, [&](int worker, int i) {
    layers->FinishVectors(a, a.slices.front(), i * part, std::min(vectors, (i + 1) * part), workspaces[worker]);
  });
  if (!status.ok() || !means_row) return status;
  constexpr int64_t kPiece = CpuLayers::kSpanTokens;
  status = run(static_cast<int>((a.T + kPiece - 1) / kPiece), /*work=*/0, [&](int worker, int i) {
    layers->SumTokens(a, i * kPiece, std::min(a.T, (i + 1) * kPiece), workspaces[worker]);
  });
  if (!status.ok()) return status;
  return run(1, /*work=*/0, [&](int worker, int) { layers->FinishMean(a, a.slices.front(), workspaces[worker]); });
}

CpuEncoder::CpuEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CpuEncoder::~CpuEncoder() = default;

absl::StatusOr<std::unique_ptr<CpuEncoder>> CpuEncoder::Create(Options options) {
  if (options.dtype != DType::kFloat32 && options.dtype != DType::kBFloat16 && options.dtype != DType::kInt8) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Name(options.dtype), " is not available on the CPU: float32, bfloat16 or int8"));
  }
  if (options.chunk_tokens == 0) {
    AttentionParams tiles;
    tiles.bfloat16 = options.dtype != DType::kFloat32;
    tiles.D = static_cast<int>(Common(options.config).head_width);
    if (std::holds_alternative<ImageConfig>(options.config)) tiles.value_width = tiles.D + 1;
    tiles.mode = ComputeMode::kChunked;
    tiles.C = kTileChunkTokens;
    options.chunk_tokens = AmxTakes(tiles) ? kTileChunkTokens : kChunkTokens;
  }
  if (options.chunk_tokens < 1 || options.chunk_tokens > kMaxChunkTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens ", options.chunk_tokens, " is not from 1 to ", kMaxChunkTokens));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  const Options& kept = impl->options;
  absl::Status loaded;
  const absl::Status run = kept.pool->Run(1, [&](int, int) {
    if (kept.dtype == DType::kInt8) loaded = Linear::CheckInt8();
    if (!loaded.ok()) return;
    absl::StatusOr<CpuWeights> weights = CpuWeights::Load(*kept.weights, kept.config, kept.pipeline, kept.dtype);
    loaded = weights.status();
    if (loaded.ok()) impl->weights = *std::move(weights);
  });
  if (!run.ok()) return run;
  if (!loaded.ok()) return loaded;
  if (const auto* image = std::get_if<ImageConfig>(&kept.config)) {
    impl->layers = std::make_unique<CpuImageLayers>(image, &impl->weights, kept.dtype, kept.chunk_tokens);
  } else {
    const auto* text = &std::get<TextConfig>(kept.config);
    impl->layers = std::make_unique<CpuTextLayers>(text, &impl->weights, kept.dtype, kept.chunk_tokens);
  }
  impl->workspaces.resize(kept.pool->num_threads());
  for (Workspace& w : impl->workspaces) impl->layers->Prepare(w);
  return std::unique_ptr<CpuEncoder>(new CpuEncoder(std::move(impl)));
}

absl::Status CpuEncoder::Encode(absl::Span<const Row> rows, absl::Span<RowResult> results, EncodeControl* control) {
  if (rows.size() != results.size()) return absl::InvalidArgumentError("results and rows differ in number");
  const absl::Status status = CheckRows(impl_->options.config, classifies(), rows);
  if (!status.ok()) return status;

  ComputePool* pool = impl_->options.pool;
  const int64_t threads = pool->num_threads();
  int64_t total = 0;
  for (const Row& row : rows) total += row.num_tokens();
  std::vector<Slice> shared;
  std::vector<std::vector<Slice>> tasks;  // of one worker each: a long row, or a group
  std::vector<Slice> packed;
  int64_t packed_tokens = 0;
  for (size_t b = 0; b < rows.size(); ++b) {
    const Slice slice{0, rows[b].num_tokens(), &rows[b], &results[b]};
    if (slice.L <= CpuLayers::kSpanTokens) {
      packed.push_back(slice);
      packed_tokens += slice.L;
    } else if (slice.L <= kMaxUnsteppedTokens && total >= 2 * threads * slice.L) {
      tasks.push_back({slice});
    } else {
      shared.push_back(slice);
    }
  }
  // The longest first: what is left at the end is short.
  std::stable_sort(tasks.begin(), tasks.end(), [](const auto& a, const auto& b) { return a.front().L > b.front().L; });
  // Small batches are split so that every worker has a part of them.
  const int64_t share = (packed_tokens + threads - 1) / threads;
  const int64_t target = std::clamp<int64_t>(share, kMinGroupTokens, CpuLayers::kSpanTokens);
  const size_t first_group = tasks.size();
  int64_t open_tokens = 0;
  for (const Slice& slice : packed) {
    if (tasks.size() == first_group || open_tokens + slice.L > target) {
      tasks.emplace_back();
      open_tokens = 0;
    }
    tasks.back().push_back(slice);
    open_tokens += slice.L;
  }

  // The benchmarks' clocks go on through a nested batch, whose time counts with the rest.
  const bool outermost = impl_->num_encodes.fetch_add(1) == 0;
  for (Workspace& w : impl_->workspaces) {
    if (outermost) w.clock.Start(impl_->options.stage_times != nullptr);
  }
  absl::Status result = pool->Run(static_cast<int>(tasks.size()), [&](int worker, int i) {
    Workspace& w = impl_->workspaces[worker];
    if (tasks[i].front().L <= CpuLayers::kSpanTokens) return impl_->EncodeGroup(std::move(tasks[i]), w);
    impl_->EncodeLongRow(tasks[i].front(), w.group, OnWorker(worker)).IgnoreError();  // it has no error of its own
  });
  for (const Slice& slice : shared) {
    if (!result.ok()) break;
    const double work = static_cast<double>(impl_->weights.layers.size()) * static_cast<double>(slice.L) *
                        (impl_->ProjectWork() + impl_->RestWork());
    Steps steps(pool, slice.L > kMaxUnsteppedTokens ? control : nullptr, slice.L, work);
    Activations a;  // freed after its row: a long one should not be paid for by those that follow
    const absl::Status caught = Caught([&] {
      result = impl_->EncodeLongRow(slice, a, [&steps](int n, double piece, const std::function<void(int, int)>& fn) {
        return steps.Run(n, piece, fn);
      });
    });
    if (result.ok()) result = caught;
  }
  impl_->num_encodes.fetch_sub(1);
  if (CpuStageTimes* times = impl_->options.stage_times; times != nullptr && outermost) {
    for (const Workspace& w : impl_->workspaces) {
      for (int i = 0; i < CpuStageTimes::kNumStages; ++i) times->seconds[i] += w.clock.times().seconds[i];
    }
  }
  return result;
}

int64_t CpuEncoder::max_unstepped_tokens() const { return kMaxUnsteppedTokens; }
int64_t CpuEncoder::RowBytes(const Row& row) const { return impl_->layers->RowBytes(row, impl_->workspaces.size()); }

bool CpuEncoder::classifies() const { return !impl_->weights.classified_head.empty(); }
int64_t CpuEncoder::num_labels() const {
  return classifies() ? impl_->weights.classified_head.back().linear->out_width() : 0;
}
int64_t CpuEncoder::embedding_width() const {
  const std::vector<CpuHeadProduct>& head = impl_->weights.pooled_head;
  return head.empty() ? impl_->config().hidden_width : head.back().linear->out_width();
}
int CpuEncoder::chunk_tokens() const { return impl_->options.chunk_tokens; }
const std::vector<std::string>& CpuEncoder::unused_tensors() const { return impl_->weights.unused; }

std::string CpuEncoder::CrossoverKey() const {
  const Options& options = impl_->options;
  const auto* image = std::get_if<ImageConfig>(&options.config);
  return absl::StrCat("kernels ", kAttentionRevision, ", ", CpuName(), ", ", AttentionTarget(), ", ",
                      Name(options.dtype), ", ", Name(impl_->config().variant), ", heads of ",
                      impl_->config().head_width, ", chunks of ", options.chunk_tokens,
                      image == nullptr   ? ""
                      : image->two_paths ? ", pictures on two paths"
                                         : ", pictures");
}

int CpuEncoder::MeasureCrossover() {
  int best = kCrossoverChoices[0];
  impl_->options.pool
      ->Run(1,
            [&](int worker, int) {
              Workspace& w = impl_->workspaces[worker];
              for (int L : kCrossoverChoices) {
                if (L == best) continue;
                // The first layer's attention on zeros: its time does not depend on the values.
                Row row;
                RowResult unused_result;
                Activations a;
                impl_->layers->Prepare({Slice{0, impl_->layers->LargestRow(L), &row, &unused_result}},
                                       CpuLayers::Room::kParallel, a);
                if (a.log_a != nullptr) std::fill(a.log_a, a.log_a + a.stride, -0.01f);
                auto seconds = [&](ComputeMode mode) {
                  row.mode = mode;
                  double fastest = 1e9;
                  for (int repeat = 0; repeat < 4; ++repeat) {  // the first one warms the caches
                    const auto start = std::chrono::steady_clock::now();
                    impl_->layers->AttendWholeRow(a, 0, 0, w);
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
