// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_IMAGE_FEATURES_H_
#define LION_TESTS_MODEL_IMAGE_FEATURES_H_

// What an image encoder makes of a picture's tokens, on any device.

#include <vector>

#include "gtest/gtest.h"
#include "model/model.h"
#include "tests/model/image_plain_form.h"
#include "tests/model/loaded_model.h"
#include "tests/model/random_image_model.h"

namespace lion {

// That CLS is the first token's row, MEAN the tokens' mean, and the logits the head's of the one that the model pools
// by. The model is directory's, of three labels and patches of 8, in float32.
inline void ExpectFeaturesAndLogits(const RandomImageModel& directory, Model& model) {
  const std::vector<float> pixels = RandomPixels(48, 1);
  auto row = [&](RowOutput output) { return directory.MakeRow(pixels, ComputeMode::kChunked, 0, output); };
  const std::vector<RowResult> results = Encode(model, {row(RowOutput::kTokens), row(RowOutput::kPooledCls),
                                                        row(RowOutput::kPooledMean), row(RowOutput::kLogits)});
  const int64_t E = directory.options().hidden_width;
  ASSERT_EQ(results[0].num_vectors, 37);
  const std::vector<float>& features = results[directory.options().cls_pooling ? 1 : 2].values;
  for (int64_t e = 0; e < E; ++e) {
    double mean = 0;
    for (int64_t t = 0; t < 37; ++t) mean += results[0].values[t * E + e] / 37.0;
    EXPECT_EQ(results[1].values[e], results[0].values[e]);
    EXPECT_NEAR(results[2].values[e], mean, 1e-5);
  }
  const std::vector<float>& weight = directory.tensors().at("head.weight").values;
  const std::vector<float>& bias = directory.tensors().at("head.bias").values;
  ASSERT_EQ(results[3].values.size(), 3u);
  for (int64_t label = 0; label < 3; ++label) {
    double logit = bias[label];
    for (int64_t e = 0; e < E; ++e) logit += static_cast<double>(weight[label * E + e]) * features[e];
    EXPECT_NEAR(results[3].values[label], logit, 1e-5);
  }
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_IMAGE_FEATURES_H_
