// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/model.h"

#include <openssl/evp.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/compute_pool.h"
#include "model/config.h"
#include "model/cpu_encoder.h"
#include "model/crossover_cache.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"
#ifdef LION_CUDA
#include "model/cuda_encoder.h"
#endif

namespace lion {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int kVersionDigits = 12;

// SHA-256 over config.json and the weight files, in the order of their names.
absl::StatusOr<std::string> Version(const std::string& config, const WeightFiles& weights) {
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  bool ok = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1 &&
            EVP_DigestUpdate(context.get(), config.data(), config.size()) == 1;
  for (const std::string& path : weights.paths()) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    ok = ok && EVP_DigestUpdate(context.get(), (*file)->data(), (*file)->size()) == 1;
  }
  ok = ok && EVP_DigestFinal_ex(context.get(), digest, &size) == 1;
  if (!ok) return absl::InternalError("SHA-256 failed");
  const std::string hex = absl::BytesToHexString(std::string(reinterpret_cast<const char*>(digest), size));
  return hex.substr(0, kVersionDigits);
}

// The devices of a model: either the CPU, or CUDA's indices.
struct Devices {
  DeviceKind kind = DeviceKind::kCpu;
  std::vector<int> indices;  // of kCuda
};

absl::StatusOr<Devices> ParseDevices(const std::vector<std::string>& names) {
  Devices devices;
  for (const std::string& name : names) {
    if (name == "cpu") continue;
    absl::string_view digits = name;
    int index = 0;
    if (!absl::ConsumePrefix(&digits, "cuda:") || !absl::SimpleAtoi(digits, &index) || index < 0) {
      return absl::InvalidArgumentError(absl::StrCat("device '", name, "' is neither cpu nor cuda:N"));
    }
    if (std::find(devices.indices.begin(), devices.indices.end(), index) != devices.indices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("device '", name, "' is named twice"));
    }
    devices.kind = DeviceKind::kCuda;
    devices.indices.push_back(index);
  }
  if (names.empty() || (devices.indices.size() != names.size() && names.size() > 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("devices '", absl::StrJoin(names, ","), "': takes cpu alone, or one or more of cuda:N"));
  }
  return devices;
}

class LoadedModel : public Model {
 public:
  const ModelInfo& info() const override { return info_; }
  const Tokenizer* tokenizer() const override { return tokenizer_.get(); }
  absl::Span<Encoder* const> encoders() override { return encoders_; }

  void Add(std::unique_ptr<Encoder> encoder) {
    encoders_.push_back(encoder.get());
    owned_.push_back(std::move(encoder));
  }

  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;

 private:
  std::vector<std::unique_ptr<Encoder>> owned_;
  std::vector<Encoder*> encoders_;
};

// What the encoders of a model are made from.
struct Source {
  const ModelOptions& options;
  const ModelConfig& config;
  const PipelineConfig& pipeline;
  std::shared_ptr<const WeightFiles> weights;
};

// What the encoder of either device tells of itself.
template <class DeviceEncoder>
void Describe(const DeviceEncoder& encoder, const ModelOptions& options, const EncoderConfig& config, ModelInfo* info) {
  info->embedding_width = encoder.embedding_width();
  info->classifies = encoder.classifies();
  if (info->classifies) {
    info->labels = config.labels;
    for (int64_t i = static_cast<int64_t>(info->labels.size()); i < encoder.num_labels(); ++i) {
      info->labels.push_back(absl::StrCat("LABEL_", i));
    }
    info->multi_label = config.multi_label || info->labels.size() == 1;
  }
  info->chunk_tokens = encoder.chunk_tokens();
  if (!encoder.unused_tensors().empty()) {
    info->warnings.push_back(absl::StrCat(
        options.directory, ": tensors that nothing uses: ", absl::StrJoin(encoder.unused_tensors(), ", ")));
  }
}

absl::Status AddCpuEncoder(const Source& source, ComputePool* pool, LoadedModel* model) {
  CpuEncoder::Options options;
  options.config = source.config;
  options.pipeline = source.pipeline;
  options.dtype = source.options.dtype;
  options.chunk_tokens = source.options.chunk_tokens;
  options.pool = pool;
  options.weights = source.weights;
  absl::StatusOr<std::unique_ptr<CpuEncoder>> encoder = CpuEncoder::Create(std::move(options));
  if (!encoder.ok()) return encoder.status();
  ModelInfo& info = model->info_;
  Describe(**encoder, source.options, Common(source.config), &info);
  info.parallel_max_tokens = source.options.parallel_max_tokens;
  if (info.parallel_max_tokens == 0) {
    const CrossoverCache cache(source.options.crossover_cache);
    const std::string key = (*encoder)->CrossoverKey();
    const std::optional<int> kept = cache.Find(key);
    info.parallel_max_tokens = kept.has_value() ? *kept : (*encoder)->MeasureCrossover();
    if (!kept.has_value()) cache.Keep(key, info.parallel_max_tokens);
  }
  info.max_batch_tokens = source.options.max_batch_tokens > 0 ? source.options.max_batch_tokens : kMaxBatchTokensCpu;
  model->Add(*std::move(encoder));
  return absl::OkStatus();
}

#ifdef LION_CUDA
absl::Status AddCudaEncoders(const Source& source, absl::Span<const int> devices, LoadedModel* model) {
  ModelInfo& info = model->info_;
  for (const int device : devices) {
    CudaEncoder::Options options;
    options.config = source.config;
    options.pipeline = source.pipeline;
    options.dtype = source.options.dtype;
    options.device = device;
    options.max_batch_tokens = source.options.max_batch_tokens;
    options.memory_share = source.options.memory_share;
    options.chunk_tokens = source.options.chunk_tokens;
    options.weights = source.weights;
    absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(options));
    if (!encoder.ok()) return encoder.status();
    const int64_t max_batch_tokens = (*encoder)->max_batch_tokens();
    if (model->encoders().empty()) {
      // One description and one crossover for all: a row's bits must not depend on the device it runs on.
      Describe(**encoder, source.options, Common(source.config), &info);
      info.parallel_max_tokens = source.options.parallel_max_tokens;
      if (info.parallel_max_tokens == 0) {
        const absl::StatusOr<int> crossover = (*encoder)->MeasureCrossover();
        if (!crossover.ok()) return crossover.status();
        info.parallel_max_tokens = *crossover;
      }
      info.max_batch_tokens = max_batch_tokens;
      if ((*encoder)->max_row_tokens() != info.max_positions) {
        info.max_positions = (*encoder)->max_row_tokens();
        info.warnings.push_back(
            absl::StrCat(source.options.directory, ": rows of at most ", info.max_positions,
                         info.input == "image" ? " tokens: a picture is not larger than max_batch_tokens"
                                               : " tokens: beyond them float16 without layer_norm_after may overflow"));
      }
    }
    info.max_batch_tokens = std::min(info.max_batch_tokens, max_batch_tokens);
    model->Add(*std::move(encoder));
  }
  return absl::OkStatus();
}
#else
absl::Status AddCudaEncoders(const Source& source, absl::Span<const int> /*devices*/, LoadedModel* /*model*/) {
  return absl::InvalidArgumentError(
      absl::StrCat("device '", absl::StrJoin(source.options.devices, ","), "': this build has no CUDA"));
}
#endif

}  // namespace

int NumCudaDevices() {
#ifdef LION_CUDA
  return CudaEncoder::NumDevices();
#else
  return -1;
#endif
}

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const ModelOptions& options, ComputePool* pool) {
  const absl::StatusOr<Devices> devices = ParseDevices(options.devices);
  if (!devices.ok()) return devices.status();
  const std::string& directory = options.directory;
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": no such directory"));
  }
  const std::string config_path = absl::StrCat(directory, "/config.json");
  absl::StatusOr<std::string> config_text = ReadTextFile(config_path, kMaxConfigBytes);
  if (!config_text.ok()) return config_text.status();
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(*config_text, config_path);
  if (!config.ok()) return config.status();
  const EncoderConfig& common = Common(*config);
  const auto* text = std::get_if<TextConfig>(&*config);
  const auto* image = std::get_if<ImageConfig>(&*config);
  absl::StatusOr<PipelineConfig> pipeline = ReadPipeline(
      directory, common.hidden_width, image != nullptr && image->cls_pooling ? Pooling::kCls : Pooling::kMean);
  if (!pipeline.ok()) return pipeline.status();

  auto model = std::make_unique<LoadedModel>();
  const std::string tokenizer_path = absl::StrCat(directory, "/tokenizer.json");
  if (text != nullptr && std::filesystem::exists(tokenizer_path, error)) {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Open(tokenizer_path);
    if (!tokenizer.ok()) return tokenizer.status();
    model->tokenizer_ = *std::move(tokenizer);
    if (static_cast<int64_t>(model->tokenizer_->vocab_size()) > text->vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(tokenizer_path, ": has ", model->tokenizer_->vocab_size(),
                                                     " ids, config.json's vocab_size is ", text->vocab_size));
    }
  }

  absl::StatusOr<std::unique_ptr<WeightFiles>> opened = WeightFiles::OpenDirectory(directory);
  if (!opened.ok()) return opened.status();
  const std::shared_ptr<const WeightFiles> weights = *std::move(opened);

  ModelInfo& info = model->info_;
  if (text != nullptr) {
    info.max_positions = text->max_positions;
    info.vocab_size = text->vocab_size;
    info.type_vocab_size = text->type_vocab_size;
  } else {
    info.input = "image";
    info.image_size = image->image_size;
    info.patch_size = image->patch_size;
    info.image_size_fixed = image->positions;
    if (image->positions) info.max_positions = ImageTokens(image->image_size, image->patch_size);
  }
  const Source source = {options, *config, *pipeline, weights};
  const absl::Status added = devices->kind == DeviceKind::kCpu ? AddCpuEncoder(source, pool, model.get())
                                                               : AddCudaEncoders(source, devices->indices, model.get());
  if (!added.ok()) return added;

  absl::StatusOr<std::string> version = Version(*config_text, *weights);
  if (!version.ok()) return version.status();

  info.version = *std::move(version);
  info.variant = common.variant;
  info.variant_name = absl::StrCat(Name(common.variant), image != nullptr && image->two_paths ? "-natural" : "");
  info.devices = options.devices;
  info.device = absl::StrJoin(options.devices, ",");
  info.dtype = options.dtype;
  info.hidden_width = common.hidden_width;
  info.pooling = pipeline->pooling;
  info.normalize = pipeline->normalize;
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace lion
