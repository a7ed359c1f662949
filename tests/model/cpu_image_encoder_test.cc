// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The image encoder on the CPU: its forms against plain torch, the same bits in any company, and what it refuses.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/compute_pool.h"
#include "model/cpu_image_layers.h"
#include "model/linear.h"
#include "model/model.h"
#include "tests/model/difference.h"
#include "tests/model/image_features.h"
#include "tests/model/image_plain_form.h"
#include "tests/model/loaded_model.h"
#include "tests/model/random_image_model.h"
#include "tests/sanitized.h"

namespace lion {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Form {
  ComputeMode mode;
  int chunk_tokens;
};

constexpr Form kForms[] = {{ComputeMode::kParallel, 0},  {ComputeMode::kChunked, 0},  {ComputeMode::kChunked, 1},
                           {ComputeMode::kChunked, 7},   {ComputeMode::kChunked, 16}, {ComputeMode::kChunked, 64},
                           {ComputeMode::kChunked, 100}, {ComputeMode::kRecurrent, 0}};

std::unique_ptr<Model> Load(const RandomImageModel& directory, ComputePool* pool, DType dtype = DType::kFloat32) {
  ModelOptions options;
  options.directory = directory.directory();
  options.dtype = dtype;
  options.parallel_max_tokens = 128;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, pool);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

// Whether this CPU has no exact int8 products.
bool RefusedHere(DType dtype) {
  if (dtype != DType::kInt8) return false;
  ComputePool pool({.num_threads = 1});
  absl::Status exact;
  EXPECT_TRUE(pool.Run(1, [&](int, int) { exact = Linear::CheckInt8(); }).ok());
  return !exact.ok();
}

TEST(PathTest, IsASnakeByRowsOrByColumns) {
  std::vector<int64_t> by_rows;
  std::vector<int64_t> by_columns;
  for (int64_t place = 0; place < 10; ++place) {
    by_rows.push_back(PathToken(0, 3, place));
    by_columns.push_back(PathToken(1, 3, place));
  }
  EXPECT_THAT(by_rows, ElementsAre(0, 1, 2, 3, 6, 5, 4, 7, 8, 9));
  EXPECT_THAT(by_columns, ElementsAre(0, 1, 4, 7, 8, 5, 2, 3, 6, 9));
}

class VariantTest : public testing::TestWithParam<std::tuple<Variant, bool>> {
 protected:
  RandomImageModelOptions Options() const {
    RandomImageModelOptions options;
    options.variant = std::get<0>(GetParam());
    options.two_paths = std::get<1>(GetParam());
    return options;
  }
};

TEST_P(VariantTest, AllFormsAgreeWithThePlainFormInFp64) {
  const RandomImageModel directory(Options());
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  // One patch; grids of odd and even sides; more than a block of 64 tokens, and a row that all workers share.
  for (int64_t side : {1, 2, 3, 7, 8, 15, 24}) {
    const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
    std::vector<Row> rows;
    for (const Form& form : kForms) rows.push_back(directory.MakeRow(pixels, form.mode, form.chunk_tokens));
    const std::vector<RowResult> results = Encode(*model, rows);
    const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
    // fp32's own rounding through two layers, as torch has it: the yardstick of the tolerance.
    const Error plain = Difference(ImagePlainForm(directory, pixels, PlainType::kFloat32), truth);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Error error = Difference(results[i].values, truth);
      constexpr double kUlp = 2.4e-7;  // of fp32 at 2 to 4, the scale of a LayerNorm's largest outputs
      EXPECT_LE(error.max, 4 * plain.max + 16 * kUlp) << "side " << side << " form " << i;
    }
  }
}

// In the lower precisions.
TEST_P(VariantTest, ErrsAtMostTwiceAsMuchAsThePlainForm) {
  RandomImageModelOptions options = Options();
  options.hidden_width = 128;
  const RandomImageModel directory(options);
  ComputePool pool({.num_threads = 2});
  for (const auto& [dtype, plain_type] :
       {std::pair(DType::kBFloat16, PlainType::kBFloat16), std::pair(DType::kInt8, PlainType::kInt8)}) {
    if (RefusedHere(dtype)) continue;
    const std::unique_ptr<Model> model = Load(directory, &pool, dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t side : {4, 8, 14}) {
      const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
      const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
      const Error plain = Difference(ImagePlainForm(directory, pixels, plain_type), truth);
      std::vector<Row> rows;
      for (const Form& form : kForms) rows.push_back(directory.MakeRow(pixels, form.mode, form.chunk_tokens));
      const std::vector<RowResult> results = Encode(*model, rows);
      constexpr double kUlp = 1.0 / 256;  // of bfloat16 at 1, the scale of a LayerNorm's output
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + kUlp) << Name(dtype) << " side " << side << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + kUlp) << Name(dtype) << " side " << side << " form " << i;
      }
    }
  }
}

std::string VariantName(const testing::TestParamInfo<std::tuple<Variant, bool>>& info) {
  const char* names[] = {"Lit", "D", "S"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) + (std::get<1>(info.param) ? "Natural" : "");
}

INSTANTIATE_TEST_SUITE_P(Variants, VariantTest,
                         testing::Combine(testing::Values(Variant::kLit, Variant::kD, Variant::kS), testing::Bool()),
                         VariantName);

class BitsTest : public testing::TestWithParam<DType> {};

TEST_P(BitsTest, APictureIsTheSameAloneAndInAnyBatch) {
  if (RefusedHere(GetParam())) return;
  RandomImageModelOptions options;
  options.two_paths = true;
  options.hidden_width = 128;
  const RandomImageModel directory(options);
  ComputePool one({.num_threads = 1});
  ComputePool three({.num_threads = 3});
  const std::unique_ptr<Model> alone = Load(directory, &one, GetParam());
  const std::unique_ptr<Model> model = Load(directory, &three, GetParam());
  ASSERT_NE(alone, nullptr);
  ASSERT_NE(model, nullptr);

  std::mt19937 random(7);
  std::vector<std::vector<float>> companions;  // of many resolutions, one of them shared by the workers
  for (uint32_t i = 0; i < 12; ++i) companions.push_back(RandomPixels(8 * (1 + random() % 9), 100 + i));
  companions.push_back(RandomPixels(8 * 23, 200));
  const ComputeMode modes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};
  const RowOutput outputs[] = {RowOutput::kTokens, RowOutput::kPooledMean, RowOutput::kPooledCls, RowOutput::kLogits};
  for (int64_t side : {1, 4, 14, 23}) {
    const std::vector<float> pixels = RandomPixels(side * 8, static_cast<uint32_t>(side));
    for (ComputeMode mode : modes) {
      for (RowOutput output : outputs) {
        const Row row = directory.MakeRow(pixels, mode, 0, output);
        const RowResult expected = Encode(*alone, {row}).front();
        for (int num_companions : {0, 1, 3, 17}) {
          if (kSanitized && num_companions > 3) continue;
          std::vector<Row> rows;
          for (int i = 0; i < num_companions; ++i) {
            rows.push_back(directory.MakeRow(companions[random() % companions.size()], modes[random() % 3], 0,
                                             outputs[random() % 4]));
          }
          const size_t place = rows.empty() ? 0 : random() % (rows.size() + 1);
          rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(place), row);
          const std::vector<RowResult> results = Encode(*model, rows);
          ASSERT_EQ(results[place].values, expected.values) << "side " << side << " mode " << Name(mode) << " output "
                                                            << static_cast<int>(output) << " beside " << num_companions;
        }
      }
    }
  }
}

TEST_P(BitsTest, PicturesOfNaNAndInfinityLeaveTheirNeighboursAlone) {
  if (RefusedHere(GetParam())) return;
  RandomImageModelOptions options;
  options.two_paths = true;
  const RandomImageModel directory(options);
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool, GetParam());
  ASSERT_NE(model, nullptr);
  const std::vector<float> nan(3 * 40 * 40, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> infinity(3 * 24 * 24, std::numeric_limits<float>::infinity());
  const std::vector<float> good = RandomPixels(56, 1);
  for (const Form& form : kForms) {
    const Row row = directory.MakeRow(good, form.mode, form.chunk_tokens);
    const std::vector<RowResult> results = Encode(*model, {directory.MakeRow(nan, form.mode, form.chunk_tokens), row,
                                                           directory.MakeRow(infinity, form.mode, form.chunk_tokens)});
    EXPECT_EQ(results[1].values, Encode(*model, {row}).front().values);
    EXPECT_TRUE(std::isfinite(results[1].values.front()));
    EXPECT_TRUE(std::isnan(results[0].values.back()));
    EXPECT_TRUE(std::isnan(results[2].values.back()));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, BitsTest, testing::Values(DType::kFloat32, DType::kBFloat16, DType::kInt8),
                         [](const auto& test) { return std::string(Name(test.param)); });

TEST(CpuImageEncoderTest, FeaturesAreTheClsRowOrTheMeanAndLogitsFollowThem) {
  for (bool cls : {true, false}) {
    RandomImageModelOptions options;
    options.cls_pooling = cls;
    options.qkv_bias = cls;
    const RandomImageModel directory(options);
    ComputePool pool({.num_threads = 1});
    const std::unique_ptr<Model> model = Load(directory, &pool);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(model->info().pooling, cls ? Pooling::kCls : Pooling::kMean);
    EXPECT_EQ(model->info().input, "image");
    EXPECT_EQ(model->info().image_size, 32);
    EXPECT_EQ(model->info().patch_size, 8);
    EXPECT_FALSE(model->info().image_size_fixed);
    EXPECT_EQ(model->info().max_positions, 0);
    EXPECT_EQ(model->info().variant_name, "lion-s");
    EXPECT_EQ(model->tokenizer(), nullptr);
    EXPECT_THAT(model->info().labels, ElementsAre("LABEL_0", "LABEL_1", "LABEL_2"));
    EXPECT_THAT(model->info().warnings, IsEmpty());

    ExpectFeaturesAndLogits(directory, *model);
  }
}

TEST(CpuImageEncoderTest, PositionsFixTheSizeAndAModelWithoutAHeadOnlyEmbeds) {
  RandomImageModelOptions options;
  options.positions = true;
  options.two_paths = true;
  options.num_labels = 0;
  const RandomImageModel directory(options);
  ComputePool pool({.num_threads = 1});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->info().image_size_fixed);
  EXPECT_EQ(model->info().max_positions, 17);
  EXPECT_EQ(model->info().variant_name, "lion-s-natural");
  EXPECT_FALSE(model->info().classifies);
  const std::vector<float> pixels = RandomPixels(32, 1);
  const std::vector<double> truth = ImagePlainForm(directory, pixels, PlainType::kFloat64);
  EXPECT_LE(Difference(Encode(*model, {directory.MakeRow(pixels, ComputeMode::kRecurrent)}).front().values, truth).max,
            5e-5);
}

TEST(CpuImageEncoderTest, RefusesRowsThatBreakTheContract) {
  RandomImageModelOptions options;
  options.positions = true;
  options.num_labels = 0;
  const RandomImageModel directory(options);
  ComputePool pool({.num_threads = 1});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  const std::vector<float> good = RandomPixels(32, 1);
  const std::vector<float> other = RandomPixels(40, 1);
  const std::vector<float> odd = RandomPixels(33, 1);
  const std::vector<float> oblong(3 * 32 * 31);
  const std::vector<uint32_t> ids = {1, 2};
  Row with_ids = directory.MakeRow(good, ComputeMode::kParallel);
  with_ids.ids = ids;
  Row miscounted = directory.MakeRow(good, ComputeMode::kParallel);
  miscounted.image_tokens = 18;
  Row logits = directory.MakeRow(good, ComputeMode::kParallel, 0, RowOutput::kLogits);
  const std::vector<std::pair<Row, std::string>> cases = {
      {Row{}, "has no pixels"},
      {Row{ids, {}}, "has ids, the model takes pixels"},
      {with_ids, "has ids, the model takes pixels"},
      {directory.MakeRow(other, ComputeMode::kParallel), "S 40, the model's positions are for 32"},
      {directory.MakeRow(odd, ComputeMode::kParallel), "S 33 is not a multiple of the patch size 8"},
      {directory.MakeRow(oblong, ComputeMode::kParallel), "2976 pixel values are not 3 x S x S"},
      {miscounted, "image_tokens 18, S 32 has 17"},
      {logits, "the model has no classifier"},
  };
  for (const auto& [row, message] : cases) {
    RowResult result;
    const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: " + message));
  }
  const RandomModel text_directory({});
  ModelOptions text_options;
  text_options.directory = text_directory.directory();
  text_options.parallel_max_tokens = 64;
  const absl::StatusOr<std::unique_ptr<Model>> text = Model::Load(text_options, &pool);
  ASSERT_TRUE(text.ok()) << text.status();
  const Row picture = directory.MakeRow(good, ComputeMode::kParallel);
  RowResult result;
  EXPECT_THAT(std::string((*text)->encoder()->Encode({&picture, 1}, {&result, 1}).message()),
              HasSubstr("rows[0]: has pixels, the model takes ids"));
}

TEST(CpuImageEncoderTest, ALongPictureTakesTheMemoryThatItSays) {
  const RandomImageModel directory({});
  ComputePool pool({.num_threads = 2});
  const std::unique_ptr<Model> model = Load(directory, &pool);
  ASSERT_NE(model, nullptr);
  auto bytes = [&](int64_t side) {
    const std::vector<float> pixels(3 * side * 8 * side * 8);
    return model->encoder()->RowBytes(directory.MakeRow(pixels, ComputeMode::kChunked, 0, RowOutput::kPooledMean));
  };
  EXPECT_EQ(bytes(8), 0);  // in the workers' own buffers
  // Linear in the tokens: x, y, q, k, and v with its column, at 4 bytes; gates; and a head's sums for each worker.
  const double per_token = static_cast<double>(bytes(128) - bytes(64)) / (128 * 128 - 64 * 64);
  EXPECT_NEAR(per_token, 4 * (64 * 4 + 4 * 32 + 4 + 2 * 32), 8);
}

TEST(CpuImageEncoderTest, MeasuresItsCrossover) {
  for (bool positions : {false, true}) {
    RandomImageModelOptions options;
    options.two_paths = true;
    options.positions = positions;
    const RandomImageModel directory(options);
    ComputePool pool({.num_threads = 1});
    ModelOptions load;
    load.directory = directory.directory();
    const absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(load, &pool);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_THAT(kCrossoverChoices, testing::Contains((*model)->info().parallel_max_tokens));
  }
}

}  // namespace
}  // namespace lion
