// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_CSV_H_
#define LION_CLIENT_CSV_H_

// CSV as RFC 4180 has it, streaming: fields in double quotes may hold delimiters, doubled quotes and line ends.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/byte_reader.h"

namespace lion::client {

struct CsvRecord {
  std::vector<std::string> fields;
  int64_t line = 0;     // where it begins, from 1
  absl::Status status;  // INVALID_ARGUMENT: text after a closing quote, a quote never closed, or too long
};

// One thread. reader is borrowed.
class CsvReader {
 public:
  // max_record_bytes: of a longer record the rest is dropped.
  CsvReader(ByteReader* reader, char delimiter, int64_t max_record_bytes);

  // The next record; false at the end. Empty lines are skipped. A quote inside an unquoted field is taken as it is.
  bool Next(CsvRecord* record);

 private:
  ByteReader* const reader_;
  const char delimiter_;
  const int64_t max_record_bytes_;
  int64_t line_ = 1;
};

// A field as it is written: quoted only where it must be.
std::string CsvField(absl::string_view text);

}  // namespace lion::client

#endif  // LION_CLIENT_CSV_H_
