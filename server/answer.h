// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ANSWER_H_
#define LION_SERVER_ANSWER_H_

// What an encoder computed, turned into what travels: cutting, normalising, vector types, scores, spans. Pure
// functions.

#include <cstdint>

#include "absl/types/span.h"
#include "google/protobuf/repeated_field.h"
#include "lion/v1/encoder.pb.h"
#include "model/encoder.h"
#include "model/model.h"
#include "server/row_plan.h"
#include "server/validate.h"

namespace lion {

// An upper bound of the bytes that one vector takes on the wire, with its span and what frames it.
int64_t MaxVectorBytes(const CallPlan& plan);

// An upper bound of the bytes that the rows' answers take on the wire.
int64_t EstimateAnswerBytes(const CallPlan& plan, absl::Span<const PlannedRow> rows, const ModelInfo& info);

// INVALID_ARGUMENT if that passes kMaxAnswerBytes.
absl::Status CheckAnswerBytes(int64_t num_bytes);

// The vectors that a good row is answered with, and behind them, if plan.with_document, one of the whole row.
int64_t NumVectors(const CallPlan& plan, const PlannedRow& row);

// result: what the row's plan.output asked for; every value finite.
void FillEmbedResult(const CallPlan& plan, const PlannedRow& row, RowResult result, v1::EmbedResult* out);
// Vectors [first, last) of it, cut and normalised in place: each can be filled once. The one behind NumVectors is the
// whole row's.
void FillVectors(const CallPlan& plan, const PlannedRow& row, RowResult& result, int64_t first, int64_t last,
                 google::protobuf::RepeatedPtrField<v1::Vector>* out);
void FillClassifyResult(const CallPlan& plan, const PlannedRow& row, RowResult result, const ModelInfo& info,
                        v1::ClassifyResult* out);
void FillTokenizeResult(const PlannedRow& row, v1::TokenizeResult* out);

// Writes v as type says into out's values, data and scale. v is finite; type is not UNSPECIFIED.
void FillVector(absl::Span<const float> v, v1::VectorType type, v1::Vector* out);

// The IEEE half nearest to x, ties to even; beyond the largest (65,504) it saturates: there is no infinity in an
// answer.
uint16_t ToFloat16(float x);

v1::ComputeMode ToProto(ComputeMode mode);
v1::Pooling ToProto(Pooling pooling);

}  // namespace lion

#endif  // LION_SERVER_ANSWER_H_
