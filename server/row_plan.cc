// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/row_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/sentence_windows.h"

namespace lion {
namespace {

std::string Field(int index, absl::string_view name) { return absl::StrCat("inputs[", index, "].", name); }

absl::Status Invalid(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", what));
}

// The oneof's member as callers write it.
absl::string_view ContentName(const v1::Input& input) {
  switch (input.content_case()) {
    case v1::Input::kText:
      return "text";
    case v1::Input::kTextPair:
      return "text_pair";
    case v1::Input::kTokenIds:
      return "token_ids";
    case v1::Input::kImage:
      return "image";
    case v1::Input::kPixels:
      return "pixels";
    case v1::Input::CONTENT_NOT_SET:
      break;
  }
  return "";
}

// That content is set and of the kind that the model takes.
absl::Status CheckKind(const v1::Input& input, int index, const ServedModel& model) {
  if (input.content_case() == v1::Input::CONTENT_NOT_SET) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs[", index, "]: has no content; set one of text, text_pair, token_ids, image, pixels"));
  }
  const bool picture = input.has_image() || input.has_pixels();
  const absl::string_view kind = picture ? "image" : "text";
  if (kind != model.info.input) {
    return Invalid(Field(index, ContentName(input)),
                   absl::StrCat("model ", model.name, " takes ", model.info.input, ", not ", kind));
  }
  return absl::OkStatus();
}

absl::Status CheckIds(const v1::TokenIds& input, int index, const ModelInfo& info) {
  if (input.ids().empty()) {
    return Invalid(Field(index, "token_ids.ids"), "is empty; a sequence has at least 1 token");
  }
  const auto& ids = input.ids();
  const auto bad_id = std::find_if(ids.begin(), ids.end(), [&](uint32_t id) { return id >= info.vocab_size; });
  if (bad_id != ids.end()) {
    return Invalid(absl::StrCat(Field(index, "token_ids.ids["), bad_id - ids.begin(), "]"),
                   absl::StrCat(*bad_id, " is not below the vocabulary size ", info.vocab_size));
  }
  const auto& types = input.type_ids();
  if (!types.empty() && types.size() != ids.size()) {
    return Invalid(Field(index, "token_ids.type_ids"),
                   absl::StrCat("has ", types.size(), " entries for ", ids.size(), " ids; as many, or none"));
  }
  const auto bad_type =
      std::find_if(types.begin(), types.end(), [&](uint32_t id) { return id >= info.type_vocab_size; });
  if (bad_type != types.end()) {
    return Invalid(absl::StrCat(Field(index, "token_ids.type_ids["), bad_type - types.begin(), "]"),
                   absl::StrCat(*bad_type, " is not below the number of token types ", info.type_vocab_size));
  }
  return absl::OkStatus();
}

absl::Status TooLong(absl::string_view field, int64_t num_tokens, int64_t limit) {
  return Invalid(field, absl::StrCat(num_tokens, " tokens, the limit is ", limit,
                                     " (max_sequence_tokens); options.truncation RIGHT or LEFT cuts instead"));
}

// Cuts a row of text whose spans are known.
absl::Status PlanSentences(const v1::Input& input, const CallPlan& plan, PlannedRow* row) {
  const std::string_view texts[] = {input.has_text() ? input.text() : input.text_pair().first(),
                                    input.has_text() ? std::string_view() : input.text_pair().second()};
  CutPlaces places;
  for (int i = 0; i < 2; ++i) {
    // A pair's second text is a sentence of its own.
    if (i == 1 && row->texts[i].begin < row->texts[i].end) {
      places.sentences.push_back(static_cast<uint32_t>(row->texts[i].begin));
    }
    if (absl::Status status = AddCutPlaces(texts[i], row->spans, row->texts[i], &places); !status.ok()) return status;
  }
  row->window_starts = CutWindows(places, static_cast<int64_t>(row->ids.size()), plan.window_tokens);
  return absl::OkStatus();
}

void PlanIds(const v1::TokenIds& input, int index, const CallPlan& plan, const ServedModel& model, PlannedRow* row) {
  row->status = CheckIds(input, index, model.info);
  if (!row->status.ok()) return;
  const int64_t given = input.ids_size();
  const int64_t kept = std::min(given, model.max_sequence_tokens);
  if (kept < given && plan.truncation == v1::TRUNCATION_ERROR) {
    row->status = TooLong(Field(index, "token_ids.ids"), given, model.max_sequence_tokens);
    return;
  }
  const int64_t begin = plan.truncation == v1::TRUNCATION_LEFT ? given - kept : 0;
  row->truncated = kept < given;
  row->ids.assign(input.ids().begin() + begin, input.ids().begin() + begin + kept);
  if (!input.type_ids().empty()) {
    row->type_ids.assign(input.type_ids().begin() + begin, input.type_ids().begin() + begin + kept);
  }
}

// That S is one that the model takes, and no row too long.
absl::Status CheckImageSize(absl::string_view field, int64_t S, const ServedModel& model) {
  const ModelInfo& info = model.info;
  if (info.image_size_fixed && S != info.image_size) {
    return Invalid(field, absl::StrCat("S is ", S, "; model ", model.name, " takes S = ", info.image_size, " only"));
  }
  if (S % info.patch_size != 0) {
    return Invalid(field, absl::StrCat("S is ", S, ", not a multiple of the patch size ", info.patch_size));
  }
  const int64_t num_tokens = ImageTokens(S, info.patch_size);
  if (num_tokens <= model.max_sequence_tokens) return absl::OkStatus();
  return Invalid(field, absl::StrCat("S is ", S, ", which is ", num_tokens, " tokens, the limit is ",
                                     model.max_sequence_tokens, " (max_sequence_tokens)"));
}

void PlanPixels(const std::string& data, int index, const ServedModel& model, PlannedRow* row) {
  static_assert(std::endian::native == std::endian::little, "pixels travel in little endian");
  const std::string field = Field(index, "pixels.data");
  const auto num_values = static_cast<int64_t>(data.size() / sizeof(float));
  const auto S = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(num_values) / kImageChannels)));
  if (S == 0 || static_cast<int64_t>(data.size()) != kImageChannels * S * S * int64_t{sizeof(float)}) {
    row->status = Invalid(field, absl::StrCat(data.size(), " bytes are not 12 S S: float32 of shape [3, S, S]"));
    return;
  }
  row->status = CheckImageSize(field, S, model);
  if (!row->status.ok()) return;
  row->pixels.resize(static_cast<size_t>(num_values));
  std::memcpy(row->pixels.data(), data.data(), data.size());
  const auto bad = std::find_if_not(row->pixels.begin(), row->pixels.end(), [](float v) { return std::isfinite(v); });
  if (bad != row->pixels.end()) {
    row->status = Invalid(field, absl::StrCat("value ", bad - row->pixels.begin(), " is not finite"));
    return;
  }
  row->num_tokens = ImageTokens(S, model.info.patch_size);
}

void PlanImage(const std::string& encoded, int index, const CallPlan& plan, const ServedModel& model, PlannedRow* row) {
  const std::string field = Field(index, "image");
  if (model.preprocessor == nullptr) {
    row->status = Invalid(field, absl::StrCat("model ", model.name, " has no preprocessor_config.json; send pixels"));
    return;
  }
  // Before a picture is decoded in vain.
  row->status = CheckImageSize(field, model.preprocessor->size(), model);
  if (!row->status.ok()) return;
  absl::StatusOr<std::vector<float>> pixels = model.preprocessor->Prepare(encoded, plan.max_image_pixels);
  if (!pixels.ok()) {
    row->status = absl::Status(pixels.status().code(), absl::StrCat(field, ": ", pixels.status().message()));
    return;
  }
  row->pixels = *std::move(pixels);
  row->num_tokens = ImageTokens(model.preprocessor->size(), model.info.patch_size);
}

// max_tokens as in Tokenizer::EncodeOptions.
void PlanText(const v1::Input& input, int index, const CallPlan& plan, const ServedModel& model, int64_t max_tokens,
              const ParallelFor* parallel, PlannedRow* row) {
  const std::string field = Field(index, ContentName(input));
  if (model.tokenizer == nullptr) {
    row->status = Invalid(field, absl::StrCat("model ", model.name, " has no tokenizer; send token_ids"));
    return;
  }
  Tokenizer::EncodeOptions options;
  options.max_tokens = static_cast<size_t>(max_tokens);
  options.side = plan.truncation == v1::TRUNCATION_LEFT ? TruncationSide::kLeft : TruncationSide::kRight;
  options.stop_at_limit = plan.truncation == v1::TRUNCATION_RIGHT;
  options.parallel = parallel;
  options.spans = plan.spans;
  options.tokens = plan.tokens;
  absl::StatusOr<Encoding> encoding =
      input.has_text() ? model.tokenizer->Encode(input.text(), std::nullopt, options)
                       : model.tokenizer->Encode(input.text_pair().first(), input.text_pair().second(), options);
  if (!encoding.ok()) {
    row->status = absl::Status(encoding.status().code(), absl::StrCat(field, ": ", encoding.status().message()));
    return;
  }
  if (plan.truncation == v1::TRUNCATION_ERROR && encoding->truncated()) {
    row->status = TooLong(field, static_cast<int64_t>(encoding->untruncated_tokens), max_tokens);
    return;
  }
  if (encoding->ids.empty()) {
    row->status = Invalid(field, "gives no tokens: the tokenizer finds none in it and adds no special ones");
    return;
  }
  // A tokenizer.json that does not belong to the weights: caught here, or it would fail its whole batch.
  for (uint32_t id : encoding->ids) {
    if (id < model.info.vocab_size) continue;
    row->status =
        Invalid(field, absl::StrCat("the tokenizer gives id ", id, ", which is not below the model's vocabulary size ",
                                    model.info.vocab_size));
    return;
  }
  for (uint32_t id : encoding->type_ids) {
    if (id < model.info.type_vocab_size) continue;
    row->status = Invalid(
        field, absl::StrCat("the tokenizer gives token type ", id, ", the model has ", model.info.type_vocab_size));
    return;
  }
  row->truncated = encoding->truncated();
  row->ids = std::move(encoding->ids);
  row->type_ids = std::move(encoding->type_ids);
  row->spans = std::move(encoding->spans);
  row->tokens = std::move(encoding->tokens);
  std::copy(std::begin(encoding->texts), std::end(encoding->texts), row->texts);
  if (plan.sentences) row->status = PlanSentences(input, plan, row);
}

}  // namespace

int64_t BytesToPrepare(const v1::Input& input) {
  // One more than there are: the empty text goes to the tokenizer too.
  if (input.has_text()) return static_cast<int64_t>(input.text().size()) + 1;
  if (input.has_text_pair()) {
    return static_cast<int64_t>(input.text_pair().first().size() + input.text_pair().second().size()) + 1;
  }
  if (input.has_image()) return static_cast<int64_t>(input.image().size()) + 1;
  return 0;
}

PlannedRow PlanRow(const v1::Input& input, int index, const CallPlan& plan, const ServedModel& model,
                   const ParallelFor* parallel) {
  PlannedRow row;
  row.status = CheckKind(input, index, model);
  if (!row.status.ok()) return row;
  if (input.has_pixels()) {
    PlanPixels(input.pixels().data(), index, model, &row);
  } else if (input.has_image()) {
    PlanImage(input.image(), index, plan, model, &row);
  } else if (input.has_token_ids()) {
    PlanIds(input.token_ids(), index, plan, model, &row);
  } else {
    // Also where too many are an error: what is over the limit is counted, and not kept.
    PlanText(input, index, plan, model, model.max_sequence_tokens, parallel, &row);
    const auto zero = [](uint32_t type) { return type == 0; };
    if (std::all_of(row.type_ids.begin(), row.type_ids.end(), zero)) row.type_ids.clear();
  }
  if (row.status.ok()) {
    if (row.pixels.empty()) row.num_tokens = static_cast<int64_t>(row.ids.size());
    row.mode = ResolveMode(plan.mode, row.num_tokens, model.info.parallel_max_tokens);
    if (row.mode == ComputeMode::kParallel && row.num_tokens > kMaxParallelTokens) {
      row.status = Invalid(Field(index, ContentName(input)),
                           absl::StrCat(row.num_tokens, " tokens, the limit of COMPUTE_MODE_PARALLEL is ",
                                        kMaxParallelTokens, "; CHUNKED and RECURRENT have none"));
    }
  }
  if (row.status.ok() && plan.sentences && row.window_starts.empty()) {
    row.status = Invalid(Field(index, ContentName(input)), "has no sentences; windows.boundary SENTENCE takes texts");
  }
  if (!row.status.ok()) {
    PlannedRow failed;
    failed.status = std::move(row.status);
    return failed;
  }
  return row;
}

PlannedRow PlanTokenizeRow(const v1::Input& input, int index, const CallPlan& plan, const ServedModel& model,
                           const ParallelFor* parallel) {
  PlannedRow row;
  row.status = CheckKind(input, index, model);
  if (row.status.ok() && !input.has_text() && !input.has_text_pair()) {
    row.status = Invalid(Field(index, ContentName(input)), "Tokenize takes text and text_pair only");
  }
  if (row.status.ok()) PlanText(input, index, plan, model, /*max_tokens=*/0, parallel, &row);
  row.num_tokens = static_cast<int64_t>(row.ids.size());
  return row;
}

absl::Status CheckAnyRow(absl::Span<const PlannedRow> rows) {
  const auto good = [](const PlannedRow& row) { return row.status.ok(); };
  if (rows.empty() || std::any_of(rows.begin(), rows.end(), good)) return absl::OkStatus();
  return rows.front().status;
}

absl::Status CheckTotalTokens(int64_t num_tokens, const ServiceLimits& limits) {
  if (num_tokens <= limits.max_request_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("inputs: ", num_tokens, " tokens and more in one call, the limit is ",
                                                 limits.max_request_tokens, " (max_request_tokens)"));
}

}  // namespace lion
