// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/answer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/postprocess.h"

namespace lion {
namespace {

// Tags, lengths, span and scale of one Vector; the same for one result and for one LabelScore beside its label.
constexpr int64_t kVectorOverheadBytes = 48;
constexpr int64_t kResultOverheadBytes = 64;
constexpr int64_t kScoreOverheadBytes = 24;
constexpr int64_t kTokenOverheadBytes = 44;  // id, type id and span of a token of Tokenize, and what frames its text

static_assert(std::endian::native == std::endian::little, "Vector.data is little endian: bytes are copied as they are");

int64_t ValueBytes(v1::VectorType type) {
  switch (type) {
    case v1::VECTOR_TYPE_FLOAT16_BYTES:
      return 2;
    case v1::VECTOR_TYPE_INT8_BYTES:
      return 1;
    default:
      return 4;
  }
}

// Tokens [first, last) of the row, and the bytes from the first token of a text among them to its last: of the first
// text that has one. The text's tokens follow each other in it, so no other lies outside.
void FillSpan(const PlannedRow& row, int64_t first, int64_t last, v1::Span* span) {
  span->set_start_token(static_cast<uint32_t>(first));
  span->set_end_token(static_cast<uint32_t>(last));
  if (row.spans.empty()) return;
  if (last == first + 1) {
    span->set_start_byte(row.spans[first].start);
    span->set_end_byte(row.spans[first].end);
    return;
  }
  for (const TokenRange& text : row.texts) {
    const int64_t begin = std::max(first, static_cast<int64_t>(text.begin));
    const int64_t end = std::min(last, static_cast<int64_t>(text.end));
    if (begin >= end) continue;
    span->set_start_byte(row.spans[begin].start);
    span->set_end_byte(row.spans[end - 1].end);
    return;
  }
}

// The tokens of vector i.
TokenRange TokensOf(const CallPlan& plan, const PlannedRow& row, int64_t i) {
  const auto L = static_cast<size_t>(row.num_tokens);
  if (i >= NumVectors(plan, row)) return {0, L};
  if (plan.output == RowOutput::kTokens) return {static_cast<size_t>(i), static_cast<size_t>(i + 1)};
  if (plan.sentences) {
    const auto next = static_cast<size_t>(i + 1);
    return {row.window_starts[i], next < row.window_starts.size() ? row.window_starts[next] : L};
  }
  const auto start = static_cast<size_t>(i * plan.window_stride);
  return {start, std::min(start + static_cast<size_t>(plan.window_tokens), L)};
}

void FillInt8(absl::Span<const float> v, v1::Vector* out) {
  float largest = 0;
  for (float x : v) largest = std::max(largest, std::abs(x));
  const float scale = largest / 127.0f;
  std::string* data = out->mutable_data();
  data->assign(v.size(), '\0');
  out->set_scale(scale);
  if (scale == 0.0f) return;  // a zero vector, or one so small that its scale underflows
  for (size_t i = 0; i < v.size(); ++i) {
    const float q = std::clamp(std::round(v[i] / scale), -127.0f, 127.0f);
    (*data)[i] = static_cast<char>(static_cast<int8_t>(q));
  }
}

}  // namespace

int64_t NumVectors(const CallPlan& plan, const PlannedRow& row) {
  switch (plan.output) {
    case RowOutput::kTokens:
      return row.num_tokens;
    case RowOutput::kWindows:
      return plan.sentences ? static_cast<int64_t>(row.window_starts.size())
                            : NumWindows(row.num_tokens, plan.window_tokens, plan.window_stride);
    default:
      return 1;
  }
}

int64_t MaxVectorBytes(const CallPlan& plan) {
  return plan.width * ValueBytes(plan.vector_type) + kVectorOverheadBytes;
}

int64_t EstimateAnswerBytes(const CallPlan& plan, absl::Span<const PlannedRow> rows, const ModelInfo& info) {
  int64_t row_bytes = 0;  // of a row that has one vector, or scores
  if (plan.output == RowOutput::kLogits) {
    for (const std::string& label : info.labels) row_bytes += static_cast<int64_t>(label.size()) + kScoreOverheadBytes;
  } else {
    row_bytes = MaxVectorBytes(plan);
  }
  int64_t total = 0;
  for (const PlannedRow& row : rows) {
    total += kResultOverheadBytes;
    if (plan.tokens) {
      for (const std::string& token : row.tokens) total += static_cast<int64_t>(token.size()) + kTokenOverheadBytes;
      continue;
    }
    if (row.status.ok()) total += row_bytes * (NumVectors(plan, row) + (plan.with_document ? 1 : 0));
  }
  return total;
}

absl::Status CheckAnswerBytes(int64_t num_bytes) {
  if (num_bytes <= kMaxAnswerBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("inputs: the answer would take ", num_bytes, " bytes, the limit is ", kMaxAnswerBytes,
                   "; send fewer or shorter inputs a call, or ask for fewer dimensions or "
                   "a smaller vector_type"));
}

void FillEmbedResult(const CallPlan& plan, const PlannedRow& row, RowResult result, v1::EmbedResult* out) {
  out->set_token_count(static_cast<uint32_t>(row.num_tokens));
  out->set_truncated(row.truncated);
  out->set_mode(ToProto(row.mode));
  FillVectors(plan, row, result, 0, result.num_vectors, out->mutable_vectors());
}

void FillVectors(const CallPlan& plan, const PlannedRow& row, RowResult& result, int64_t first, int64_t last,
                 google::protobuf::RepeatedPtrField<v1::Vector>* out) {
  out->Reserve(out->size() + static_cast<int>(last - first));
  for (int64_t i = first; i < last; ++i) {
    // Cutting first and normalising what is left gives what normalising, cutting and normalising again gives.
    const absl::Span<float> v(result.values.data() + i * result.width, std::min(plan.width, result.width));
    if (plan.normalize) NormalizeL2(v);
    v1::Vector* vector = out->Add();
    FillVector(v, plan.vector_type, vector);
    if (plan.output == RowOutput::kTokens || plan.output == RowOutput::kWindows) {
      const TokenRange tokens = TokensOf(plan, row, i);
      FillSpan(row, static_cast<int64_t>(tokens.begin), static_cast<int64_t>(tokens.end), vector->mutable_span());
    }
  }
}

void FillClassifyResult(const CallPlan& plan, const PlannedRow& row, RowResult result, const ModelInfo& info,
                        v1::ClassifyResult* out) {
  out->set_token_count(static_cast<uint32_t>(row.num_tokens));
  out->set_truncated(row.truncated);
  out->set_mode(ToProto(row.mode));
  // By the logits, where no two that differ have become equal: so raw_scores and probabilities have the same order.
  const std::vector<int> order = TopK(result.values, plan.top_k);
  const absl::Span<float> scores = absl::MakeSpan(result.values);
  if (!plan.raw_scores) {
    if (info.multi_label) {
      Sigmoid(scores);
    } else {
      Softmax(scores);
    }
  }
  for (int index : order) {
    v1::LabelScore* score = out->add_scores();
    if (index < static_cast<int>(info.labels.size())) score->set_label(info.labels[index]);
    score->set_score(scores[index]);
    score->set_index(static_cast<uint32_t>(index));
  }
}

void FillTokenizeResult(const PlannedRow& row, v1::TokenizeResult* out) {
  out->mutable_ids()->Add(row.ids.begin(), row.ids.end());
  out->mutable_type_ids()->Add(row.type_ids.begin(), row.type_ids.end());
  for (const std::string& token : row.tokens) out->add_tokens(token);
  for (size_t i = 0; i < row.spans.size(); ++i) {
    FillSpan(row, static_cast<int64_t>(i), static_cast<int64_t>(i) + 1, out->add_spans());
  }
}

void FillVector(absl::Span<const float> v, v1::VectorType type, v1::Vector* out) {
  switch (type) {
    case v1::VECTOR_TYPE_FLOAT32_BYTES:
      out->mutable_data()->assign(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
      return;
    case v1::VECTOR_TYPE_FLOAT16_BYTES: {
      std::string* data = out->mutable_data();
      data->resize(v.size() * sizeof(uint16_t));
      for (size_t i = 0; i < v.size(); ++i) {
        const uint16_t half = ToFloat16(v[i]);
        std::memcpy(data->data() + i * sizeof(half), &half, sizeof(half));
      }
      return;
    }
    case v1::VECTOR_TYPE_INT8_BYTES:
      FillInt8(v, out);
      return;
    default:
      out->mutable_values()->Add(v.begin(), v.end());
      return;
  }
}

uint16_t ToFloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::abs(x);
  if (magnitude >= 65504.0f) return sign | 0x7BFFu;
  if (magnitude < 0x1p-14f) {
    // Subnormal halves are multiples of 2^-24: adding 0.5 leaves float's last bit at just that, so the FPU rounds.
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(magnitude + 0.5f) - std::bit_cast<uint32_t>(0.5f));
  }
  // Ten bits of mantissa stay; half of the last, less one, plus the last bit itself, rounds ties to even.
  uint32_t rounded = std::bit_cast<uint32_t>(magnitude);
  rounded += 0xFFFu + ((rounded >> 13) & 1u);
  rounded -= (127u - 15u) << 23;
  return sign | static_cast<uint16_t>(rounded >> 13);
}

v1::ComputeMode ToProto(ComputeMode mode) {
  switch (mode) {
    case ComputeMode::kParallel:
      return v1::COMPUTE_MODE_PARALLEL;
    case ComputeMode::kChunked:
      return v1::COMPUTE_MODE_CHUNKED;
    case ComputeMode::kRecurrent:
      return v1::COMPUTE_MODE_RECURRENT;
  }
  return v1::COMPUTE_MODE_UNSPECIFIED;
}

v1::Pooling ToProto(Pooling pooling) {
  switch (pooling) {
    case Pooling::kCls:
      return v1::POOLING_CLS;
    case Pooling::kMean:
      return v1::POOLING_MEAN;
    case Pooling::kTokens:
      return v1::POOLING_TOKENS;
  }
  return v1::POOLING_UNSPECIFIED;
}

}  // namespace lion
