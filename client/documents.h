// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_DOCUMENTS_H_
#define LION_CLIENT_DOCUMENTS_H_

// `lion-client embed --document`: each input is a document, embedded in one pass by EmbedDocument, one after another.
//
// Vectors are written as they come, each with its place in the document: memory depends on a document's text, not on
// how many vectors it has.

#include "client/client.h"
#include "client/commands.h"
#include "client/flags.h"

namespace lion::client {

// Returns the process's exit code: 0 all good, 1 a document failed or the work was interrupted, 2 a file that cannot be
// read. client is borrowed.
int RunDocuments(CommandLine line, Client* client, const Streams& streams);

}  // namespace lion::client

#endif  // LION_CLIENT_DOCUMENTS_H_
