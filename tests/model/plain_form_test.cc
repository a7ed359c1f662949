// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "tests/model/plain_form.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace lion {
namespace {

// What the long rows are held to is held to the form that builds M.
TEST(PlainFormAtTest, IsThePlainForm) {
  for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
    for (bool layer_norm_after : {false, true}) {
      RandomModelOptions options;
      options.variant = variant;
      options.layer_norm_after = layer_norm_after;
      options.num_layers = 1;
      const RandomModel model(options);
      const std::vector<uint32_t> ids = RandomIds(300, options.vocab_size, 3);
      const std::vector<int64_t> positions = {0, 1, 17, 150, 298, 299};
      for (PlainType type : {PlainType::kFloat64, PlainType::kFloat32, PlainType::kBFloat16}) {
        // Sums in another order round elsewhere: a unit in the last place, at a LayerNorm's largest outputs.
        const double limit = type == PlainType::kFloat64   ? 1e-10
                             : type == PlainType::kFloat32 ? 16 * 2.4e-7
                                                           : 4.0 / 128;
        const std::vector<double> whole = PlainForm(options, model.tensors(), ids, type);
        const std::vector<double> at = PlainFormAt(options, model.tensors(), ids, positions, type);
        const auto E = static_cast<size_t>(options.hidden_width);
        ASSERT_EQ(at.size(), positions.size() * E);
        double worst = 0;
        for (size_t i = 0; i < at.size(); ++i) {
          const double difference = std::fabs(at[i] - whole[static_cast<size_t>(positions[i / E]) * E + i % E]);
          worst = std::fmax(worst, std::isfinite(difference) ? difference : INFINITY);
        }
        EXPECT_LE(worst, limit) << static_cast<int>(type);
      }
    }
  }
}

}  // namespace
}  // namespace lion
