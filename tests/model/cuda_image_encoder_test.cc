// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// The image encoder on a CUDA device: against plain torch, against the reference's models, and the same bits in any
// company.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/cuda_batch.h"
#include "model/model.h"
#include "model/safetensors.h"
#include "tests/model/cuda_models.h"
#include "tests/model/cuda_test.h"
#include "tests/model/difference.h"
#include "tests/model/image_features.h"
#include "tests/model/image_plain_form.h"
#include "tests/model/loaded_model.h"
#include "tests/model/random_image_model.h"
#include "tests/model/random_model.h"

namespace lion {
namespace {

using testing::HasSubstr;

constexpr std::pair<ComputeMode, int> kForms[] = {
    {ComputeMode::kParallel, 0}, {ComputeMode::kChunked, 0}, {ComputeMode::kChunked, 7}, {ComputeMode::kRecurrent, 0}};

std::unique_ptr<Model> Load(const std::string& directory, DType dtype, int64_t max_batch_tokens = 8192) {
  return LoadOnCuda(directory, dtype, max_batch_tokens);
}

Row MakeRow(absl::Span<const float> pixels, int64_t patch, ComputeMode mode, int chunk, RowOutput output) {
  Row row{{}, {}, mode, chunk, output};
  row.pixels = pixels;
  const auto S = std::lround(std::sqrt(static_cast<double>(pixels.size()) / kImageChannels));
  row.image_tokens = ImageTokens(S, patch);
  return row;
}

// Every form of one picture, in every lower precision: at most twice the plain form's error and a unit of the output.
void ExpectErrorsOfThePlainForm(const std::string& directory, const RandomImageModelOptions& options,
                                const std::map<std::string, NamedTensor>& tensors, const std::vector<int64_t>& sides) {
  for (const Precision& precision : kPrecisions) {
    const std::unique_ptr<Model> model = Load(directory, precision.dtype);
    ASSERT_NE(model, nullptr);
    for (int64_t side : sides) {
      const std::vector<float> pixels = RandomPixels(side * options.patch_size, static_cast<uint32_t>(side));
      const std::vector<double> truth = ImagePlainForm(options, tensors, pixels, PlainType::kFloat64);
      const Error plain = Difference(ImagePlainForm(options, tensors, pixels, precision.plain), truth);
      std::vector<Row> rows;
      for (const auto& [mode, chunk] : kForms)
        rows.push_back(MakeRow(pixels, options.patch_size, mode, chunk, RowOutput::kTokens));
      const std::vector<RowResult> results = Encode(*model, rows);
      for (size_t i = 0; i < rows.size(); ++i) {
        const Error error = Difference(results[i].values, truth);
        EXPECT_LE(error.rms, 2 * plain.rms + precision.ulp / 2)
            << Name(precision.dtype) << " side " << side << " form " << i;
        EXPECT_LE(error.max, 2 * plain.max + precision.ulp * Largest(truth))
            << Name(precision.dtype) << " side " << side << " form " << i;
      }
    }
  }
}

void ExpectErrorsOfThePlainForm(const RandomImageModel& directory, const std::vector<int64_t>& sides) {
  ExpectErrorsOfThePlainForm(directory.directory(), directory.options(), directory.tensors(), sides);
}

// The same in fp32: rounding through the layers, in another order of sums than torch's.
void ExpectFp32(const RandomImageModel& directory, const std::vector<int64_t>& sides) {
  const std::unique_ptr<Model> model = Load(directory.directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  for (int64_t side : sides) {
    const std::vector<float> pixels = RandomPixels(side * directory.options().patch_size, static_cast<uint32_t>(side));
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
  ExpectFp32(RandomImageModel(Options()), {1, 2, 3, 8, 15, 24});
}

TEST_P(CudaImageVariantTest, LowerPrecisionsErrAtMostTwiceAsMuchAsThePlainForm) {
  ExpectErrorsOfThePlainForm(RandomImageModel(Options()), {1, 4, 8, 14, 24});
}

std::string VariantName(const testing::TestParamInfo<std::tuple<Variant, bool>>& info) {
  const char* names[] = {"Lit", "D", "S"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) + (std::get<1>(info.param) ? "Natural" : "");
}

INSTANTIATE_TEST_SUITE_P(Variants, CudaImageVariantTest,
                         testing::Combine(testing::Values(Variant::kLit, Variant::kD, Variant::kS), testing::Bool()),
                         VariantName);

class CudaImageOracleTest : public OnCudaDevice<testing::TestWithParam<const char*>> {
 protected:
  static std::string Directory() { return std::string(LION_SOURCE_DIR) + "/tests/oracle/" + GetParam(); }

  static std::vector<float> Floats(const WeightFiles& files, const std::string& name) {
    const StoredTensor* tensor = files.Find(name);
    std::vector<float> values(tensor->num_elements());
    std::memcpy(values.data(), tensor->data, tensor->size_bytes);
    return values;
  }
};

TEST_P(CudaImageOracleTest, MatchesTheReferenceInFp32) {
  const std::unique_ptr<Model> model = Load(Directory(), DType::kFloat32);
  ASSERT_NE(model, nullptr);
  absl::StatusOr<std::unique_ptr<WeightFiles>> expected = WeightFiles::OpenFile(Directory() + "/expected.safetensors");
  ASSERT_TRUE(expected.ok()) << expected.status();
  const int64_t B = (*expected)->Find("pixel_values")->shape[0];
  const int64_t S = (*expected)->Find("pixel_values")->shape[3];
  const std::vector<float> pixels = Floats(**expected, "pixel_values");
  const RowOutput pooled = model->info().pooling == Pooling::kCls ? RowOutput::kPooledCls : RowOutput::kPooledMean;
  for (const auto& [mode, chunk] : kForms) {
    for (const auto& [output, name] : {std::pair(pooled, "features"), std::pair(RowOutput::kLogits, "logits")}) {
      std::vector<Row> rows;
      for (int64_t b = 0; b < B; ++b) {
        rows.push_back(MakeRow(absl::MakeConstSpan(pixels).subspan(b * 3 * S * S, 3 * S * S), model->info().patch_size,
                               mode, chunk, output));
      }
      std::vector<float> values;
      for (const RowResult& result : Encode(*model, rows)) {
        values.insert(values.end(), result.values.begin(), result.values.end());
      }
      EXPECT_LE(Difference(values, Floats(**expected, name)).max, 1e-4) << name << " " << Name(mode);
    }
  }
}

TEST_P(CudaImageOracleTest, LowerPrecisionsErrAtMostTwiceAsMuchAsThePlainForm) {
  absl::StatusOr<std::string> text = ReadTextFile(Directory() + "/config.json", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const absl::StatusOr<ImageConfig> config = ParseImageConfig(*text, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  absl::StatusOr<std::unique_ptr<WeightFiles>> weights = WeightFiles::OpenDirectory(Directory());
  ASSERT_TRUE(weights.ok()) << weights.status();
  std::map<std::string, NamedTensor> tensors;
  for (const auto& [name, tensor] : (*weights)->tensors()) {
    if (tensor.type == StoredType::kF32) tensors[name] = {tensor.shape, Floats(**weights, name)};
  }
  RandomImageModelOptions options;  // what the plain form asks of a model's shape
  options.variant = config->variant;
  options.two_paths = config->two_paths;
  options.positions = config->positions;
  options.patch_size = config->patch_size;
  options.hidden_width = config->hidden_width;
  options.num_layers = config->num_layers;
  options.num_heads = config->num_heads;
  std::vector<int64_t> sides = {config->image_size / config->patch_size};
  if (!config->positions) sides.push_back(sides.front() + 9);
  ExpectErrorsOfThePlainForm(Directory(), options, tensors, sides);
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

TEST_P(CudaImageBitsTest, PicturesOfNaNAndInfinityLeaveTheirNeighboursAlone) {
  RandomImageModelOptions options;
  options.two_paths = true;
  const RandomImageModel directory(options);
  const std::unique_ptr<Model> model = Load(directory.directory(), GetParam());
  ASSERT_NE(model, nullptr);
  const std::vector<float> nan(3 * 40 * 40, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> infinity(3 * 24 * 24, std::numeric_limits<float>::infinity());
  const std::vector<float> good = RandomPixels(56, 1);
  for (const auto& [mode, chunk] : kForms) {
    const Row row = directory.MakeRow(good, mode, chunk);
    const std::vector<RowResult> results =
        Encode(*model, {directory.MakeRow(nan, mode, chunk), row, directory.MakeRow(infinity, mode, chunk)});
    EXPECT_EQ(results[1].values, Encode(*model, {row}).front().values);
    EXPECT_TRUE(std::isfinite(results[1].values.front()));
    EXPECT_FALSE(std::isfinite(results[0].values.back()));
    EXPECT_FALSE(std::isfinite(results[2].values.back()));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, CudaImageBitsTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFp8),
                         [](const auto& test) { return std::string(Name(test.param)); });

class CudaImageEncoderTest : public OnCudaDevice<> {};

// 768 wide in 12 heads, on two paths: at 224 pixels, and at 448 where rows pass states.
TEST_F(CudaImageEncoderTest, BaseSizeAt224AndBeyond) {
  RandomImageModelOptions options;
  options.two_paths = true;
  options.image_size = 224;
  options.patch_size = 16;
  options.hidden_width = 768;
  options.num_heads = 12;
  const RandomImageModel directory(options);
  ExpectFp32(directory, {14, 28});
  ExpectErrorsOfThePlainForm(directory, {14, 28});
}

TEST_F(CudaImageEncoderTest, FeaturesAreTheClsRowOrTheMeanAndLogitsFollowThem) {
  for (bool cls : {true, false}) {
    RandomImageModelOptions options;
    options.cls_pooling = cls;
    options.qkv_bias = cls;
    const RandomImageModel directory(options);
    const std::unique_ptr<Model> model = Load(directory.directory(), DType::kFloat32);
    ASSERT_NE(model, nullptr);
    EXPECT_EQ(model->info().input, "image");
    EXPECT_EQ(model->info().device, "cuda:0");
    EXPECT_EQ(model->info().pooling, cls ? Pooling::kCls : Pooling::kMean);
    ExpectFeaturesAndLogits(directory, *model);
  }
}

// Two encoders on one device, each called by a thread of its own: the answers that each gives alone.
TEST_F(CudaImageEncoderTest, PicturesAndTextsShareADevice) {
  constexpr int kRounds = 40;
  const RandomImageModel pictures({.two_paths = true});
  const RandomModelOptions text_options;
  const RandomModel texts(text_options);
  const std::unique_ptr<Model> image = Load(pictures.directory(), DType::kBFloat16);
  const std::unique_ptr<Model> text = Load(texts.directory(), DType::kBFloat16);
  ASSERT_NE(image, nullptr);
  ASSERT_NE(text, nullptr);
  std::vector<std::vector<float>> pixels;
  std::vector<std::vector<uint32_t>> ids;
  std::vector<Row> image_rows;
  std::vector<Row> text_rows;
  for (uint32_t i = 0; i < 6; ++i) {
    pixels.push_back(RandomPixels(8 * (3 + 5 * i), i));
    ids.push_back(RandomIds(10 + 150 * i, text_options.vocab_size, i));
    image_rows.push_back(pictures.MakeRow(pixels.back(), ComputeMode::kChunked));
    text_rows.push_back({ids.back(), {}, ComputeMode::kChunked, 0, RowOutput::kTokens});
  }
  auto run = [](Model* model, const std::vector<Row>* rows, int rounds, std::vector<RowResult>* first, int* different) {
    for (int round = 0; round < rounds; ++round) {
      const std::vector<RowResult> results = Encode(*model, *rows);
      if (first->empty()) *first = results;
      for (size_t i = 0; i < rows->size(); ++i) {
        if (results[i].values != (*first)[i].values) ++*different;
      }
    }
  };
  std::vector<RowResult> image_alone;
  std::vector<RowResult> text_alone;
  int image_different = 0;
  int text_different = 0;
  run(image.get(), &image_rows, 1, &image_alone, &image_different);
  run(text.get(), &text_rows, 1, &text_alone, &text_different);
  std::thread beside(run, image.get(), &image_rows, kRounds, &image_alone, &image_different);
  run(text.get(), &text_rows, kRounds, &text_alone, &text_different);
  beside.join();
  EXPECT_EQ(image_different, 0);
  EXPECT_EQ(text_different, 0);
  EXPECT_TRUE(std::isfinite(image_alone.back().values.back()));
}

TEST_F(CudaImageEncoderTest, RefusesByName) {
  RandomImageModelOptions options;
  options.positions = true;
  options.num_labels = 0;
  const RandomImageModel directory(options);
  const std::unique_ptr<Model> model = Load(directory.directory(), DType::kBFloat16);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->info().max_positions, 17);
  const std::vector<float> good = RandomPixels(32, 1);
  const std::vector<float> other = RandomPixels(40, 1);
  const std::vector<uint32_t> ids = {1, 2};
  const std::vector<std::pair<Row, std::string>> cases = {
      {Row{}, "has no pixels"},
      {Row{ids, {}}, "has ids, the model takes pixels"},
      {directory.MakeRow(other, ComputeMode::kParallel), "S 40, the model's positions are for 32"},
      {directory.MakeRow(good, ComputeMode::kParallel, 0, RowOutput::kLogits), "the model has no classifier"},
  };
  for (const auto& [row, message] : cases) {
    RowResult result;
    const absl::Status status = model->encoder()->Encode({&row, 1}, {&result, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rows[0]: " + message));
  }

  RandomImageModelOptions coarse;
  coarse.image_size = 112;
  coarse.patch_size = 56;
  const RandomImageModel wide(coarse);
  ModelOptions load;
  load.directory = wide.directory();
  load.devices = {"cuda:0"};
  load.dtype = DType::kBFloat16;
  EXPECT_THAT(std::string(Model::Load(load, nullptr).status().message()),
              HasSubstr("patch_size 56 has 9408 values a patch, CUDA takes at most 8192"));
  load.dtype = DType::kInt8;
  EXPECT_THAT(std::string(Model::Load(load, nullptr).status().message()), HasSubstr("dtype int8 is not available"));
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
