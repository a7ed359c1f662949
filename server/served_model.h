// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_SERVED_MODEL_H_
#define LION_SERVER_SERVED_MODEL_H_

// A version of a model as the server sees it: a name, what it is, and what runs it. Tests put a fake encoder here.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/encoder.h"
#include "model/image_input/preprocessor.h"
#include "model/model.h"
#include "model/tokenizer/tokenizer.h"

namespace lion {

struct ServedModel {
  std::string name;  // matches [A-Za-z0-9._-]{1,64}, unique, not "unknown"
  ModelInfo info;
  const Tokenizer* tokenizer = nullptr;             // of owner; null = no text
  const ImagePreprocessor* preprocessor = nullptr;  // of owner; null = no encoded pictures
  std::vector<Encoder*> encoders;   // of owner, none null: one for each of info.devices, which all models share
  int64_t max_sequence_tokens = 0;  // the flag, or less where positions are absolute
  std::shared_ptr<void> owner;      // keeps the above alive; null = somebody else does, longer than the server
  // PendingRow::model of rows of this version. Set by Server; two versions of one model never share it.
  int queue_index = 0;
};

}  // namespace lion

#endif  // LION_SERVER_SERVED_MODEL_H_
