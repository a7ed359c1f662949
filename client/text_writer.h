// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_TEXT_WRITER_H_
#define LION_CLIENT_TEXT_WRITER_H_

// Results for people: each input's beginning, the beginning of its vector, its labels or its tokens, and the table of
// similarities. Not made to be parsed.

#include <memory>

#include "client/outputs.h"
#include "client/sink.h"

namespace lion::client {

// options.kind is anything but kDocument.
std::unique_ptr<ResultWriter> MakeTextWriter(Sink sink, const OutputOptions& options);

}  // namespace lion::client

#endif  // LION_CLIENT_TEXT_WRITER_H_
