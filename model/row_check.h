// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_ROW_CHECK_H_
#define LION_MODEL_ROW_CHECK_H_

// What every device refuses before it looks at a row's ids or pixels: the contract of Row (model/encoder.h), checked.

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/config.h"
#include "model/encoder.h"

namespace lion {

// INVALID_ARGUMENT naming the row's index, the value and the limit. classifies: the model has a classifier.
absl::Status CheckRows(const ModelConfig& config, bool classifies, absl::Span<const Row> rows);

}  // namespace lion

#endif  // LION_MODEL_ROW_CHECK_H_
