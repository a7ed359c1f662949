// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/config.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lion {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr size_t kMaxPath = 4096;  // bytes that an error shows of a path, and of what is wrong
constexpr size_t kMaxWhat = 300;

// text for an error, which is one line whatever a file's strings hold: control characters escaped, at most max bytes.
std::string OneLine(absl::string_view text, size_t max) {
  std::string shown;
  for (const char c : text.substr(0, max)) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppend(&shown, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      shown.push_back(c);
    }
  }
  return text.size() <= max ? shown : shown + "...";
}

absl::Status Bad(const std::string& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(OneLine(file, kMaxPath), ": ", OneLine(what, kMaxWhat)));
}

absl::StatusOr<json> ParseJson(absl::string_view text, const std::string& file) {
  json value = json::parse(text.begin(), text.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return Bad(file, "is not JSON");
  return value;
}

absl::StatusOr<json> ReadJson(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return ParseJson(*text, path);
}

// Reads fields of one JSON object and keeps the first complaint, so that a config is read straight down.
class Fields {
 public:
  Fields(const json& object, const std::string& file) : object_(object), file_(file) {
    if (!object.is_object()) status_ = Bad(file, "is not a JSON object");
  }

  // A whole number in [min, max]; fallback where the field is absent (nullopt = the field is required).
  int64_t Int(const char* name, int64_t min, int64_t max, std::optional<int64_t> fallback = std::nullopt) {
    const json* value = Find(name, fallback.has_value());
    if (value == nullptr) return fallback.value_or(min);
    if (!value->is_number_integer() || value->get<double>() < static_cast<double>(min) ||
        value->get<double>() > static_cast<double>(max)) {
      Fail(absl::StrCat(name, " is ", Shown(*value), ", not a whole number from ", min, " to ", max));
      return min;
    }
    return value->get<int64_t>();
  }

  double Real(const char* name, double min, double max, double fallback) {
    const json* value = Find(name, true);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->get<double>() >= min && value->get<double>() <= max)) {
      Fail(absl::StrCat(name, " is ", Shown(*value), ", not a number from ", min, " to ", max));
      return fallback;
    }
    return value->get<double>();
  }

  bool Bool(const char* name, std::optional<bool> fallback = std::nullopt) {
    const json* value = Find(name, fallback.has_value());
    if (value == nullptr) return fallback.value_or(false);
    if (!value->is_boolean()) {
      Fail(absl::StrCat(name, " is ", Shown(*value), ", not true or false"));
      return false;
    }
    return value->get<bool>();
  }

  std::string String(const char* name, const std::optional<std::string>& fallback = std::nullopt) {
    const json* value = Find(name, fallback.has_value());
    if (value == nullptr) return fallback.value_or("");
    if (!value->is_string()) {
      Fail(absl::StrCat(name, " is ", Shown(*value), ", not a string"));
      return "";
    }
    return value->get<std::string>();
  }

  // null and an absent field are the same, as in transformers' own files.
  const json* Find(const char* name, bool optional) {
    if (!status_.ok()) return nullptr;
    auto it = object_.find(name);
    if (it == object_.end() || it->is_null()) {
      if (!optional) Fail(absl::StrCat(name, " is missing"));
      return nullptr;
    }
    return &*it;
  }

  void Fail(absl::string_view what) {
    if (status_.ok()) status_ = Bad(file_, what);
  }

  const absl::Status& status() const { return status_; }

 private:
  static std::string Shown(const json& value) {
    std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
    return text.size() <= 60 ? text : absl::StrCat(text.substr(0, 60), "...");
  }

  const json& object_;
  const std::string& file_;
  absl::Status status_;
};

struct ArchName {
  absl::string_view name;
  Variant variant;
};

// The names of published configurations, and the older ones that pretraining checkpoints carry.
constexpr ArchName kArchNames[] = {
    {"lion-lit", Variant::kLit},         {"lion-d", Variant::kD}, {"lion-s", Variant::kS},
    {"linear_attention", Variant::kLit}, {"nova", Variant::kD},   {"nova-inputdep", Variant::kS},
};

struct MaskName {
  absl::string_view name;
  Variant variant;
};

// mask_type of an image encoder.
constexpr MaskName kMaskNames[] = {{"Lit", Variant::kLit}, {"Decay", Variant::kD}, {"Selective", Variant::kS}};

constexpr absl::string_view kImageModelType = "lion-vision";
constexpr int64_t kMaxWidth = int64_t{1} << 16;

void ReadLabels(Fields& fields, EncoderConfig& config) {
  const json* id2label = fields.Find("id2label", true);
  if (id2label == nullptr) return;
  if (!id2label->is_object()) return fields.Fail("id2label is not an object");
  config.labels.assign(id2label->size(), "");
  std::vector<bool> seen(id2label->size(), false);
  for (const auto& [key, name] : id2label->items()) {
    size_t index = 0;
    if (!absl::SimpleAtoi(key, &index) || index >= seen.size() || seen[index]) {
      return fields.Fail(absl::StrCat("id2label does not number its labels 0 to ", seen.size() - 1));
    }
    if (!name.is_string()) return fields.Fail(absl::StrCat("id2label[", index, "] is not a string"));
    seen[index] = true;
    config.labels[index] = name.get<std::string>();
  }
}

// problem_type and the labels' names.
absl::Status ReadClasses(Fields& fields, const std::string& file, EncoderConfig& config) {
  const std::string problem = fields.String("problem_type", "");
  config.multi_label = problem == "multi_label_classification";
  ReadLabels(fields, config);
  if (!fields.status().ok()) return fields.status();
  if (problem == "regression") return Bad(file, "problem_type 'regression' has no class scores to serve");
  return absl::OkStatus();
}

// Sets head_width. width and heads: the fields' names.
absl::Status DivideHeads(const std::string& file, absl::string_view width, absl::string_view heads,
                         EncoderConfig& config) {
  if (config.hidden_width % config.num_heads != 0) {
    return Bad(file,
               absl::StrCat(width, " ", config.hidden_width, " is not a multiple of ", heads, " ", config.num_heads));
  }
  config.head_width = config.hidden_width / config.num_heads;
  if (config.head_width > kMaxHeadWidth) {
    return Bad(file, absl::StrCat("heads are ", config.head_width, " wide, at most ", kMaxHeadWidth, " are served"));
  }
  return absl::OkStatus();
}

// A path that modules.json gives, checked to be a plain folder name inside the directory.
absl::StatusOr<std::string> ModuleDirectory(const std::string& directory, const std::string& path,
                                            const std::string& file) {
  if (path.empty() || path == "." || path == ".." || absl::StrContains(path, '/') || absl::StrContains(path, '\\')) {
    return Bad(file, absl::StrCat("path '", path, "' is not the name of a folder beside it"));
  }
  return absl::StrCat(directory, "/", path);
}

absl::StatusOr<Pooling> ReadPooling(const std::string& directory, int64_t hidden_width) {
  const std::string file = absl::StrCat(directory, "/config.json");
  absl::StatusOr<json> value = ReadJson(file);
  if (!value.ok()) return value.status();
  Fields fields(*value, file);
  const int64_t width = fields.Int("word_embedding_dimension", 1, int64_t{1} << 20, hidden_width);
  const bool cls = fields.Bool("pooling_mode_cls_token", false);
  const bool mean = fields.Bool("pooling_mode_mean_tokens", false);
  for (const char* other : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                            "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"}) {
    if (fields.Bool(other, false)) fields.Fail(absl::StrCat(other, " is not supported: only cls_token or mean_tokens"));
  }
  if (!fields.status().ok()) return fields.status();
  if (cls == mean) return Bad(file, "exactly one of pooling_mode_cls_token and pooling_mode_mean_tokens must be true");
  if (width != hidden_width) {
    return Bad(file, absl::StrCat("word_embedding_dimension is ", width, ", the model's hidden_size ", hidden_width));
  }
  return cls ? Pooling::kCls : Pooling::kMean;
}

absl::StatusOr<DenseConfig> ReadDense(const std::string& directory, int64_t in_width) {
  const std::string file = absl::StrCat(directory, "/config.json");
  absl::StatusOr<json> value = ReadJson(file);
  if (!value.ok()) return value.status();
  Fields fields(*value, file);
  DenseConfig dense;
  dense.directory = directory;
  dense.in_width = fields.Int("in_features", 1, int64_t{1} << 20);
  dense.out_width = fields.Int("out_features", 1, int64_t{1} << 20);
  dense.bias = fields.Bool("bias", true);
  const std::string activation = fields.String("activation_function", "torch.nn.modules.activation.Tanh");
  if (!fields.status().ok()) return fields.status();
  if (absl::EndsWith(activation, ".Tanh")) {
    dense.tanh = true;
  } else if (!absl::EndsWith(activation, ".Identity")) {
    return Bad(file, absl::StrCat("activation_function '", activation, "' is neither Identity nor Tanh"));
  }
  if (dense.in_width != in_width) {
    return Bad(file, absl::StrCat("in_features is ", dense.in_width, ", the module before it gives ", in_width));
  }
  return dense;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return absl::NotFoundError(absl::StrCat(OneLine(path, kMaxPath), ": no such file"));
  if (!std::filesystem::is_regular_file(status)) return Bad(path, "is not a regular file");
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error) return Bad(path, absl::StrCat("cannot be read: ", error.message()));
  if (size > max_bytes) return Bad(path, absl::StrCat("has ", size, " bytes, more than the ", max_bytes, " allowed"));
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in.good()) return Bad(path, "cannot be read");
  return text.str();
}

absl::StatusOr<TextConfig> ParseTextConfig(absl::string_view text, const std::string& file) {
  absl::StatusOr<json> value = ParseJson(text, file);
  if (!value.ok()) return value.status();
  Fields fields(*value, file);
  TextConfig config;

  const std::string model_type = fields.String("model_type", "bert");
  const std::string arch = fields.String("arch_type");
  bool known = false;
  for (const ArchName& name : kArchNames) {
    if (name.name != arch) continue;
    config.variant = name.variant;
    known = true;
  }
  config.vocab_size = fields.Int("vocab_size", 1, int64_t{1} << 24);
  config.type_vocab_size = fields.Int("type_vocab_size", 1, 1024, 2);
  config.hidden_width = fields.Int("hidden_size", 1, kMaxWidth);
  config.num_layers = fields.Int("num_hidden_layers", 1, 1024);
  config.num_heads = fields.Int("num_attention_heads", 1, 1024);
  config.feed_forward_width = fields.Int("intermediate_size", 1, 4 * kMaxWidth);
  config.layer_norm_after = fields.Bool("layer_norm_after", config.variant == Variant::kLit);
  config.layer_norm_eps = fields.Real("layer_norm_eps", 0, 1, 1e-12);
  const std::string activation = fields.String("hidden_act", "gelu");
  const std::string positions = fields.String("position_embedding_type", "absolute");
  if (positions == "absolute") config.max_positions = fields.Int("max_position_embeddings", 1, int64_t{1} << 24);
  const absl::Status classes = ReadClasses(fields, file, config);

  if (!fields.status().ok()) return fields.status();
  if (model_type != "bert")
    return Bad(file, absl::StrCat("model_type '", model_type, "' is not served as text: only 'bert' is"));
  if (!known) {
    return Bad(file, absl::StrCat("arch_type '", arch, "' is not one of lion-lit, lion-d, lion-s"));
  }
  if (activation != "gelu") return Bad(file, absl::StrCat("hidden_act '", activation, "' is not 'gelu'"));
  if (!classes.ok()) return classes;
  const absl::Status heads = DivideHeads(file, "hidden_size", "num_attention_heads", config);
  if (!heads.ok()) return heads;
  return config;
}

absl::StatusOr<ImageConfig> ParseImageConfig(absl::string_view text, const std::string& file) {
  absl::StatusOr<json> value = ParseJson(text, file);
  if (!value.ok()) return value.status();
  Fields fields(*value, file);
  ImageConfig config;

  const std::string model_type = fields.String("model_type");
  const std::string mask_type = fields.String("mask_type");
  const std::string order = fields.String("order", "Normal");
  config.positions = fields.Bool("pos_emb");
  config.cls_pooling = fields.Bool("cls_tok");
  config.qkv_bias = fields.Bool("qkv_bias", true);
  const int64_t channels = fields.Int("in_chans", 1, 1024, kImageChannels);
  config.image_size = fields.Int("img_size", 1, kMaxWidth);
  config.patch_size = fields.Int("patch_size", 1, kMaxPatchSize);
  config.hidden_width = fields.Int("embed_dim", 1, kMaxWidth);
  config.num_layers = fields.Int("depth", 1, 1024);
  config.num_heads = fields.Int("num_heads", 1, 1024);
  const double mlp_ratio = fields.Real("mlp_ratio", 0, 64, 4);
  config.layer_norm_eps = fields.Real("layer_norm_eps", 0, 1, 1e-6);
  config.num_classes = fields.Int("num_classes", 0, int64_t{1} << 24, -1);
  const absl::Status classes = ReadClasses(fields, file, config);

  if (!fields.status().ok()) return fields.status();
  if (model_type != kImageModelType) {
    return Bad(file, absl::StrCat("model_type '", model_type, "' is not '", kImageModelType, "'"));
  }
  const auto* mask = std::find_if(std::begin(kMaskNames), std::end(kMaskNames),
                                  [&](const MaskName& name) { return name.name == mask_type; });
  if (mask == std::end(kMaskNames)) {
    return Bad(file, absl::StrCat("mask_type '", mask_type, "' is not one of Lit, Decay, Selective"));
  }
  config.variant = mask->variant;
  if (order != "Normal" && order != "S") return Bad(file, absl::StrCat("order '", order, "' is neither Normal nor S"));
  config.two_paths = order == "S";
  if (channels != kImageChannels) {
    return Bad(file, absl::StrCat("in_chans ", channels, " is not served: only ", kImageChannels, " are"));
  }
  if (config.image_size % config.patch_size != 0) {
    return Bad(file,
               absl::StrCat("img_size ", config.image_size, " is not a multiple of patch_size ", config.patch_size));
  }
  config.feed_forward_width = static_cast<int64_t>(static_cast<double>(config.hidden_width) * mlp_ratio);
  if (config.feed_forward_width < 1 || config.feed_forward_width > 4 * kMaxWidth) {
    return Bad(file, absl::StrCat("mlp_ratio times embed_dim is ", config.feed_forward_width, ", not from 1 to ",
                                  4 * kMaxWidth));
  }
  if (!classes.ok()) return classes;
  const absl::Status heads = DivideHeads(file, "embed_dim", "num_heads", config);
  if (!heads.ok()) return heads;
  return config;
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, const std::string& file) {
  const absl::StatusOr<json> value = ParseJson(text, file);
  if (!value.ok()) return value.status();
  Fields fields(*value, file);
  const std::string model_type = fields.String("model_type", "bert");
  if (!fields.status().ok()) return fields.status();
  if (model_type == kImageModelType) return ParseImageConfig(text, file);
  if (model_type == "bert") return ParseTextConfig(text, file);
  return Bad(file,
             absl::StrCat("model_type '", model_type, "' is not served: only 'bert' and '", kImageModelType, "' are"));
}

absl::StatusOr<PipelineConfig> ReadPipeline(const std::string& directory, int64_t hidden_width,
                                            Pooling default_pooling) {
  PipelineConfig pipeline;
  pipeline.pooling = default_pooling;
  const std::string file = absl::StrCat(directory, "/modules.json");
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return pipeline;
  absl::StatusOr<json> modules = ReadJson(file);
  if (!modules.ok()) return modules.status();
  if (!modules->is_array() || modules->empty()) return Bad(file, "is not a list of modules");

  int64_t width = hidden_width;
  bool pooled = false;
  for (size_t i = 0; i < modules->size(); ++i) {
    Fields fields((*modules)[i], file);
    const std::string type = fields.String("type");
    const std::string path = fields.String("path", "");
    if (!fields.status().ok()) return fields.status();
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (pipeline.normalize) return Bad(file, absl::StrCat("module ", i, " (", kind, ") follows Normalize"));
    if (i == 0) {
      if (kind != "Transformer") return Bad(file, absl::StrCat("module 0 is '", type, "', not a Transformer"));
      continue;
    }
    if (kind == "Normalize") {
      if (!pooled) return Bad(file, "Normalize comes before Pooling");
      pipeline.normalize = true;
      continue;
    }
    absl::StatusOr<std::string> folder = ModuleDirectory(directory, path, file);
    if (!folder.ok()) return folder.status();
    if (kind == "Pooling") {
      if (pooled) return Bad(file, "has two Pooling modules");
      absl::StatusOr<Pooling> pooling = ReadPooling(*folder, hidden_width);
      if (!pooling.ok()) return pooling.status();
      pipeline.pooling = *pooling;
      pooled = true;
    } else if (kind == "Dense") {
      if (!pooled) return Bad(file, "Dense comes before Pooling");
      absl::StatusOr<DenseConfig> dense = ReadDense(*folder, width);
      if (!dense.ok()) return dense.status();
      width = dense->out_width;
      pipeline.dense.push_back(*std::move(dense));
    } else {
      return Bad(file, absl::StrCat("module ", i, " is '", type, "': only Pooling, Dense and Normalize are served"));
    }
  }
  if (!pooled) return Bad(file, "has no Pooling module");
  return pipeline;
}

}  // namespace lion
