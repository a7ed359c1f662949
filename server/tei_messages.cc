// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tei_messages.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "google/protobuf/duration.pb.h"
#include "server/build_info.h"
#include "server/status_map.h"

namespace lion {
namespace {

absl::Status SetTruncation(bool truncate, tei::v1::TruncationDirection direction, v1::EncodeOptions* options) {
  if (direction != tei::v1::TRUNCATION_DIRECTION_RIGHT && direction != tei::v1::TRUNCATION_DIRECTION_LEFT) {
    return absl::InvalidArgumentError(absl::StrCat("truncation_direction: ", static_cast<int>(direction),
                                                   " is not one of TRUNCATION_DIRECTION_RIGHT (0), "
                                                   "TRUNCATION_DIRECTION_LEFT (1)"));
  }
  const bool left = direction == tei::v1::TRUNCATION_DIRECTION_LEFT;
  options->set_truncation(!truncate ? v1::TRUNCATION_ERROR : left ? v1::TRUNCATION_LEFT : v1::TRUNCATION_RIGHT);
  return absl::OkStatus();
}

// Request: one with a prompt_name.
template <typename Request>
absl::Status CheckPrompt(const Request& request) {
  if (!request.has_prompt_name()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("prompt_name: no prompt ", Quoted(request.prompt_name()), "; the model has none"));
}

uint64_t Nanoseconds(const google::protobuf::Duration& duration) {
  return static_cast<uint64_t>(duration.seconds()) * 1000000000 + static_cast<uint64_t>(duration.nanos());
}

uint32_t Clamped(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, std::numeric_limits<uint32_t>::max()));
}

bool InsideCharacter(absl::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

}  // namespace

absl::Status FromTei(tei::v1::EmbedRequest request, v1::EmbedRequest* out) {
  if (absl::Status status = CheckPrompt(request); !status.ok()) return status;
  if (request.has_dimensions()) {
    if (request.dimensions() == 0) return absl::InvalidArgumentError("dimensions: 0; a vector has at least 1");
    out->set_dimensions(request.dimensions());
  }
  out->set_normalize(!request.has_normalize() || request.normalize());
  *out->add_inputs()->mutable_text() = std::move(*request.mutable_inputs());
  return SetTruncation(request.truncate(), request.truncation_direction(), out->mutable_options());
}

absl::Status FromTei(tei::v1::EmbedAllRequest request, v1::EmbedRequest* out) {
  if (absl::Status status = CheckPrompt(request); !status.ok()) return status;
  out->set_pooling(v1::POOLING_TOKENS);
  *out->add_inputs()->mutable_text() = std::move(*request.mutable_inputs());
  return SetTruncation(request.truncate(), request.truncation_direction(), out->mutable_options());
}

absl::Status FromTei(tei::v1::PredictRequest request, v1::ClassifyRequest* out) {
  out->set_raw_scores(request.raw_scores());
  *out->add_inputs()->mutable_text() = std::move(*request.mutable_inputs());
  return SetTruncation(request.truncate(), request.truncation_direction(), out->mutable_options());
}

absl::Status FromTei(tei::v1::PredictPairRequest request, v1::ClassifyRequest* out) {
  out->set_raw_scores(request.raw_scores());
  if (request.inputs_size() == 1) {
    *out->add_inputs()->mutable_text() = std::move(*request.mutable_inputs(0));
  } else if (request.inputs_size() == 2) {
    v1::TextPair* pair = out->add_inputs()->mutable_text_pair();
    *pair->mutable_first() = std::move(*request.mutable_inputs(0));
    *pair->mutable_second() = std::move(*request.mutable_inputs(1));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs: ", request.inputs_size(), " given; a single text has 1, a pair has 2"));
  }
  return SetTruncation(request.truncate(), request.truncation_direction(), out->mutable_options());
}

absl::Status FromTei(const tei::v1::EncodeRequest& request, v1::TokenizeRequest* out) {
  out->add_inputs()->set_text(request.inputs());
  return CheckPrompt(request);
}

void ToTei(v1::EmbedResult* result, tei::v1::EmbedResponse* out) {
  out->mutable_embeddings()->Swap(result->mutable_vectors(0)->mutable_values());
  out->mutable_metadata()->set_compute_tokens(result->token_count());
}

void ToTei(v1::EmbedResult* result, tei::v1::EmbedAllResponse* out) {
  out->mutable_token_embeddings()->Reserve(result->vectors_size());
  for (v1::Vector& vector : *result->mutable_vectors()) {
    out->add_token_embeddings()->mutable_embeddings()->Swap(vector.mutable_values());
  }
  out->mutable_metadata()->set_compute_tokens(result->token_count());
}

void ToTei(v1::ClassifyResult* result, tei::v1::PredictResponse* out) {
  for (v1::LabelScore& score : *result->mutable_scores()) {
    tei::v1::Prediction* prediction = out->add_predictions();
    *prediction->mutable_label() = std::move(*score.mutable_label());
    prediction->set_score(score.score());
  }
  out->mutable_metadata()->set_compute_tokens(result->token_count());
}

void ToTei(const v1::TokenizeResult& result, absl::string_view text, bool add_special_tokens,
           tei::v1::EncodeResponse* out) {
  for (int i = 0; i < result.ids_size(); ++i) {
    const size_t start = result.spans(i).start_byte();
    const size_t end = result.spans(i).end_byte();
    const bool special = end == 0;  // as lion.v1 says it: no token of the text ends at its first byte
    if (special && !add_special_tokens) continue;
    tei::v1::SimpleToken* token = out->add_tokens();
    token->set_id(result.ids(i));
    token->set_special(special);
    if (!special) {
      token->set_start(static_cast<uint32_t>(start));
      token->set_stop(static_cast<uint32_t>(end));
    }
    // A token of bytes can end inside a character, and what it stands for is no string then.
    if (special || InsideCharacter(text, start) || InsideCharacter(text, end)) {
      token->set_text(result.tokens(i));
    } else {
      const absl::string_view part = text.substr(start, end - start);
      token->set_text(part.data(), part.size());
    }
  }
}

void ToTei(const v1::Timings& timings, tei::v1::Metadata* out) {
  out->set_total_time_ns(Nanoseconds(timings.total()));
  out->set_tokenization_time_ns(Nanoseconds(timings.tokenize()));
  out->set_queue_time_ns(Nanoseconds(timings.queue()));
  out->set_inference_time_ns(Nanoseconds(timings.compute()));
}

tei::v1::InfoResponse TeiInfo(const ServedModel& model, const ServiceContext& context) {
  tei::v1::InfoResponse info;
  info.set_version(std::string(BuildVersion()));
  info.set_sha(std::string(BuildCommit()));
  info.set_model_id(model.name);
  info.set_model_sha(model.info.version);
  info.set_model_dtype(std::string(Name(model.info.dtype)));
  info.set_model_type(model.info.embeds ? tei::v1::MODEL_TYPE_EMBEDDING : tei::v1::MODEL_TYPE_CLASSIFIER);
  info.set_max_concurrent_requests(Clamped(context.limits.max_queue_tokens));
  info.set_max_input_length(Clamped(model.max_sequence_tokens));
  info.set_max_batch_tokens(Clamped(model.info.max_batch_tokens));
  info.set_max_client_batch_size(Clamped(context.limits.max_inputs));
  info.set_tokenization_workers(Clamped(context.tokenizers->num_threads()));
  return info;
}

absl::Status InTeiWords(const absl::Status& status) {
  absl::string_view message = status.message();
  std::string words;
  if (absl::ConsumePrefix(&message, "inputs[0].text_pair") || absl::ConsumePrefix(&message, "inputs[0].text")) {
    words = absl::StrReplaceAll(message, {{"options.truncation RIGHT or LEFT cuts instead", "truncate cuts instead"},
                                          {"; send token_ids", ""}});
    words.insert(0, "inputs");
  } else {
    words = std::string(message);
  }
  return absl::Status(status.code(), words);
}

uint32_t NumChars(absl::string_view text) {
  return Clamped(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace lion
