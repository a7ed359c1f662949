// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_MODEL_INFO_H_
#define LION_CLIENT_MODEL_INFO_H_

// A served model and the server's limits as `lion-client models` shows them. Pure; any thread.

#include <string>

#include "lion/v1/encoder.pb.h"

namespace lion::client {

// For people: the name, then a line a thing. What an older server does not tell is left out.
std::string ModelText(const v1::ModelInfo& model, bool is_default);

// For programs: a line of JSON with the fields of ModelInfo by their names in the proto. pooling is lower case.
// Durations are numbers of seconds named NAME_seconds, null where there is no limit; image is null for a text model.
std::string ModelJson(const v1::ModelInfo& model);

}  // namespace lion::client

#endif  // LION_CLIENT_MODEL_INFO_H_
