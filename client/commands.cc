// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/commands.h"

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/bench.h"
#include "client/client.h"
#include "client/clock.h"
#include "client/documents.h"
#include "client/flags.h"
#include "client/inputs.h"
#include "client/model_info.h"
#include "client/outputs.h"
#include "client/pipeline.h"
#include "client/progress.h"

namespace lion::client {
namespace {

constexpr absl::Duration kHealthInterval = absl::Milliseconds(200);
constexpr int64_t kMessageOverheadBytes = 64 << 10;  // of a request beside its inputs' texts
constexpr int64_t kBenchInputBytes = 256 << 20;      // texts that bench holds at most
constexpr size_t kBenchInputs = 100'000;
constexpr int64_t kSyntheticTokens = 4 << 20;  // made-up tokens that bench holds at most

bool Interrupted(const Streams& streams) { return streams.interrupted != nullptr && streams.interrupted->load(); }

int Complain(const Streams& streams, int exit_code, absl::string_view what) {
  std::fprintf(streams.err, "lion-client: %s\n", std::string(what).c_str());
  return exit_code;
}

std::string Describe(const CommandLine& line, const absl::Status& status) {
  std::string text = absl::StrCat(CodeName(status.code()), ": ", status.message());
  if (absl::IsUnavailable(status)) absl::StrAppend(&text, " (is a server ready at ", line.connect.target, "?)");
  if (absl::IsUnauthenticated(status)) absl::StrAppend(&text, " (--api_key or LION_API_KEY)");
  return text;
}

bool IsLoopback(absl::string_view target) {
  return absl::StartsWith(target, "127.") || absl::StartsWith(target, "localhost") ||
         absl::StartsWith(target, "[::1]") || absl::StartsWith(target, "unix:");
}

void WarnOfPlainKey(const CommandLine& line, const Streams& streams) {
  const ConnectOptions& c = line.connect;
  if (!c.api_key.empty() && !UsesTls(c) && !IsLoopback(c.target)) {
    std::fprintf(streams.err, "lion-client: warning: the API key goes to %s without TLS (--tls)\n", c.target.c_str());
  }
}

// The model that a request would reach; null if the server has none of that name.
const v1::ModelInfo* FindModel(const v1::ListModelsResponse& models, const std::string& name) {
  for (const v1::ModelInfo& model : models.models()) {
    if (name.empty() || model.name() == name) return &model;
  }
  return nullptr;
}

// Tokens of an encoded picture; 0 = the model takes none.
int64_t PreparedTokens(const v1::ModelInfo& model) {
  if (model.image().patch_size() == 0 || model.image().prepared_size() == 0) return 0;
  const int64_t patches_a_side = model.image().prepared_size() / model.image().patch_size();
  return 1 + patches_a_side * patches_a_side;
}

int64_t TokensOf(const v1::EmbedResult& result) { return result.token_count(); }
int64_t TokensOf(const v1::ClassifyResult& result) { return result.token_count(); }
int64_t TokensOf(const v1::TokenizeResult& result) { return result.ids_size(); }
void SetResult(const v1::EmbedResult* result, OutputRow* row) { row->embed = result; }
void SetResult(const v1::ClassifyResult* result, OutputRow* row) { row->classify = result; }
void SetResult(const v1::TokenizeResult* result, OutputRow* row) { row->tokenize = result; }

// embed, classify and tokenize: inputs through the pipeline into a writer.
template <typename Rpc>
int RunRows(CommandLine line, Client* client, const typename Rpc::Request& request, const Streams& streams) {
  const absl::StatusOr<OutputFormat> format = ResolveFormat(line.output, streams.out_is_terminal);
  if (!format.ok()) return Complain(streams, kExitUsage, format.status().message());

  const absl::StatusOr<v1::ListModelsResponse> models = client->ListModels();
  if (!models.ok()) return Complain(streams, kExitFailed, Describe(line, models.status()));
  if (const v1::ModelInfo* model = FindModel(*models, request.model()); model != nullptr) {
    if (model->max_inputs() > 0) {
      line.pipeline.batch_size = static_cast<int>(std::min<int64_t>(line.pipeline.batch_size, model->max_inputs()));
    }
    if (model->max_message_bytes() > 2 * kMessageOverheadBytes) {
      line.inputs.max_input_bytes = static_cast<int64_t>(model->max_message_bytes()) - kMessageOverheadBytes;
      line.pipeline.max_batch_bytes = std::min(line.pipeline.max_batch_bytes, line.inputs.max_input_bytes);
    }
    // A token is at least a byte, so this keeps a batch below the tokens that a call may have.
    if (model->max_request_tokens() > 0) {
      line.pipeline.max_batch_bytes =
          std::min(line.pipeline.max_batch_bytes,
                   static_cast<int64_t>(std::min<uint64_t>(model->max_request_tokens(), INT64_MAX)));
    }
    if (const int64_t tokens = PreparedTokens(*model); tokens > 0) {  // a picture's bytes do not tell its tokens
      const int64_t most = static_cast<int64_t>(std::min<uint64_t>(model->max_request_tokens() / tokens, INT_MAX));
      line.pipeline.batch_size = static_cast<int>(std::clamp<int64_t>(most, 1, line.pipeline.batch_size));
    }
    line.output.default_width =
        static_cast<int>(line.embed.dimensions() > 0 ? line.embed.dimensions() : model->embedding_dimensions());
  }

  absl::StatusOr<std::unique_ptr<InputReader>> reader =
      InputReader::Create(line.inputs, streams.in_fd, streams.interrupted);
  if (!reader.ok()) return Complain(streams, kExitUsage, reader.status().message());
  absl::StatusOr<std::unique_ptr<ResultWriter>> writer = OpenWriter(line.output, streams.out, streams.out_is_terminal);
  if (!writer.ok()) return Complain(streams, kExitUsage, writer.status().message());

  // A person who watches the rows go by needs no bar, and is told of failures there.
  const bool rows_on_terminal = line.output.path.empty() && streams.out_is_terminal;
  const bool failures_in_rows = rows_on_terminal && *format == OutputFormat::kText;
  ProgressBar bar(streams.err, streams.err_is_terminal && !line.quiet && !rows_on_terminal);
  ProgressState progress;
  progress.total_bytes = (*reader)->total_bytes();
  absl::Status write_status;

  Pipeline<Rpc> pipeline(client, request, line.pipeline, [&](const typename Pipeline<Rpc>::Row& row) {
    OutputRow out;
    out.index = row.index;
    out.source = &row.source;
    out.input = row.input;
    out.status = row.status;
    if (row.status.ok()) SetResult(row.result, &out);
    write_status = (*writer)->Write(out);
    ++progress.rows;
    progress.done_bytes = row.position;
    if (row.status.ok()) {
      progress.tokens += TokensOf(*row.result);
    } else {
      ++progress.failed_rows;
      if (!failures_in_rows) {
        bar.Clear();
        std::fprintf(streams.err, "%s: %s: %s\n", row.source.c_str(), CodeName(row.status.code()).c_str(),
                     std::string(row.status.message()).c_str());
      }
    }
    bar.Update(progress);
    return write_status.ok() && (line.keep_going || row.status.ok());
  });

  InputRecord record;
  bool going = true;
  while (going && (*reader)->Next(&record)) {
    going = record.status.ok() ? pipeline.Add(std::move(record.input), std::move(record.source), record.position)
                               : pipeline.AddFailed(record.status, std::move(record.source), record.position);
  }
  const absl::Status status = pipeline.Finish();
  bar.Finish(progress);
  const bool complete = status.ok() && write_status.ok() && (*reader)->status().ok() && !Interrupted(streams);
  const absl::Status finished = (*writer)->Finish(complete);
  if (write_status.ok()) write_status = finished;

  int exit_code = kExitOk;
  if (!(*reader)->status().ok()) {
    exit_code = Complain(streams, absl::IsInvalidArgument((*reader)->status()) ? kExitUsage : kExitFailed,
                         (*reader)->status().message());
  }
  if (!write_status.ok()) {
    // `| head` has seen enough: nothing to say.
    if (absl::StrContains(write_status.message(), "Broken pipe")) return kExitFailed;
    return Complain(streams, kExitFailed, write_status.message());
  }
  if (!status.ok() && !absl::IsCancelled(status)) {
    exit_code = Complain(
        streams, kExitFailed,
        absl::StrCat(Describe(line, status),
                     progress.rows > 0 ? absl::StrCat("; stopped after ", WithCommas(progress.rows), " rows") : ""));
  }
  if (Interrupted(streams)) {
    exit_code = Complain(streams, kExitFailed, absl::StrCat("interrupted after ", WithCommas(progress.rows), " rows"));
  }
  if (progress.failed_rows > 0) {
    exit_code = Complain(streams, std::max(exit_code, kExitFailed),
                         absl::StrCat(WithCommas(progress.failed_rows), " of ", WithCommas(progress.rows),
                                      " inputs failed", line.keep_going ? "" : "; stopped at the first"));
  }
  if (!complete) SayWhereRowsAre(**writer, streams.err);
  return exit_code;
}

int RunModels(const CommandLine& line, Client* client, const Streams& streams) {
  if (line.output.format != OutputFormat::kAuto && line.output.format != OutputFormat::kText &&
      line.output.format != OutputFormat::kJsonl) {
    return Complain(streams, kExitUsage, "models prints text or jsonl");
  }
  const absl::StatusOr<v1::ListModelsResponse> models = client->ListModels();
  if (!models.ok()) return Complain(streams, kExitFailed, Describe(line, models.status()));
  for (int i = 0; i < models->models_size(); ++i) {
    const v1::ModelInfo& model = models->models(i);
    const bool json = line.output.format == OutputFormat::kJsonl;
    if (!json && i > 0) std::fputs("\n", streams.out);
    std::fputs((json ? ModelJson(model) : ModelText(model, i == 0)).c_str(), streams.out);
  }
  return std::fflush(streams.out) == 0 ? kExitOk : kExitFailed;
}

int RunHealth(const CommandLine& line, Client* client, const Streams& streams) {
  using Answer = grpc::health::v1::HealthCheckResponse;
  const std::string service = line.arguments.empty() ? "" : line.arguments[0];
  const absl::Duration end = SteadyNow() + line.wait;
  while (true) {
    absl::StatusOr<Answer::ServingStatus> answer = client->Health(service);
    if (absl::IsNotFound(answer.status())) answer = Answer::SERVICE_UNKNOWN;
    const bool serving = answer.ok() && *answer == Answer::SERVING;
    if (serving || SteadyNow() >= end || Interrupted(streams)) {
      if (!answer.ok()) return Complain(streams, kExitFailed, Describe(line, answer.status()));
      std::fprintf(streams.out, "%s\n", Answer::ServingStatus_Name(*answer).c_str());
      std::fflush(streams.out);
      return serving ? kExitOk : kExitFailed;
    }
    absl::SleepFor(std::min(kHealthInterval, end - SteadyNow()));
  }
}

// The texts given, as many as memory should hold; else made-up ids.
absl::StatusOr<std::vector<v1::Input>> BenchInputs(const CommandLine& line, const Streams& streams) {
  std::vector<v1::Input> inputs;
  if (line.inputs.texts.empty() && line.inputs.files.empty()) {
    int64_t total = 0;
    for (const int length : line.bench_lengths) total += length;
    const int64_t mean = std::max<int64_t>(total / static_cast<int64_t>(line.bench_lengths.size()), 1);
    return SyntheticInputs(static_cast<int>(std::clamp<int64_t>(kSyntheticTokens / mean, 16, 4096)), line.bench_lengths,
                           line.bench_vocab, line.bench.seed);
  }
  absl::StatusOr<std::unique_ptr<InputReader>> reader =
      InputReader::Create(line.inputs, streams.in_fd, streams.interrupted);
  if (!reader.ok()) return reader.status();
  InputRecord record;
  int64_t bytes = 0;
  while (inputs.size() < kBenchInputs && bytes < kBenchInputBytes && (*reader)->Next(&record)) {
    if (!record.status.ok()) {
      return absl::Status(record.status.code(), absl::StrCat(record.source, ": ", record.status.message()));
    }
    bytes += static_cast<int64_t>(record.input.ByteSizeLong());
    inputs.push_back(std::move(record.input));
  }
  if (!(*reader)->status().ok()) return (*reader)->status();
  return inputs;
}

int RunBenchCommand(const CommandLine& line, Client* client, const Streams& streams) {
  BenchOptions options = line.bench;
  absl::StatusOr<std::vector<v1::Input>> inputs = BenchInputs(line, streams);
  if (!inputs.ok()) return Complain(streams, kExitUsage, inputs.status().message());
  options.inputs = *std::move(inputs);

  // One call before the clock starts: the connection stands, and a wrong address shows.
  const absl::StatusOr<v1::ListModelsResponse> models = client->ListModels();
  if (!models.ok()) return Complain(streams, kExitFailed, Describe(line, models.status()));

  const bool show = streams.err_is_terminal && !line.quiet;
  const absl::StatusOr<BenchReport> report =
      RunBench(client, options, streams.interrupted, [&](const BenchReport& so_far) {
        if (!show) return;
        const double seconds = absl::ToDoubleSeconds(so_far.elapsed);
        std::fprintf(
            streams.err, "\r\x1b[K%.0f s of %.0f s  %s requests ok  %s failed  %s tokens/s", seconds,
            absl::ToDoubleSeconds(options.duration), WithCommas(so_far.ok).c_str(),
            WithCommas(so_far.requests - so_far.ok).c_str(),
            WithCommas(static_cast<int64_t>(static_cast<double>(so_far.tokens) / std::max(seconds, 1e-9))).c_str());
        std::fflush(streams.err);
      });
  if (show) std::fputs("\r\x1b[K", streams.err);
  if (!report.ok()) return Complain(streams, kExitUsage, report.status().message());
  std::fputs((line.json ? ReportJson(options, *report) : FormatReport(options, *report)).c_str(), streams.out);
  std::fflush(streams.out);
  return report->ok > 0 ? kExitOk : kExitFailed;
}

}  // namespace

int RunCommandLine(const std::vector<std::string>& arguments, const Streams& streams) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(arguments);
  if (!line.ok()) return Complain(streams, kExitUsage, line.status().message());
  if (line->command == "help") {
    const absl::StatusOr<std::string> help = HelpText(line->arguments.empty() ? "" : line->arguments[0]);
    if (!help.ok()) return Complain(streams, kExitUsage, help.status().message());
    std::fputs(help->c_str(), streams.out);
    return std::fflush(streams.out) == 0 ? kExitOk : kExitFailed;
  }
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(line->connect);
  if (!client.ok()) return Complain(streams, kExitUsage, client.status().message());
  WarnOfPlainKey(*line, streams);
  if (line->document) return RunDocuments(*line, client->get(), streams);
  if (line->command == "embed") return RunRows<EmbedRpc>(*line, client->get(), line->embed, streams);
  if (line->command == "classify") return RunRows<ClassifyRpc>(*line, client->get(), line->classify, streams);
  if (line->command == "tokenize") return RunRows<TokenizeRpc>(*line, client->get(), line->tokenize, streams);
  if (line->command == "models") return RunModels(*line, client->get(), streams);
  if (line->command == "health") return RunHealth(*line, client->get(), streams);
  return RunBenchCommand(*line, client->get(), streams);
}

}  // namespace lion::client
