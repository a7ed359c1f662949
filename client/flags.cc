// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/flags.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace lion::client {

// A flag that may also stay unset.
struct MaybeBool {
  std::optional<bool> value;
};

bool AbslParseFlag(absl::string_view text, MaybeBool* flag, std::string* error) {
  flag->value.reset();
  if (text == "auto") return true;
  bool value = false;
  if (!absl::ParseFlag(text, &value, error)) {
    *error = "want true, false or auto";
    return false;
  }
  flag->value = value;
  return true;
}

std::string AbslUnparseFlag(const MaybeBool& flag) {
  return !flag.value.has_value() ? "auto" : *flag.value ? "true" : "false";
}

}  // namespace lion::client

// How to reach the server.
ABSL_FLAG(std::string, target, "127.0.0.1:50051",
          "the server, HOST:PORT or any gRPC target (dns:///HOST:PORT, unix:PATH)");
ABSL_FLAG(bool, tls, false, "TLS, by the system's authorities; implied by the other tls flags");
ABSL_FLAG(std::string, tls_ca, "", "PEM file of the authorities that signed the server's certificate");
ABSL_FLAG(std::string, tls_cert, "", "PEM file of our own certificate, for servers that ask for one");
ABSL_FLAG(std::string, tls_key, "", "PEM file of our own certificate's key");
ABSL_FLAG(std::string, tls_server_name, "",
          "the name that the server's certificate must have, where it is not the target's: a pod that asks itself");
ABSL_FLAG(std::string, api_key, "",
          "API key; better in the environment as LION_API_KEY, where other users cannot see it");
ABSL_FLAG(absl::Duration, deadline, absl::ZeroDuration(),
          "of each call, retries included; 0 = 60s, for health 5s, with --document none");

// What to ask.
ABSL_FLAG(std::string, model, "", "the model's name; empty = the server's first");
ABSL_FLAG(std::string, mode, "auto", "auto, parallel, chunked or recurrent: which form of LION computes a row");
ABSL_FLAG(uint32_t, chunk_tokens, 0, "with --mode=chunked: tokens a chunk; 0 = the server's choice");
ABSL_FLAG(std::string, truncation, "error",
          "error, right (drops the end) or left (drops the beginning) of over-long inputs");
ABSL_FLAG(std::string, pooling, "model",
          "model (its own), cls, mean, tokens (a vector a token) or windows (a vector a window)");
ABSL_FLAG(lion::client::MaybeBool, normalize, {}, "vectors of length 1; auto = as the model's pipeline says");
ABSL_FLAG(uint32_t, dimensions, 0, "keep the first so many values of each vector; 0 = all");
ABSL_FLAG(std::string, vector_type, "float32",
          "float32, float32_bytes, float16_bytes or int8_bytes: how vectors travel");
ABSL_FLAG(bool, document, false,
          "arguments are files, each a document that is embedded in one pass: a vector a window, written as they come");
ABSL_FLAG(uint32_t, window, 0, "with --pooling=windows or --document: tokens a window");
ABSL_FLAG(uint32_t, stride, 0, "with --window: tokens from one window's start to the next; 0 = the window's size");
ABSL_FLAG(std::string, boundary, "token",
          "with --window: token, or sentence: windows end where a sentence does and have at most --window tokens");
ABSL_FLAG(bool, with_document, false, "with --document: the whole document's vector too, of the same pass");
ABSL_FLAG(uint32_t, top_k, 0, "the best so many labels; 0 = all");
ABSL_FLAG(bool, raw_scores, false, "logits instead of probabilities");

// Where inputs come from.
ABSL_FLAG(std::vector<std::string>, file, {}, "files to read, divided by commas; - is standard input");
ABSL_FLAG(std::string, input_format, "auto", "auto (by suffix), lines, jsonl or csv");
ABSL_FLAG(bool, whole_file, false, "each file is one text");
ABSL_FLAG(bool, images, false, "arguments are pictures (JPEG, PNG, WebP), or folders of such, for an image model");
ABSL_FLAG(std::string, field, "", "JSONL: the text's field, dots go deeper (doc.title); default text");
ABSL_FLAG(std::string, pair_field, "", "JSONL: the second text's field, for pairs");
ABSL_FLAG(std::string, column, "", "CSV: the text's column; default text");
ABSL_FLAG(std::string, pair_column, "", "CSV: the second text's column, for pairs");
ABSL_FLAG(std::string, pair_separator, "", "texts and lines are pairs, divided by this; \\t is a tab");
ABSL_FLAG(bool, ids, false, "inputs are token ids: 1,2,3");

// How the work is done.
ABSL_FLAG(int, batch_size, 64, "inputs a call; never above the server's limit");
ABSL_FLAG(int, in_flight, 4, "calls in flight");
ABSL_FLAG(bool, keep_going, true, "go on after a failed input; --nokeep_going stops at the first");
ABSL_FLAG(bool, quiet, false, "no progress bar");

// Where results go.
ABSL_FLAG(std::string, output, "",
          "write to this file, its format by its suffix: .jsonl, .csv, .npy, .parquet or .txt");
ABSL_FLAG(std::string, format, "auto",
          "auto, text, jsonl, csv, npy or parquet; auto = by --output, else text on a terminal, else jsonl");
ABSL_FLAG(bool, similarity, false, "print each text's nearest other");

// health.
ABSL_FLAG(absl::Duration, wait, absl::ZeroDuration(), "ask again until SERVING, for so long at most; 0 = ask once");

// bench.
ABSL_FLAG(std::string, rpc, "embed", "embed or classify");
ABSL_FLAG(double, rate, 0, "open loop: requests a second; 0 = closed loop");
ABSL_FLAG(std::string, arrivals, "poisson", "open loop: poisson or fixed gaps between requests");
ABSL_FLAG(int, concurrency, 8, "closed loop: callers that each wait for their answer");
ABSL_FLAG(absl::Duration, duration, absl::Seconds(10), "how long requests are sent, 24h at most");
ABSL_FLAG(int64_t, requests, 0, "send so many at most; 0 = as many as the duration allows");
ABSL_FLAG(int, rows, 1, "inputs a request");
ABSL_FLAG(std::string, tokens, "128",
          "lengths of made-up inputs: 128, 16,128,2048 (any of these) or 16-512 (all between)");
ABSL_FLAG(uint32_t, vocab, 1000, "made-up ids lie below this");
ABSL_FLAG(int, max_in_flight, 10000, "open loop: requests beyond so many are not sent, and counted");
ABSL_FLAG(uint64_t, seed, 1, "of made-up inputs and arrival times");
ABSL_FLAG(bool, json, false, "print one line of JSON");

namespace lion::client {
namespace {

using Names = std::vector<absl::string_view>;

struct Command {
  absl::string_view name;
  absl::string_view usage;
  absl::string_view purpose;
  absl::string_view details;
  Names flags;  // beside those of kConnectFlags
};

const Names& ConnectFlags() {
  static const auto* const names =
      new Names{"target", "tls", "tls_ca", "tls_cert", "tls_key", "tls_server_name", "api_key", "deadline"};
  return *names;
}

const std::vector<Command>& Commands() {
  static const auto* const commands = new std::vector<Command>{
      {"embed",
       "lion-client embed [flags] [TEXT…]",
       "texts (or token ids, or pictures) to vectors",
       R"(Texts come from the arguments, from --file, or line by line from standard input. Results keep the order of the inputs.

  lion-client embed "a cat sits on the mat" "stocks fell sharply" "a kitten on a rug" --similarity
  lion-client embed --file reviews.jsonl --field body.text --output vectors.npy
  lion-client embed --file pages.csv --column title --output vectors.csv
  lion-client embed --file book.txt --whole_file --pooling tokens --format jsonl
  lion-client embed --document book.txt log.txt --window 256 --stride 128 --output windows.jsonl
  lion-client embed --document book.txt --window 256 --boundary sentence --with_document --output passages.parquet
  zcat log.gz | lion-client embed --format jsonl | head
  lion-client embed --ids 101,7592,102
  lion-client embed --images photos/ more/cat.jpg --model vision --output photos.npy)",
       {"model",          "mode",        "chunk_tokens", "truncation", "pooling",    "normalize",
        "dimensions",     "vector_type", "document",     "window",     "stride",     "file",
        "input_format",   "whole_file",  "field",        "pair_field", "column",     "pair_column",
        "pair_separator", "ids",         "batch_size",   "in_flight",  "keep_going", "quiet",
        "output",         "format",      "similarity",   "images",     "boundary",   "with_document"}},
      {"classify",
       "lion-client classify [flags] [TEXT…]",
       "texts (or token ids, or pictures) to class scores, highest first",
       R"(Inputs are those of embed.

  lion-client classify --top_k 3 "a compiler for the C language"
  lion-client classify --file mails.csv --column body --top_k 1 --output labels.csv
  lion-client classify --file pairs.tsv --column premise --pair_column hypothesis
  lion-client classify --images photos/ --model vision --top_k 5 --output labels.csv)",
       {"model",       "mode",           "chunk_tokens", "truncation", "top_k",      "raw_scores",
        "file",        "input_format",   "whole_file",   "field",      "pair_field", "column",
        "pair_column", "pair_separator", "ids",          "batch_size", "in_flight",  "keep_going",
        "quiet",       "output",         "format",       "images"}},
      {"tokenize",
       "lion-client tokenize [flags] [TEXT…]",
       "texts to the token ids that embed would run",
       R"(Shows ids, tokens and the bytes of the text that each token is from; nothing is truncated.

  lion-client tokenize "naïve café"
  lion-client tokenize --file corpus.txt --output ids.jsonl)",
       {"model", "file", "input_format", "whole_file", "field", "pair_field", "column", "pair_column", "pair_separator",
        "batch_size", "in_flight", "keep_going", "quiet", "output", "format"}},
      {"models",
       "lion-client models [flags]",
       "what the server serves, and every limit",
       R"(  lion-client models
  lion-client models --format jsonl)",
       {"format"}},
      {"health",
       "lion-client health [flags] [SERVICE]",
       "exits 0 only if SERVICE is SERVING: for probes and scripts",
       R"(Without SERVICE the question is whether the process is alive (liveness); lion.v1.EncoderService is whether it is ready to serve
(readiness).

  lion-client health
  lion-client health lion.v1.EncoderService --wait 30s)",
       {"wait"}},
      {"bench",
       "lion-client bench [flags] [TEXT…]",
       "load, and how the server bears it",
       R"(Closed loop by default: --concurrency callers that each wait for their answer. With --rate open loop: requests leave at their own times
and latency counts from the moment a request was meant to leave. Inputs are made-up token ids of --tokens length, or texts where some are
given. Nothing is retried. Ctrl-C prints what there is so far. Exits 0 if a request succeeded.

  lion-client bench --concurrency 16 --tokens 128
  lion-client bench --rate 200 --tokens 16-512 --duration 30s --json
  lion-client bench --rpc classify --file mails.csv --column body --rows 8)",
       {"rpc",          "rate",       "arrivals",      "concurrency",    "duration",     "requests",    "rows",
        "tokens",       "vocab",      "max_in_flight", "seed",           "json",         "model",       "mode",
        "chunk_tokens", "truncation", "pooling",       "normalize",      "dimensions",   "vector_type", "window",
        "stride",       "top_k",      "raw_scores",    "file",           "input_format", "whole_file",  "field",
        "pair_field",   "column",     "pair_column",   "pair_separator", "ids",          "quiet"}}};
  return *commands;
}

const Command* FindCommand(absl::string_view name) {
  for (const Command& command : Commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

bool IsOneOf(absl::string_view name, const Names& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool MayStandAlone(const absl::CommandLineFlag& flag) { return flag.IsOfType<bool>() || flag.IsOfType<MaybeBool>(); }

absl::Status UnknownCommand(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "no command '", name, "'; there are ",
      absl::StrJoin(Commands(), ", ", [](std::string* out, const Command& c) { absl::StrAppend(out, c.name); }),
      " and help"));
}

// Only what this file defines: the libraries' own flags are none of ours.
absl::CommandLineFlag* FindOurFlag(absl::string_view name) {
  bool ours = IsOneOf(name, ConnectFlags());
  for (const Command& command : Commands()) ours = ours || IsOneOf(name, command.flags);
  return ours ? absl::FindCommandLineFlag(name) : nullptr;
}

// Sets the flags among arguments and returns the others in order; names gets those set.
absl::StatusOr<std::vector<std::string>> SetFlags(const std::vector<std::string>& arguments,
                                                  std::vector<std::string>* names) {
  std::vector<std::string> rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    if (argument == "-" || !absl::StartsWith(argument, "-")) {
      rest.emplace_back(argument);
      continue;
    }
    argument.remove_prefix(absl::StartsWith(argument, "--") ? 2 : 1);
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(argument, absl::MaxSplits('=', 1));
    const bool has_value = argument.find('=') != absl::string_view::npos;
    std::string name = absl::StrReplaceAll(parts.first, {{"-", "_"}});
    std::string value(parts.second);
    absl::CommandLineFlag* flag = FindOurFlag(name);
    if (flag == nullptr && !has_value && absl::StartsWith(name, "no")) {
      flag = FindOurFlag(name.substr(2));
      if (flag != nullptr && !MayStandAlone(*flag)) flag = nullptr;
      if (flag != nullptr) {
        name = name.substr(2);
        value = "false";
      }
    } else if (flag != nullptr && !has_value) {
      if (MayStandAlone(*flag)) {
        value = "true";
      } else if (++i < arguments.size()) {
        value = arguments[i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
      }
    }
    if (flag == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("no flag ", arguments[i], " (texts that begin with a dash come last, after a --)"));
    }
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      std::string why = absl::StrReplaceAll(absl::StripAsciiWhitespace(error), {{"\n", " "}});
      return absl::InvalidArgumentError(absl::StrCat("--", name, ": '", value, "' is no value for it (", flag->Help(),
                                                     ")",
                                                     absl::StrContains(why, "want") ? absl::StrCat(": ", why) : ""));
    }
    names->push_back(std::move(name));
  }
  return rest;
}

template <typename Value>
struct Choice {
  absl::string_view name;
  Value value;
};

template <typename Value>
absl::Status Choose(absl::string_view flag, const std::string& text, const std::vector<Choice<Value>>& choices,
                    Value* value) {
  for (const Choice<Value>& choice : choices) {
    if (choice.name == text) {
      *value = choice.value;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--", flag, ": '", text, "' is none of ",
      absl::StrJoin(choices, ", ", [](std::string* out, const Choice<Value>& c) { absl::StrAppend(out, c.name); })));
}

absl::Status AtLeastOne(absl::string_view flag, int64_t value) {
  if (value >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", value, " is below 1"));
}

// The request's options, all three requests alike.
absl::Status FillRequests(CommandLine* line) {
  v1::EncodeOptions options;
  v1::ComputeMode mode = v1::COMPUTE_MODE_AUTO;
  v1::Truncation truncation = v1::TRUNCATION_ERROR;
  v1::Pooling pooling = v1::POOLING_UNSPECIFIED;
  v1::WindowBoundary boundary = v1::WINDOW_BOUNDARY_UNSPECIFIED;
  absl::Status status = Choose<v1::ComputeMode>("mode", absl::GetFlag(FLAGS_mode),
                                                {{"auto", v1::COMPUTE_MODE_AUTO},
                                                 {"parallel", v1::COMPUTE_MODE_PARALLEL},
                                                 {"chunked", v1::COMPUTE_MODE_CHUNKED},
                                                 {"recurrent", v1::COMPUTE_MODE_RECURRENT}},
                                                &mode);
  status.Update(Choose<v1::Truncation>(
      "truncation", absl::GetFlag(FLAGS_truncation),
      {{"error", v1::TRUNCATION_ERROR}, {"right", v1::TRUNCATION_RIGHT}, {"left", v1::TRUNCATION_LEFT}}, &truncation));
  status.Update(Choose<v1::Pooling>("pooling", absl::GetFlag(FLAGS_pooling),
                                    {{"model", v1::POOLING_UNSPECIFIED},
                                     {"cls", v1::POOLING_CLS},
                                     {"mean", v1::POOLING_MEAN},
                                     {"tokens", v1::POOLING_TOKENS},
                                     {"windows", v1::POOLING_WINDOWS}},
                                    &pooling));
  status.Update(Choose<v1::WindowBoundary>(
      "boundary", absl::GetFlag(FLAGS_boundary),
      {{"token", v1::WINDOW_BOUNDARY_TOKEN}, {"sentence", v1::WINDOW_BOUNDARY_SENTENCE}}, &boundary));
  status.Update(Choose<v1::VectorType>("vector_type", absl::GetFlag(FLAGS_vector_type),
                                       {{"float32", v1::VECTOR_TYPE_FLOAT32},
                                        {"float32_bytes", v1::VECTOR_TYPE_FLOAT32_BYTES},
                                        {"float16_bytes", v1::VECTOR_TYPE_FLOAT16_BYTES},
                                        {"int8_bytes", v1::VECTOR_TYPE_INT8_BYTES}},
                                       &line->output.vector_type));
  if (!status.ok()) return status;
  options.set_mode(mode);
  options.set_truncation(truncation);
  options.set_chunk_tokens(absl::GetFlag(FLAGS_chunk_tokens));

  const std::string model = absl::GetFlag(FLAGS_model);
  line->embed.set_model(model);
  *line->embed.mutable_options() = options;
  line->embed.set_pooling(pooling);
  const std::optional<bool> normalize = absl::GetFlag(FLAGS_normalize).value;
  if (normalize.has_value()) line->embed.set_normalize(*normalize);
  line->embed.set_dimensions(absl::GetFlag(FLAGS_dimensions));
  line->embed.set_vector_type(line->output.vector_type);
  line->document = absl::GetFlag(FLAGS_document);
  line->with_document = absl::GetFlag(FLAGS_with_document);
  if (line->with_document && !line->document) {
    return absl::InvalidArgumentError("--with_document goes with --document; --pooling=mean gives it without");
  }
  if (pooling == v1::POOLING_WINDOWS || line->document) {
    line->embed.mutable_windows()->set_size_tokens(absl::GetFlag(FLAGS_window));
    line->embed.mutable_windows()->set_stride_tokens(absl::GetFlag(FLAGS_stride));
    line->embed.mutable_windows()->set_boundary(boundary);
  }
  line->classify.set_model(model);
  *line->classify.mutable_options() = options;
  line->classify.set_top_k(absl::GetFlag(FLAGS_top_k));
  line->classify.set_raw_scores(absl::GetFlag(FLAGS_raw_scores));
  line->tokenize.set_model(model);

  line->output.kind = line->document                                                    ? RowKind::kDocument
                      : line->command == "classify"                                     ? RowKind::kScores
                      : line->command == "tokenize"                                     ? RowKind::kTokens
                      : pooling == v1::POOLING_TOKENS || pooling == v1::POOLING_WINDOWS ? RowKind::kVectors
                                                                                        : RowKind::kVector;
  return absl::OkStatus();
}

absl::Status FillInputs(CommandLine* line) {
  InputOptions& inputs = line->inputs;
  inputs.texts = line->arguments;
  inputs.files = absl::GetFlag(FLAGS_file);
  inputs.field = absl::GetFlag(FLAGS_field);
  inputs.pair_field = absl::GetFlag(FLAGS_pair_field);
  inputs.column = absl::GetFlag(FLAGS_column);
  inputs.pair_column = absl::GetFlag(FLAGS_pair_column);
  inputs.separator = absl::StrReplaceAll(absl::GetFlag(FLAGS_pair_separator), {{"\\t", "\t"}});
  inputs.ids = absl::GetFlag(FLAGS_ids);
  const absl::Status status = Choose<InputFormat>("input_format", absl::GetFlag(FLAGS_input_format),
                                                  {{"auto", InputFormat::kAuto},
                                                   {"lines", InputFormat::kLines},
                                                   {"jsonl", InputFormat::kJsonl},
                                                   {"csv", InputFormat::kCsv}},
                                                  &inputs.format);
  if (!status.ok()) return status;
  if (line->document) {
    inputs.files.insert(inputs.files.end(), inputs.texts.begin(), inputs.texts.end());
    inputs.texts.clear();
    if (inputs.format == InputFormat::kAuto) inputs.format = InputFormat::kWhole;
  }
  if (absl::GetFlag(FLAGS_images)) {
    if (line->document || absl::GetFlag(FLAGS_whole_file) || inputs.format != InputFormat::kAuto) {
      return absl::InvalidArgumentError("--images: goes with none of --document, --whole_file and --input_format");
    }
    inputs.files.insert(inputs.files.begin(), inputs.texts.begin(), inputs.texts.end());
    inputs.texts.clear();
    inputs.format = InputFormat::kImage;
    line->output.sources = true;
    return status;
  }
  if (!absl::GetFlag(FLAGS_whole_file) || line->document) return status;
  if (inputs.format != InputFormat::kAuto) {
    return absl::InvalidArgumentError("--whole_file and --input_format: give one of them");
  }
  inputs.format = InputFormat::kWhole;
  return absl::OkStatus();
}

absl::Status FillBench(CommandLine* line) {
  BenchOptions& bench = line->bench;
  absl::Status status =
      Choose<bool>("rpc", absl::GetFlag(FLAGS_rpc), {{"embed", false}, {"classify", true}}, &bench.classify);
  status.Update(
      Choose<bool>("arrivals", absl::GetFlag(FLAGS_arrivals), {{"poisson", true}, {"fixed", false}}, &bench.poisson));
  absl::StatusOr<std::vector<int>> lengths = ParseLengths(absl::GetFlag(FLAGS_tokens));
  if (!lengths.ok()) status.Update(absl::InvalidArgumentError(absl::StrCat("--tokens: ", lengths.status().message())));
  status.Update(AtLeastOne("vocab", absl::GetFlag(FLAGS_vocab)));
  if (!status.ok()) return status;
  bench.embed = line->embed;
  bench.classification = line->classify;
  bench.rate = absl::GetFlag(FLAGS_rate);
  bench.concurrency = absl::GetFlag(FLAGS_concurrency);
  bench.duration = absl::GetFlag(FLAGS_duration);
  bench.max_requests = absl::GetFlag(FLAGS_requests);
  bench.rows = absl::GetFlag(FLAGS_rows);
  bench.max_in_flight = absl::GetFlag(FLAGS_max_in_flight);
  bench.seed = absl::GetFlag(FLAGS_seed);
  line->bench_lengths = *std::move(lengths);
  line->bench_vocab = absl::GetFlag(FLAGS_vocab);
  if (line->command == "bench") line->connect.retry = false;
  return absl::OkStatus();
}

absl::Status FillConnect(CommandLine* line) {
  ConnectOptions& connect = line->connect;
  connect.target = absl::GetFlag(FLAGS_target);
  connect.tls = absl::GetFlag(FLAGS_tls);
  connect.tls_ca = absl::GetFlag(FLAGS_tls_ca);
  connect.tls_cert = absl::GetFlag(FLAGS_tls_cert);
  connect.tls_key = absl::GetFlag(FLAGS_tls_key);
  connect.tls_server_name = absl::GetFlag(FLAGS_tls_server_name);
  connect.api_key = absl::GetFlag(FLAGS_api_key);
  if (connect.api_key.empty()) {
    const char* key = std::getenv("LION_API_KEY");
    if (key != nullptr) connect.api_key = key;
  }
  const bool printable = std::all_of(connect.api_key.begin(), connect.api_key.end(), absl::ascii_isgraph);
  if (!printable) return absl::InvalidArgumentError("--api_key: has a space or a character that is not ASCII");
  connect.deadline = absl::GetFlag(FLAGS_deadline);
  if (connect.deadline < absl::ZeroDuration()) return absl::InvalidArgumentError("--deadline: is below 0");
  if (connect.deadline == absl::ZeroDuration()) {
    connect.deadline = absl::GetFlag(FLAGS_document) ? absl::InfiniteDuration()
                       : line->command == "health"   ? absl::Seconds(5)
                                                     : absl::Seconds(60);
  }
  return absl::OkStatus();
}

absl::Status Fill(CommandLine* line) {
  absl::Status status = FillConnect(line);
  status.Update(FillRequests(line));
  status.Update(FillInputs(line));
  status.Update(FillBench(line));
  status.Update(AtLeastOne("batch_size", absl::GetFlag(FLAGS_batch_size)));
  status.Update(AtLeastOne("in_flight", absl::GetFlag(FLAGS_in_flight)));
  status.Update(Choose<OutputFormat>("format", absl::GetFlag(FLAGS_format),
                                     {{"auto", OutputFormat::kAuto},
                                      {"text", OutputFormat::kText},
                                      {"jsonl", OutputFormat::kJsonl},
                                      {"csv", OutputFormat::kCsv},
                                      {"npy", OutputFormat::kNpy},
                                      {"parquet", OutputFormat::kParquet}},
                                     &line->output.format));
  if (absl::GetFlag(FLAGS_wait) < absl::ZeroDuration()) status.Update(absl::InvalidArgumentError("--wait: is below 0"));
  if (!status.ok()) return status;
  line->pipeline.batch_size = absl::GetFlag(FLAGS_batch_size);
  line->pipeline.max_in_flight = absl::GetFlag(FLAGS_in_flight);
  line->output.path = absl::GetFlag(FLAGS_output);
  line->output.similarity = absl::GetFlag(FLAGS_similarity);
  line->keep_going = absl::GetFlag(FLAGS_keep_going);
  line->quiet = absl::GetFlag(FLAGS_quiet);
  line->wait = absl::GetFlag(FLAGS_wait);
  line->json = absl::GetFlag(FLAGS_json);
  return absl::OkStatus();
}

// One line, then the explanation below it.
std::string FlagLine(absl::string_view name) {
  const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  const std::string value = flag->DefaultValue();
  return absl::StrFormat("  --%-18s %s%s\n", name, flag->Help(),
                         value.empty() || value == "false" || value == "0" ? "" : absl::StrCat(" [", value, "]"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  CommandLine line;
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  const bool wants_help = std::any_of(arguments.begin(), separator,
                                      [](const std::string& a) { return a == "--help" || a == "-help" || a == "-h"; });
  if (wants_help || arguments.empty()) {
    line.command = "help";
    for (const std::string& argument : arguments) {
      if (line.arguments.empty() && FindCommand(argument) != nullptr) line.arguments.push_back(argument);
    }
    return line;
  }

  std::vector<std::string> names;
  absl::StatusOr<std::vector<std::string>> rest = SetFlags(arguments, &names);
  if (!rest.ok()) return rest.status();
  if (rest->empty()) return absl::InvalidArgumentError("no command given; try lion-client help");
  line.command = rest->front();
  line.arguments.assign(rest->begin() + 1, rest->end());
  if (line.command == "help") {
    if (line.arguments.size() > 1) return absl::InvalidArgumentError("help takes one command");
    if (!line.arguments.empty() && FindCommand(line.arguments[0]) == nullptr) return UnknownCommand(line.arguments[0]);
    return line;
  }
  const Command* command = FindCommand(line.command);
  if (command == nullptr) return UnknownCommand(line.command);
  for (const std::string& name : names) {
    if (!IsOneOf(name, ConnectFlags()) && !IsOneOf(name, command->flags)) {
      return absl::InvalidArgumentError(
          absl::StrCat(command->name, " does not take --", name, "; see lion-client help ", command->name));
    }
  }
  const size_t most = line.command == "models" ? 0 : line.command == "health" ? 1 : line.arguments.size();
  if (line.arguments.size() > most) {
    return absl::InvalidArgumentError(absl::StrCat("what is '", line.arguments[most], "'? Usage: ", command->usage));
  }
  const absl::Status status = Fill(&line);
  if (!status.ok()) return status;
  return line;
}

absl::StatusOr<std::string> HelpText(const std::string& name) {
  std::string text;
  if (name.empty()) {
    text = "lion-client asks a LION server: texts in, embeddings and class scores out.\n\n";
    for (const Command& command : Commands())
      absl::StrAppendFormat(&text, "  lion-client %-9s %s\n", command.name, command.purpose);
    absl::StrAppend(&text, "\nlion-client help COMMAND says more, with examples. Every command takes:\n");
    for (absl::string_view flag : ConnectFlags()) absl::StrAppend(&text, FlagLine(flag));
    absl::StrAppend(&text,
                    "\nFlags may stand anywhere before a --. Durations are 10s, 500ms, 2m.\n"
                    "Exit code: 0 all good, 1 something failed, 2 a wrong command line.\n");
    return text;
  }
  const Command* command = FindCommand(name);
  if (command == nullptr) return UnknownCommand(name);
  text = absl::StrCat(command->usage, "\n\n", command->purpose, ".\n", command->details, "\n\nFlags [default]:\n");
  for (absl::string_view flag : command->flags) absl::StrAppend(&text, FlagLine(flag));
  absl::StrAppend(&text, "\nThe server:\n");
  for (absl::string_view flag : ConnectFlags()) absl::StrAppend(&text, FlagLine(flag));
  return text;
}

}  // namespace lion::client
