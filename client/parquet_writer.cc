// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/parquet_writer.h"

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "client/parquet/lion_parquet.h"
#include "client/partial_file.h"
#include "client/vectors.h"

namespace lion::client {
namespace {

constexpr int64_t kRowBytes = 128;  // of a row beside its vector and its texts, about

// One leaf of the schema, the rows of the row group that is being gathered.
class Column {
 public:
  virtual ~Column() = default;
  // Rows that were given no value are null.
  void FillTo(size_t num_rows) { counts_.resize(num_rows, 0); }
  // Valid until the column changes.
  virtual LionParquetColumn View() = 0;
  virtual void Clear() { counts_.clear(); }

 protected:
  void AddRow(size_t num_values) { counts_.push_back(static_cast<uint32_t>(num_values)); }
  const uint32_t* counts() const { return counts_.data(); }

 private:
  std::vector<uint32_t> counts_;  // a row's values
};

template <typename T>
class NumberColumn : public Column {
 public:
  void Add(T value) { AddList(absl::MakeConstSpan(&value, 1)); }
  void AddList(absl::Span<const T> values) {
    values_.insert(values_.end(), values.begin(), values.end());
    AddRow(values.size());
  }
  LionParquetColumn View() override { return {values_.data(), values_.size(), counts()}; }
  void Clear() override {
    Column::Clear();
    values_.clear();
  }

 private:
  std::vector<T> values_;
};

class TextColumn : public Column {
 public:
  void Add(std::string value) {
    values_.push_back(std::move(value));
    AddRow(1);
  }
  LionParquetColumn View() override {
    views_.clear();
    for (const std::string& value : values_) views_.push_back({value.data(), value.size()});
    return {views_.data(), views_.size(), counts()};
  }
  void Clear() override {
    Column::Clear();
    values_.clear();
    views_.clear();
  }

 private:
  std::vector<std::string> values_;
  std::vector<LionParquetText> views_;
};

class ParquetWriter : public ResultWriter {
 public:
  ParquetWriter(std::unique_ptr<PartialFile> file, const OutputOptions& options, int64_t group_bytes)
      : file_(std::move(file)), options_(options), group_bytes_(group_bytes) {}
  ~ParquetWriter() override { lion_parquet_free(table_); }

  absl::Status Open() {
    std::string schema = "message lion {";
    const auto add = [&](absl::string_view column, std::initializer_list<Column*> leaves) {
      absl::StrAppend(&schema, " ", column);
      columns_.insert(columns_.end(), leaves);
    };
    const auto list_of = [](absl::string_view element) {
      return absl::StrCat(" (LIST) { repeated group list { required ", element, "; } }");
    };
    add("required int64 index;", {&index_});
    add("optional binary source (STRING);", {&source_});
    if (has_common()) {
      add("optional int32 token_count (INTEGER(32,false));", {&token_count_});
      add("optional binary mode (STRING);", {&mode_});
      add("optional boolean truncated;", {&truncated_});
    }
    if (has_spans()) {
      add("optional int64 number;", {&number_});
      if (options_.kind == RowKind::kDocument) add("optional boolean whole;", {&whole_});
      add("optional group tokens" + list_of("int32 element (INTEGER(32,false))"), {&tokens_});
      add("optional group bytes" + list_of("int32 element (INTEGER(32,false))"), {&bytes_});
    }
    add("optional group vector" + list_of("float element"), {&vector_});
    add("optional group error { required binary code (STRING); required binary message (STRING); }",
        {&error_code_, &error_message_});
    schema += " }";
    char* error = nullptr;
    const int32_t code =
        lion_parquet_open({schema.data(), schema.size()}, {&ParquetWriter::Take, this}, &table_, &error);
    return ToStatus(code, error);
  }

  absl::Status Write(const OutputRow& row) override {
    if (!status_.ok()) return status_;
    absl::Status row_status = row.status;
    if (row_status.ok() && row.embed != nullptr) row_status = AddVectors(row);
    if (status_.ok() && !row_status.ok()) AddFailed(row, row_status);
    return status_;
  }

  absl::Status Finish(bool complete) override {
    WriteGroup();
    if (status_.ok()) {
      char* error = nullptr;
      const int32_t code = lion_parquet_finish(table_, &error);
      status_ = ToStatus(code, error);
    }
    if (status_.ok()) status_ = complete ? file_->Publish() : file_->Keep();
    if (status_.ok() && !complete) incomplete_path_ = file_->partial_path();
    file_.reset();
    return status_;
  }

  std::string incomplete_path() const override { return incomplete_path_; }

 private:
  // LionParquetSink::write.
  static int32_t Take(void* context, const uint8_t* data, size_t size) {
    auto* const writer = static_cast<ParquetWriter*>(context);
    writer->sink_status_ = writer->file_->Write(absl::string_view(reinterpret_cast<const char*>(data), size));
    return writer->sink_status_.ok() ? 0 : 1;
  }

  // Takes error over.
  absl::Status ToStatus(int32_t code, char* error) const {
    if (code == LION_PARQUET_OK) return absl::OkStatus();
    const absl::Status status = absl::InternalError(absl::StrCat(options_.path, ": ", error));
    lion_parquet_error_free(error);
    return code == LION_PARQUET_WRITE ? sink_status_ : status;
  }

  bool has_common() const { return options_.kind != RowKind::kDocument; }
  bool has_spans() const { return options_.kind != RowKind::kVector; }

  // An error is of a vector that does not decode; the file's go to status_.
  absl::Status AddVectors(const OutputRow& row) {
    const v1::EmbedResult& result = *row.embed;
    for (int i = 0; i < result.vectors_size() && status_.ok(); ++i) {
      const absl::StatusOr<std::vector<float>> values = DecodeVector(result.vectors(i), options_.vector_type);
      if (!values.ok()) return values.status();
      if (has_common()) {
        token_count_.Add(result.token_count());
        mode_.Add(ModeName(result.mode()));
        truncated_.Add(result.truncated() ? 1 : 0);
      }
      if (has_spans()) {
        if (row.whole) {
          whole_.Add(1);
        } else {
          number_.Add(row.first_vector + i);
        }
        const v1::Span& span = result.vectors(i).span();
        tokens_.AddList({span.start_token(), span.end_token()});
        bytes_.AddList({span.start_byte(), span.end_byte()});
      }
      vector_.AddList(*values);
      const bool has_source = options_.sources || options_.kind == RowKind::kDocument;
      if (has_source) source_.Add(*row.source);
      EndRow(row.index, values->size() * sizeof(float) + (has_source ? row.source->size() : 0));
    }
    return absl::OkStatus();
  }

  void AddFailed(const OutputRow& row, const absl::Status& status) {
    source_.Add(*row.source);
    error_code_.Add(CodeName(status.code()));
    error_message_.Add(std::string(status.message()));
    EndRow(row.index, row.source->size() + status.message().size());
  }

  // num_bytes: of its vector and texts.
  void EndRow(int64_t index, size_t num_bytes) {
    index_.Add(index);
    ++num_rows_;
    for (Column* column : columns_) column->FillTo(num_rows_);
    group_size_ += kRowBytes + static_cast<int64_t>(num_bytes);
    if (group_size_ >= group_bytes_) WriteGroup();
  }

  void WriteGroup() {
    if (!status_.ok() || num_rows_ == 0) return;
    std::vector<LionParquetColumn> views;
    for (Column* column : columns_) views.push_back(column->View());
    char* error = nullptr;
    const int32_t code = lion_parquet_write_rows(table_, views.data(), views.size(), num_rows_, &error);
    status_ = ToStatus(code, error);
    for (Column* column : columns_) column->Clear();
    num_rows_ = 0;
    group_size_ = 0;
  }

  std::unique_ptr<PartialFile> file_;  // until Finish
  const OutputOptions options_;
  const int64_t group_bytes_;
  LionParquetWriter* table_ = nullptr;
  absl::Status status_;       // the file's; after an error nothing more is written
  absl::Status sink_status_;  // of the last bytes that table_ gave
  std::string incomplete_path_;

  std::vector<Column*> columns_;  // the schema's leaves, in its order; what the kind of rows lacks is not among them
  NumberColumn<int64_t> index_, number_;
  TextColumn source_, mode_, error_code_, error_message_;
  NumberColumn<uint32_t> token_count_, tokens_, bytes_;
  NumberColumn<uint8_t> truncated_, whole_;
  NumberColumn<float> vector_;
  size_t num_rows_ = 0;     // in the columns
  int64_t group_size_ = 0;  // bytes in the columns, about
};

}  // namespace

absl::StatusOr<std::unique_ptr<ResultWriter>> MakeParquetWriter(const OutputOptions& options, int64_t group_bytes) {
  absl::StatusOr<std::unique_ptr<PartialFile>> file = PartialFile::Create(options.path);
  if (!file.ok()) return file.status();
  auto writer = std::make_unique<ParquetWriter>(*std::move(file), options, group_bytes);
  const absl::Status opened = writer->Open();
  if (!opened.ok()) return opened;
  return writer;
}

}  // namespace lion::client
