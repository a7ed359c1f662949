// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// A row of 1,048,576 tokens through a layer of BERT base's size, against full attention in fp64 at some of its
// positions.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/cuda_document.h"
#include "model/cuda_encoder.h"
#include "tests/model/cuda_encoders.h"
#include "tests/model/cuda_test.h"
#include "tests/model/difference.h"
#include "tests/model/plain_form.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

constexpr int64_t kTokens = 1048576;

struct Case {
  const char* name;
  Variant variant;
  DType dtype;
};

class CudaLongRowTest : public OnCudaDevice<testing::TestWithParam<Case>> {
 protected:
  // Heads forget at once, never, and at all rates between: a = sigmoid(l) with l from -8 (a = 0.0003) to 16 (1 - 1e-7:
  // the whole row).
  static void SpreadDecays(RandomModel* model, Variant variant, int64_t H) {
    auto& values =
        model->tensors()
            .at(std::string("bert.encoder.layer.0.attention.self.") + (variant == Variant::kD ? "ai" : "Wa_i.bias"))
            .values;
    for (int64_t h = 0; h < H; ++h) {
      const float logit = -8 + 24 * static_cast<float>(h) / static_cast<float>(H - 1);
      values[h] = variant == Variant::kD ? logit : -logit;  // LION-S: a = 1 - sigmoid(w x + b)
    }
    model->WriteWeights();
  }
};

TEST_P(CudaLongRowTest, ErrsAtMostTwiceAsMuchAsThePlainForm) {
  RandomModelOptions options;
  options.variant = GetParam().variant;
  options.layer_norm_after = false;
  options.hidden_width = 768;
  options.num_heads = 12;
  options.feed_forward_width = 3072;
  options.num_layers = 1;
  RandomModel model(options);
  SpreadDecays(&model, options.variant, options.num_heads);
  const std::unique_ptr<CudaEncoder> encoder = CreateCudaEncoder(CudaOptionsOf(model, GetParam().dtype));
  ASSERT_NE(encoder, nullptr);
  const std::vector<uint32_t> ids = RandomIds(kTokens, options.vocab_size, 11);
  // Ends, borders of chunks, segments, tiles and slices, and the middle.
  const std::vector<int64_t> positions = {0,
                                          1,
                                          63,
                                          64,
                                          1023,
                                          1024,
                                          kTileTokens,
                                          kSliceTokens - 1,
                                          kSliceTokens,
                                          kTokens / 2 + 17,
                                          777777,
                                          kTokens - kSliceTokens,
                                          kTokens - 65,
                                          kTokens - 1};
  const std::vector<Row> rows = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
  std::vector<RowResult> results(1);
  const absl::Status status = encoder->Encode(rows, absl::MakeSpan(results));
  ASSERT_TRUE(status.ok()) << status;
  const auto E = static_cast<size_t>(options.hidden_width);
  std::vector<float> actual;
  for (int64_t i : positions) {
    const auto row = results[0].values.begin() + i * options.hidden_width;
    actual.insert(actual.end(), row, row + static_cast<std::ptrdiff_t>(E));
  }

  const auto& tensors = model.tensors();
  const std::vector<double> truth = PlainFormAt(options, tensors, ids, positions, PlainType::kFloat64);
  const bool wide = GetParam().dtype == DType::kFloat32;
  const PlainType plain_type = wide ? PlainType::kFloat32 : PlainType::kBFloat16;
  const Error plain = Difference(PlainFormAt(options, tensors, ids, positions, plain_type), truth);
  const Error error = Difference(actual, truth);
  // A unit in the last place at the scale of a LayerNorm's outputs.
  const double ulp = wide ? 16 * 2.4e-7 : 1.0 / 128;
  double largest = 0;
  for (double v : truth) largest = std::max(largest, std::fabs(v));
  // The yardstick of so long a row passes fp32 states between chunks of 64, where PlainFormAt's sums are exact: as many
  // additions round a state that all of them have about the size of, by half a unit each.
  const double states = std::sqrt(static_cast<double>(kTokens) / 64) * std::ldexp(1.0, -24);
  EXPECT_LE(error.rms, 2 * (plain.rms + states) + ulp / 2);
  EXPECT_LE(error.max, 2 * (plain.max + states * largest) + ulp * largest);
  std::printf("%s: rms %.3g max %.3g; plain form rms %.3g max %.3g\n", GetParam().name, error.rms, error.max, plain.rms,
              plain.max);
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaLongRowTest,
                         testing::Values(Case{"DFloat32", Variant::kD, DType::kFloat32},
                                         Case{"DBFloat16", Variant::kD, DType::kBFloat16},
                                         Case{"SFloat32", Variant::kS, DType::kFloat32},
                                         Case{"SBFloat16", Variant::kS, DType::kBFloat16}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace lion
