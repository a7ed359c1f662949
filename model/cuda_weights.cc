// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_weights.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {
namespace {

int64_t RoundUp(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Where row n (or column k) of a stored matrix goes in the padded one.
using Place = std::function<int64_t(int64_t)>;
int64_t Same(int64_t i) { return i; }

// A product's weights on their way to the device: (N, K) with zeros between and behind.
struct PaddedWeights {
  PaddedWeights(int64_t padded_rows, int64_t padded_columns)
      : N(padded_rows), K(padded_columns), weight(padded_rows * padded_columns, 0.f), bias(padded_rows, 0.f) {}

  void Add(const std::vector<float>& w, const std::vector<float>& b, int64_t rows, int64_t columns, const Place& row,
           const Place& column) {
    for (int64_t n = 0; n < rows; ++n) {
      if (!b.empty()) bias[row(n)] = b[n];
      float* to = weight.data() + row(n) * K;
      for (int64_t k = 0; k < columns; ++k) to[column(k)] = w[n * columns + k];
    }
  }

  int64_t N;
  int64_t K;
  std::vector<float> weight;
  std::vector<float> bias;
};

std::vector<float> Spread(const std::vector<float>& values, int64_t padded, const Place& place) {
  std::vector<float> out(padded, 0.f);
  for (size_t i = 0; i < values.size(); ++i) out[place(static_cast<int64_t>(i))] = values[i];
  return out;
}

// Reads straight down a checkpoint. Load*() put one thing on the device.
class Loader {
 public:
  Loader(WeightReader& reader, CublasLt* lt, const CudaShape& shape) : reader_(reader), lt_(lt), shape_(shape) {}

  absl::Status LoadEmbeddings(const std::string& name, const TextConfig& config, CudaWeights* weights) {
    const int64_t E = shape_.E;
    LION_RETURN_IF_ERROR(LoadTable(name + "word_embeddings.weight", {config.vocab_size, E}, &weights->words));
    LION_RETURN_IF_ERROR(
        LoadTable(name + "token_type_embeddings.weight", {config.type_vocab_size, E}, &weights->types));
    if (config.max_positions > 0) {
      LION_RETURN_IF_ERROR(
          LoadTable(name + "position_embeddings.weight", {config.max_positions, E}, &weights->positions));
    } else {
      reader_.Ignore(name + "position_embeddings.weight");
    }
    reader_.Ignore(name + "position_ids");
    return LoadNorm(name + "LayerNorm", shape_.Ep, Same, &weights->embedding_norm);
  }

  // All before an image encoder's first layer, and the LayerNorm behind its last.
  absl::Status LoadImageEnds(const ImageConfig& config, CudaWeights* weights) {
    const int64_t E = shape_.E;
    const int64_t p = shape_.patch;
    std::vector<float> weight;
    std::vector<float> bias;
    LION_RETURN_IF_ERROR(ReadRounded("patch_embed.proj.weight", {E, kImageChannels, p, p}, &weight));
    LION_RETURN_IF_ERROR(ReadRounded("patch_embed.proj.bias", {E}, &bias));
    PaddedWeights patch(shape_.Ep, shape_.patch_width_p);
    patch.Add(weight, bias, E, shape_.patch_width, Same, Same);
    LION_RETURN_IF_ERROR(MakeLinear(patch, {.type = shape_.type}, &weights->patch));
    LION_RETURN_IF_ERROR(LoadTable("cls_token", {1, 1, E}, &weights->cls));
    if (config.positions) {
      LION_RETURN_IF_ERROR(LoadTable("pos_embed", {1, ImageTokens(config.image_size, p), E}, &weights->positions));
    } else {
      reader_.Ignore("pos_embed");
    }
    return LoadNorm("norm", shape_.Ep, Same, &weights->final_norm);
  }

  absl::Status LoadBlock(const std::string& name, const ImageConfig& config, CudaLayer* layer) {
    const int64_t E = shape_.E;
    const int64_t heads_width = shape_.H * shape_.Dp;
    const Place head = [this](int64_t i) { return i / shape_.D * shape_.Dp + i % shape_.D; };
    LION_RETURN_IF_ERROR(LoadNorm(name + "norm1", shape_.Ep, Same, &layer->attention_norm));
    std::vector<float> weight;
    std::vector<float> bias;
    LION_RETURN_IF_ERROR(ReadRounded(name + "attn.qkv.weight", {3 * E, E}, &weight));
    if (config.qkv_bias) LION_RETURN_IF_ERROR(ReadRounded(name + "attn.qkv.bias", {3 * E}, &bias));
    PaddedWeights qkv(3 * heads_width, shape_.Ep);
    qkv.Add(
        weight, bias, 3 * E, E, [&](int64_t i) { return i / E * heads_width + head(i % E); }, Same);
    LION_RETURN_IF_ERROR(MakeLinear(qkv, {.type = shape_.type, .fp8 = shape_.fp8}, &layer->qkv));
    std::vector<std::string> gates = {name + "attn.a_i"};
    if (config.two_paths) gates.push_back(name + "attn.a2_i");
    if (shape_.variant == Variant::kD) LION_RETURN_IF_ERROR(LoadLambdas(gates, layer));
    if (shape_.variant == Variant::kS) LION_RETURN_IF_ERROR(LoadGates(gates, layer));
    LION_RETURN_IF_ERROR(LoadLinear(name + "attn.proj", E, E, heads_width, head, 0, &layer->out));
    LION_RETURN_IF_ERROR(LoadNorm(name + "norm2", shape_.Ep, Same, &layer->output_norm));
    LION_RETURN_IF_ERROR(LoadUp(name + "mlp.fc1", name + "norm2", &layer->up));
    return LoadLinear(name + "mlp.fc2", E, shape_.FF, shape_.FFp, Same, layer->up->y_scale(), &layer->down);
  }

  absl::Status LoadLayer(const std::string& name, const TextConfig& config, CudaLayer* layer) {
    const int64_t E = shape_.E;
    const int64_t H = shape_.H;
    const int64_t FF = shape_.FF;
    const int64_t heads_width = H * shape_.Dp;
    const std::string self = name + "attention.self.";
    const Place head = [this](int64_t i) { return i / shape_.D * shape_.Dp + i % shape_.D; };
    LION_RETURN_IF_ERROR(LoadQkv(self, head, &layer->qkv));
    if (config.layer_norm_after) LION_RETURN_IF_ERROR(LoadNorm(self + "layer_norm", heads_width, head, &layer->after));
    if (shape_.variant == Variant::kD) {
      std::vector<float> log_lambda = reader_.Read(self + "ai", {H});
      LION_RETURN_IF_ERROR(reader_.status());
      LogLambda(&log_lambda);
      LION_RETURN_IF_ERROR(UploadFloats(log_lambda, &layer->log_lambda));
    }
    if (shape_.variant == Variant::kS) {
      const std::vector<float> weight = reader_.Read(self + "Wa_i.weight", {H, E});
      const std::vector<float> bias = reader_.Read(self + "Wa_i.bias", {H});
      LION_RETURN_IF_ERROR(reader_.status());
      LION_RETURN_IF_ERROR(UploadFloats(cuda::PackGates(weight.data(), H, E), &layer->gate_weight));
      LION_RETURN_IF_ERROR(UploadFloats(bias, &layer->gate_bias));
    }
    LION_RETURN_IF_ERROR(LoadLinear(name + "attention.output.dense", E, E, heads_width, head, 0, &layer->out));
    LION_RETURN_IF_ERROR(LoadNorm(name + "attention.output.LayerNorm", shape_.Ep, Same, &layer->attention_norm));
    LION_RETURN_IF_ERROR(LoadUp(name + "intermediate.dense", name + "attention.output.LayerNorm", &layer->up));
    LION_RETURN_IF_ERROR(
        LoadLinear(name + "output.dense", E, FF, shape_.FFp, Same, layer->up->y_scale(), &layer->down));
    return LoadNorm(name + "output.LayerNorm", shape_.Ep, Same, &layer->output_norm);
  }

  absl::Status LoadHead(const std::vector<HeadProduct>& products, std::vector<CudaHeadProduct>* head) {
    for (const HeadProduct& product : products) {
      PaddedWeights padded(RoundUp(product.N, 16), RoundUp(product.K, 16));
      padded.Add(product.weight, product.bias, product.N, product.K, Same, Same);
      CudaHeadProduct on_device;
      LION_RETURN_IF_ERROR(MakeLinear(padded, {.type = cuda::ElementType::kFloat32}, &on_device.linear));
      on_device.tanh = product.tanh;
      head->push_back(std::move(on_device));
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status UploadFloats(const std::vector<float>& values, DeviceBuffer* buffer) {
    return cuda::Assign(Upload(values.data(), static_cast<int64_t>(values.size()) * 4), buffer);
  }

  // options: without N and K.
  absl::Status MakeLinear(const PaddedWeights& padded, CudaLinearOptions options, std::unique_ptr<CudaLinear>* linear) {
    options.N = padded.N;
    options.K = padded.K;
    return cuda::Assign(CudaLinear::Create(lt_, options, padded.weight.data(), padded.bias.data()), linear);
  }

  // shape: of the tensor, E last.
  absl::Status LoadTable(const std::string& name, const std::vector<int64_t>& shape, DeviceBuffer* table) {
    const int64_t E = shape_.E;
    const std::vector<float> values = reader_.Read(name, shape);
    LION_RETURN_IF_ERROR(reader_.status());
    const int64_t rows = static_cast<int64_t>(values.size()) / E;
    std::vector<float> padded(rows * shape_.Ep, 0.f);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(values.data() + r * E, E, padded.data() + r * shape_.Ep);
    return UploadFloats(padded, table);
  }

  absl::Status LoadNorm(const std::string& name, int64_t width, const Place& place, CudaNorm* norm) {
    const std::vector<float> gamma = reader_.Read(name + ".weight", {shape_.E});
    const std::vector<float> beta = reader_.Read(name + ".bias", {shape_.E});
    LION_RETURN_IF_ERROR(reader_.status());
    LION_RETURN_IF_ERROR(UploadFloats(Spread(gamma, width, place), &norm->gamma));
    return UploadFloats(Spread(beta, width, place), &norm->beta);
  }

  // A tensor that will be rounded to the model's type.
  absl::Status ReadRounded(const std::string& name, const std::vector<int64_t>& shape, std::vector<float>* values) {
    constexpr float kBeyondFloat16 = 65520;  // what rounds to infinity
    *values = reader_.Read(name, shape);
    LION_RETURN_IF_ERROR(reader_.status());
    if (shape_.type != cuda::ElementType::kFloat16) return absl::OkStatus();
    for (const float v : *values) {
      if (std::fabs(v) < kBeyondFloat16 || std::isnan(v)) continue;
      return absl::InvalidArgumentError(absl::StrCat(name, " has ", v, ", and float16 ends at 65504"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadLinear(const std::string& name, int64_t N, int64_t K, const Place& column, PaddedWeights* padded) {
    std::vector<float> weight;
    std::vector<float> bias;
    LION_RETURN_IF_ERROR(ReadRounded(name + ".weight", {N, K}, &weight));
    LION_RETURN_IF_ERROR(ReadRounded(name + ".bias", {N}, &bias));
    padded->Add(weight, bias, N, K, Same, column);
    return absl::OkStatus();
  }

  // A product whose result is added to x. x_scale: CudaLinearOptions'.
  absl::Status LoadLinear(const std::string& name, int64_t N, int64_t K, int64_t padded_K, const Place& column,
                          float x_scale, std::unique_ptr<CudaLinear>* linear) {
    PaddedWeights padded(RoundUp(N, 16), padded_K);
    LION_RETURN_IF_ERROR(ReadLinear(name, N, K, column, &padded));
    return MakeLinear(padded,
                      {.type = shape_.type, .fp8 = shape_.fp8, .residual = true, .x_scale = shape_.fp8 ? x_scale : 0},
                      linear);
  }

  // Of each path, (H) alphas: for a path's numerators and its denominators.
  absl::Status LoadLambdas(const std::vector<std::string>& names, CudaLayer* layer) {
    std::vector<float> log_lambda;
    for (const std::string& name : names) {
      if (static_cast<int64_t>(log_lambda.size()) == shape_.attention_heads()) break;
      std::vector<float> alphas = reader_.Read(name, {shape_.H});
      LION_RETURN_IF_ERROR(reader_.status());
      LogLambda(&alphas);
      for (int kind = 0; kind < 2; ++kind) log_lambda.insert(log_lambda.end(), alphas.begin(), alphas.end());
    }
    return UploadFloats(log_lambda, &layer->log_lambda);
  }

  // Of each path, H gates.
  absl::Status LoadGates(const std::vector<std::string>& names, CudaLayer* layer) {
    const int64_t E = shape_.E;
    std::vector<float> weights;
    std::vector<float> biases;
    for (const std::string& name : names) {
      const std::vector<float> weight = reader_.Read(name + ".weight", {shape_.H, E});
      const std::vector<float> bias = reader_.Read(name + ".bias", {shape_.H});
      LION_RETURN_IF_ERROR(reader_.status());
      for (int64_t h = 0; h < shape_.H; ++h) {
        weights.insert(weights.end(), weight.begin() + h * E, weight.begin() + (h + 1) * E);
        weights.resize(weights.size() + shape_.Ep - E, 0.f);
      }
      biases.insert(biases.end(), bias.begin(), bias.end());
    }
    LION_RETURN_IF_ERROR(UploadFloats(weights, &layer->gate_weight));
    return UploadFloats(biases, &layer->gate_bias);
  }

  // norm: what the product's rows come from.
  absl::Status LoadUp(const std::string& name, const std::string& norm, std::unique_ptr<CudaGeluLinear>* up) {
    PaddedWeights padded(shape_.FFp, shape_.Ep);
    LION_RETURN_IF_ERROR(ReadLinear(name, shape_.FF, shape_.E, Same, &padded));
    CudaGeluLinearOptions options;
    options.N = padded.N;
    options.K = padded.K;
    options.type = shape_.type;
    options.fp8 = shape_.fp8;
    if (shape_.fp8) {
      const std::vector<float> gamma = Spread(reader_.Read(norm + ".weight", {shape_.E}), shape_.Ep, Same);
      const std::vector<float> beta = Spread(reader_.Read(norm + ".bias", {shape_.E}), shape_.Ep, Same);
      LION_RETURN_IF_ERROR(reader_.status());
      options.y_scale =
          GeluScale(padded.weight.data(), padded.bias.data(), gamma.data(), beta.data(), padded.N, padded.K);
    }
    return cuda::Assign(CudaGeluLinear::Create(lt_, options, padded.weight.data(), padded.bias.data()), up);
  }

  // Three matrices as one product.
  absl::Status LoadQkv(const std::string& self, const Place& head, std::unique_ptr<CudaLinear>* linear) {
    const int64_t E = shape_.E;
    const int64_t heads_width = shape_.H * shape_.Dp;
    PaddedWeights qkv(3 * heads_width, shape_.Ep);
    int64_t part_start = 0;
    for (const char* part : {"query", "key", "value"}) {
      std::vector<float> weight;
      std::vector<float> bias;
      LION_RETURN_IF_ERROR(ReadRounded(absl::StrCat(self, part, ".weight"), {E, E}, &weight));
      LION_RETURN_IF_ERROR(ReadRounded(absl::StrCat(self, part, ".bias"), {E}, &bias));
      qkv.Add(
          weight, bias, E, E, [&](int64_t i) { return part_start + head(i); }, Same);
      part_start += heads_width;
    }
    return MakeLinear(qkv, {.type = shape_.type, .fp8 = shape_.fp8}, linear);
  }

  WeightReader& reader_;
  CublasLt* lt_;
  const CudaShape& shape_;
};

}  // namespace

absl::StatusOr<CudaWeights> ReadCudaWeights(WeightReader& reader, const ModelConfig& config,
                                            const PipelineConfig& pipeline, CublasLt* lt, CudaShape* shape) {
  CudaWeights weights;
  Loader loader(reader, lt, *shape);
  const auto* text = std::get_if<TextConfig>(&config);
  const auto* image = std::get_if<ImageConfig>(&config);
  const std::string bert = reader.Has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  if (text != nullptr) {
    LION_RETURN_IF_ERROR(loader.LoadEmbeddings(bert + "embeddings.", *text, &weights));
  } else {
    LION_RETURN_IF_ERROR(loader.LoadImageEnds(*image, &weights));
  }
  for (int64_t n = 0; n < Common(config).num_layers; ++n) {
    CudaLayer layer;
    if (text != nullptr) {
      LION_RETURN_IF_ERROR(loader.LoadLayer(absl::StrCat(bert, "encoder.layer.", n, "."), *text, &layer));
    } else {
      LION_RETURN_IF_ERROR(loader.LoadBlock(absl::StrCat("blocks.", n, "."), *image, &layer));
    }
    weights.layers.push_back(std::move(layer));
  }
  const absl::StatusOr<HeadWeights> heads =
      text != nullptr ? ReadHeads(reader, bert, *text, pipeline) : ReadHeads(reader, *image, pipeline);
  if (!heads.ok()) return heads.status();
  for (const auto& [head, products] :
       {std::make_pair(kPooledHead, &heads->pooled), std::make_pair(kClassifiedHead, &heads->classified)}) {
    LION_RETURN_IF_ERROR(loader.LoadHead(*products, &weights.heads[head]));
    for (const CudaHeadProduct& product : weights.heads[head]) {
      shape->max_head_width = std::max(shape->max_head_width, product.linear->out_width());
    }
    if (products->empty()) continue;
    shape->answer_width[head] = products->back().N;
    shape->answer_stride[head] = weights.heads[head].back().linear->out_width();
  }
  return weights;
}

}  // namespace lion
