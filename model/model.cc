// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/model.h"

#include <openssl/evp.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/compute_pool.h"
#include "model/config.h"
#include "model/cpu_encoder.h"
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

// "cpu" is -1, "cuda:N" is N.
absl::StatusOr<int> ParseDevice(absl::string_view device) {
  if (device == "cpu") return -1;
  absl::string_view digits = device;
  int index = 0;
  if (!absl::ConsumePrefix(&digits, "cuda:") || !absl::SimpleAtoi(digits, &index) || index < 0) {
    return absl::InvalidArgumentError(absl::StrCat("device '", device, "' is neither cpu nor cuda:N"));
  }
  return index;
}

class LoadedModel : public Model {
 public:
  const ModelInfo& info() const override { return info_; }
  const Tokenizer* tokenizer() const override { return tokenizer_.get(); }
  Encoder* encoder() override { return encoder_.get(); }

  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Encoder> encoder_;
};

// What the encoder of either device tells of itself.
template <class DeviceEncoder>
void Describe(const DeviceEncoder& encoder, const ModelOptions& options, const TextConfig& config, ModelInfo* info) {
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

}  // namespace

int NumCudaDevices() {
#ifdef LION_CUDA
  return CudaEncoder::NumDevices();
#else
  return -1;
#endif
}

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const ModelOptions& options, ComputePool* pool) {
  const absl::StatusOr<int> device = ParseDevice(options.device);
  if (!device.ok()) return device.status();
  const std::string& directory = options.directory;
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": no such directory"));
  }
  const std::string config_path = absl::StrCat(directory, "/config.json");
  absl::StatusOr<std::string> config_text = ReadTextFile(config_path, kMaxConfigBytes);
  if (!config_text.ok()) return config_text.status();
  absl::StatusOr<TextConfig> config = ParseTextConfig(*config_text, config_path);
  if (!config.ok()) return config.status();
  absl::StatusOr<PipelineConfig> pipeline = ReadPipeline(directory, config->hidden_width);
  if (!pipeline.ok()) return pipeline.status();

  auto model = std::make_unique<LoadedModel>();
  const std::string tokenizer_path = absl::StrCat(directory, "/tokenizer.json");
  if (std::filesystem::exists(tokenizer_path, error)) {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Open(tokenizer_path);
    if (!tokenizer.ok()) return tokenizer.status();
    model->tokenizer_ = *std::move(tokenizer);
    if (static_cast<int64_t>(model->tokenizer_->vocab_size()) > config->vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(tokenizer_path, ": has ", model->tokenizer_->vocab_size(),
                                                     " ids, config.json's vocab_size is ", config->vocab_size));
    }
  }

  absl::StatusOr<std::unique_ptr<WeightFiles>> opened = WeightFiles::OpenDirectory(directory);
  if (!opened.ok()) return opened.status();
  const std::shared_ptr<const WeightFiles> weights = *std::move(opened);

  ModelInfo& info = model->info_;
  if (*device < 0) {
    CpuEncoder::Options encoder_options;
    encoder_options.config = *config;
    encoder_options.pipeline = *pipeline;
    encoder_options.dtype = options.dtype;
    encoder_options.chunk_tokens = options.chunk_tokens;
    encoder_options.pool = pool;
    encoder_options.weights = weights;
    absl::StatusOr<std::unique_ptr<CpuEncoder>> encoder = CpuEncoder::Create(std::move(encoder_options));
    if (!encoder.ok()) return encoder.status();
    Describe(**encoder, options, *config, &info);
    info.parallel_max_tokens =
        options.parallel_max_tokens > 0 ? options.parallel_max_tokens : (*encoder)->MeasureCrossover();
    model->encoder_ = *std::move(encoder);
  } else {
#ifdef LION_CUDA
    CudaEncoder::Options encoder_options;
    encoder_options.config = *config;
    encoder_options.pipeline = *pipeline;
    encoder_options.dtype = options.dtype;
    encoder_options.device = *device;
    if (options.max_batch_tokens > 0) encoder_options.max_batch_tokens = options.max_batch_tokens;
    encoder_options.chunk_tokens = options.chunk_tokens;
    encoder_options.weights = weights;
    absl::StatusOr<std::unique_ptr<CudaEncoder>> encoder = CudaEncoder::Create(std::move(encoder_options));
    if (!encoder.ok()) return encoder.status();
    Describe(**encoder, options, *config, &info);
    info.parallel_max_tokens = options.parallel_max_tokens;
    if (info.parallel_max_tokens == 0) {
      const absl::StatusOr<int> crossover = (*encoder)->MeasureCrossover();
      if (!crossover.ok()) return crossover.status();
      info.parallel_max_tokens = *crossover;
    }
    model->encoder_ = *std::move(encoder);
#else
    return absl::InvalidArgumentError(absl::StrCat("device '", options.device, "': this build has no CUDA"));
#endif
  }

  absl::StatusOr<std::string> version = Version(*config_text, *weights);
  if (!version.ok()) return version.status();

  info.version = *std::move(version);
  info.variant = config->variant;
  info.variant_name = std::string(Name(config->variant));
  info.device = options.device;
  info.dtype = options.dtype;
  info.hidden_width = config->hidden_width;
  info.vocab_size = config->vocab_size;
  info.type_vocab_size = config->type_vocab_size;
  info.max_positions = config->max_positions;
  info.pooling = pipeline->pooling;
  info.normalize = pipeline->normalize;
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace lion
