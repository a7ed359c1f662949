// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/inference_messages.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "model/types.h"
#include "nlohmann/json.hpp"
#include "server/status_map.h"

namespace lion {
namespace {

static_assert(std::endian::native == std::endian::little, "raw contents are little endian");

using Tensor = inference::ModelInferRequest::InferInputTensor;
using inference::InferParameter;
using inference::ModelInferRequest;

constexpr char kText[] = "text";
constexpr char kIds[] = "input_ids";
constexpr char kMask[] = "attention_mask";
constexpr char kTypes[] = "token_type_ids";
constexpr char kImage[] = "image";
constexpr char kPixels[] = "pixels";

absl::Status Invalid(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

std::string ShapeName(const Tensor& tensor) { return absl::StrCat("[", absl::StrJoin(tensor.shape(), ", "), "]"); }

// An input and its bytes; raw is null where the contents are typed.
struct Given {
  Tensor* tensor = nullptr;
  std::string* raw = nullptr;
};

struct Inputs {
  Given text;
  Given ids;
  Given mask;
  Given types;
  Given image;
  Given pixels;
};

// That exactly one of those tensors that say what runs is there, and of the kind that the model takes.
absl::Status CheckKinds(const Inputs& found, const ServedModel& model) {
  const bool takes_images = model.info.input == "image";
  for (const Given* given : {&found.text, &found.ids, &found.mask, &found.types, &found.image, &found.pixels}) {
    const bool is_image = given == &found.image || given == &found.pixels;
    if (given->tensor == nullptr || is_image == takes_images) continue;
    return Invalid(given->tensor->name(), absl::StrCat("model ", model.name, " takes ", model.info.input, ", not ",
                                                       is_image ? "image" : "text"));
  }
  if (takes_images) {
    if ((found.image.tensor == nullptr) != (found.pixels.tensor == nullptr)) return absl::OkStatus();
    return Invalid("inputs", "one of image (BYTES) and pixels (FP32) is needed");
  }
  if ((found.text.tensor == nullptr) == (found.ids.tensor == nullptr)) {
    return Invalid("inputs", "one of text (BYTES) and input_ids (INT64) is needed");
  }
  if (found.text.tensor != nullptr && (found.mask.tensor != nullptr || found.types.tensor != nullptr)) {
    return Invalid("inputs", "attention_mask and token_type_ids go with input_ids, not with text");
  }
  return absl::OkStatus();
}

absl::StatusOr<Inputs> FindInputs(ModelInferRequest* request, const ServedModel& model) {
  const int num_raw = request->raw_input_contents_size();
  if (num_raw > 0 && num_raw != request->inputs_size()) {
    return Invalid("raw_input_contents",
                   absl::StrCat(num_raw, " given for ", request->inputs_size(), " inputs; as many, or none"));
  }
  Inputs found;
  for (int i = 0; i < request->inputs_size(); ++i) {
    Tensor* tensor = request->mutable_inputs(i);
    const std::string& name = tensor->name();
    Given* given = name == kText     ? &found.text
                   : name == kIds    ? &found.ids
                   : name == kMask   ? &found.mask
                   : name == kTypes  ? &found.types
                   : name == kImage  ? &found.image
                   : name == kPixels ? &found.pixels
                                     : nullptr;
    if (given == nullptr) {
      return Invalid(
          absl::StrCat("inputs[", i, "].name"),
          absl::StrCat(Quoted(name), " is none of text, input_ids, attention_mask, token_type_ids, image, pixels"));
    }
    if (given->tensor != nullptr)
      return Invalid(absl::StrCat("inputs[", i, "].name"), absl::StrCat(name, " comes twice"));
    if (tensor->parameters().contains("shared_memory_region")) {
      return Invalid(name, "is in shared memory, which this server does not read; send the contents");
    }
    if (num_raw > 0 && tensor->has_contents())
      return Invalid(name, "has contents beside raw_input_contents; one of them");
    given->tensor = tensor;
    if (num_raw > 0) given->raw = request->mutable_raw_input_contents(i);
  }
  if (absl::Status status = CheckKinds(found, model); !status.ok()) return status;
  return found;
}

// That the shape's elements are as many as there are.
absl::Status CheckCount(const Tensor& tensor, int64_t count) {
  int64_t product = 1;
  for (int64_t size : tensor.shape()) {
    if (size < 0) return Invalid(tensor.name(), absl::StrCat("shape ", ShapeName(tensor), " has a size below 0"));
    // A product above count stays above it, unless a 0 follows; then count must be 0 too.
    product = size == 0 ? 0 : product > count ? product : product * std::min(size, count + 1);
  }
  if (product == count) return absl::OkStatus();
  return Invalid(tensor.name(),
                 absl::StrCat("shape ", ShapeName(tensor), " does not hold the ", count, " elements that were sent"));
}

absl::Status CheckNumRows(const Tensor& tensor, int64_t num_rows, int max_inputs) {
  if (num_rows >= 1 && num_rows <= max_inputs) return absl::OkStatus();
  const bool pictures = tensor.name() == kImage || tensor.name() == kPixels;
  return Invalid(tensor.name(),
                 absl::StrCat("shape ", ShapeName(tensor), " is ", num_rows, pictures ? " pictures" : " sequences",
                              "; a call has 1 to ", max_inputs, " (max_inputs)"));
}

absl::Status CheckDatatype(const Tensor& tensor, absl::string_view datatype) {
  if (tensor.datatype() == datatype) return absl::OkStatus();
  return Invalid(tensor.name(), absl::StrCat("datatype ", Quoted(tensor.datatype()), "; it must be ", datatype));
}

absl::Status RaggedRaw(const Tensor& tensor, size_t num_bytes) {
  return Invalid(tensor.name(),
                 absl::StrCat(num_bytes, " raw bytes are no whole number of ", tensor.datatype(), " elements"));
}

template <typename T>
std::vector<int64_t> FromRaw(const std::string& raw) {
  std::vector<T> values(raw.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), raw.data(), values.size() * sizeof(T));
  return std::vector<int64_t>(values.begin(), values.end());
}

absl::StatusOr<std::vector<int64_t>> Integers(const Given& given) {
  const Tensor& tensor = *given.tensor;
  const bool wide = tensor.datatype() == "INT64";
  if (!wide && tensor.datatype() != "INT32") {
    return Invalid(tensor.name(), absl::StrCat("datatype ", Quoted(tensor.datatype()), "; it must be INT64 or INT32"));
  }
  if (tensor.shape_size() != 1 && tensor.shape_size() != 2) {
    return Invalid(tensor.name(), absl::StrCat("shape ", ShapeName(tensor), "; it must be (B, L), or (L)"));
  }
  std::vector<int64_t> values;
  if (given.raw == nullptr) {
    const inference::InferTensorContents& contents = tensor.contents();
    if (wide) {
      values.assign(contents.int64_contents().begin(), contents.int64_contents().end());
    } else {
      values.assign(contents.int_contents().begin(), contents.int_contents().end());
    }
  } else {
    const size_t size = wide ? sizeof(int64_t) : sizeof(int32_t);
    if (given.raw->size() % size != 0) return RaggedRaw(tensor, given.raw->size());
    values = wide ? FromRaw<int64_t>(*given.raw) : FromRaw<int32_t>(*given.raw);
  }
  if (absl::Status status = CheckCount(tensor, static_cast<int64_t>(values.size())); !status.ok()) return status;
  return values;
}

// The elements of a raw BYTES tensor: each a length of four bytes and that many bytes.
absl::StatusOr<std::vector<std::string>> SplitBytes(const Tensor& tensor, const std::string& raw) {
  std::vector<std::string> texts;
  for (size_t at = 0; at < raw.size();) {
    uint32_t length = 0;
    if (raw.size() - at < sizeof(length)) {
      return Invalid(tensor.name(), absl::StrCat("element ", texts.size(), "'s length is cut off"));
    }
    std::memcpy(&length, raw.data() + at, sizeof(length));
    at += sizeof(length);
    if (raw.size() - at < length) {
      return Invalid(tensor.name(), absl::StrCat("element ", texts.size(), " has ", length, " bytes, of which ",
                                                 raw.size() - at, " were sent"));
    }
    texts.push_back(raw.substr(at, length));
    at += length;
  }
  return texts;
}

// The elements of a BYTES tensor, as many as its shape says.
absl::StatusOr<std::vector<std::string>> TakeBytes(const Given& given) {
  std::vector<std::string> elements;
  if (given.raw != nullptr) {
    absl::StatusOr<std::vector<std::string>> split = SplitBytes(*given.tensor, *given.raw);
    if (!split.ok()) return split.status();
    elements = *std::move(split);
  } else {
    auto* contents = given.tensor->mutable_contents()->mutable_bytes_contents();
    elements.assign(std::make_move_iterator(contents->begin()), std::make_move_iterator(contents->end()));
  }
  if (absl::Status status = CheckCount(*given.tensor, static_cast<int64_t>(elements.size())); !status.ok()) {
    return status;
  }
  return elements;
}

absl::Status ReadTexts(const Given& given, int max_inputs, google::protobuf::RepeatedPtrField<v1::Input>* out) {
  const Tensor& tensor = *given.tensor;
  if (absl::Status status = CheckDatatype(tensor, "BYTES"); !status.ok()) return status;
  const int rank = tensor.shape_size();
  const bool pairs = rank == 2 && tensor.shape(1) == 2;
  if (rank != 1 && !(rank == 2 && (tensor.shape(1) == 1 || pairs))) {
    return Invalid(tensor.name(), absl::StrCat("shape ", ShapeName(tensor), "; it must be (B), or (B, 2) for pairs"));
  }
  if (absl::Status status = CheckNumRows(tensor, tensor.shape(0), max_inputs); !status.ok()) return status;
  absl::StatusOr<std::vector<std::string>> texts = TakeBytes(given);
  if (!texts.ok()) return texts.status();
  for (size_t i = 0; i < texts->size(); i += pairs ? 2 : 1) {
    v1::Input* input = out->Add();
    if (pairs) {
      *input->mutable_text_pair()->mutable_first() = std::move((*texts)[i]);
      *input->mutable_text_pair()->mutable_second() = std::move((*texts)[i + 1]);
    } else {
      *input->mutable_text() = std::move((*texts)[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadImages(const Given& given, int max_inputs, google::protobuf::RepeatedPtrField<v1::Input>* out) {
  const Tensor& tensor = *given.tensor;
  if (absl::Status status = CheckDatatype(tensor, "BYTES"); !status.ok()) return status;
  const int rank = tensor.shape_size();
  if (rank != 1 && !(rank == 2 && tensor.shape(1) == 1)) {
    return Invalid(tensor.name(), absl::StrCat("shape ", ShapeName(tensor), "; it must be (B)"));
  }
  if (absl::Status status = CheckNumRows(tensor, tensor.shape(0), max_inputs); !status.ok()) return status;
  absl::StatusOr<std::vector<std::string>> images = TakeBytes(given);
  if (!images.ok()) return images.status();
  for (std::string& image : *images) out->Add()->set_image(std::move(image));
  return absl::OkStatus();
}

// Which S the model takes is checked with the rows.
absl::Status ReadPixels(const Given& given, int max_inputs, google::protobuf::RepeatedPtrField<v1::Input>* out) {
  const Tensor& tensor = *given.tensor;
  if (absl::Status status = CheckDatatype(tensor, "FP32"); !status.ok()) return status;
  if (tensor.shape_size() != 4 || tensor.shape(1) != kImageChannels || tensor.shape(2) < 1 ||
      tensor.shape(2) != tensor.shape(3)) {
    return Invalid(tensor.name(), absl::StrCat("shape ", ShapeName(tensor), "; it must be (B, 3, S, S)"));
  }
  const int64_t num_rows = tensor.shape(0);
  if (absl::Status status = CheckNumRows(tensor, num_rows, max_inputs); !status.ok()) return status;
  const auto& typed = tensor.contents().fp32_contents();
  if (given.raw != nullptr && given.raw->size() % sizeof(float) != 0) return RaggedRaw(tensor, given.raw->size());
  const size_t num_values = given.raw != nullptr ? given.raw->size() / sizeof(float) : typed.size();
  if (absl::Status status = CheckCount(tensor, static_cast<int64_t>(num_values)); !status.ok()) return status;
  const char* bytes = given.raw != nullptr ? given.raw->data() : reinterpret_cast<const char*>(typed.data());
  const size_t row_bytes = num_values / num_rows * sizeof(float);
  for (int64_t row = 0; row < num_rows; ++row) {
    out->Add()->mutable_pixels()->set_data(bytes + row * row_bytes, row_bytes);
  }
  return absl::OkStatus();
}

std::string Element(absl::string_view name, int64_t row, int64_t column) {
  return absl::StrCat(name, "[", row, "][", column, "]");
}

// The columns of row that hold tokens, [begin, end).
absl::Status FindTokens(const std::vector<int64_t>& mask, int64_t row, int64_t width, int64_t* begin, int64_t* end) {
  *begin = *end = 0;
  for (int64_t column = 0; column < width; ++column) {
    const int64_t value = mask[row * width + column];
    if (value != 0 && value != 1) {
      return Invalid(Element(kMask, row, column), absl::StrCat(value, "; it must be 0 or 1"));
    }
    if (value == 0) continue;
    if (*begin == *end) {
      *begin = column;
    } else if (*end != column) {
      return Invalid(Element(kMask, row, column), "is 1 behind a 0; a sequence's tokens stand together");
    }
    *end = column + 1;
  }
  if (*begin == *end && width > 0) {
    return Invalid(absl::StrCat(kMask, "[", row, "]"), "is 0 throughout; a sequence has at least 1 token");
  }
  return absl::OkStatus();
}

// values below limit, added to out.
absl::Status AddBelow(const std::vector<int64_t>& values, int64_t limit, absl::string_view name, absl::string_view what,
                      int64_t row, int64_t width, int64_t begin, int64_t end,
                      google::protobuf::RepeatedField<uint32_t>* out) {
  out->Reserve(static_cast<int>(end - begin));
  for (int64_t column = begin; column < end; ++column) {
    const int64_t value = values[row * width + column];
    if (value < 0 || value >= limit) {
      return Invalid(Element(name, row, column), absl::StrCat(value, " is not from 0 to below ", what, " ", limit));
    }
    out->Add(static_cast<uint32_t>(value));
  }
  return absl::OkStatus();
}

absl::Status ReadIds(const Inputs& given, const ServedModel& model, int max_inputs,
                     google::protobuf::RepeatedPtrField<v1::Input>* out) {
  const Tensor& tensor = *given.ids.tensor;
  const absl::StatusOr<std::vector<int64_t>> ids = Integers(given.ids);
  if (!ids.ok()) return ids.status();
  const int64_t num_rows = tensor.shape_size() == 1 ? 1 : tensor.shape(0);
  const int64_t width = tensor.shape(tensor.shape_size() - 1);
  if (absl::Status status = CheckNumRows(tensor, num_rows, max_inputs); !status.ok()) return status;

  std::vector<int64_t> mask, types;
  for (const auto& [other, values] : {std::pair(&given.mask, &mask), std::pair(&given.types, &types)}) {
    if (other->tensor == nullptr) continue;
    absl::StatusOr<std::vector<int64_t>> read = Integers(*other);
    if (!read.ok()) return read.status();
    if (!std::equal(tensor.shape().begin(), tensor.shape().end(), other->tensor->shape().begin(),
                    other->tensor->shape().end())) {
      return Invalid(other->tensor->name(),
                     absl::StrCat("shape ", ShapeName(*other->tensor), " is not input_ids' ", ShapeName(tensor)));
    }
    *values = *std::move(read);
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    int64_t begin = 0, end = width;
    if (given.mask.tensor != nullptr) {
      if (absl::Status status = FindTokens(mask, row, width, &begin, &end); !status.ok()) return status;
    }
    v1::TokenIds* tokens = out->Add()->mutable_token_ids();
    if (absl::Status status = AddBelow(*ids, model.info.vocab_size, kIds, "the vocabulary size", row, width, begin, end,
                                       tokens->mutable_ids());
        !status.ok()) {
      return status;
    }
    if (given.types.tensor == nullptr) continue;
    if (absl::Status status = AddBelow(types, model.info.type_vocab_size, kTypes, "the number of token types", row,
                                       width, begin, end, tokens->mutable_type_ids());
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// -------------------------------------------------------------------------------------------------- parameters

absl::Status ReadBool(absl::string_view name, const InferParameter& parameter, bool* out) {
  if (parameter.parameter_choice_case() != InferParameter::kBoolParam) return Invalid(name, "must be a bool");
  *out = parameter.bool_param();
  return absl::OkStatus();
}

absl::Status ReadCount(absl::string_view name, const InferParameter& parameter, uint32_t* out) {
  constexpr int64_t kMax = std::numeric_limits<uint32_t>::max();
  int64_t value = -1;
  if (parameter.parameter_choice_case() == InferParameter::kInt64Param) value = parameter.int64_param();
  if (parameter.parameter_choice_case() == InferParameter::kUint64Param) {
    value = static_cast<int64_t>(std::min<uint64_t>(parameter.uint64_param(), kMax + 1));
  }
  if (value < 0 || value > kMax) return Invalid(name, absl::StrCat("must be an integer from 0 to ", kMax));
  *out = static_cast<uint32_t>(value);
  return absl::OkStatus();
}

struct Choice {
  absl::string_view name;
  int value;
};

// One of choices, by its name.
template <size_t kSize>
absl::StatusOr<int> ReadChoice(absl::string_view name, const InferParameter& parameter,
                               const Choice (&choices)[kSize]) {
  for (const Choice& choice : choices) {
    if (parameter.parameter_choice_case() == InferParameter::kStringParam && parameter.string_param() == choice.name) {
      return choice.value;
    }
  }
  const auto append = [](std::string* out, const Choice& choice) { absl::StrAppend(out, "\"", choice.name, "\""); };
  return Invalid(name, absl::StrCat("must be one of ", absl::StrJoin(choices, ", ", append)));
}

constexpr Choice kPoolings[] = {{"cls", v1::POOLING_CLS}, {"mean", v1::POOLING_MEAN}};
constexpr Choice kTruncations[] = {
    {"error", v1::TRUNCATION_ERROR}, {"right", v1::TRUNCATION_RIGHT}, {"left", v1::TRUNCATION_LEFT}};
constexpr Choice kModes[] = {{"auto", v1::COMPUTE_MODE_AUTO},
                             {"parallel", v1::COMPUTE_MODE_PARALLEL},
                             {"chunked", v1::COMPUTE_MODE_CHUNKED},
                             {"recurrent", v1::COMPUTE_MODE_RECURRENT}};

bool IsTritonsOwn(absl::string_view name) {
  return name == "priority" || name == "timeout" || absl::StartsWith(name, "sequence_") ||
         absl::StartsWith(name, "triton_");
}

absl::Status ReadParameter(const std::string& key, const InferParameter& parameter, InferQuery* query) {
  const std::string name = absl::StrCat("parameters.", key.size() > 64 ? key.substr(0, 64) : key);
  v1::EncodeOptions* options = query->scores ? query->classify.mutable_options() : query->embed.mutable_options();
  const auto only_for = [&](bool scores) {
    if (query->scores == scores) return absl::OkStatus();
    return Invalid(name, absl::StrCat("goes with the output ", scores ? kScoresOutput : kEmbeddingOutput));
  };
  absl::Status status;
  absl::StatusOr<int> choice = 0;
  if (key == "truncation") {
    choice = ReadChoice(name, parameter, kTruncations);
    if (choice.ok()) options->set_truncation(static_cast<v1::Truncation>(*choice));
  } else if (key == "mode") {
    choice = ReadChoice(name, parameter, kModes);
    if (choice.ok()) options->set_mode(static_cast<v1::ComputeMode>(*choice));
  } else if (key == "chunk_tokens") {
    uint32_t chunk_tokens = 0;
    status = ReadCount(name, parameter, &chunk_tokens);
    options->set_chunk_tokens(chunk_tokens);
  } else if (key == "pooling") {
    status = only_for(false);
    choice = ReadChoice(name, parameter, kPoolings);
    if (choice.ok()) query->embed.set_pooling(static_cast<v1::Pooling>(*choice));
  } else if (key == "normalize") {
    status = only_for(false);
    bool normalize = false;
    if (status.ok()) status = ReadBool(name, parameter, &normalize);
    query->embed.set_normalize(normalize);
  } else if (key == "dimensions") {
    status = only_for(false);
    uint32_t dimensions = 0;
    if (status.ok()) status = ReadCount(name, parameter, &dimensions);
    query->embed.set_dimensions(dimensions);
  } else if (key == "raw_scores") {
    status = only_for(true);
    bool raw_scores = false;
    if (status.ok()) status = ReadBool(name, parameter, &raw_scores);
    query->classify.set_raw_scores(raw_scores);
  } else if (!IsTritonsOwn(key)) {
    status = absl::InvalidArgumentError(
        absl::StrCat("parameters: ", Quoted(key),
                     " is none of pooling, normalize, dimensions, raw_scores, truncation, mode, chunk_tokens"));
  }
  return status.ok() ? choice.status() : status;
}

// Which of its outputs the call wants.
absl::StatusOr<bool> WantsScores(const ModelInferRequest& request, const ServedModel& model) {
  const bool default_scores = !model.info.embeds;
  if (request.outputs().empty()) return default_scores;
  std::optional<bool> scores;
  for (const auto& output : request.outputs()) {
    if (output.name() != kEmbeddingOutput && output.name() != kScoresOutput) {
      return Invalid("outputs", absl::StrCat(Quoted(output.name()), " is none of embedding, scores"));
    }
    if (scores.has_value()) return Invalid("outputs", "a call has one of embedding and scores");
    if (output.parameters().contains("classification") || output.parameters().contains("shared_memory_region")) {
      return Invalid(absl::StrCat("outputs.", output.name()), "an output is given as FP32 contents only");
    }
    scores = output.name() == kScoresOutput;
  }
  return *scores;
}

}  // namespace

absl::StatusOr<InferQuery> FromInfer(ModelInferRequest* request, const ServedModel& model, int max_inputs) {
  if (!request->model_version().empty() && request->model_version() != model.info.version) {
    return absl::NotFoundError(absl::StrCat("model_version: no version ", Quoted(request->model_version()), " of ",
                                            model.name, "; it has ", model.info.version));
  }
  InferQuery query;
  const absl::StatusOr<bool> scores = WantsScores(*request, model);
  if (!scores.ok()) return scores.status();
  query.scores = *scores;
  for (const auto& [key, parameter] : request->parameters()) {
    if (absl::Status status = ReadParameter(key, parameter, &query); !status.ok()) return status;
  }
  const absl::StatusOr<Inputs> given = FindInputs(request, model);
  if (!given.ok()) return given.status();
  auto* inputs = query.scores ? query.classify.mutable_inputs() : query.embed.mutable_inputs();
  absl::Status status = given->text.tensor != nullptr     ? ReadTexts(given->text, max_inputs, inputs)
                        : given->image.tensor != nullptr  ? ReadImages(given->image, max_inputs, inputs)
                        : given->pixels.tensor != nullptr ? ReadPixels(given->pixels, max_inputs, inputs)
                                                          : ReadIds(*given, model, max_inputs, inputs);
  if (!status.ok()) return status;
  query.embed.set_vector_type(v1::VECTOR_TYPE_FLOAT32);
  return query;
}

inference::ModelInferResponse InferAnswer(const ServedModel& model, const std::string& id) {
  inference::ModelInferResponse answer;
  answer.set_model_name(model.name);
  answer.set_model_version(model.info.version);
  answer.set_id(id);
  return answer;
}

void AddOutput(const std::string& name, int64_t num_rows, std::vector<float> values, bool raw,
               inference::ModelInferResponse* out) {
  inference::ModelInferResponse::InferOutputTensor* output = out->add_outputs();
  output->set_name(name);
  output->set_datatype("FP32");
  output->add_shape(num_rows);
  output->add_shape(static_cast<int64_t>(values.size()) / num_rows);
  if (raw) {
    out->add_raw_output_contents(values.data(), values.size() * sizeof(float));
  } else {
    output->mutable_contents()->mutable_fp32_contents()->Add(values.begin(), values.end());
  }
}

inference::ModelMetadataResponse InferMetadata(const ServedModel& model) {
  inference::ModelMetadataResponse metadata;
  metadata.set_name(model.name);
  metadata.add_versions(model.info.version);
  metadata.set_platform(model.info.variant_name);
  const auto add = [](const char* name, const char* datatype, std::initializer_list<int64_t> shape, auto* tensors) {
    auto* tensor = tensors->Add();
    tensor->set_name(name);
    tensor->set_datatype(datatype);
    for (int64_t size : shape) tensor->add_shape(size);
  };
  if (model.tokenizer != nullptr) add(kText, "BYTES", {-1}, metadata.mutable_inputs());
  if (model.info.input == "text") {
    for (const char* name : {kIds, kMask, kTypes}) add(name, "INT64", {-1, -1}, metadata.mutable_inputs());
  } else {
    if (model.preprocessor != nullptr) add(kImage, "BYTES", {-1}, metadata.mutable_inputs());
    const int64_t S = model.info.image_size_fixed ? model.info.image_size : -1;
    add(kPixels, "FP32", {-1, kImageChannels, S, S}, metadata.mutable_inputs());
  }
  if (model.info.embeds) add(kEmbeddingOutput, "FP32", {-1, model.info.embedding_width}, metadata.mutable_outputs());
  if (model.info.classifies) {
    const int64_t num_labels = static_cast<int64_t>(model.info.labels.size());
    add(kScoresOutput, "FP32", {-1, num_labels}, metadata.mutable_outputs());
    (*metadata.mutable_properties())["labels"] =
        nlohmann::json(model.info.labels).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return metadata;
}

absl::Status InInferenceWords(const absl::Status& status) {
  absl::string_view message = status.message();
  if (absl::ConsumePrefix(&message, "model: ")) {
    return absl::Status(status.code(), absl::StrCat("model_name: ", message));
  }
  for (const char* name : {"pooling", "normalize", "dimensions"}) {
    if (absl::StartsWith(message, absl::StrCat(name, ":"))) {
      return absl::Status(status.code(), absl::StrCat("parameters.", message));
    }
  }
  if (absl::ConsumePrefix(&message, "options.")) {
    return absl::Status(status.code(), absl::StrCat("parameters.", message));
  }
  if (!absl::ConsumePrefix(&message, "inputs[")) return status;
  // "inputs[3].text: ..." becomes "text[3]: ..."
  const size_t bracket = message.find("].");
  if (bracket == absl::string_view::npos) return status;
  const absl::string_view row = message.substr(0, bracket);
  message.remove_prefix(bracket + 2);
  constexpr std::pair<const char*, const char*> kFields[] = {
      {"text_pair", kText}, {"text", kText},   {"token_ids.ids", kIds},  {"token_ids.type_ids", kTypes},
      {"token_ids", kIds},  {"image", kImage}, {"pixels.data", kPixels}, {"pixels", kPixels}};
  for (const auto& [ours, theirs] : kFields) {
    if (!absl::ConsumePrefix(&message, ours)) continue;
    return absl::Status(
        status.code(),
        absl::StrCat(theirs, "[", row, "]",
                     absl::StrReplaceAll(message, {{"options.truncation RIGHT or LEFT cuts instead",
                                                    "the parameter truncation \"right\" or \"left\" cuts "
                                                    "instead"},
                                                   {"send token_ids", "send input_ids"}})));
  }
  return status;
}

}  // namespace lion
