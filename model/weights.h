// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_WEIGHTS_H_
#define LION_MODEL_WEIGHTS_H_

// Tensors of a checkpoint as fp32, with the complaints that a reader wants: what is missing, misshapen or unused.

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace lion {

// Reads straight down a checkpoint and keeps the first complaint. Not thread-safe. files is borrowed.
class WeightReader {
 public:
  explicit WeightReader(const WeightFiles* files) : files_(files) {}

  // The tensor's values as fp32 (F32, F16 or BF16 on disk). A missing tensor, another shape or another type is the
  // complaint, and the result is then empty: nothing is allocated for a size that config.json alone claims.
  std::vector<float> Read(const std::string& name, const std::vector<int64_t>& shape);

  // The same without reading: the tensor stays mapped. Null after a complaint.
  const StoredTensor* Map(const std::string& name, const std::vector<int64_t>& shape);

  // True if there is such a tensor, whatever its shape.
  bool Has(const std::string& name) const { return files_->Find(name) != nullptr; }

  // Known, and of no use here: not to be listed as unused.
  void Ignore(const std::string& name) { used_.insert(name); }

  // Names that nothing has asked for, without BERT's pretraining heads ("cls."), which serve nobody.
  std::vector<std::string> Unused() const;

  const absl::Status& status() const { return status_; }
  const WeightFiles& files() const { return *files_; }

 private:
  const WeightFiles* files_;
  std::set<std::string, std::less<>> used_;
  absl::Status status_;
};

// One product on the way from a pooled row to an answer: y (N) = W x + b, then tanh or nothing.
struct HeadProduct {
  int64_t N = 0;
  int64_t K = 0;
  std::vector<float> weight;  // (N, K)
  std::vector<float> bias;    // (N); empty = none
  bool tanh = false;
};

// What vectors go through, product by product.
struct HeadWeights {
  std::vector<HeadProduct> pooled;      // the pipeline's Dense modules; empty = the row itself is the answer
  std::vector<HeadProduct> classified;  // pooler and classifier, or head; empty = the model only embeds
};

// Reads the heads: the last to be read of a checkpoint. prefix stands before a text checkpoint's names ("bert." or "");
// an image encoder's head is "head" alone, without a pooler.
// INVALID_ARGUMENT naming file, tensor and what is wrong, the reader's first complaint included; or a classifier of no
// rows, or of more or fewer than config names labels.
absl::StatusOr<HeadWeights> ReadHeads(WeightReader& reader, const std::string& prefix, const TextConfig& config,
                                      const PipelineConfig& pipeline);
absl::StatusOr<HeadWeights> ReadHeads(WeightReader& reader, const ImageConfig& config, const PipelineConfig& pipeline);

// The logarithms of LION-D's decays, -log1p(e^-alpha), from a layer's alphas in place; at least -80, whose exponential
// is 0 beside anything while differences of sums stay finite. NaN stays NaN.
void LogLambda(std::vector<float>* alphas);

// n elements of a stored tensor from element first on, as fp32. The tensor's type must be F32, F16 or BF16.
void ReadElements(const StoredTensor& tensor, int64_t first, int64_t n, float* out);

}  // namespace lion

#endif  // LION_MODEL_WEIGHTS_H_
