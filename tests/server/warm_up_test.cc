// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/warm_up.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

// Remembers the one batch that it is given.
class RecordingEncoder : public Encoder {
 public:
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult>) override {
    for (const Row& row : rows) {
      num_tokens += static_cast<int64_t>(row.ids.size());
      longest = std::max(longest, static_cast<int64_t>(row.ids.size()));
      parallel |= row.mode == ComputeMode::kParallel;
      chunked |= row.mode == ComputeMode::kChunked;
      logits |= row.output == RowOutput::kLogits;
      for (uint32_t id : row.ids) largest_id = std::max(largest_id, id);
    }
    return status;
  }

  int64_t num_tokens = 0;
  int64_t longest = 0;
  uint32_t largest_id = 0;
  bool parallel = false;
  bool chunked = false;
  bool logits = false;
  absl::Status status;
};

ServedModel ModelWith(RecordingEncoder* encoder) {
  ServedModel model;
  model.name = "m";
  model.info = TestModelInfo();
  model.encoder = encoder;
  model.max_sequence_tokens = 1000000;
  return model;
}

TEST(WarmUpTest, RunsExactlyTheLargestBatchOnBothSidesOfTheCrossover) {
  for (int64_t max_batch_tokens : {1, 2, 3, 100, 16384}) {
    RecordingEncoder encoder;
    ASSERT_TRUE(WarmUp(ModelWith(&encoder), max_batch_tokens, std::nullopt).ok());
    EXPECT_EQ(encoder.num_tokens, max_batch_tokens);
    EXPECT_TRUE(encoder.parallel);
    EXPECT_TRUE(encoder.logits);
    EXPECT_EQ(encoder.chunked, max_batch_tokens >= 100);
    EXPECT_LT(encoder.largest_id, 1000);
  }
}

TEST(WarmUpTest, KeepsTheLimitsOfRows) {
  RecordingEncoder encoder;
  ServedModel model = ModelWith(&encoder);
  model.max_sequence_tokens = 5;
  model.info.classifies = false;
  ASSERT_TRUE(WarmUp(model, 1000, std::nullopt).ok());
  EXPECT_EQ(encoder.num_tokens, 1000);
  EXPECT_EQ(encoder.longest, 5);
  EXPECT_FALSE(encoder.logits);
  RecordingEncoder parallel;
  ASSERT_TRUE(WarmUp(ModelWith(&parallel), 100000, ComputeMode::kParallel).ok());
  EXPECT_EQ(parallel.num_tokens, 100000);
  EXPECT_EQ(parallel.longest, kMaxParallelTokens);
  EXPECT_FALSE(parallel.chunked);
}

TEST(WarmUpTest, AFailureNamesTheModel) {
  RecordingEncoder encoder;
  encoder.status = absl::InternalError("broken");
  EXPECT_EQ(WarmUp(ModelWith(&encoder), 10, std::nullopt), absl::InternalError("model m: warm-up failed: broken"));
}

}  // namespace
}  // namespace lion
