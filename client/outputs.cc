// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/outputs.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/client.h"
#include "client/csv.h"
#include "client/parquet_writer.h"
#include "client/sink.h"
#include "client/text_writer.h"
#include "client/vectors.h"
#include "nlohmann/json.hpp"

namespace lion::client {
namespace {

// The shortest digits that read back as the same float; what is not finite is empty_name.
void AppendFloat(float value, absl::string_view empty_name, std::string* out) {
  if (!std::isfinite(value)) return absl::StrAppend(out, empty_name);
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value);
  out->append(digits, end.ptr);
}

std::string JsonString(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string JsonFloats(const std::vector<float>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) out += ',';
    AppendFloat(values[i], "null", &out);
  }
  return out + "]";
}

class JsonlWriter : public ResultWriter {
 public:
  JsonlWriter(Sink sink, const OutputOptions& options) : sink_(std::move(sink)), options_(options) {}

  absl::Status Write(const OutputRow& row) override {
    if (options_.kind == RowKind::kDocument && row.status.ok()) return WriteVectors(row);
    std::string line = absl::StrCat("{\"index\":", row.index);
    absl::Status status = row.status;
    if (options_.sources && status.ok()) absl::StrAppend(&line, ",\"source\":", JsonString(*row.source));
    if (status.ok() && row.embed != nullptr) status = AppendEmbed(*row.embed, &line);
    if (status.ok() && row.classify != nullptr) AppendClassify(*row.classify, &line);
    if (status.ok() && row.tokenize != nullptr) AppendTokenize(*row.tokenize, &line);
    if (!status.ok()) {
      if (!options_.sources || !row.status.ok()) {
        absl::StrAppend(&line, ",\"source\":", JsonString(*row.source));
      }
      absl::StrAppend(&line, ",\"error\":{\"code\":", JsonString(CodeName(status.code())),
                      ",\"message\":", JsonString(status.message()), "}");
    }
    line += "}\n";
    const absl::Status written = sink_.Write(line);
    // Whoever reads standard output may be waiting for this very row.
    return written.ok() && options_.path.empty() ? sink_.Flush() : written;
  }

  absl::Status Finish(bool /*complete*/) override { return sink_.Close(); }

 private:
  template <typename Result>
  static void AppendCommon(const Result& result, std::string* line) {
    absl::StrAppend(line, ",\"token_count\":", result.token_count(), ",\"mode\":\"", ModeName(result.mode()),
                    "\",\"truncated\":", result.truncated() ? "true" : "false");
  }

  // Of a document: a line a vector.
  absl::Status WriteVectors(const OutputRow& row) {
    const auto vectors = DecodeVectors(*row.embed, options_.vector_type);
    if (!vectors.ok()) return vectors.status();
    std::string lines;
    for (int i = 0; i < row.embed->vectors_size(); ++i) {
      absl::StrAppend(&lines, "{\"index\":", row.index, ",\"source\":", JsonString(*row.source), ",",
                      row.whole ? "\"whole\":true" : absl::StrCat("\"number\":", row.first_vector + i), ",");
      AppendVector(row.embed->vectors(i).span(), (*vectors)[i], &lines);
      lines += "}\n";
    }
    const absl::Status written = sink_.Write(lines);
    return written.ok() && options_.path.empty() ? sink_.Flush() : written;
  }

  static void AppendVector(const v1::Span& span, const std::vector<float>& vector, std::string* line) {
    absl::StrAppend(line, "\"tokens\":[", span.start_token(), ",", span.end_token(), "],\"bytes\":[", span.start_byte(),
                    ",", span.end_byte(), "],\"vector\":", JsonFloats(vector));
  }

  absl::Status AppendEmbed(const v1::EmbedResult& result, std::string* line) const {
    const auto vectors = DecodeVectors(result, options_.vector_type);
    if (!vectors.ok()) return vectors.status();
    AppendCommon(result, line);
    if (options_.kind == RowKind::kVector) {
      absl::StrAppend(line, ",\"vector\":", vectors->empty() ? "[]" : JsonFloats(vectors->front()));
      return absl::OkStatus();
    }
    line->append(",\"vectors\":[");
    for (int i = 0; i < result.vectors_size(); ++i) {
      absl::StrAppend(line, i > 0 ? "," : "", "{");
      AppendVector(result.vectors(i).span(), (*vectors)[i], line);
      line->append("}");
    }
    line->append("]");
    return absl::OkStatus();
  }

  static void AppendClassify(const v1::ClassifyResult& result, std::string* line) {
    AppendCommon(result, line);
    line->append(",\"scores\":[");
    for (int i = 0; i < result.scores_size(); ++i) {
      const v1::LabelScore& score = result.scores(i);
      absl::StrAppend(line, i > 0 ? "," : "", "{\"label\":", JsonString(score.label()), ",\"index\":", score.index(),
                      ",\"score\":");
      AppendFloat(score.score(), "null", line);
      line->append("}");
    }
    line->append("]");
  }

  static void AppendTokenize(const v1::TokenizeResult& result, std::string* line) {
    absl::StrAppend(
        line, ",\"token_count\":", result.ids_size(), ",\"ids\":[", absl::StrJoin(result.ids(), ","),
        "],\"type_ids\":[", absl::StrJoin(result.type_ids(), ","), "],\"tokens\":[",
        absl::StrJoin(result.tokens(), ",", [](std::string* out, const std::string& t) { out->append(JsonString(t)); }),
        "],\"bytes\":[",
        absl::StrJoin(result.spans(), ",",
                      [](std::string* out, const v1::Span& s) {
                        absl::StrAppend(out, "[", s.start_byte(), ",", s.end_byte(), "]");
                      }),
        "]");
  }

  Sink sink_;
  const OutputOptions options_;
};

class CsvWriter : public ResultWriter {
 public:
  CsvWriter(Sink sink, const OutputOptions& options) : sink_(std::move(sink)), options_(options) {}

  absl::Status Write(const OutputRow& row) override {
    std::string lines;
    absl::Status status = row.status;
    if (status.ok() && row.embed != nullptr) {
      const auto vectors = DecodeVectors(*row.embed, options_.vector_type);
      status = vectors.status();
      if (status.ok()) {
        // The width is known with the first vector only, so the header waits for it; so do failed rows.
        if (!header_done_ && !vectors->empty()) AppendVectorHeader(vectors->front().size(), &lines);
        AppendVectors(row, *vectors, &lines);
      }
    } else if (status.ok() && row.classify != nullptr) {
      AppendHeader(",token_count,mode,truncated,error,rank,label,label_index,score", &lines);
      for (int rank = 0; rank < row.classify->scores_size(); ++rank) {
        const v1::LabelScore& score = row.classify->scores(rank);
        AppendCommon(row, *row.classify, &lines);
        absl::StrAppend(&lines, ",", rank, ",", CsvField(score.label()), ",", score.index(), ",");
        AppendFloat(score.score(), "", &lines);
        lines += '\n';
      }
    } else if (status.ok() && row.tokenize != nullptr) {
      AppendHeader(",error,position,id,type_id,token,start_byte,end_byte", &lines);
      const v1::TokenizeResult& result = *row.tokenize;
      for (int i = 0; i < result.ids_size(); ++i) {
        absl::StrAppend(&lines, Key(row), ",,", i, ",", result.ids(i), ",",
                        i < result.type_ids_size() ? result.type_ids(i) : 0, ",",
                        i < result.tokens_size() ? CsvField(result.tokens(i)) : "", ",");
        if (i < result.spans_size())
          absl::StrAppend(&lines, result.spans(i).start_byte(), ",", result.spans(i).end_byte());
        else
          lines += ",";
        lines += '\n';
      }
    }
    if (!status.ok()) return WriteFailed(row, status, std::move(lines));
    return Put(lines);
  }

  absl::Status Finish(bool /*complete*/) override {
    absl::Status status;
    if (!header_done_ && !pending_failed_.empty()) {
      std::string lines;
      AppendVectorHeader(static_cast<size_t>(std::max(options_.default_width, 0)), &lines);
      status = Put(lines);
    }
    const absl::Status closed = sink_.Close();
    return status.ok() ? closed : status;
  }

 private:
  bool has_spans() const { return options_.kind == RowKind::kVectors || options_.kind == RowKind::kDocument; }
  bool has_vectors() const { return options_.kind == RowKind::kVector || has_spans(); }
  // What a row of a document does not know: it is written before the document's end.
  bool has_common() const { return options_.kind != RowKind::kDocument; }

  absl::Status Put(const std::string& lines) {
    const absl::Status written = sink_.Write(lines);
    return written.ok() && options_.path.empty() ? sink_.Flush() : written;
  }

  // header: the columns behind those of Key.
  void AppendHeader(absl::string_view header, std::string* lines) {
    if (!header_done_) absl::StrAppend(lines, options_.sources ? "index,source" : "index", header, "\n");
    header_done_ = true;
  }

  void AppendVectorHeader(size_t width, std::string* lines) {
    num_values_ = width;
    std::string header = has_common() ? ",token_count,mode,truncated,error" : ",error";
    if (has_spans()) header += ",vector,start_token,end_token,start_byte,end_byte";
    for (size_t i = 0; i < width; ++i) absl::StrAppend(&header, ",v", i);
    AppendHeader(header, lines);
    for (const auto& [key, error] : pending_failed_) AppendFailed(key, error, lines);
    pending_failed_.clear();
  }

  // What tells a row from all others.
  std::string Key(const OutputRow& row) const {
    return options_.sources ? absl::StrCat(row.index, ",", CsvField(*row.source)) : absl::StrCat(row.index);
  }

  template <typename Result>
  void AppendCommon(const OutputRow& row, const Result& result, std::string* lines) const {
    absl::StrAppend(lines, Key(row), ",", result.token_count(), ",", ModeName(result.mode()), ",",
                    result.truncated() ? "true" : "false", ",");
  }

  void AppendVectors(const OutputRow& row, const std::vector<std::vector<float>>& vectors, std::string* lines) const {
    for (size_t i = 0; i < vectors.size(); ++i) {
      if (has_common()) {
        AppendCommon(row, *row.embed, lines);
      } else {
        absl::StrAppend(lines, Key(row), ",");
      }
      if (has_spans()) {
        const v1::Span& span = row.embed->vectors(static_cast<int>(i)).span();
        const std::string number = row.whole ? "" : absl::StrCat(row.first_vector + static_cast<int64_t>(i));
        absl::StrAppend(lines, ",", number, ",", span.start_token(), ",", span.end_token(), ",", span.start_byte(), ",",
                        span.end_byte());
      }
      for (const float value : vectors[i]) {
        *lines += ',';
        AppendFloat(value, "", lines);
      }
      *lines += '\n';
    }
  }

  // A failed row has its key and its error; the other columns are empty.
  void AppendFailed(const std::string& key, const std::string& error, std::string* lines) const {
    const std::string field = CsvField(error);
    switch (options_.kind) {
      case RowKind::kTokens:
        absl::StrAppend(lines, key, ",", field, ",,,,,,\n");
        return;
      case RowKind::kScores:
        absl::StrAppend(lines, key, ",,,,", field, ",,,,\n");
        return;
      default:
        absl::StrAppend(lines, key, has_common() ? ",,,," : ",", field,
                        std::string((has_spans() ? 5 : 0) + num_values_, ','), "\n");
    }
  }

  absl::Status WriteFailed(const OutputRow& row, const absl::Status& status, std::string lines) {
    std::string error = absl::StrCat(CodeName(status.code()), ": ", status.message());
    if (has_vectors() && !header_done_) {
      if (pending_failed_.size() < kMaxPendingFailed) {
        pending_failed_.emplace_back(Key(row), std::move(error));
        return absl::OkStatus();
      }
      AppendVectorHeader(static_cast<size_t>(std::max(options_.default_width, 0)), &lines);
    }
    if (options_.kind == RowKind::kScores)
      AppendHeader(",token_count,mode,truncated,error,rank,label,label_index,score", &lines);
    if (options_.kind == RowKind::kTokens) AppendHeader(",error,position,id,type_id,token,start_byte,end_byte", &lines);
    AppendFailed(Key(row), error, &lines);
    return Put(lines);
  }

  static constexpr size_t kMaxPendingFailed = 1'000;

  Sink sink_;
  const OutputOptions options_;
  bool header_done_ = false;
  size_t num_values_ = 0;
  std::vector<std::pair<std::string, std::string>> pending_failed_;  // before the first vector
};

// NumPy's format 1.0: float32 [N, W], one row a vector, in order; a failed input is one row of NaN. N is patched in at
// the end.
class NpyWriter : public ResultWriter {
 public:
  NpyWriter(Sink sink, const OutputOptions& options) : sink_(std::move(sink)), options_(options) {}

  absl::Status Write(const OutputRow& row) override {
    std::vector<std::vector<float>> vectors;
    if (row.status.ok() && row.embed != nullptr) {
      auto decoded = DecodeVectors(*row.embed, options_.vector_type);
      if (!decoded.ok()) return decoded.status();
      vectors = *std::move(decoded);
    }
    if (vectors.empty()) {
      ++num_waiting_;
      return width_ < 0 ? absl::OkStatus() : WriteWaiting();
    }
    for (const std::vector<float>& vector : vectors) {
      if (width_ < 0) {
        const absl::Status status = Begin(static_cast<int64_t>(vector.size()));
        if (!status.ok()) return status;
      }
      if (static_cast<int64_t>(vector.size()) != width_) {
        return absl::InternalError(
            absl::StrCat("row ", row.index, " has ", vector.size(), " values, the rows before it ", width_));
      }
      const absl::Status status = Put(vector);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Finish(bool /*complete*/) override {
    absl::Status status;
    if (width_ < 0) status = Begin(std::max(options_.default_width, 0));
    if (status.ok()) status = sink_.Patch(Header());
    const absl::Status closed = sink_.Close();
    return status.ok() ? closed : status;
  }

 private:
  static constexpr size_t kHeaderBytes = 128;  // a multiple of 64 with room for any N and W

  std::string Header() const {
    std::string text =
        absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", num_rows_, ", ", width_, "), }");
    text.resize(kHeaderBytes - 11, ' ');
    const std::string magic("\x93NUMPY\x01\x00", 8);
    const uint16_t bytes = static_cast<uint16_t>(kHeaderBytes - 10);
    return absl::StrCat(magic, absl::string_view(reinterpret_cast<const char*>(&bytes), 2), text, "\n");
  }

  absl::Status Begin(int64_t width) {
    width_ = width;
    const absl::Status status = sink_.Write(Header());
    return status.ok() ? WriteWaiting() : status;
  }

  absl::Status WriteWaiting() {
    const std::vector<float> missing(static_cast<size_t>(width_), std::numeric_limits<float>::quiet_NaN());
    for (; num_waiting_ > 0; --num_waiting_) {
      const absl::Status status = Put(missing);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Put(const std::vector<float>& vector) {
    static_assert(std::endian::native == std::endian::little, "'<f4' is copied as it is");
    ++num_rows_;
    return sink_.Write(absl::string_view(reinterpret_cast<const char*>(vector.data()), 4 * vector.size()));
  }

  Sink sink_;
  const OutputOptions options_;
  int64_t width_ = -1;  // unknown until the first vector
  int64_t num_rows_ = 0;
  int64_t num_waiting_ = 0;  // failed rows not yet written
};

}  // namespace

void SayWhereRowsAre(const ResultWriter& writer, std::FILE* err) {
  if (writer.incomplete_path().empty()) return;
  std::fprintf(err, "lion-client: the rows so far are in %s\n", writer.incomplete_path().c_str());
}

std::string ModeName(v1::ComputeMode mode) {
  if (mode == v1::COMPUTE_MODE_UNSPECIFIED) return "";
  const std::string name = v1::ComputeMode_Name(mode);
  return name.empty() ? absl::StrCat(static_cast<int>(mode))
                      : absl::AsciiStrToLower(absl::StripPrefix(name, "COMPUTE_MODE_"));
}

std::string WithCommas(int64_t number) {
  std::string digits = absl::StrCat(number);
  for (int at = static_cast<int>(digits.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<size_t>(at), 1, ',');
  return digits;
}

absl::StatusOr<OutputFormat> ResolveFormat(const OutputOptions& options, bool out_is_terminal) {
  OutputFormat format = options.format;
  if (format == OutputFormat::kAuto) {
    if (options.path.empty()) {
      format = (out_is_terminal && options.kind != RowKind::kDocument) || options.similarity ? OutputFormat::kText
                                                                                             : OutputFormat::kJsonl;
    } else if (absl::EndsWith(options.path, ".jsonl") || absl::EndsWith(options.path, ".ndjson")) {
      format = OutputFormat::kJsonl;
    } else if (absl::EndsWith(options.path, ".csv")) {
      format = OutputFormat::kCsv;
    } else if (absl::EndsWith(options.path, ".npy")) {
      format = OutputFormat::kNpy;
    } else if (absl::EndsWith(options.path, ".parquet")) {
      format = OutputFormat::kParquet;
    } else if (absl::EndsWith(options.path, ".txt")) {
      format = OutputFormat::kText;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "--output=", options.path, ": the suffix is none of .jsonl, .csv, .npy, .parquet, .txt; say --format"));
    }
  }
  if (format == OutputFormat::kNpy || format == OutputFormat::kParquet) {
    const std::string name = format == OutputFormat::kNpy ? "npy" : "parquet";
    if (options.kind == RowKind::kScores || options.kind == RowKind::kTokens) {
      return absl::InvalidArgumentError(absl::StrCat(name, " holds vectors only: use it with embed"));
    }
    if (options.path.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(name, " needs a file: say --output=FILE.", name));
    }
  }
  if (format == OutputFormat::kText && options.kind == RowKind::kDocument) {
    return absl::InvalidArgumentError(
        "a document's vectors have no text form: say --format=jsonl, csv, npy or parquet");
  }
  if (options.similarity && (format != OutputFormat::kText || options.kind != RowKind::kVector)) {
    return absl::InvalidArgumentError(
        "--similarity prints a table for people: it needs --format=text and one vector a text");
  }
  return format;
}

absl::StatusOr<std::unique_ptr<ResultWriter>> OpenWriter(const OutputOptions& options, std::FILE* out,
                                                         bool out_is_terminal) {
  const absl::StatusOr<OutputFormat> format = ResolveFormat(options, out_is_terminal);
  if (!format.ok()) return format.status();
  if (*format == OutputFormat::kParquet) return MakeParquetWriter(options);
  absl::StatusOr<Sink> sink = Sink::Open(options.path, out);
  if (!sink.ok()) return sink.status();
  switch (*format) {
    case OutputFormat::kJsonl:
      return std::make_unique<JsonlWriter>(*std::move(sink), options);
    case OutputFormat::kCsv:
      return std::make_unique<CsvWriter>(*std::move(sink), options);
    case OutputFormat::kNpy:
      return std::make_unique<NpyWriter>(*std::move(sink), options);
    default:
      return MakeTextWriter(*std::move(sink), options);
  }
}

}  // namespace lion::client
