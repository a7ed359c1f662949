// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/http_messages.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/status_map.h"

namespace lion {
namespace {

using nlohmann::json;

// A value that is neither array nor object; monostate is null. Integers below 0 and fractions are doubles: no field
// takes one.
using Scalar = std::variant<std::monostate, bool, uint64_t, double, std::string>;

const char* TypeName(const Scalar& value) {
  constexpr const char* kNames[] = {"null", "a boolean", "an integer", "a number that is no integer of 0 or more",
                                    "a string"};
  return kNames[value.index()];
}

absl::Status Invalid(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

// Reads a body as it is parsed: one object of fields, of which `input` alone may hold arrays. Derived classes know the
// fields.
class BodyReader : public json::json_sax_t {
 public:
  explicit BodyReader(int max_inputs) : max_inputs_(max_inputs) {}

  absl::Status Read(absl::string_view text) {
    if (json::sax_parse(text.begin(), text.end(), this)) return absl::OkStatus();
    return status_;
  }

  bool null() final { return Value({}); }
  bool boolean(bool value) final { return Value(value); }
  bool number_integer(number_integer_t value) final { return Value(static_cast<double>(value)); }
  bool number_unsigned(number_unsigned_t value) final { return Value(uint64_t{value}); }
  bool number_float(number_float_t value, const string_t&) final { return Value(value); }
  bool string(string_t& value) final { return Value(std::move(value)); }
  bool binary(binary_t&) final { return Fail(absl::InvalidArgumentError("body: is not JSON")); }

  bool start_object(std::size_t) final {
    if (in_object_) return Fail(Invalid(field_, "is an object, or holds one"));
    if (depth_ > 0) return Fail(absl::InvalidArgumentError("body: is an array; it must be a JSON object"));
    in_object_ = true;
    return true;
  }
  bool end_object() final { return true; }
  bool key(string_t& name) final {
    field_ = name.size() <= kMaxFieldName ? name : absl::StrCat(name.substr(0, kMaxFieldName), "...");
    if (std::find(seen_.begin(), seen_.end(), name) != seen_.end()) return Fail(Invalid(Quoted(field_), "given twice"));
    if (name != "input" && !Knows(name)) {
      return Fail(Invalid(Quoted(field_), "there is no such field; docs/http.md lists them"));
    }
    seen_.push_back(name);
    return true;
  }
  bool start_array(std::size_t) final {
    if (!in_object_) {
      ++depth_;
      return true;  // refused by what comes next, or by end_array
    }
    if (field_ != "input") return Fail(Invalid(field_, "is an array"));
    if (++depth_ > 2) return Fail(Invalid(Place(), "is an array inside an array of arrays"));
    return depth_ == 1 || NewRow(Shape::kIdRows);
  }
  bool end_array() final {
    if (!in_object_) return Fail(absl::InvalidArgumentError("body: is an array; it must be a JSON object"));
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception& error) final {
    // "[json.exception.parse_error.101] parse error at line 1, column 3: syntax error ...": what follows the colon.
    absl::string_view why = error.what();
    if (const size_t colon = why.find(": "); colon != absl::string_view::npos) why.remove_prefix(colon + 2);
    return Fail(absl::InvalidArgumentError(absl::StrCat("body: is not JSON, at byte ", position, ": ", Quoted(why))));
  }

 protected:
  virtual bool Knows(absl::string_view field) const = 0;
  // A field that Knows; null never comes.
  virtual absl::Status Set(absl::string_view field, Scalar value) = 0;
  virtual std::string* model() = 0;
  virtual v1::EncodeOptions* options() = 0;
  virtual google::protobuf::RepeatedPtrField<v1::Input>* inputs() = 0;

  bool KnowsCommon(absl::string_view field) const { return field == "model" || field == "truncate" || field == "user"; }
  absl::Status SetCommon(absl::string_view field, Scalar value) {
    if (field == "truncate") {
      bool truncates = false;
      if (absl::Status status = Take(field, value, &truncates); !status.ok()) return status;
      if (truncates) options()->set_truncation(v1::TRUNCATION_RIGHT);
      return absl::OkStatus();
    }
    std::string ignored;
    return Take(field, value, field == "model" ? model() : &ignored);
  }

  static absl::Status Take(absl::string_view field, Scalar& value, std::string* to) {
    auto* text = std::get_if<std::string>(&value);
    if (text == nullptr) return Invalid(field, absl::StrCat("is ", TypeName(value), "; it takes a string"));
    *to = std::move(*text);
    return absl::OkStatus();
  }
  static absl::Status Take(absl::string_view field, const Scalar& value, bool* to) {
    const bool* flag = std::get_if<bool>(&value);
    if (flag == nullptr) return Invalid(field, absl::StrCat("is ", TypeName(value), "; it takes true or false"));
    *to = *flag;
    return absl::OkStatus();
  }
  static absl::Status Take(absl::string_view field, const Scalar& value, uint32_t* to) {
    const uint64_t* number = std::get_if<uint64_t>(&value);
    if (number == nullptr) return Invalid(field, absl::StrCat("is ", TypeName(value), "; it takes an integer"));
    if (*number > std::numeric_limits<uint32_t>::max()) {
      return Invalid(field, absl::StrCat(*number, " is above ", std::numeric_limits<uint32_t>::max()));
    }
    *to = static_cast<uint32_t>(*number);
    return absl::OkStatus();
  }

 private:
  static constexpr size_t kMaxFieldName = 64;
  // What `input` has turned out to be.
  enum class Shape { kNone, kTexts, kIds, kIdRows };

  bool Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }

  // Where in `input` we are: input, input[3].
  std::string Place() {
    return depth_ == 0 || inputs()->empty() ? field_ : absl::StrCat(field_, "[", inputs()->size() - 1, "]");
  }

  bool Is(Shape shape) {
    if (shape_ == Shape::kNone) shape_ = shape;
    if (shape_ == shape) return true;
    return Fail(Invalid(field_, "takes a string, an array of strings, of ids, or of arrays of ids; not a mixture"));
  }

  bool NewRow(Shape shape) {
    if (!Is(shape)) return false;
    if (inputs()->size() >= max_inputs_) {
      return Fail(Invalid(field_, absl::StrCat("more than ", max_inputs_, " given, the limit of a call (max_inputs)")));
    }
    inputs()->Add();
    if (shape != Shape::kTexts) inputs()->rbegin()->mutable_token_ids();
    return true;
  }

  bool Value(Scalar value) {
    if (!in_object_) return Fail(absl::InvalidArgumentError("body: is not a JSON object"));
    if (field_ == "input") return InputValue(std::move(value));
    if (std::holds_alternative<std::monostate>(value)) return true;  // as if it were not there
    absl::Status status = Set(field_, std::move(value));
    return status.ok() || Fail(std::move(status));
  }

  bool InputValue(Scalar value) {
    if (auto* text = std::get_if<std::string>(&value); text != nullptr && depth_ < 2) {
      if (!NewRow(Shape::kTexts)) return false;
      inputs()->rbegin()->set_text(std::move(*text));
      return true;
    }
    if (const uint64_t* id = std::get_if<uint64_t>(&value); id != nullptr && depth_ > 0) {
      if (depth_ == 1 && shape_ == Shape::kNone && !NewRow(Shape::kIds)) return false;
      if (depth_ == 1 && !Is(Shape::kIds)) return false;
      if (*id > std::numeric_limits<uint32_t>::max())
        return Fail(Invalid(Place(), absl::StrCat(*id, " is no token id")));
      inputs()->rbegin()->mutable_token_ids()->add_ids(static_cast<uint32_t>(*id));
      return true;
    }
    return Fail(
        Invalid(Place(), absl::StrCat(depth_ == 0 ? "is " : "holds ", TypeName(value),
                                      "; it takes a string, an array of strings, of ids, or of arrays of ids")));
  }

  const int max_inputs_;
  absl::Status status_;
  bool in_object_ = false;
  int depth_ = 0;  // of arrays
  std::string field_;
  std::vector<std::string> seen_;
  Shape shape_ = Shape::kNone;
};

class EmbeddingsReader final : public BodyReader {
 public:
  EmbeddingsReader(int max_inputs, HttpEmbedRequest* out) : BodyReader(max_inputs), out_(out) {}

 private:
  bool Knows(absl::string_view field) const override {
    return KnowsCommon(field) || field == "encoding_format" || field == "dimensions";
  }
  absl::Status Set(absl::string_view field, Scalar value) override {
    if (field == "dimensions") {
      uint32_t dimensions = 0;
      if (absl::Status status = Take(field, value, &dimensions); !status.ok()) return status;
      if (dimensions == 0) return Invalid(field, "0; it takes 1 to the model's width, or leave it out");
      out_->request.set_dimensions(dimensions);
      return absl::OkStatus();
    }
    if (field != "encoding_format") return SetCommon(field, std::move(value));
    std::string format;
    if (absl::Status status = Take(field, value, &format); !status.ok()) return status;
    if (format != "float" && format != "base64") {
      return Invalid(field, absl::StrCat(Quoted(format), " is not one of float, base64"));
    }
    out_->base64 = format == "base64";
    return absl::OkStatus();
  }
  std::string* model() override { return out_->request.mutable_model(); }
  v1::EncodeOptions* options() override { return out_->request.mutable_options(); }
  google::protobuf::RepeatedPtrField<v1::Input>* inputs() override { return out_->request.mutable_inputs(); }

  HttpEmbedRequest* const out_;
};

class ClassifyReader final : public BodyReader {
 public:
  ClassifyReader(int max_inputs, v1::ClassifyRequest* out) : BodyReader(max_inputs), out_(out) {}

 private:
  bool Knows(absl::string_view field) const override {
    return KnowsCommon(field) || field == "top_k" || field == "raw_scores";
  }
  absl::Status Set(absl::string_view field, Scalar value) override {
    if (field == "top_k") {
      uint32_t top_k = 0;
      if (absl::Status status = Take(field, value, &top_k); !status.ok()) return status;
      out_->set_top_k(top_k);
      return absl::OkStatus();
    }
    if (field != "raw_scores") return SetCommon(field, std::move(value));
    bool raw_scores = false;
    if (absl::Status status = Take(field, value, &raw_scores); !status.ok()) return status;
    out_->set_raw_scores(raw_scores);
    return absl::OkStatus();
  }
  std::string* model() override { return out_->mutable_model(); }
  v1::EncodeOptions* options() override { return out_->mutable_options(); }
  google::protobuf::RepeatedPtrField<v1::Input>* inputs() override { return out_->mutable_inputs(); }

  v1::ClassifyRequest* const out_;
};

// ------------------------------------------------------------------------------------------------------------- answers

// text as a JSON string.
std::string Json(const std::string& text) { return json(text).dump(-1, ' ', false, json::error_handler_t::replace); }

// The shortest decimal that reads back as x; finite.
void AppendNumber(float x, std::string* out) {
  char digits[32];
  out->append(digits, std::to_chars(digits, digits + sizeof(digits), x).ptr);
}

void AppendBytes(absl::string_view bytes, std::string* out) {
  std::string base64;
  absl::Base64Escape(bytes, &base64);
  out->append(base64);
}

// The end of an answer: the model, what was run, and the brace.
template <typename Results>
std::string Rest(const std::string& model, const Results& results) {
  int64_t tokens = 0;
  for (const auto& result : results) tokens += result.token_count();
  return absl::StrCat("],\"model\":", Json(model), ",\"usage\":{\"prompt_tokens\":", tokens,
                      ",\"total_tokens\":", tokens, "}}");
}

// OK, or the error of the first row that has one.
template <typename Results>
absl::Status FirstError(const Results& results) {
  for (const auto& result : results) {
    if (result.has_error()) {
      return absl::Status(static_cast<absl::StatusCode>(result.error().code()), result.error().message());
    }
  }
  return absl::OkStatus();
}

json ModelJson(const v1::ModelInfo& model, int64_t created) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", created},
          {"owned_by", "lion-serve"},
          {"version", model.version()},
          {"embedding_dimensions", model.embedding_dimensions()},
          {"max_sequence_tokens", model.max_sequence_tokens()},
          {"embeds", model.embeds()},
          {"classifies", model.classifies()}};
}

// -------------------------------------------------------------------------------------------------------------- errors

int HttpCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:  // by this model: 501 would have clients try again
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;  // nobody reads it
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

// The message in the words of this wire: input[3] for inputs[3].token_ids.ids.
std::string InTheirWords(absl::string_view message) {
  if (!absl::ConsumePrefix(&message, "inputs")) return std::string(message);
  const size_t colon = message.find(':');
  if (colon == absl::string_view::npos) return absl::StrCat("input", message);
  std::string place(message.substr(0, colon));
  for (const char* part : {".token_ids.ids", ".token_ids", ".text"}) {
    if (const size_t at = place.find(part); at != std::string::npos) place.erase(at, std::string(part).size());
  }
  return absl::StrCat("input", place, message.substr(colon));
}

// The field that a message begins with, empty if it begins with none.
absl::string_view Param(absl::string_view message) {
  for (absl::string_view field :
       {"input", "model", "dimensions", "encoding_format", "truncate", "user", "top_k", "raw_scores"}) {
    if (!absl::StartsWith(message, field)) continue;
    const absl::string_view rest = message.substr(field.size());
    if (absl::StartsWith(rest, ":") || absl::StartsWith(rest, "[")) return field;
  }
  return "";
}

}  // namespace

absl::StatusOr<HttpEmbedRequest> ReadEmbeddings(absl::string_view json, int max_inputs) {
  HttpEmbedRequest read;
  if (absl::Status status = EmbeddingsReader(max_inputs, &read).Read(json); !status.ok()) return status;
  read.request.set_vector_type(read.base64 ? v1::VECTOR_TYPE_FLOAT32_BYTES : v1::VECTOR_TYPE_FLOAT32);
  return read;
}

absl::StatusOr<v1::ClassifyRequest> ReadClassify(absl::string_view json, int max_inputs) {
  v1::ClassifyRequest read;
  if (absl::Status status = ClassifyReader(max_inputs, &read).Read(json); !status.ok()) return status;
  return read;
}

absl::StatusOr<std::string> WriteEmbeddings(const v1::EmbedResponse& response, bool base64) {
  if (absl::Status status = FirstError(response.results()); !status.ok()) return status;
  std::string out = R"({"object":"list","data":[)";
  for (int i = 0; i < response.results_size(); ++i) {
    absl::StrAppend(&out, i == 0 ? "" : ",", R"({"object":"embedding","index":)", i, R"(,"embedding":)");
    const v1::Vector& vector = response.results(i).vectors(0);
    if (base64) {
      out += '"';
      AppendBytes(vector.data(), &out);
      out += "\"}";
    } else {
      out += '[';
      for (int e = 0; e < vector.values_size(); ++e) {
        if (e > 0) out += ',';
        AppendNumber(vector.values(e), &out);
      }
      out += "]}";
    }
  }
  return out + Rest(response.model(), response.results());
}

absl::StatusOr<std::string> WriteClassify(const v1::ClassifyResponse& response) {
  if (absl::Status status = FirstError(response.results()); !status.ok()) return status;
  std::string out = R"({"object":"list","data":[)";
  for (int i = 0; i < response.results_size(); ++i) {
    const auto& scores = response.results(i).scores();
    absl::StrAppend(&out, i == 0 ? "" : ",", R"({"object":"classification","index":)", i);
    if (!scores.empty()) {
      absl::StrAppend(&out, ",\"label\":", Json(scores[0].label()), ",\"score\":");
      AppendNumber(scores[0].score(), &out);
    }
    out += ",\"scores\":[";
    for (const v1::LabelScore& score : scores) {
      absl::StrAppend(&out, out.back() == '[' ? "" : ",", "{\"label\":", Json(score.label()), ",\"score\":");
      AppendNumber(score.score(), &out);
      absl::StrAppend(&out, ",\"index\":", score.index(), "}");
    }
    out += "]}";
  }
  return out + Rest(response.model(), response.results());
}

std::string WriteModels(const v1::ListModelsResponse& response, int64_t created) {
  json data = json::array();
  for (const v1::ModelInfo& model : response.models()) data.push_back(ModelJson(model, created));
  return json({{"object", "list"}, {"data", std::move(data)}}).dump();
}

absl::StatusOr<std::string> WriteModel(const v1::ListModelsResponse& response, absl::string_view name,
                                       int64_t created) {
  std::vector<std::string> known;
  for (const v1::ModelInfo& model : response.models()) {
    if (model.name() == name) return ModelJson(model, created).dump();
    known.push_back(model.name());
  }
  return absl::NotFoundError(
      absl::StrCat("model: no model ", Quoted(name), "; this server has ", absl::StrJoin(known, ", ")));
}

HttpError WriteError(const absl::Status& status, std::optional<int64_t> retry_after_ms, int code) {
  HttpError error;
  error.code = code != 0 ? code : HttpCode(status.code());
  error.retry_after_ms = retry_after_ms;
  const std::string message = InTheirWords(ToGrpcStatus(status).error_message());
  const absl::string_view param = Param(message);
  json body = {{"message", message},
               {"type", error.code == 429   ? "rate_limit_error"
                        : error.code >= 500 ? "server_error"
                                            : "invalid_request_error"},
               {"param", nullptr},
               {"code", nullptr}};
  if (!param.empty()) body["param"] = std::string(param);
  if (error.code == 401) body["code"] = "invalid_api_key";
  if (error.code == 404 && param == "model") body["code"] = "model_not_found";
  if (error.code == 429) body["code"] = "rate_limit_exceeded";
  error.body = json({{"error", std::move(body)}}).dump(-1, ' ', false, json::error_handler_t::replace);
  return error;
}

}  // namespace lion
