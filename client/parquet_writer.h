// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_PARQUET_WRITER_H_
#define LION_CLIENT_PARQUET_WRITER_H_

// Vectors as a Parquet file: a row a vector, or a row a failed input. Columns are named as JSON lines' fields are, and
// hold the same; what a JSON line leaves out is null.
//
// Rows are gathered and written as a row group once they fill kParquetGroupBytes, so memory is a row group, twice what
// one vector takes, and some numbers about each row group written, however many rows pass. The file has its name only
// after Finish(true): client/partial_file.h. Values are not compressed: floats do not get smaller.

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "client/outputs.h"

namespace lion::client {

// Of values, before they are encoded.
inline constexpr int64_t kParquetGroupBytes = 32 << 20;

// options.kind is one of vectors (kVector, kVectors, kDocument), and path is not empty. INVALID_ARGUMENT if path is
// there and is no file.
absl::StatusOr<std::unique_ptr<ResultWriter>> MakeParquetWriter(const OutputOptions& options,
                                                                int64_t group_bytes = kParquetGroupBytes);

}  // namespace lion::client

#endif  // LION_CLIENT_PARQUET_WRITER_H_
