// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/csv.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace lion::client {

CsvReader::CsvReader(ByteReader* reader, char delimiter, int64_t max_record_bytes)
    : reader_(reader), delimiter_(delimiter), max_record_bytes_(max_record_bytes) {}

bool CsvReader::Next(CsvRecord* record) {
  record->fields.clear();
  record->status = absl::OkStatus();
  while (reader_->Peek() == '\n' || reader_->Peek() == '\r') {
    if (reader_->Get() == '\n') ++line_;
  }
  if (reader_->Peek() < 0) return false;
  record->line = line_;

  enum { kFieldStart, kPlain, kQuoted, kAfterQuote } state = kFieldStart;
  int64_t bytes = 0;
  std::string field;
  const auto put = [&](int c) {
    if (++bytes <= max_record_bytes_) field += static_cast<char>(c);
  };
  const auto fail = [&](absl::string_view why) {
    if (record->status.ok()) record->status = absl::InvalidArgumentError(why);
  };
  while (true) {
    const int c = reader_->Get();
    if (c == '\n') ++line_;
    if (state == kQuoted) {
      if (c < 0) {
        fail("a quoted field is never closed");
        break;
      }
      if (c != '"') {
        put(c);
      } else if (reader_->Peek() == '"') {
        put(reader_->Get());
      } else {
        state = kAfterQuote;
      }
      continue;
    }
    if (c < 0 || c == '\n') break;
    if (c == '\r' && (reader_->Peek() == '\n' || reader_->Peek() < 0)) continue;
    if (c == delimiter_) {
      record->fields.push_back(std::move(field));
      field.clear();
      state = kFieldStart;
    } else if (state == kAfterQuote) {
      fail("text after a field's closing quote");
    } else if (state == kFieldStart && c == '"') {
      state = kQuoted;
    } else {
      put(c);
      state = kPlain;
    }
  }
  record->fields.push_back(std::move(field));
  if (bytes > max_record_bytes_) {
    fail(absl::StrCat("the record has ", bytes, " bytes, more than the ", max_record_bytes_, " that the server takes"));
  }
  return true;
}

std::string CsvField(absl::string_view text) {
  if (text.find_first_of(",\"\r\n") == absl::string_view::npos) return std::string(text);
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace lion::client
