// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// CudaEncoder's batches in flight: graphs, threads, memory, refusals. What a batch computes is in cuda_encoder_test.cc.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/cuda_batch.h"
#include "model/cuda_encoder.h"
#include "model/kernels/cuda/rows_launch.h"
#include "tests/model/cuda_encoders.h"
#include "tests/model/cuda_test.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::HasSubstr;

class CudaFlightTest : public OnCudaDevice<> {
 protected:
  static RandomModelOptions ModelOptions() {
    RandomModelOptions options;
    options.hidden_width = 256;
    options.feed_forward_width = 1024;
    options.dense_width = 48;
    return options;
  }

  static CudaEncoder::Options EncoderOptions(const RandomModel& model, DType dtype = DType::kBFloat16) {
    return CudaOptionsOf(model, dtype);
  }
  static std::unique_ptr<CudaEncoder> Create(CudaEncoder::Options options) {
    return CreateCudaEncoder(std::move(options));
  }
};

// A batch of rows of every form and output, and the ids that they borrow.
struct Batch {
  std::vector<std::vector<uint32_t>> ids;
  std::vector<Row> rows;
};

Batch RandomBatch(int64_t max_tokens, int64_t vocab_size, uint32_t seed, bool recurrent) {
  std::mt19937 random(seed);
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits};
  Batch batch;
  for (int64_t left = 1 + static_cast<int64_t>(random() % max_tokens); left > 0;) {
    const int64_t L = 1 + static_cast<int64_t>(random() % std::min<int64_t>(left, 1 + max_tokens / 3));
    batch.ids.push_back(RandomIds(L, vocab_size, random()));
    batch.rows.push_back({batch.ids.back(), {}, modes[random() % (recurrent ? 3 : 2)], 0, outputs[random() % 4]});
    left -= L;
  }
  return batch;
}

std::vector<std::vector<float>> Encode(CudaEncoder& encoder, const std::vector<Row>& rows) {
  return EncodeValues(encoder, rows);
}

TEST_F(CudaFlightTest, AGraphGivesTheBitsOfItsKernels) {
  for (DType dtype : DTypesOf(DeviceKind::kCuda)) {
    const RandomModel model(ModelOptions());
    CudaEncoder::Options options = EncoderOptions(model, dtype);
    const std::unique_ptr<CudaEncoder> graphs = Create(options);
    options.graphs = false;
    const std::unique_ptr<CudaEncoder> kernels = Create(options);
    ASSERT_NE(graphs, nullptr);
    ASSERT_NE(kernels, nullptr);
    // Every bucket's border, and batches inside.
    for (int64_t L : {1, 63, 64, 65, 128, 192, 193, 257, 384, 512, 513, 768, 1000, 1024, 1025}) {
      for (ComputeMode mode : {ComputeMode::kParallel, ComputeMode::kChunked}) {
        const std::vector<uint32_t> ids = RandomIds(L, ModelOptions().vocab_size, static_cast<uint32_t>(L));
        const std::vector<Row> rows = {{ids, {}, mode, 0, RowOutput::kTokens}};
        EXPECT_EQ(Encode(*graphs, rows), Encode(*kernels, rows)) << L;
      }
    }
    for (uint32_t seed = 0; seed < 60; ++seed) {
      const Batch batch = RandomBatch(1200, ModelOptions().vocab_size, seed, seed % 4 == 0);
      EXPECT_EQ(Encode(*graphs, batch.rows), Encode(*kernels, batch.rows)) << "seed " << seed;
    }
  }
}

TEST_F(CudaFlightTest, ThreadsGetTheBitsThatOneGets) {
  constexpr int kThreads = 4;  // more than there are places in flight
  constexpr int kRounds = 60;
  constexpr uint32_t kBatches = 24;
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model));
  ASSERT_NE(encoder, nullptr);
  EXPECT_EQ(encoder->max_concurrent_batches(), 2);
  std::vector<Batch> batches;
  std::vector<std::vector<std::vector<float>>> expected;
  for (uint32_t seed = 0; seed < kBatches; ++seed) {
    // Small ones and ones without a graph; every eighth is above max_batch_tokens.
    batches.push_back(RandomBatch(seed % 3 == 0 ? 200 : 6000, ModelOptions().vocab_size, seed, seed % 5 == 0));
    if (seed % 8 == 7) {
      batches.back().ids.push_back(RandomIds(9000, ModelOptions().vocab_size, seed));
      batches.back().rows.push_back({batches.back().ids.back(), {}, ComputeMode::kChunked, 0, RowOutput::kPooledMean});
    }
    expected.push_back(Encode(*encoder, batches.back().rows));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int round = 0; round < kRounds; ++round) {
        const size_t i = random() % kBatches;
        if (Encode(*encoder, batches[i].rows) != expected[i]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(CudaFlightTest, EstimatesWhatABatchAllocates) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model));
  ASSERT_NE(encoder, nullptr);
  const int64_t standing = encoder->usage().buffer_bytes;
  const std::vector<uint32_t> ids = RandomIds(20000, ModelOptions().vocab_size, 1);
  const std::vector<Row> large = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
  const std::vector<Row> small = {
      {absl::MakeConstSpan(ids).subspan(0, 8192), {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
  Encode(*encoder, small);
  EXPECT_EQ(encoder->usage().buffer_bytes, standing);
  EXPECT_LE(encoder->EstimateBytes(small), standing);
  for (int round = 0; round < 2; ++round) {
    const auto values = Encode(*encoder, large);
    EXPECT_EQ(encoder->usage().buffer_bytes - standing, encoder->EstimateBytes(large));
    EXPECT_EQ(Encode(*encoder, large), values);  // in the buffers that were kept
    for (int i = 0; i < 63; ++i) Encode(*encoder, small);
    EXPECT_EQ(encoder->usage().buffer_bytes - standing, encoder->EstimateBytes(large));
    Encode(*encoder, small);
    EXPECT_EQ(encoder->usage().buffer_bytes, standing);  // given back
  }
}

TEST_F(CudaFlightTest, ARefusedBatchLeavesTheNextOneFine) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model));
  ASSERT_NE(encoder, nullptr);
  const Batch batch = RandomBatch(2000, ModelOptions().vocab_size, 3, true);
  const auto expected = Encode(*encoder, batch.rows);
  const std::vector<uint32_t> ids = RandomIds(100000, ModelOptions().vocab_size, 1);
  const Row row = {ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens};
  // Twice what there is: a row costs less beside others, which share its tile.
  const std::vector<Row> many(2 * encoder->usage().total_bytes / encoder->EstimateBytes({&row, 1}) + 1, row);
  std::vector<RowResult> unused(many.size());
  const absl::Status status = encoder->Encode(many, absl::MakeSpan(unused));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes of device memory"));
  const std::vector<uint32_t> unknown = {97};
  const std::vector<Row> bad = {{unknown, {}}};
  EXPECT_EQ(encoder->Encode(bad, absl::MakeSpan(unused).subspan(0, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Encode(*encoder, batch.rows), expected);
}

TEST_F(CudaFlightTest, Float16WithoutLayerNormAfterHasALongestRow) {
  for (Variant variant : {Variant::kLit, Variant::kD, Variant::kS}) {
    RandomModelOptions model_options = ModelOptions();
    model_options.variant = variant;
    model_options.layer_norm_after = false;
    model_options.gate_bias = -8;  // slow decay: sums grow
    const RandomModel model(model_options);
    const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model, DType::kFloat16));
    ASSERT_NE(encoder, nullptr);
    EXPECT_EQ(encoder->max_row_tokens(), CudaEncoder::kMaxFloat16Tokens);
    const std::vector<uint32_t> ids =
        RandomIds(CudaEncoder::kMaxFloat16Tokens + 1, model_options.vocab_size, static_cast<uint32_t>(variant));
    std::vector<Row> rows = {{ids, {}, ComputeMode::kChunked, 0, RowOutput::kTokens}};
    RowResult result;
    const absl::Status status = encoder->Encode(rows, {&result, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: 8192 tokens, at most 8191 are possible in float16"));
    rows[0].ids = rows[0].ids.subspan(1);
    const std::vector<float> values = Encode(*encoder, rows)[0];
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }));
  }
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model, DType::kFloat16));
  ASSERT_NE(encoder, nullptr);
  EXPECT_EQ(encoder->max_row_tokens(), 0);
}

TEST_F(CudaFlightTest, DerivesItsBatchFromFreeMemory) {
  const RandomModel model(ModelOptions());
  CudaEncoder::Options options = EncoderOptions(model);
  options.max_batch_tokens = 0;
  {
    const std::unique_ptr<CudaEncoder> encoder = Create(options);
    ASSERT_NE(encoder, nullptr);
    EXPECT_EQ(encoder->max_batch_tokens(), kMaxDerivedTokens);
  }
  // Half a GiB for everything.
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  const double half_gib = static_cast<double>(int64_t{1} << 29) / static_cast<double>(free_bytes);
  options.memory_share = half_gib;
  {
    const std::unique_ptr<CudaEncoder> encoder = Create(options);
    ASSERT_NE(encoder, nullptr);
    EXPECT_LT(encoder->max_batch_tokens(), kMaxDerivedTokens);
    EXPECT_GT(encoder->max_batch_tokens(), 0);
    EXPECT_EQ(encoder->max_batch_tokens() % kTokenStep, 0);
    const DeviceUsage usage = encoder->usage();
    EXPECT_GT(usage.weights_bytes, 0);
    EXPECT_LE(usage.buffer_bytes, (int64_t{1} << 29) / 2);
    EXPECT_EQ(usage.total_bytes, static_cast<int64_t>(total_bytes));
    EXPECT_GT(usage.free_bytes, 0);
    EXPECT_LT(usage.free_bytes, usage.total_bytes);
  }
  options.memory_share = half_gib / 3;
  EXPECT_EQ(CudaEncoder::Create(options).status().code(), absl::StatusCode::kResourceExhausted);
  options.max_batch_tokens = 200000000;
  const absl::Status status = CudaEncoder::Create(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_batch_tokens 200000000 needs "));
}

TEST_F(CudaFlightTest, SaysWhatBecomesOfAChunk) {
  const RandomModel model(ModelOptions());
  const struct {
    DType dtype;
    int asked;
    int runs;
  } cases[] = {{DType::kFloat32, 0, 64},   {DType::kFloat32, 7, 7},   {DType::kFloat32, 100, 64},
               {DType::kBFloat16, 32, 64}, {DType::kBFloat16, 0, 64}, {DType::kBFloat16, 128, 64}};
  for (const auto& c : cases) {
    CudaEncoder::Options options = EncoderOptions(model, c.dtype);
    options.chunk_tokens = c.asked;
    options.graphs = false;
    const std::unique_ptr<CudaEncoder> encoder = Create(std::move(options));
    ASSERT_NE(encoder, nullptr);
    EXPECT_EQ(encoder->chunk_tokens(), c.runs);
  }
}

TEST_F(CudaFlightTest, CountsTheTimeThatKernelsRan) {
  const RandomModel model(ModelOptions());
  const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model));
  ASSERT_NE(encoder, nullptr);
  EXPECT_EQ(encoder->usage().busy, absl::ZeroDuration());
  const Batch batch = RandomBatch(8000, ModelOptions().vocab_size, 3, false);
  Encode(*encoder, batch.rows);
  const absl::Duration once = encoder->usage().busy;
  EXPECT_GT(once, absl::ZeroDuration());
  EXPECT_LT(once, absl::Seconds(10));
  Encode(*encoder, batch.rows);
  EXPECT_GT(encoder->usage().busy, once);
}

// In a process of its own, which has no device afterwards. 0 if all is as promised.
int LoseTheDevice(CudaEncoder& encoder, const std::vector<Row>& rows) {
  std::vector<RowResult> results(rows.size());
  const absl::Status first = encoder.Encode(rows, absl::MakeSpan(results));
  const DeviceUsage before = encoder.usage();
  // A kernel that writes where nothing is.
  const absl::Status launched = cuda::LaunchTanh(reinterpret_cast<float*>(uintptr_t{1} << 12), 1, nullptr);
  const absl::Status lost = encoder.Encode(rows, absl::MakeSpan(results));
  std::fprintf(stderr, "%s; %s; %s\n", first.ToString().c_str(), launched.ToString().c_str(), lost.ToString().c_str());
  if (!first.ok() || !launched.ok() || !absl::IsUnavailable(lost)) return 1;
  if (!absl::StartsWith(lost.message(), "cuda:0 is lost: cuda")) return 2;  // the device, then the call
  if (encoder.Encode(rows, absl::MakeSpan(results)) != lost) return 3;
  return encoder.usage().total_bytes == before.total_bytes ? 0 : 4;
}

TEST_F(CudaFlightTest, ALostDeviceStaysLost) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";  // a forked process cannot use its parent's device
  EXPECT_EXIT(
      {
        int code = 0;
        {
          const RandomModel model(ModelOptions());
          const std::unique_ptr<CudaEncoder> encoder = Create(EncoderOptions(model));
          code = LoseTheDevice(*encoder, RandomBatch(2000, ModelOptions().vocab_size, 3, true).rows);
        }
        std::_Exit(code);
      },
      testing::ExitedWithCode(0), "cuda:0 is lost: ");
}

TEST(CudaEncoderOptionsTest, RefusesWhatIsOutOfRange) {
  CudaEncoder::Options options;
  for (const auto& [change, message] : std::vector<std::pair<void (*)(CudaEncoder::Options&), std::string>>{
           {[](CudaEncoder::Options& o) { o.max_batch_tokens = -1; },
            "max_batch_tokens -1 is not from 0 to 2147483647"},
           {[](CudaEncoder::Options& o) { o.memory_share = 0; }, "memory_share 0 is not in (0, 1]"},
           {[](CudaEncoder::Options& o) { o.memory_share = 1.5; }, "memory_share 1.5 is not in (0, 1]"},
           {[](CudaEncoder::Options& o) { o.chunk_tokens = 129; }, "chunk_tokens 129 is not from 1 to 128"},
           {[](CudaEncoder::Options& o) { o.dtype = DType::kInt8; }, "dtype int8 is not available on"}}) {
    CudaEncoder::Options changed = options;
    change(changed);
    const absl::Status status = CudaEncoder::Create(changed).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace lion
