// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/warm_up.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/server/test_server.h"

namespace lion {
namespace {

// Remembers the batch that it is given; of several, the last.
class RecordingEncoder : public Encoder {
 public:
  absl::Status Encode(absl::Span<const Row> rows, absl::Span<RowResult>, EncodeControl*) override {
    absl::MutexLock lock(&mu_);
    ++num_batches;
    num_tokens = 0;
    if (num_batches == at_once) all_here_.Notify();
    for (const Row& row : rows) {
      num_tokens += row.num_tokens();
      longest = std::max(longest, row.num_tokens());
      pixels = std::max(pixels, static_cast<int64_t>(row.pixels.size()));
      parallel |= row.mode == ComputeMode::kParallel;
      chunked |= row.mode == ComputeMode::kChunked;
      logits |= row.output == RowOutput::kLogits;
      for (uint32_t id : row.ids) largest_id = std::max(largest_id, id);
    }
    mu_.Unlock();
    all_here_.WaitForNotification();  // so they are on the device together
    mu_.Lock();
    return status;
  }
  int max_concurrent_batches() const override { return at_once; }

  int at_once = 1;
  int num_batches = 0;
  int64_t num_tokens = 0;
  int64_t longest = 0;
  int64_t pixels = 0;  // of one row
  uint32_t largest_id = 0;
  bool parallel = false;
  bool chunked = false;
  bool logits = false;
  absl::Status status;

 private:
  absl::Mutex mu_;
  absl::Notification all_here_;
};

ServedModel ModelWith(RecordingEncoder* encoder, int64_t max_batch_tokens) {
  ServedModel model;
  model.name = "m";
  model.info = TestModelInfo();
  model.info.max_batch_tokens = max_batch_tokens;
  model.encoders = {encoder};
  model.max_sequence_tokens = 1000000;
  return model;
}

TEST(WarmUpTest, RunsExactlyTheLargestBatchOnBothSidesOfTheCrossover) {
  for (int64_t max_batch_tokens : {1, 2, 3, 100, 16384}) {
    RecordingEncoder encoder;
    ASSERT_TRUE(WarmUp(ModelWith(&encoder, max_batch_tokens), std::nullopt).ok());
    EXPECT_EQ(encoder.num_tokens, max_batch_tokens);
    EXPECT_TRUE(encoder.parallel);
    EXPECT_TRUE(encoder.logits);
    EXPECT_EQ(encoder.chunked, max_batch_tokens >= 100);
    EXPECT_LT(encoder.largest_id, 1000);
  }
}

TEST(WarmUpTest, FillsABatchWithPicturesForAnImageModel) {
  RecordingEncoder encoder;
  ServedModel model = ModelWith(&encoder, 1000);
  model.info.input = "image";
  model.info.vocab_size = 0;
  model.info.image_size = 224;
  model.info.patch_size = 16;
  ASSERT_TRUE(WarmUp(model, std::nullopt).ok());
  EXPECT_EQ(encoder.num_tokens, 5 * 197);
  EXPECT_EQ(encoder.pixels, 3 * 224 * 224);
  EXPECT_TRUE(encoder.logits);
  // The largest picture that the longest sequence has room for, and one at least.
  model.max_sequence_tokens = 100;
  model.info.max_batch_tokens = 10;
  RecordingEncoder small;
  model.encoders = {&small};
  ASSERT_TRUE(WarmUp(model, std::nullopt).ok());
  EXPECT_EQ(small.num_tokens, 82);  // 9 x 9 patches
  EXPECT_EQ(small.pixels, 3 * 144 * 144);
}

TEST(WarmUpTest, KeepsTheLimitsOfRows) {
  RecordingEncoder encoder;
  ServedModel model = ModelWith(&encoder, 1000);
  model.max_sequence_tokens = 5;
  model.info.classifies = false;
  ASSERT_TRUE(WarmUp(model, std::nullopt).ok());
  EXPECT_EQ(encoder.num_tokens, 1000);
  EXPECT_EQ(encoder.longest, 5);
  EXPECT_FALSE(encoder.logits);
  RecordingEncoder parallel;
  ASSERT_TRUE(WarmUp(ModelWith(&parallel, 100000), ComputeMode::kParallel).ok());
  EXPECT_EQ(parallel.num_tokens, 100000);
  EXPECT_EQ(parallel.longest, kMaxParallelTokens);
  EXPECT_FALSE(parallel.chunked);
}

TEST(WarmUpTest, EveryDeviceTakesAsManyBatchesAsItCanAtOnce) {
  RecordingEncoder first, second;
  first.at_once = 2;
  second.at_once = 3;
  ServedModel model = ModelWith(&first, 100);
  model.encoders.push_back(&second);
  model.info.devices = {"cuda:0", "cuda:1"};
  ASSERT_TRUE(WarmUp(model, std::nullopt).ok());
  EXPECT_EQ(first.num_batches, 2);
  EXPECT_EQ(first.num_tokens, 100);
  EXPECT_EQ(second.num_batches, 3);
  EXPECT_EQ(second.num_tokens, 100);
}

TEST(WarmUpTest, AFailureNamesTheModelAndTheDevice) {
  RecordingEncoder first, second;
  second.status = absl::InternalError("broken");
  ServedModel model = ModelWith(&first, 10);
  model.encoders.push_back(&second);
  model.info.devices = {"cuda:0", "cuda:1"};
  EXPECT_EQ(WarmUp(model, std::nullopt), absl::InternalError("model m: warm-up on cuda:1 failed: broken"));
}

}  // namespace
}  // namespace lion
