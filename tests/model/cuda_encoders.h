// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_CUDA_ENCODERS_H_
#define LION_TESTS_MODEL_CUDA_ENCODERS_H_

// CudaEncoders of random models, without the rest of a Model around them.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/cuda_encoder.h"
#include "tests/model/random_model.h"

namespace lion {

// Options for the model, in batches of 8,192 tokens.
inline CudaEncoder::Options CudaOptionsOf(const RandomModel& model, DType dtype = DType::kBFloat16) {
  CudaEncoder::Options options;
  const std::string& directory = model.directory();
  absl::StatusOr<std::string> text = ReadTextFile(directory + "/config.json", 1 << 20);
  absl::StatusOr<TextConfig> config = ParseTextConfig(*text, "config.json");
  options.config = *config;
  absl::StatusOr<PipelineConfig> pipeline = ReadPipeline(directory, config->hidden_width);
  options.pipeline = *pipeline;
  absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(directory);
  options.weights = *std::move(weights);
  options.dtype = dtype;
  options.max_batch_tokens = 8192;
  return options;
}

// Null, and an expectation that failed, where Create fails.
inline std::unique_ptr<CudaEncoder> CreateCudaEncoder(CudaEncoder::Options options) {
  absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(options));
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  return encoder.ok() ? *std::move(encoder) : nullptr;
}

// Each row's values; expects success.
inline std::vector<std::vector<float>> EncodeValues(CudaEncoder& encoder, const std::vector<Row>& rows) {
  std::vector<RowResult> results(rows.size());
  const absl::Status status = encoder.Encode(rows, absl::MakeSpan(results));
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::vector<float>> values;
  for (RowResult& result : results) values.push_back(std::move(result.values));
  return values;
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_CUDA_ENCODERS_H_
