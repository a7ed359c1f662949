// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_FLAGS_H_
#define LION_CLIENT_FLAGS_H_

// lion-client's command line. Every flag is defined, checked and explained in flags.cc; nothing else reads flags or the
// environment.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/bench.h"
#include "client/client.h"
#include "client/inputs.h"
#include "client/outputs.h"
#include "client/pipeline.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

struct CommandLine {
  std::string command;                 // "help" and what follows, or a known command
  std::vector<std::string> arguments;  // texts, or what else the command takes
  ConnectOptions connect;
  InputOptions inputs;
  OutputOptions output;
  PipelineOptions pipeline;
  v1::EmbedRequest embed;        // model, options and so on; no inputs
  v1::ClassifyRequest classify;  // likewise
  v1::TokenizeRequest tokenize;  // likewise
  bool document = false;         // embed: RunDocuments (client/documents.h)
  bool with_document = false;    // with document: EmbedDocumentRequest's
  bool keep_going = true;
  bool quiet = false;
  absl::Duration wait;             // health: 0 = ask once
  BenchOptions bench;              // all but its inputs
  std::vector<int> bench_lengths;  // of made-up inputs
  uint32_t bench_vocab = 0;
  bool json = false;
};

// Reads arguments (without the program's name). INVALID_ARGUMENT for an unknown command, an unknown flag, one that the
// command does not take, or a bad value: one line that says what to do. `lion-client`, `--help` anywhere and `help
// COMMAND` are the command "help".
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

// What `lion-client help [COMMAND]` prints; INVALID_ARGUMENT for a command that does not exist. Empty = an overview.
absl::StatusOr<std::string> HelpText(const std::string& command);

}  // namespace lion::client

#endif  // LION_CLIENT_FLAGS_H_
