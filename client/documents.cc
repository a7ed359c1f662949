// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/documents.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/inputs.h"
#include "client/outputs.h"
#include "client/progress.h"

namespace lion::client {
namespace {

constexpr int64_t kMessageOverheadBytes = 64 << 10;  // of a request beside its document

v1::EmbedDocumentRequest MakeRequest(const v1::EmbedRequest& embed, bool with_document, v1::Input input) {
  v1::EmbedDocumentRequest request;
  request.set_model(embed.model());
  *request.mutable_input() = std::move(input);
  *request.mutable_options() = embed.options();
  request.set_pooling(embed.pooling());
  if (embed.has_normalize()) request.set_normalize(embed.normalize());
  request.set_dimensions(embed.dimensions());
  request.set_vector_type(embed.vector_type());
  *request.mutable_windows() = embed.windows();
  request.set_with_document(with_document);
  return request;
}

int Complain(const Streams& streams, int exit_code, absl::string_view what) {
  std::fprintf(streams.err, "lion-client: %s\n", std::string(what).c_str());
  return exit_code;
}

// All documents of one command.
class Run {
 public:
  Run(const CommandLine& line, Client* client, const Streams& streams, ResultWriter* writer)
      : line_(line),
        client_(client),
        streams_(streams),
        writer_(writer),
        bar_(streams.err,
             streams.err_is_terminal && !line.quiet && !(line.output.path.empty() && streams.out_is_terminal)) {}

  ProgressState& progress() { return progress_; }
  ProgressBar& bar() { return bar_; }
  int64_t num_failed() const { return num_failed_; }
  const absl::Status& write_status() const { return write_status_; }
  bool interrupted() const { return streams_.interrupted != nullptr && streams_.interrupted->load(); }

  // False: nothing more is to be done.
  bool Document(int64_t index, InputRecord record) {
    OutputRow row;
    row.index = index;
    row.source = &record.source;
    absl::Status status = record.status;
    if (status.ok()) {
      const int64_t begin_bytes = progress_.done_bytes;
      const v1::EmbedDocumentRequest request = MakeRequest(line_.embed, line_.with_document, std::move(record.input));
      status = client_->EmbedDocument(request, [&](const v1::EmbedDocumentResponse& message) {
        Take(message, record, begin_bytes, &row);
        bar_.Update(progress_);
        return write_status_.ok() && !interrupted();
      });
    }
    progress_.done_bytes = record.position;
    if (!write_status_.ok() || interrupted()) return false;
    if (status.ok()) return true;
    ++num_failed_;
    ++progress_.failed_rows;
    row.embed = nullptr;
    row.status = status;
    write_status_ = writer_->Write(row);
    bar_.Clear();
    std::fprintf(streams_.err, "%s: %s: %s\n", record.source.c_str(), CodeName(status.code()).c_str(),
                 std::string(status.message()).c_str());
    return write_status_.ok() && line_.keep_going;
  }

 private:
  void Take(const v1::EmbedDocumentResponse& message, const InputRecord& record, int64_t begin_bytes, OutputRow* row) {
    if (message.has_progress()) {
      const v1::DocumentProgress& progress = message.progress();
      const double share = static_cast<double>(progress.tokens_done()) /
                           static_cast<double>(std::max<uint64_t>(progress.tokens_total(), 1));
      progress_.done_bytes =
          begin_bytes + static_cast<int64_t>(static_cast<double>(record.position - begin_bytes) * share);
    } else if (message.has_vectors()) {
      v1::EmbedResult result;
      *result.mutable_vectors() = message.vectors().vectors();
      row->embed = &result;
      row->first_vector = static_cast<int64_t>(message.vectors().first_vector());
      write_status_ = writer_->Write(*row);
      row->embed = nullptr;
      progress_.rows += result.vectors_size();
    } else if (message.has_document()) {
      v1::EmbedResult result;
      *result.add_vectors() = message.document();
      row->embed = &result;
      row->whole = true;
      write_status_ = writer_->Write(*row);
      row->embed = nullptr;
      row->whole = false;
    } else {
      progress_.tokens += message.end().token_count();
    }
  }

  const CommandLine& line_;
  Client* const client_;
  const Streams& streams_;
  ResultWriter* const writer_;
  ProgressBar bar_;
  ProgressState progress_;
  int64_t num_failed_ = 0;  // documents
  absl::Status write_status_;
};

}  // namespace

int RunDocuments(CommandLine line, Client* client, const Streams& streams) {
  const absl::StatusOr<v1::ListModelsResponse> models = client->ListModels();
  if (!models.ok()) {
    return Complain(streams, kExitFailed,
                    absl::StrCat(CodeName(models.status().code()), ": ", models.status().message()));
  }
  for (const v1::ModelInfo& model : models->models()) {
    if (!line.embed.model().empty() && model.name() != line.embed.model()) continue;
    line.inputs.max_input_bytes = static_cast<int64_t>(model.max_message_bytes()) - kMessageOverheadBytes;
    line.output.default_width =
        static_cast<int>(line.embed.dimensions() > 0 ? line.embed.dimensions() : model.embedding_dimensions());
    break;
  }
  absl::StatusOr<std::unique_ptr<InputReader>> reader =
      InputReader::Create(line.inputs, streams.in_fd, streams.interrupted);
  if (!reader.ok()) return Complain(streams, kExitUsage, reader.status().message());
  absl::StatusOr<std::unique_ptr<ResultWriter>> writer = OpenWriter(line.output, streams.out, streams.out_is_terminal);
  if (!writer.ok()) return Complain(streams, kExitUsage, writer.status().message());

  Run run(line, client, streams, writer->get());
  run.progress().total_bytes = (*reader)->total_bytes();
  InputRecord record;
  bool going = true;
  for (int64_t index = 0; going && (*reader)->Next(&record); ++index) going = run.Document(index, std::move(record));
  run.bar().Finish(run.progress());
  absl::Status write_status = run.write_status();
  const bool complete = going && (*reader)->status().ok() && !run.interrupted();
  const absl::Status finished = (*writer)->Finish(complete);
  if (write_status.ok()) write_status = finished;
  if (!write_status.ok()) {
    // `| head` has seen enough: nothing to say.
    if (absl::StrContains(write_status.message(), "Broken pipe")) return kExitFailed;
    return Complain(streams, kExitFailed, write_status.message());
  }
  int exit_code = kExitOk;
  if (!(*reader)->status().ok()) {
    exit_code = Complain(streams, kExitFailed, (*reader)->status().message());
  } else if (run.interrupted()) {
    exit_code = Complain(streams, kExitFailed, "interrupted");
  } else if (run.num_failed() > 0) {
    exit_code = Complain(streams, kExitFailed, absl::StrCat(WithCommas(run.num_failed()), " documents failed"));
  }
  if (!complete) SayWhereRowsAre(**writer, streams.err);
  return exit_code;
}

}  // namespace lion::client
