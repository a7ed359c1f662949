// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/text_writer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/utf8.h"
#include "client/vectors.h"

namespace lion::client {
namespace {

constexpr int kPreviewChars = 60;
constexpr int kShownValues = 4;
constexpr int kShownTokens = 24;

std::string TextOf(const v1::Input* input, int max_chars) {
  if (input == nullptr) return "";
  switch (input->content_case()) {
    case v1::Input::kText:
      return Preview(input->text(), max_chars);
    case v1::Input::kTextPair:
      return absl::StrCat(Preview(input->text_pair().first(), max_chars / 2), " | ",
                          Preview(input->text_pair().second(), max_chars / 2));
    case v1::Input::kTokenIds: {
      const auto& ids = input->token_ids().ids();
      const int shown = std::min(ids.size(), 8);
      return absl::StrCat("ids ", absl::StrJoin(ids.begin(), ids.begin() + shown, ","), ids.size() > shown ? ",…" : "");
    }
    default:
      return "";
  }
}

// What a person calls the row: its text, or a picture's file.
std::string TitleOf(const OutputRow& row, int max_chars) {
  if (row.input != nullptr && row.input->has_image()) return *row.source;
  return TextOf(row.input, max_chars);
}

class TextWriter : public ResultWriter {
 public:
  TextWriter(Sink sink, const OutputOptions& options) : sink_(std::move(sink)), options_(options) {}

  absl::Status Write(const OutputRow& row) override {
    std::string lines = absl::StrFormat("%4d  ", row.index);
    absl::Status status = row.status;
    if (status.ok() && row.embed != nullptr) status = AppendEmbed(row, &lines);
    if (status.ok() && row.classify != nullptr) AppendClassify(row, &lines);
    if (status.ok() && row.tokenize != nullptr) AppendTokenize(row, &lines);
    if (absl::IsResourceExhausted(status) && row.status.ok()) return status;
    if (!status.ok()) {
      absl::StrAppend(&lines, "failed  ", CodeName(status.code()), ": ", *row.source, ": ", status.message(), "\n");
    }
    const absl::Status written = sink_.Write(lines);
    return written.ok() ? sink_.Flush() : written;
  }

  absl::Status Finish(bool /*complete*/) override {
    absl::Status status;
    if (options_.similarity) status = sink_.Write(SimilarityTable());
    const absl::Status closed = sink_.Close();
    return status.ok() ? closed : status;
  }

 private:
  struct Remembered {
    int64_t index;
    std::string text;
    std::vector<float> vector;
  };

  template <typename Result>
  static std::string About(const Result& result) {
    return absl::StrCat(WithCommas(result.token_count()), result.token_count() == 1 ? " token  " : " tokens  ",
                        ModeName(result.mode()), result.truncated() ? "  truncated" : "");
  }

  absl::Status AppendEmbed(const OutputRow& row, std::string* lines) {
    auto vectors = DecodeVectors(*row.embed, options_.vector_type);
    if (!vectors.ok()) return vectors.status();
    absl::StrAppend(lines, TitleOf(row, kPreviewChars), "\n      ", About(*row.embed), "  ");
    if (options_.kind == RowKind::kVectors) {
      absl::StrAppend(lines, WithCommas(static_cast<int64_t>(vectors->size())), " vectors\n");
      for (size_t i = 0; i < vectors->size() && i < kShownTokens; ++i) {
        const v1::Span& span = row.embed->vectors(static_cast<int>(i)).span();
        absl::StrAppend(lines, absl::StrFormat("      %12s  ", absl::StrCat(span.start_token(), "-", span.end_token())),
                        Values((*vectors)[i]), "  ", SpanText(row.input, span), "\n");
      }
      if (vectors->size() > kShownTokens)
        absl::StrAppend(lines, "      … ", WithCommas(static_cast<int64_t>(vectors->size()) - kShownTokens), " more\n");
      return absl::OkStatus();
    }
    if (vectors->empty()) return absl::InternalError("the server sent no vector");
    absl::StrAppend(lines, Values(vectors->front()), "\n");
    if (options_.similarity) {
      if (remembered_.size() >= kMaxSimilarityRows) {
        return absl::ResourceExhaustedError(
            absl::StrCat("--similarity compares at most ", WithCommas(kMaxSimilarityRows), " texts"));
      }
      remembered_.push_back({row.index, TitleOf(row, kPreviewChars), std::move(vectors->front())});
    }
    return absl::OkStatus();
  }

  static std::string Values(const std::vector<float>& vector) {
    std::string shown;
    for (size_t i = 0; i < vector.size() && i < kShownValues; ++i)
      absl::StrAppendFormat(&shown, "%s%+.4f", i > 0 ? " " : "", vector[i]);
    return absl::StrFormat("%d dims  norm %.4f  [%s%s]", vector.size(), Norm(vector), shown,
                           vector.size() > kShownValues ? " …" : "");
  }

  // The piece of the text that a span speaks of, if it can be told.
  static std::string SpanText(const v1::Input* input, const v1::Span& span) {
    if (input == nullptr || !input->has_text() || span.end_byte() > input->text().size() ||
        span.start_byte() >= span.end_byte()) {
      return "";
    }
    return Preview(absl::string_view(input->text()).substr(span.start_byte(), span.end_byte() - span.start_byte()), 30);
  }

  static void AppendClassify(const OutputRow& row, std::string* lines) {
    absl::StrAppend(lines, TitleOf(row, kPreviewChars), "\n      ", About(*row.classify), "\n");
    for (const v1::LabelScore& score : row.classify->scores()) {
      absl::StrAppendFormat(lines, "      %8.4f  %s\n", score.score(), score.label());
    }
  }

  static void AppendTokenize(const OutputRow& row, std::string* lines) {
    const v1::TokenizeResult& result = *row.tokenize;
    absl::StrAppend(lines, TitleOf(row, kPreviewChars), "\n      ", WithCommas(result.ids_size()), " tokens\n");
    const bool pair = row.input != nullptr && row.input->has_text_pair();
    absl::StrAppendFormat(lines, "      %8s  %12s  %s%s\n", "id", "bytes", pair ? "text  " : "", "token");
    for (int i = 0; i < result.ids_size(); ++i) {
      std::string span;
      if (i < result.spans_size()) span = absl::StrCat(result.spans(i).start_byte(), "-", result.spans(i).end_byte());
      absl::StrAppendFormat(lines, "      %8d  %12s  ", result.ids(i), span);
      if (pair) absl::StrAppendFormat(lines, "%4d  ", i < result.type_ids_size() ? result.type_ids(i) : 0);
      absl::StrAppend(lines, i < result.tokens_size() ? result.tokens(i) : "", "\n");
    }
  }

  std::string SimilarityTable() const {
    if (remembered_.size() < 2) return "\nA table of similarities needs at least two texts.\n";
    std::string table = "\nNearest other text, by cosine\n";
    for (const Remembered& row : remembered_) {
      const Remembered* nearest = nullptr;
      double best = 0;
      for (const Remembered& other : remembered_) {
        if (&other == &row) continue;
        const double cosine = Cosine(row.vector, other.vector);
        if (nearest == nullptr || cosine > best) {
          best = cosine;
          nearest = &other;
        }
      }
      absl::StrAppendFormat(&table, "%4d  %s\n      %+.4f  %d  %s\n", row.index, row.text, best, nearest->index,
                            nearest->text);
    }
    return table;
  }

  Sink sink_;
  const OutputOptions options_;
  std::vector<Remembered> remembered_;
};

}  // namespace

std::unique_ptr<ResultWriter> MakeTextWriter(Sink sink, const OutputOptions& options) {
  return std::make_unique<TextWriter>(std::move(sink), options);
}

}  // namespace lion::client
