// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_INPUTS_H_
#define LION_CLIENT_INPUTS_H_

// Where lion-client's inputs come from: arguments, lines of text, whole files, JSON lines, CSV columns, pictures; as
// texts, text pairs, token ids or encoded pictures. One record at a time, so that memory does not depend on how many
// there are.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

enum class InputFormat {
  kAuto,   // by the file's suffix: .jsonl, .ndjson, .csv, .tsv; else CSV if a column was named, JSONL if a field was,
           // else lines
  kLines,  // one text a line; an empty line is an empty text
  kJsonl,  // one JSON value a line; blank lines are skipped
  kCsv,    // with a header; blank lines are skipped
  kWhole,  // a file is one text
  kImage,  // a file is one encoded picture; folders stand for those in them (FindImages)
};

struct InputOptions {
  std::vector<std::string> texts = {};  // given as such; "-" among them is standard input
  std::vector<std::string> files = {};  // "-" is standard input. Neither texts nor files = standard input
  InputFormat format = InputFormat::kAuto;
  std::string field = {};                       // JSONL: the text's key, dots go deeper ("a.b"); empty = "text"
  std::string pair_field = {};                  // JSONL: the second text's key; empty = no pairs
  std::string column = {};                      // CSV: the text's column; empty = "text"
  std::string pair_column = {};                 // CSV: the second text's column; empty = no pairs
  std::string separator = {};                   // arguments and lines: divides a pair's texts; empty = no pairs
  bool ids = false;                             // texts are token ids: "1,2,3" or "1 2 3"; in JSONL an array too
  int64_t max_input_bytes = int64_t{64} << 20;  // a longer record fails without being held in memory
};

struct InputRecord {
  v1::Input input;       // if status is OK
  std::string source;    // "argument 2", "texts.txt:17", "report.txt", "photos/cat.jpg"
  int64_t position = 0;  // bytes read so far, over all files
  absl::Status status;   // INVALID_ARGUMENT: this record cannot be used; the next ones can
};

// One thread.
class InputReader {
 public:
  // Checks that every file can be opened: NOT_FOUND otherwise, INVALID_ARGUMENT for options that exclude each other.
  // stdin_fd and interrupted (may be null; see ByteReader) are borrowed.
  static absl::StatusOr<std::unique_ptr<InputReader>> Create(const InputOptions& options, int stdin_fd,
                                                             const std::atomic<bool>* interrupted = nullptr);
  virtual ~InputReader() = default;

  // The next record, good or bad; false at the end.
  virtual bool Next(InputRecord* record) = 0;

  // Why reading ended early: INVALID_ARGUMENT for a CSV file without the column asked for, else an error of the disk.
  virtual absl::Status status() const = 0;

  // Of all files together; -1 where it cannot be known (a pipe).
  virtual int64_t total_bytes() const = 0;
};

// "1, 2 3" as ids; INVALID_ARGUMENT naming the piece that is none. ids is replaced.
absl::Status ParseIds(absl::string_view text, google::protobuf::RepeatedField<uint32_t>* ids);

}  // namespace lion::client

#endif  // LION_CLIENT_INPUTS_H_
