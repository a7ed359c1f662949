// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_ROW_PLAN_H_
#define LION_SERVER_ROW_PLAN_H_

// One input of a call, turned into the row that runs, or into the reason why it does not. Pure but for the tokenizer
// and the decoding of pictures.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "lion/v1/encoder.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "model/types.h"
#include "server/served_model.h"
#include "server/validate.h"

namespace lion {

struct PlannedRow {
  absl::Status status;              // not OK: this row fails, begins with its field ("inputs[3].text: ...")
  std::vector<uint32_t> ids;        // (L), L >= 1 if status is OK and it is no picture
  std::vector<uint32_t> type_ids;   // (L), or empty = all 0
  std::vector<float> pixels;        // (3, S, S) of a picture, as Row has them; else empty
  std::vector<ByteSpan> spans;      // (L) if the plan wants them and the input is text, else empty
  std::vector<std::string> tokens;  // (L) if the plan wants them, else empty
  TokenRange texts[2];              // where the tokens of a text, and of a pair's second, lie; both empty for ids
  int64_t num_tokens = 0;           // L; stays when ids or pixels have moved on
  bool truncated = false;
  ComputeMode mode = ComputeMode::kParallel;

  std::vector<uint32_t> window_starts;  // with plan.sentences, as Row has them; else empty
};

// Bytes of text that the tokenizer has to read for this input, or of a picture to be decoded; 0 = neither.
int64_t BytesToPrepare(const v1::Input& input);

// The row that Embed or Classify runs for inputs[index]. Runs the tokenizer on text, and decodes and resizes pictures
// (then: not on a gRPC thread).
// parallel: for long texts (Tokenizer::EncodeOptions); null = none.
PlannedRow PlanRow(const v1::Input& input, int index, const CallPlan& plan, const ServedModel& model,
                   const ParallelFor* parallel = nullptr);

// What Tokenize shows of inputs[index]: the ids that Embed would run, never truncated; type_ids always (L).
PlannedRow PlanTokenizeRow(const v1::Input& input, int index, const CallPlan& plan, const ServedModel& model,
                           const ParallelFor* parallel = nullptr);

// The first row's error if every row has one.
absl::Status CheckAnyRow(absl::Span<const PlannedRow> rows);

// INVALID_ARGUMENT if the rows together pass max_request_tokens.
absl::Status CheckTotalTokens(int64_t num_tokens, const ServiceLimits& limits);

}  // namespace lion

#endif  // LION_SERVER_ROW_PLAN_H_
