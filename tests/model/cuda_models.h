// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_CUDA_MODELS_H_
#define LION_TESTS_MODEL_CUDA_MODELS_H_

// Models of either kind on the first CUDA device, and what their lower precisions are measured against.

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "model/model.h"
#include "tests/model/plain_form.h"

namespace lion {

// Null, and an expectation that failed, where the directory does not load.
inline std::unique_ptr<Model> LoadOnCuda(const std::string& directory, DType dtype,
                                         int64_t max_batch_tokens = ModelOptions().max_batch_tokens) {
  ModelOptions options;
  options.directory = directory;
  options.devices = {"cuda:0"};
  options.dtype = dtype;
  options.parallel_max_tokens = 128;
  options.max_batch_tokens = max_batch_tokens;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, nullptr);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// What is measured against which plain form, and its output's unit in the last place, relative. Root mean squares are
// of LayerNorm's outputs, of size 1; the largest error is mostly one of the largest outputs'.
struct Precision {
  DType dtype;
  PlainType plain;
  double ulp;
};
constexpr Precision kPrecisions[] = {{DType::kBFloat16, PlainType::kBFloat16, 1.0 / 128},
                                     {DType::kFloat16, PlainType::kFloat16, 1.0 / 1024},
                                     {DType::kFp8, PlainType::kFp8, 1.0 / 128}};

}  // namespace lion

#endif  // LION_TESTS_MODEL_CUDA_MODELS_H_
