// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_OUTPUTS_H_
#define LION_CLIENT_OUTPUTS_H_

// Where lion-client's results go: text for people, JSON lines, CSV, .npy, Parquet. Row by row, in constant memory (but
// for the table of similarities). docs/client.md describes each format for those who parse it.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

enum class OutputFormat { kAuto, kText, kJsonl, kCsv, kNpy, kParquet };

// What the rows are.
enum class RowKind {
  kVector,    // embed: one vector a row
  kVectors,   // embed: several (pooling tokens or windows)
  kDocument,  // embed --document: some of a document's vectors, of which several rows may be written
  kScores,    // classify
  kTokens,    // tokenize
};

struct OutputOptions {
  std::string path = {};                      // empty = standard output
  OutputFormat format = OutputFormat::kAuto;  // by path's suffix; without a path text on a terminal, else JSONL
  RowKind kind = RowKind::kVector;
  v1::VectorType vector_type = v1::VECTOR_TYPE_FLOAT32;  // as asked for
  bool similarity = false;                               // kText and kVector only: a table of each text's nearest other
  bool sources = false;   // JSON lines, CSV and Parquet say where each row is from: "source", after "index"
  int default_width = 0;  // kNpy: the width if no row has a vector
};

// One row, borrowed. Exactly the result that fits the kind is set, and only if status is OK.
struct OutputRow {
  int64_t index = 0;
  const std::string* source = nullptr;
  const v1::Input* input = nullptr;  // null if it could not be read
  absl::Status status;
  const v1::EmbedResult* embed = nullptr;
  int64_t first_vector = 0;  // kDocument: which of the document's vectors embed's first one is
  bool whole = false;        // kDocument: embed has one vector, the whole document's
  const v1::ClassifyResult* classify = nullptr;
  const v1::TokenizeResult* tokenize = nullptr;
};

// The most rows that `similarity` compares.
inline constexpr int kMaxSimilarityRows = 2'000;

// One thread. Errors are of the disk or pipe, or RESOURCE_EXHAUSTED beyond kMaxSimilarityRows; after one, nothing more
// is written.
class ResultWriter {
 public:
  virtual ~ResultWriter() = default;
  virtual absl::Status Write(const OutputRow& row) = 0;
  // Writes what is left (a table, a header's true counts) and closes the file. Call once, also after an error.
  // complete: every input has its row. Without it a Parquet file does not get its name; the other formats make no
  // difference.
  virtual absl::Status Finish(bool complete) = 0;
  // Where Finish(false) leaves the rows, if that is elsewhere than where they were to go; else empty.
  virtual std::string incomplete_path() const { return ""; }
};

// The format that kAuto comes to. INVALID_ARGUMENT for a path whose suffix says nothing, and for pairs that make no
// sense (npy to standard output or of tokens, a similarity table in CSV …).
absl::StatusOr<OutputFormat> ResolveFormat(const OutputOptions& options, bool out_is_terminal);

// out is standard output, borrowed. Creates or empties path; for Parquet its .partial (client/partial_file.h).
absl::StatusOr<std::unique_ptr<ResultWriter>> OpenWriter(const OutputOptions& options, std::FILE* out,
                                                         bool out_is_terminal);

// Tells a person where an unfinished writer has left its rows, if that is not where they were to go.
void SayWhereRowsAre(const ResultWriter& writer, std::FILE* err);

// "parallel" for COMPUTE_MODE_PARALLEL, and so on; "" for UNSPECIFIED.
std::string ModeName(v1::ComputeMode mode);

// 1,234,567
std::string WithCommas(int64_t number);

}  // namespace lion::client

#endif  // LION_CLIENT_OUTPUTS_H_
