// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The image encoder on a CUDA device: against plain torch, against the reference's models, and the same bits in any
// company.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/cuda_batch.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "tests/model/cuda_test.h"
#include "tests/model/difference.h"
#include "tests/model/image_plain_form.h"
#include "tests/model/random_image_model.h"

namespace lion {
namespace {

using testing::HasSubstr;

constexpr std::pair<ComputeMode, int> kForms[] = {
    {ComputeMode::kParallel, 0}, {ComputeMode::kChunked, 0}, {ComputeMode::kChunked, 7}, {ComputeMode::kRecurrent, 0}};

std::unique_ptr<Model> Load(const std::string& directory, DType dtype, int64_t max_batch_tokens = 8192) {
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

std::vector<RowResult> Encode(Model& model, const std::vector<Row>& rows) {
  std::vector<RowResult> results(rows.size());
  const absl::Status status = model.encoder()->Encode(rows, absl::MakeSpan(results));
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

double Largest(const std::vector<double>& values) {
  double largest = 0;
  for (double v : values) largest = std::max(largest, std::fabs(v));
  return largest;
}

// ---------------------------------------------------------------------------------------------------- on the host
// alone

TEST(CudaImageBatchTest, TokensKnowTheirPictureAndPaddingIsPicturesOfOneToken) {
  ImageConfig config;
  config.variant = Variant::kS;
  config.hidden_width = 64;
  config.num_heads = 4;
  config.head_width = 16;
  config.feed_forward_width = 256;
  config.image_size = 16;
  config.patch_size = 8;
  config.two_paths = true;
  const CudaShape shape = MakeCudaShape(config, DType::kBFloat16, 64);
  EXPECT_EQ(shape.attention_heads(), 16);
  EXPECT_EQ(shape.num_gates(), 8);
  EXPECT_EQ(shape.patch_width, 192);
  const std::vector<float> small = RandomPixels(8, 1);
  const std::vector<float> large = RandomPixels(16, 2);
  std::vector<Row> rows(2);
  rows[0].pixels = small;
  rows[0].image_tokens = 2;
  rows[1].pixels = large;
  rows[1].image_tokens = 5;
  CudaBatch batch;
  PlanBatch(shape, rows, &batch);
  EXPECT_EQ(batch.counts.T, 7);
  CudaCounts counts = batch.counts;
  counts.T = 9;  // two tokens of padding
  const CudaLayout layout = ArrangeBatch(shape, counts);
  std::vector<char> upload(layout.upload_bytes);
  FillUpload(shape, batch, layout, upload.data());
  auto read = [&](int64_t offset) {
    std::vector<uint32_t> values(9);
    std::memcpy(values.data(), upload.data() + offset, values.size() * 4);
    return values;
  };
  EXPECT_THAT(read(layout.ids), testing::ElementsAre(0, 1, 0, 1, 2, 3, 4, 0, 0));
  EXPECT_THAT(read(layout.type_ids), testing::ElementsAre(0, 0, 2, 2, 2, 2, 2, 7, 8));
  EXPECT_THAT(read(layout.positions), testing::ElementsAre(1, 1, 2, 2, 2, 2, 2, 1, 1));
  std::vector<float> pixels(large.size());
  std::memcpy(pixels.data(), upload.data() + layout.pixels + 2 * 192 * 4, pixels.size() * 4);
  EXPECT_EQ(pixels, large);
}

// ------------------------------------------------------------------------------------------------------- on the device

class CudaImageVariantTest : public OnCudaDevice<testing::TestWithParam<std::tuple<Variant, bool>>> {
 protected:
  RandomImageModelOptions Options() const {
    RandomImageModelOptions options;
    options.variant = std::get<0>(GetParam());
    options.two_paths = std::get<1>(GetParam());
    options.hidden_width = 144;  // heads of 48, stored in 64
    options.num_heads = 3;
    return options;
  }
};

TEST_P(CudaImageVariantTest, AllFormsAgreeWithThePlainFormInFp64) {
  const RandomImageModel directory(Options());
  const std::unique_ptr<Model> model = Load(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  for (int64_t side : {1, 2, 3, 8, 15, 24}) {
    const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
    std::vector<Row> rows;
    for (const auto& [mode, chunk] : kForms) rows.push_back(directory.MakeRow(pixels, mode, chunk));
    const std::vector<RowResult> results = Encode(*model, rows);
    const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
    const Error plain = Difference(ImagePlainForm(directory, pixels, PlainType::kFloat32), truth);
    for (size_t i = 0; i < rows.size(); ++i) {
      constexpr double kUlp = 2.4e-7;  // of fp32 at 2 to 4, the scale of a LayerNorm's largest outputs
      EXPECT_LE(Difference(results[i].values, truth).max, 4 * plain.max + 16 * kUlp)
          << "side " << side << " form " << i;
    }
  }
}

TEST_P(CudaImageVariantTest, LowerPrecisionsErrAtMostTwiceAsMuchAsThePlainForm) {
  const RandomImageModel directory(Options());
  const std::tuple<DType, PlainType, double> precisions[] = {{DType::kBFloat16, PlainType::kBFloat16, 1.0 / 256},
                                                             {DType::kFloat16, PlainType::kFloat16, 1.0 / 2048}};
  for (const auto& [dtype, type, ulp] : precisions) {
    const std::unique_ptr<Model> model = Load(directory.directory(), dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t side : {4, 8, 14, 24}) {
      const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
      const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
      const Error plain = Difference(ImagePlainForm(directory, pixels, type), truth);
      std::vector<Row> rows;
      for (const auto& [mode, chunk] : kForms) rows.push_back(directory.MakeRow(pixels, mode, chunk));
      const std::vector<RowResult> results = Encode(*model, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + ulp) << Name(dtype) << " side " << side << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + ulp * Largest(truth)) << Name(dtype) << " side " << side << " form " << i;
      }
    }
  }
}

std::string VariantName(const testing::TestParamInfo<std::tuple<Variant, bool>>& info) {
  const char* names[] = {"Lit", "D", "S"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) + (std::get<1>(info.param) ? "Natural" : "");
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaImageVariantTest,
                         testing::Combine(testing::Values(Variant::kLit, Variant::kD, Variant::kS), testing::Bool()),
                         VariantName);

class CudaImageOracleTest : public OnCudaDevice<testing::TestWithParam<const char*>> {};

TEST_P(CudaImageOracleTest, MatchesTheReferenceInFp32) {
  const std::string directory = std::string(LION_SOURCE_DIR) + "/tests/oracle/" + GetParam();
  const std::unique_ptr<Model> model = Load(directory, DType::kFloat32);
  ASSERT_NE(model, nullptr);
  absl::StatusOr<std::unique_ptr<WeightFiles>> expected = WeightFiles::OpenFile(directory + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  auto floats = [&](const char* name) {
    const StoredTensor* tensor = (*expected)->Find(name);
    std::vector<float> values(tensor->num_elements());
    std::memcpy(values.data(), tensor->data, tensor->size_bytes);
    return values;
  };
  const int64_t B = (*expected)->Find("pixel_values")->shape[0];
  const int64_t S = (*expected)->Find("pixel_values")->shape[3];
  const std::vector<float> pixels = floats("pixel_values");
  const RowOutput pooled = model->info().pooling == Pooling::kCls ? RowOutput::kPooledCls : RowOutput::kPooledMean;
  for (const auto& [mode, chunk] : kForms) {
    for (const auto& [output, name] : {std::pair(pooled, "features"), std::pair(RowOutput::kLogits, "logits")}) {
      std::vector<Row> rows;
      for (int64_t b = 0; b < B; ++b) {
        Row row{{}, {}, mode, chunk, output};
        row.pixels = absl::MakeConstSpan(pixels).subspan(b * 3 * S * S, 3 * S * S);
        row.image_tokens = ImageTokens(S, model->info().patch_size);
        rows.push_back(row);
      }
      std::vector<float> values;
      for (const RowResult& result : Encode(*model, rows)) {
        values.insert(values.end(), result.values.begin(), result.values.end());
      }
      EXPECT_LE(Difference(values, floats(name)).max, 1e-4) << name << " " << Name(mode);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaImageOracleTest,
                         testing::Values("image-lit-normal-pos-mean", "image-decay-normal-nopos-mean",
                                         "image-decay-s-nopos-cls", "image-selective-normal-pos-cls",
                                         "image-selective-s-nopos-mean"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class CudaImageBitsTest : public OnCudaDevice<testing::TestWithParam<DType>> {};

TEST_P(CudaImageBitsTest, APictureIsTheSameAloneAndInAnyBatch) {
  RandomImageModelOptions options;
  options.two_paths = true;
  options.hidden_width = 128;
  const RandomImageModel directory(options);
  const std::unique_ptr<Model> model = Load(directory.directory(), GetParam(), 1024);
  ASSERT_NE(model, nullptr);
  std::mt19937 random(7);
  std::vector<std::vector<float>> companions;
  for (uint32_t i = 0; i < 12; ++i) companions.push_back(RandomPixels(8 * (1 + random() % 9), 100 + i));
  companions.push_back(RandomPixels(8 * 23, 200));
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits};
  for (int64_t side : {1, 4, 14, 23}) {
    const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
    for (ComputeMode mode : modes) {
      for (RowOutput output : outputs) {
        const Row row = directory.MakeRow(pixels, mode, 0, output);
        const RowResult expected = Encode(*model, {row}).front();
        ASSERT_TRUE(std::isfinite(expected.values.front()));
        for (int num_companions : {1, 3, 17}) {  // 17: more than a batch's tokens
          std::vector<Row> rows;
          for (int i = 0; i < num_companions; ++i) {
            rows.push_back(directory.MakeRow(companions[random() % companions.size()], modes[random() % 3], 0,
                                             outputs[random() % 4]));
          }
          const size_t place = random() % (rows.size() + 1);
          rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(place), row);
          ASSERT_EQ(Encode(*model, rows)[place].values, expected.values)
              << "side " << side << " mode " << Name(mode) << " output " << static_cast<int>(output) << " beside "
              << num_companions;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, CudaImageBitsTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFp8),
                         [](const auto& test) { return std::string(Name(test.param)); });

class CudaImageEncoderTest : public OnCudaDevice<> {};

TEST_F(CudaImageEncoderTest, Fp8StaysCloseToBFloat16) {
  RandomImageModelOptions options;
  options.hidden_width = 128;
  options.two_paths = true;
  const RandomImageModel directory(options);
  const std::unique_ptr<Model> fp8 = Load(directory.directory(), DType::kFp8);
  ASSERT_NE(fp8, nullptr);
  const std::vector<float> pixels = RandomPixels(14 * 8, 1);
  const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
  const Error error =
      Difference(Encode(*fp8, {directory.MakeRow(pixels, ComputeMode::kChunked)}).front().values, truth);
  // e4m3 rounds to a sixteenth at most; a layer's four products and two layers add up to 8 such roundings' mean.
  EXPECT_LE(error.rms, 8 * (1.0 / 16) / std::sqrt(12.0));
}

TEST_F(CudaImageEncoderTest, APictureIsNotLargerThanABatch) {
  const RandomImageModel directory({});
  const std::unique_ptr<Model> model = Load(directory.directory(), DType::kBFloat16, 1024);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->info().max_positions, 1024);
  const std::vector<float> pixels = RandomPixels(8 * 32, 1);  // 1,025 tokens
  const Row row = directory.MakeRow(pixels, ComputeMode::kChunked);
  RowResult result;
  const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: 1025 tokens, at most 1024 are possible in a picture"));
}

}  // namespace
}  // namespace lion
