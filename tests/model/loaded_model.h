// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_LOADED_MODEL_H_
#define LION_TESTS_MODEL_LOADED_MODEL_H_

// What tests do with a Model that is loaded, on any device.

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "model/model.h"

namespace lion {

// Expects success.
inline std::vector<RowResult> Encode(Model& model, const std::vector<Row>& rows) {
  std::vector<RowResult> results(rows.size());
  const absl::Status status = model.encoder()->Encode(rows, absl::MakeSpan(results));
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_LOADED_MODEL_H_
