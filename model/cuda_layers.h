// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_LAYERS_H_
#define LION_MODEL_CUDA_LAYERS_H_

// The encoders' equations (model/cpu_text_layers.h, model/cpu_image_layers.h) as kernels on a CUDA stream: embedding,
// layers, heads. Owns the weights on the device and cuBLASLt; buffers, copies, streams and errors' meaning belong to
// the caller (model/cuda_encoder.h).
//
// EnqueueForward: embedding, LayerNorm and the first layer's gates in one kernel; then a layer: q, k, v in one product;
// attention, one launch for rows of mixed lengths and forms; layer_norm_after; product; residual, LayerNorm; product
// with GELU; product; residual, LayerNorm and the next layer's gates. EnqueueHeads: means, Dense, classifier, token
// vectors. x and the products are of the model's dtype with fp32 sums; gates, decays, states, LayerNorm, means and
// heads are fp32. A row's bits depend on the row alone (kernels/cuda/*_launch.h, cuda_linear.h). EnqueueWork is the
// same forward pass piece by piece (cuda_document.h), for text alone.
// Of pictures (cuda_image_layers.cc): unfolding, product, cls and positions; a layer: LayerNorm; gates; q, k, v;
// feature maps along the paths; attention over numerators and denominators; their quotient; product and residual;
// LayerNorm; product with GELU; product and residual. x is of the dtype there too.

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/cuda_batch.h"
#include "model/cuda_document.h"
#include "model/cuda_linear.h"
#include "model/cuda_weights.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {

// One batch as it is enqueued: how much of everything, where it lies, on which stream. counts may exceed what the plan
// in the upload buffer holds (AttentionParams): rows of padding are computed, finite or not, and touch nobody.
struct CudaRun {
  CudaCounts counts;
  CudaLayout layout;
  char* upload = nullptr;  // device memory of the layout's sizes
  char* work = nullptr;
  char* answers = nullptr;
  cudaStream_t stream = nullptr;
  // Called before each stage's kernels are enqueued; null = nobody looks.
  const std::function<void(const char* stage, cudaStream_t stream)>* on_stage = nullptr;

  template <class T>
  T* Uploaded(int64_t offset) const {
    return reinterpret_cast<T*>(upload + offset);
  }
  template <class T>
  T* Work(int64_t offset) const {
    return reinterpret_cast<T*>(work + offset);
  }
  template <class T>
  T* Answers(int64_t offset) const {
    return reinterpret_cast<T*>(answers + offset);
  }
  void Stage(const char* name) const {
    if (on_stage != nullptr && *on_stage) (*on_stage)(name, stream);
  }
};

// Not thread-safe: one caller enqueues at a time. Errors of all functions name the call.
class CudaLayers {
 public:
  // Puts the weights on the current device. INVALID_ARGUMENT naming file, tensor and both shapes.
  static absl::StatusOr<std::unique_ptr<CudaLayers>> Create(const ModelConfig& config, const PipelineConfig& pipeline,
                                                            const CudaShape& shape, const WeightFiles& files);

  // From ids or pixels to last hidden states, in run.layout.x.
  absl::Status EnqueueForward(const CudaRun& run) const;

  // One piece of the forward pass of a batch that runs in steps. layer: not for kEmbed.
  absl::Status EnqueueWork(const CudaRun& run, const DocumentPlan& plan, const DocumentWork& work, size_t layer) const;

  // From last hidden states to the answers' buffer.
  absl::Status EnqueueHeads(const CudaRun& run) const;

  // One layer's attention alone, from and to the work buffer.
  absl::Status EnqueueAttention(const CudaRun& run, size_t layer) const;

  // Gives a stream whose kernels run beside those of others a workspace of its own. All others share one.
  absl::Status AddStream(cudaStream_t stream) { return lt_->AddStream(stream); }

  // With the heads' widths.
  const CudaShape& shape() const { return shape_; }
  size_t num_layers() const { return weights_.layers.size(); }
  bool has_head(CudaHead head) const { return !weights_.heads[head].empty(); }
  // Tensors of the checkpoint that nothing uses.
  const std::vector<std::string>& unused_tensors() const { return unused_; }

 private:
  // Tokens [first, first + count) of a batch, of whose q, k, v and y those from span_first on are there.
  struct Tile {
    int64_t first = 0;
    int64_t count = 0;
    int64_t span_first = 0;
  };
  class Places;

  CudaLayers() = default;
  absl::Status EnqueueEmbed(const CudaRun& run, const Tile& tile) const;
  absl::Status EnqueueProject(const CudaRun& run, const Tile& tile, size_t layer) const;
  absl::Status EnqueueOut(const CudaRun& run, const Tile& tile, size_t layer) const;
  absl::Status EnqueueUp(const CudaRun& run, const Tile& tile, size_t layer) const;
  absl::Status EnqueueDown(const CudaRun& run, const Tile& tile, size_t layer) const;
  absl::Status EnqueueNorm(const CudaRun& run, const Tile& tile, const CudaNorm& weights,
                           const cuda::GateParams& gates) const;
  absl::Status EnqueueSlice(const CudaRun& run, const DocumentPlan& plan, const DocumentWork& work, size_t layer) const;
  absl::Status EnqueueImageForward(const CudaRun& run) const;
  absl::Status EnqueuePatches(const CudaRun& run) const;
  absl::Status EnqueueImageAttention(const CudaRun& run, size_t layer) const;
  absl::Status EnqueueImageNorm(const CudaRun& run, const CudaNorm& weights, const void* x, void* out, bool fp8) const;
  cuda::AttentionParams Attention(const CudaRun& run, size_t layer) const;
  cuda::NormParams Normalize(const CudaNorm& norm, float eps) const;
  cuda::GateParams Gates(const CudaRun& run, const Tile& tile, size_t layer) const;

  CudaShape shape_;
  float eps_ = 0;
  bool norm_after_ = false;
  std::unique_ptr<CublasLt> lt_;
  CudaWeights weights_;
  std::vector<std::string> unused_;
};

}  // namespace lion

#endif  // LION_MODEL_CUDA_LAYERS_H_
