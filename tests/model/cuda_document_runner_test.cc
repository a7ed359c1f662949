// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Batches in steps on a device: the bits that they have in one piece, in both forms; progress and cancelling; others
// beside them; windows. Planning is in cuda_document_test.cc, a million tokens in cuda_long_row_test.cc.

#include "model/cuda_document_runner.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/cuda_batch.h"
#include "model/cuda_document.h"
#include "tests/model/cuda_encoders.h"
#include "tests/model/cuda_test.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::HasSubstr;

// Calls a function between steps.
class FunctionControl : public EncodeControl {
 public:
  explicit FunctionControl(std::function<absl::Status(int64_t, int64_t)> function) : function_(std::move(function)) {}
  absl::Status BetweenSteps(int64_t tokens_done, int64_t tokens_total) override {
    return function_(tokens_done, tokens_total);
  }

 private:
  std::function<absl::Status(int64_t, int64_t)> function_;
};

RandomModelOptions ModelOptions(Variant variant = Variant::kS, bool layer_norm_after = true) {
  RandomModelOptions options;
  options.variant = variant;
  options.layer_norm_after = layer_norm_after;
  options.hidden_width = 128;
  options.num_heads = 4;
  options.feed_forward_width = 256;
  options.dense_width = 48;
  return options;
}

Row WindowsOf(absl::Span<const uint32_t> ids, ComputeMode mode, int64_t size, int64_t stride) {
  Row row{ids, {}, mode, 0, RowOutput::kWindows};
  row.window_tokens = size;
  row.window_stride = stride;
  return row;
}

class CudaDocumentRunnerTest : public OnCudaDevice<> {
 protected:
  // The same model with batches that hold everything here in one piece, and with such that hold next to nothing.
  static std::unique_ptr<CudaEncoder> Whole(const RandomModel& model, DType dtype) {
    CudaEncoder::Options options = CudaOptionsOf(model, dtype);
    options.max_batch_tokens = 131072;
    options.graphs = false;
    return CreateCudaEncoder(std::move(options));
  }
  static std::unique_ptr<CudaEncoder> Stepped(const RandomModel& model, DType dtype) {
    CudaEncoder::Options options = CudaOptionsOf(model, dtype);
    options.max_batch_tokens = 1024;
    return CreateCudaEncoder(std::move(options));
  }
};

TEST_F(CudaDocumentRunnerTest, ARowHasTheBitsThatItHasInOnePiece) {
  for (DType dtype : DTypesOf(DeviceKind::kCuda)) {
    for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
      const bool layer_norm_after = variant != Variant::kD || dtype == DType::kFloat16;
      const RandomModel model(ModelOptions(variant, layer_norm_after));
      const std::unique_ptr<CudaEncoder> whole = Whole(model, dtype);
      const std::unique_ptr<CudaEncoder> stepped = Stepped(model, dtype);
      ASSERT_NE(whole, nullptr);
      ASSERT_NE(stepped, nullptr);
      // One tile and a bit; a slice and less than a tile; three slices, the last segment short.
      for (int64_t L : {1025, 11300, 46000, 100001}) {
        if (dtype == DType::kFloat32 && L > 20000) continue;  // the plain kernel is slow
        const std::vector<uint32_t> ids = RandomIds(L, ModelOptions().vocab_size, static_cast<uint32_t>(L));
        const std::vector<Row> rows = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
        EXPECT_EQ(EncodeValues(*stepped, rows), EncodeValues(*whole, rows))
            << Name(dtype) << " " << Name(variant) << " L " << L;
      }
    }
  }
}

TEST_F(CudaDocumentRunnerTest, ABatchOfAnyRowsHasTheBitsThatItHasInOnePiece) {
  for (DType dtype : DTypesOf(DeviceKind::kCuda)) {
    const RandomModel model(ModelOptions());
    const std::unique_ptr<CudaEncoder> whole = Whole(model, dtype);
    const std::unique_ptr<CudaEncoder> stepped = Stepped(model, dtype);
    ASSERT_NE(whole, nullptr);
    ASSERT_NE(stepped, nullptr);
    std::mt19937 random(5);
    const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
    for (int i = 0; i < 4; ++i) {
      std::vector<std::vector<uint32_t>> ids;
      std::vector<Row> rows;
      for (int64_t T = 0; T < 80000;) {
        // Rows of full attention lie across the borders of slices.
        const int64_t L = 1 + static_cast<int64_t>(random() % (dtype == DType::kFloat32 ? 900 : 9000));
        ids.push_back(RandomIds(L, ModelOptions().vocab_size, random()));
        const ComputeMode mode = modes[random() % (i == 0 && L < 1000 ? 3 : 2)];
        if (i % 2 == 0) {
          rows.push_back({ids.back(), {}, mode, 0, RowOutput::kTokens});
        } else if (random() % 2 == 0) {
          rows.push_back({ids.back(), {}, mode, 0, random() % 2 == 0 ? RowOutput::kPooledMean : RowOutput::kLogits});
        } else {
          rows.push_back(WindowsOf(ids.back(), mode, 256, 128));
        }
        T += L;
      }
      EXPECT_EQ(EncodeValues(*stepped, rows), EncodeValues(*whole, rows)) << Name(dtype) << " batch " << i;
    }
  }
}

// Takes device memory until no more than so much is left.
std::vector<DeviceBuffer> LeaveFree(int64_t bytes) {
  std::vector<DeviceBuffer> ballast;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(static_cast<int64_t>(free_bytes) - bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  if (buffer.ok()) ballast.push_back(*std::move(buffer));
  return ballast;
}

TEST_F(CudaDocumentRunnerTest, WhereMemoryIsShortARowIsProjectedTwiceToTheSameBits) {
  constexpr int64_t L = 700001;
  for (DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFp8}) {
    for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
      const RandomModel model(ModelOptions(variant));
      const std::unique_ptr<CudaEncoder> encoder = Stepped(model, dtype);
      ASSERT_NE(encoder, nullptr);
      const std::vector<uint32_t> ids = RandomIds(L, ModelOptions().vocab_size, 3);
      const std::vector<Row> rows = {WindowsOf(ids, ComputeMode::kChunked, 64, 64)};
      const int64_t standing = encoder->usage().buffer_bytes;
      const std::vector<std::vector<float>> expected = EncodeValues(*encoder, rows);
      const int64_t kept = encoder->usage().buffer_bytes - standing;
      EXPECT_EQ(kept, encoder->RowBytes(rows[0]));

      const std::unique_ptr<CudaEncoder> other = Stepped(model, dtype);
      ASSERT_NE(other, nullptr);
      const std::vector<DeviceBuffer> ballast = LeaveFree(kept - (int64_t{64} << 20));
      EXPECT_EQ(EncodeValues(*other, rows), expected) << Name(dtype) << " " << Name(variant);
      const int64_t again = other->usage().buffer_bytes - standing;
      EXPECT_LT(again, kept / 2 + (int64_t{256} << 20));
      EXPECT_GT(again, 0);
    }
  }
}

TEST_F(CudaDocumentRunnerTest, ARowBeyondMemoryIsRefusedWithBothNumbers) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Stepped(model, DType::kBFloat16);
  ASSERT_NE(encoder, nullptr);
  const std::vector<uint32_t> ids = RandomIds(700001, ModelOptions().vocab_size, 3);
  const std::vector<Row> row = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}};
  {
    const std::vector<DeviceBuffer> ballast = LeaveFree(int64_t{200} << 20);
    RowResult unused;
    const absl::Status status = encoder->Encode(row, {&unused, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the batch needs"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("bytes of device memory, and"));
  }
  EXPECT_EQ(EncodeValues(*encoder, row)[0].size(), 48u);
}

TEST_F(CudaDocumentRunnerTest, ProgressRisesAndTheBitsStay) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Stepped(model, DType::kBFloat16);
  ASSERT_NE(encoder, nullptr);
  EXPECT_EQ(encoder->max_unstepped_tokens(), 1024);
  EXPECT_FALSE(encoder->runs_nested_batches());
  const std::vector<uint32_t> ids = RandomIds(300000, ModelOptions().vocab_size, 3);
  const std::vector<Row> rows = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}};
  int64_t last = 0;
  int calls = 0;
  FunctionControl control([&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 300000);
    EXPECT_GE(done, last);
    EXPECT_GT(done, 0);
    EXPECT_LT(done, total);
    last = done;
    ++calls;
    return absl::OkStatus();
  });
  RowResult result;
  ASSERT_TRUE(encoder->Encode(rows, {&result, 1}, &control).ok());
  EXPECT_GT(calls, 2);
  EXPECT_GT(last, 100000);
  EXPECT_EQ(result.values, EncodeValues(*encoder, rows)[0]);
  // A batch without steps asks nobody.
  calls = 0;
  const std::vector<Row> small = {{absl::MakeConstSpan(ids).subspan(0, 1024), {}, ComputeMode::kChunked}};
  ASSERT_TRUE(encoder->Encode(small, {&result, 1}, &control).ok());
  EXPECT_EQ(calls, 0);
}

TEST_F(CudaDocumentRunnerTest, WhatControlSaysEndsTheRowAndNothingElse) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Stepped(model, DType::kBFloat16);
  ASSERT_NE(encoder, nullptr);
  const std::vector<uint32_t> ids = RandomIds(300000, ModelOptions().vocab_size, 3);
  const std::vector<Row> rows = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}};
  const auto expected = EncodeValues(*encoder, rows);
  for (int stop_at : {1, 2, 5}) {
    int calls = 0;
    FunctionControl control(
        [&](int64_t, int64_t) { return ++calls == stop_at ? absl::CancelledError("nobody waits") : absl::OkStatus(); });
    RowResult unused;
    EXPECT_EQ(encoder->Encode(rows, {&unused, 1}, &control), absl::CancelledError("nobody waits"));
    EXPECT_EQ(calls, stop_at);
    EXPECT_EQ(EncodeValues(*encoder, rows), expected);
  }
}

TEST_F(CudaDocumentRunnerTest, ShortBatchesRunInTheMiddleOfADocument) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Stepped(model, DType::kBFloat16);
  ASSERT_NE(encoder, nullptr);
  const std::vector<uint32_t> ids = RandomIds(300000, ModelOptions().vocab_size, 3);
  const std::vector<Row> document = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}};
  const std::vector<Row> text = {
      {absl::MakeConstSpan(ids).subspan(7, 128), {}, ComputeMode::kParallel, 0, RowOutput::kTokens}};
  const std::vector<Row> texts(8, text[0]);
  const auto expected_document = EncodeValues(*encoder, document);
  const auto expected_text = EncodeValues(*encoder, text);
  int calls = 0;
  FunctionControl control([&](int64_t, int64_t) {
    // Whoever holds the document's thread cannot keep the others from the device.
    ++calls;
    std::thread other([&] {
      EXPECT_EQ(EncodeValues(*encoder, text), expected_text);
      EXPECT_EQ(EncodeValues(*encoder, texts)[7], expected_text[0]);
    });
    other.join();
    return absl::OkStatus();
  });
  RowResult result;
  ASSERT_TRUE(encoder->Encode(document, {&result, 1}, &control).ok());
  EXPECT_GT(calls, 2);
  EXPECT_EQ(result.values, expected_document[0]);
}

// --------------------------------------------------------------------------------------------------------- windows

TEST_F(CudaDocumentRunnerTest, WindowsAreMeansOfTheirTokens) {
  RandomModelOptions options = ModelOptions();
  options.dense_width = 0;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const RandomModel model(options);
    const std::unique_ptr<CudaEncoder> encoder = CreateCudaEncoder(CudaOptionsOf(model, dtype));
    ASSERT_NE(encoder, nullptr);
    const int64_t E = options.hidden_width;
    for (int64_t L : {1, 63, 200, 1999, 8192, 9001}) {  // the last one in steps
      const std::vector<uint32_t> ids = RandomIds(L, options.vocab_size, static_cast<uint32_t>(L));
      const std::vector<Row> tokens_row = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
      const std::vector<float> tokens = EncodeValues(*encoder, tokens_row)[0];
      const std::pair<int64_t, int64_t> windows[] = {{256, 128}, {64, 64}, {100, 70}, {127, 127}, {5, 3},
                                                     {1, 1},     {97, 1},  {700, 3},  {5000, 1}};
      for (const auto& [size, stride] : windows) {
        const std::vector<Row> row = {WindowsOf(ids, ComputeMode::kChunked, size, stride)};
        const std::vector<float> actual = EncodeValues(*encoder, row)[0];
        const int64_t num_windows = NumWindows(L, size, stride);
        ASSERT_EQ(static_cast<int64_t>(actual.size()), num_windows * E);
        double worst = 0;
        for (int64_t w = 0; w < num_windows; ++w) {
          const int64_t end = std::min(w * stride + size, L);
          for (int64_t e = 0; e < E; ++e) {
            double sum = 0;
            double magnitudes = 0;
            for (int64_t t = w * stride; t < end; ++t) {
              sum += static_cast<double>(tokens[t * E + e]);
              magnitudes += std::fabs(static_cast<double>(tokens[t * E + e]));
            }
            const auto n = static_cast<double>(end - w * stride);
            const double error = std::fabs(static_cast<double>(actual[w * E + e]) - sum / n);
            // A sum of n terms in fp32 in any order errs by at most n units in the last place of their magnitudes'.
            const double limit = (n + 1) * std::ldexp(1.0, -24) * magnitudes / n;
            worst = std::fmax(worst, std::isfinite(error) ? error / std::fmax(limit, 1e-30) : INFINITY);
          }
        }
        EXPECT_LE(worst, 1) << Name(dtype) << " L " << L << " size " << size << " stride " << stride;
      }
    }
  }
}

TEST_F(CudaDocumentRunnerTest, AWindowAsLongAsTheRowHasTheMeansBits) {
  const RandomModel model(ModelOptions());  // with Dense
  const std::unique_ptr<CudaEncoder> encoder = CreateCudaEncoder(CudaOptionsOf(model));
  ASSERT_NE(encoder, nullptr);
  for (int64_t L : {1, 500, 8192, 20000}) {
    const std::vector<uint32_t> ids = RandomIds(L, ModelOptions().vocab_size, static_cast<uint32_t>(L));
    const std::vector<Row> mean = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}};
    const std::vector<Row> window = {WindowsOf(ids, ComputeMode::kChunked, L, std::max<int64_t>(1, L / 3))};
    EXPECT_EQ(EncodeValues(*encoder, window), EncodeValues(*encoder, mean)) << L;
  }
}

TEST_F(CudaDocumentRunnerTest, WindowsDoNotDependOnTheRowsBesideThem) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = CreateCudaEncoder(CudaOptionsOf(model));
  ASSERT_NE(encoder, nullptr);
  std::mt19937 random(8);
  for (int i = 0; i < 20; ++i) {
    std::vector<std::vector<uint32_t>> ids;
    std::vector<Row> rows;
    for (int r = 0; r < 9; ++r) {
      ids.push_back(RandomIds(1 + static_cast<int64_t>(random() % 800), ModelOptions().vocab_size, random()));
      const int64_t size = 1 + static_cast<int64_t>(random() % 300);
      const int64_t stride = 1 + static_cast<int64_t>(random() % size);
      rows.push_back(r % 3 == 0 ? Row{ids.back(), {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean}
                                : WindowsOf(ids.back(), ComputeMode::kChunked, size, stride));
    }
    const auto together = EncodeValues(*encoder, rows);
    for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(EncodeValues(*encoder, {rows[r]})[0], together[r]);
  }
}

}  // namespace
}  // namespace lion
