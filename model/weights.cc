// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/kernels/cpu/rows.h"

namespace lion {
namespace {

std::string Shape(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// The rows of the classifier's tensor called name, which is there.
absl::StatusOr<int64_t> CountLabels(const WeightFiles& files, const std::string& name, const EncoderConfig& config) {
  const std::vector<int64_t>& shape = files.Find(name)->shape;
  const int64_t labels = shape.empty() ? 0 : shape[0];
  const std::string rows = absl::StrCat(files.paths().front(), ": tensor '", name, "' has ", labels, " rows, ");
  if (!config.labels.empty() && labels != static_cast<int64_t>(config.labels.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows, "config.json's id2label names ", config.labels.size(), " classes"));
  }
  if (labels == 0) return absl::InvalidArgumentError(absl::StrCat(rows, "a classifier has at least 1"));
  return labels;
}

// The pipeline's Dense modules.
absl::Status ReadDense(const PipelineConfig& pipeline, HeadWeights* heads) {
  for (const DenseConfig& dense : pipeline.dense) {
    absl::StatusOr<std::unique_ptr<WeightFiles>> files = WeightFiles::OpenFile(dense.directory + "/model.safetensors");
    if (!files.ok()) return files.status();
    WeightReader dense_reader(files->get());
    HeadProduct product;
    product.N = dense.out_width;
    product.K = dense.in_width;
    product.weight = dense_reader.Read("linear.weight", {product.N, product.K});
    if (dense.bias) product.bias = dense_reader.Read("linear.bias", {product.N});
    product.tanh = dense.tanh;
    if (!dense_reader.status().ok()) return dense_reader.status();
    heads->pooled.push_back(std::move(product));
  }
  return absl::OkStatus();
}

}  // namespace

const StoredTensor* WeightReader::Map(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return nullptr;
  const std::string& file = files_->paths().front();
  const StoredTensor* tensor = files_->Find(name);
  if (tensor == nullptr) {
    status_ = absl::InvalidArgumentError(absl::StrCat(file, ": tensor '", name, "' ", Shape(shape), " is missing"));
    return nullptr;
  }
  used_.insert(name);
  if (tensor->shape != shape) {
    status_ = absl::InvalidArgumentError(absl::StrCat(file, ": tensor '", name, "' has shape ", Shape(tensor->shape),
                                                      ", config.json asks for ", Shape(shape)));
    return nullptr;
  }
  if (tensor->type != StoredType::kF32 && tensor->type != StoredType::kF16 && tensor->type != StoredType::kBF16) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor '", name, "' is ", tensor->type_name, ", not F32, F16 or BF16"));
    return nullptr;
  }
  return tensor;
}

std::vector<float> WeightReader::Read(const std::string& name, const std::vector<int64_t>& shape) {
  const StoredTensor* tensor = Map(name, shape);
  if (tensor == nullptr) return {};
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  std::vector<float> values(n);
  ReadElements(*tensor, 0, n, values.data());
  return values;
}

std::vector<std::string> WeightReader::Unused() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : files_->tensors()) {
    if (used_.find(name) == used_.end() && name.rfind("cls.", 0) != 0) names.push_back(name);
  }
  return names;
}

absl::StatusOr<HeadWeights> ReadHeads(WeightReader& reader, const std::string& prefix, const TextConfig& config,
                                      const PipelineConfig& pipeline) {
  HeadWeights heads;
  const int64_t E = config.hidden_width;
  if (reader.Has("classifier.weight")) {
    const absl::StatusOr<int64_t> labels = CountLabels(reader.files(), "classifier.weight", config);
    if (!labels.ok()) return labels.status();
    const std::string pooler = prefix + "pooler.dense";
    heads.classified.push_back(
        {E, E, reader.Read(pooler + ".weight", {E, E}), reader.Read(pooler + ".bias", {E}), /*tanh=*/true});
    heads.classified.push_back({*labels, E, reader.Read("classifier.weight", {*labels, E}),
                                reader.Read("classifier.bias", {*labels}), /*tanh=*/false});
  } else {
    reader.Ignore(prefix + "pooler.dense.weight");
    reader.Ignore(prefix + "pooler.dense.bias");
  }
  if (!reader.status().ok()) return reader.status();
  const absl::Status dense = ReadDense(pipeline, &heads);
  if (!dense.ok()) return dense;
  return heads;
}

absl::StatusOr<HeadWeights> ReadHeads(WeightReader& reader, const ImageConfig& config, const PipelineConfig& pipeline) {
  HeadWeights heads;
  const int64_t E = config.hidden_width;
  if (config.num_classes != 0 && reader.Has("head.weight")) {
    const absl::StatusOr<int64_t> labels = CountLabels(reader.files(), "head.weight", config);
    if (!labels.ok()) return labels.status();
    const int64_t N = config.num_classes > 0 ? config.num_classes : *labels;
    heads.classified.push_back(
        {N, E, reader.Read("head.weight", {N, E}), reader.Read("head.bias", {N}), /*tanh=*/false});
  } else {
    reader.Ignore("head.weight");
    reader.Ignore("head.bias");
  }
  if (!reader.status().ok()) return reader.status();
  const absl::Status dense = ReadDense(pipeline, &heads);
  if (!dense.ok()) return dense;
  return heads;
}

void LogLambda(std::vector<float>* alphas) {
  constexpr double kMinLogDecay = -80;
  for (float& alpha : *alphas) {
    const double log_lambda = -std::log1p(std::exp(-static_cast<double>(alpha)));
    alpha = std::isnan(alpha) ? alpha : static_cast<float>(std::max(log_lambda, kMinLogDecay));
  }
}

void ReadElements(const StoredTensor& tensor, int64_t first, int64_t n, float* out) {
  if (tensor.type == StoredType::kF32) {
    std::memcpy(out, tensor.data + first * 4, n * 4);
    return;
  }
  // The file gives no alignment: the 16-bit values are copied out of it before they are looked at.
  constexpr int64_t kStep = 1024;
  uint16_t bits[kStep];
  for (int64_t i = 0; i < n; i += kStep) {
    const int64_t count = std::min(kStep, n - i);
    std::memcpy(bits, tensor.data + (first + i) * 2, count * 2);
    if (tensor.type == StoredType::kF16) {
      FromFloat16(bits, out + i, count);
    } else {
      FromBFloat16(bits, out + i, count);
    }
  }
}

}  // namespace lion
