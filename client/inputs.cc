// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/inputs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/byte_reader.h"
#include "client/csv.h"
#include "client/images.h"
#include "client/utf8.h"
#include "nlohmann/json.hpp"

namespace lion::client {
namespace {

using Json = nlohmann::json;

// The exact key if there is one, else dots lead deeper: into objects by key, into arrays by number.
const Json* Lookup(const Json& value, absl::string_view path) {
  if (value.is_object()) {
    const auto whole = value.find(std::string(path));
    if (whole != value.end()) return &*whole;
  }
  const Json* at = &value;
  for (absl::string_view key : absl::StrSplit(path, '.')) {
    size_t index = 0;
    if (at->is_object() && at->contains(std::string(key))) {
      at = &(*at)[std::string(key)];
    } else if (at->is_array() && absl::SimpleAtoi(key, &index) && index < at->size()) {
      at = &(*at)[index];
    } else {
      return nullptr;
    }
  }
  return at;
}

absl::Status CheckUtf8(absl::string_view text) {
  const size_t bad = FirstInvalidUtf8(text);
  if (bad == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("is not UTF-8 from byte ", bad, " on"));
}

absl::Status TooLong(int64_t limit) {
  return absl::InvalidArgumentError(
      absl::StrCat("is longer than ", limit, " bytes, the most that the server takes in one message"));
}

// "[json.exception.parse_error.101] parse error at line 1, column 5: what" -> "parse error at line 1, column 5: what"
std::string JsonProblem(const char* what) {
  std::string text = what;
  const size_t end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

class Reader : public InputReader {
 public:
  Reader(const InputOptions& options, int stdin_fd, const std::atomic<bool>* interrupted)
      : options_(options), stdin_fd_(stdin_fd), interrupted_(interrupted) {}

  ~Reader() override { CloseFile(); }

  absl::Status Init() {
    const bool has_pairs = !options_.pair_field.empty() || !options_.pair_column.empty() || !options_.separator.empty();
    if (options_.ids && has_pairs) return absl::InvalidArgumentError("ids cannot be given as pairs");
    if (!options_.texts.empty() && !options_.files.empty()) {
      return absl::InvalidArgumentError("give texts or files, not both");
    }
    if (options_.format == InputFormat::kWhole && options_.files.empty() && !options_.texts.empty()) {
      return absl::InvalidArgumentError("whole files are wanted, but texts were given: name the files with --file");
    }
    if (options_.format == InputFormat::kImage) {
      if (options_.ids || has_pairs) return absl::InvalidArgumentError("pictures are neither ids nor pairs");
      absl::StatusOr<std::vector<std::string>> images = FindImages(options_.files);
      if (!images.ok()) return images.status();
      options_.files = *std::move(images);
    }
    if (options_.texts.empty() && options_.files.empty()) options_.files = {"-"};
    total_bytes_ = std::count(options_.texts.begin(), options_.texts.end(), "-") > 0 ? -1 : 0;
    for (const std::string& path : options_.files) {
      struct stat info {};
      if (path == "-" ? fstat(stdin_fd_, &info) != 0
                      : access(path.c_str(), R_OK) != 0 || stat(path.c_str(), &info) != 0) {
        return absl::NotFoundError(absl::StrCat(path, ": ", absl::ErrnoToStatus(errno, "cannot read").message()));
      }
      if (S_ISDIR(info.st_mode)) return absl::NotFoundError(absl::StrCat(path, ": is a directory"));
      if (!S_ISREG(info.st_mode)) total_bytes_ = -1;
      if (total_bytes_ >= 0) total_bytes_ += info.st_size;
    }
    return absl::OkStatus();
  }

  bool Next(InputRecord* record) override {
    *record = InputRecord();
    while (status_.ok()) {
      if (interrupted_ != nullptr && interrupted_->load()) return false;
      if (bytes_ != nullptr) {
        if (NextOfFile(record)) {
          record->position = bytes_before_file_ + bytes_->bytes_read();
          return true;
        }
        CloseFile();
        continue;
      }
      if (next_text_ < options_.texts.size()) {
        const std::string& text = options_.texts[next_text_++];
        if (text == "-") {
          OpenFile("-");
          continue;
        }
        record->source = absl::StrCat("argument ", next_text_);
        record->status = FromText(text, &record->input);
        return true;
      }
      if (next_file_ == options_.files.size()) return false;
      OpenFile(options_.files[next_file_++]);
    }
    return false;
  }

  absl::Status status() const override { return status_; }
  int64_t total_bytes() const override { return total_bytes_; }

 private:
  InputFormat FormatOf(absl::string_view path) const {
    if (options_.format != InputFormat::kAuto) return options_.format;
    if (absl::EndsWith(path, ".jsonl") || absl::EndsWith(path, ".ndjson")) return InputFormat::kJsonl;
    if (absl::EndsWith(path, ".csv") || absl::EndsWith(path, ".tsv")) return InputFormat::kCsv;
    if (path != "-") return InputFormat::kLines;
    if (!options_.column.empty()) return InputFormat::kCsv;
    return options_.field.empty() ? InputFormat::kLines : InputFormat::kJsonl;
  }

  void OpenFile(const std::string& path) {
    fd_ = path == "-" ? stdin_fd_ : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    name_ = path == "-" ? "stdin" : path;
    if (fd_ < 0) {
      status_ = absl::NotFoundError(absl::StrCat(path, ": ", absl::ErrnoToStatus(errno, "cannot read").message()));
      return;
    }
    bytes_ = std::make_unique<ByteReader>(fd_, interrupted_);
    format_ = FormatOf(path);
    line_ = 0;
    if (format_ == InputFormat::kCsv) OpenCsv(absl::EndsWith(path, ".tsv") ? '\t' : ',');
  }

  void OpenCsv(char delimiter) {
    csv_ = std::make_unique<CsvReader>(bytes_.get(), delimiter, options_.max_input_bytes);
    CsvRecord header;
    if (!csv_->Next(&header)) return;  // an empty file has no rows
    if (!header.status.ok()) {
      status_ =
          absl::InvalidArgumentError(absl::StrCat(name_, ":", header.line, ": the header: ", header.status.message()));
      return;
    }
    num_fields_ = header.fields.size();
    const auto find = [&](const std::string& column) {
      const auto at = std::find(header.fields.begin(), header.fields.end(), column);
      if (at == header.fields.end() && status_.ok()) {
        status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": has no column '", column, "'; it has ",
                                                          Preview(absl::StrJoin(header.fields, ", "), 200)));
      }
      return static_cast<size_t>(at - header.fields.begin());
    };
    column_ = find(options_.column.empty() ? "text" : options_.column);
    pair_column_.reset();
    if (!options_.pair_column.empty()) pair_column_ = find(options_.pair_column);
  }

  void CloseFile() {
    if (bytes_ == nullptr) return;
    if (status_.ok() && !bytes_->status().ok()) {
      status_ = absl::Status(bytes_->status().code(), absl::StrCat(name_, ": ", bytes_->status().message()));
    }
    bytes_before_file_ += bytes_->bytes_read();
    csv_.reset();
    bytes_.reset();
    if (fd_ != stdin_fd_) close(fd_);
  }

  bool NextOfFile(InputRecord* record) {
    switch (format_) {
      case InputFormat::kCsv:
        return NextOfCsv(record);
      case InputFormat::kWhole:
      case InputFormat::kImage:
        return NextWhole(record);
      default:
        return NextLine(record);
    }
  }

  bool NextLine(InputRecord* record) {
    bool too_long = false;
    do {
      if (!bytes_->ReadLine(&text_, options_.max_input_bytes, &too_long)) return false;
      ++line_;
    } while (format_ == InputFormat::kJsonl && absl::StripAsciiWhitespace(text_).empty());
    record->source = absl::StrCat(name_, ":", line_);
    if (too_long) {
      record->status = TooLong(options_.max_input_bytes);
    } else {
      record->status =
          format_ == InputFormat::kJsonl ? FromJson(text_, &record->input) : FromText(text_, &record->input);
    }
    return true;
  }

  bool NextWhole(InputRecord* record) {
    if (line_++ > 0) return false;  // an empty file is an empty text, or picture, once
    text_.clear();
    int64_t size = 0;
    for (int c = bytes_->Get(); c >= 0; c = bytes_->Get()) {
      if (++size <= options_.max_input_bytes) text_ += static_cast<char>(c);
    }
    record->source = name_;
    if (size > options_.max_input_bytes) {
      record->status = TooLong(options_.max_input_bytes);
    } else if (format_ == InputFormat::kImage) {
      record->input.set_image(std::move(text_));
    } else {
      record->status = FromText(text_, &record->input);
    }
    return true;
  }

  bool NextOfCsv(InputRecord* record) {
    CsvRecord row;
    if (!csv_->Next(&row)) return false;
    record->source = absl::StrCat(name_, ":", row.line);
    if (!row.status.ok()) {
      record->status = row.status;
    } else if (row.fields.size() != num_fields_) {
      record->status = absl::InvalidArgumentError(
          absl::StrCat("has ", row.fields.size(), " fields where the header has ", num_fields_));
    } else if (pair_column_.has_value()) {
      record->status = SetPair(std::move(row.fields[column_]), std::move(row.fields[*pair_column_]), &record->input);
    } else {
      record->status = SetText(std::move(row.fields[column_]), &record->input);
    }
    return true;
  }

  // An argument, a line or a file's whole text.
  absl::Status FromText(absl::string_view text, v1::Input* input) const {
    if (options_.separator.empty()) return SetText(std::string(text), input);
    const size_t at = text.find(options_.separator);
    if (at == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("has no '", options_.separator, "' between the texts of a pair"));
    }
    return SetPair(std::string(text.substr(0, at)), std::string(text.substr(at + options_.separator.size())), input);
  }

  absl::Status FromJson(const std::string& line, v1::Input* input) const {
    Json value;
    try {
      value = Json::parse(line);
    } catch (const Json::exception& e) {
      return absl::InvalidArgumentError(absl::StrCat("is not JSON: ", JsonProblem(e.what())));
    }
    const std::string field = options_.field.empty() ? "text" : options_.field;
    const auto string_at = [&](const std::string& name, std::string* text) -> absl::Status {
      // A line that is a string is the text itself.
      const Json* found = value.is_string() && name == "text" ? &value : Lookup(value, name);
      if (found == nullptr) return absl::InvalidArgumentError(absl::StrCat("has no field '", name, "'"));
      if (!found->is_string()) {
        return absl::InvalidArgumentError(absl::StrCat("field '", name, "' is ", found->type_name(), ", not a string"));
      }
      *text = found->get<std::string>();
      return absl::OkStatus();
    };
    if (options_.ids) {
      const Json* found = value.is_array() ? &value : Lookup(value, field);
      if (found != nullptr && found->is_array()) return SetIds(*found, input);
    }
    std::string first;
    std::string second;
    absl::Status status = string_at(field, &first);
    if (!status.ok()) return status;
    if (options_.pair_field.empty()) return SetText(std::move(first), input);
    status = string_at(options_.pair_field, &second);
    if (!status.ok()) return status;
    return SetPair(std::move(first), std::move(second), input);
  }

  absl::Status SetText(std::string text, v1::Input* input) const {
    if (options_.ids) return ParseIds(text, input->mutable_token_ids()->mutable_ids());
    if (static_cast<int64_t>(text.size()) > options_.max_input_bytes) return TooLong(options_.max_input_bytes);
    const absl::Status status = CheckUtf8(text);
    if (status.ok()) input->set_text(std::move(text));
    return status;
  }

  absl::Status SetPair(std::string first, std::string second, v1::Input* input) const {
    if (static_cast<int64_t>(first.size() + second.size()) > options_.max_input_bytes)
      return TooLong(options_.max_input_bytes);
    absl::Status status = CheckUtf8(first);
    if (status.ok()) status = CheckUtf8(second);
    if (!status.ok()) return status;
    input->mutable_text_pair()->set_first(std::move(first));
    input->mutable_text_pair()->set_second(std::move(second));
    return absl::OkStatus();
  }

  static absl::Status SetIds(const Json& array, v1::Input* input) {
    auto* ids = input->mutable_token_ids()->mutable_ids();
    for (const Json& id : array) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
        return absl::InvalidArgumentError(absl::StrCat("'", id.dump(-1, ' ', false, Json::error_handler_t::replace),
                                                       "' is not a token id (a whole number below 2^32)"));
      }
      ids->Add(id.get<uint32_t>());
    }
    if (ids->empty()) return absl::InvalidArgumentError("has no token ids");
    return absl::OkStatus();
  }

  InputOptions options_;
  const int stdin_fd_;
  const std::atomic<bool>* const interrupted_;
  int64_t total_bytes_ = 0;
  absl::Status status_;
  size_t next_text_ = 0;
  size_t next_file_ = 0;
  int64_t bytes_before_file_ = 0;

  // The file being read; bytes_ is null between files.
  std::string name_;
  int fd_ = -1;
  InputFormat format_ = InputFormat::kLines;
  std::unique_ptr<ByteReader> bytes_;
  int64_t line_ = 0;
  std::string text_;
  std::unique_ptr<CsvReader> csv_;
  size_t num_fields_ = 0;
  size_t column_ = 0;
  std::optional<size_t> pair_column_;
};

}  // namespace

absl::Status ParseIds(absl::string_view text, google::protobuf::RepeatedField<uint32_t>* ids) {
  ids->Clear();
  for (absl::string_view piece : absl::StrSplit(text, absl::ByAnyChar(", \t"), absl::SkipEmpty())) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(piece, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", Preview(piece, 20), "' is not a token id (a whole number below 2^32)"));
    }
    ids->Add(id);
  }
  if (ids->empty()) return absl::InvalidArgumentError("has no token ids");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<InputReader>> InputReader::Create(const InputOptions& options, int stdin_fd,
                                                                 const std::atomic<bool>* interrupted) {
  auto reader = std::make_unique<Reader>(options, stdin_fd, interrupted);
  const absl::Status status = reader->Init();
  if (!status.ok()) return status;
  return reader;
}

}  // namespace lion::client
