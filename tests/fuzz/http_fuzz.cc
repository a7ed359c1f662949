// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: the body of a POST to /v1/embeddings or /v1/classify.
//
// Whatever the bytes: a body is refused in one line, whose answer is JSON; or it is a JSON object, and what was read of
// its `input` is what a tree of it says, to the last id and byte.

#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "server/http_messages.h"
#include "tests/fuzz/fuzz.h"

namespace {

using nlohmann::json;

constexpr int kMaxInputs = 16;

void CheckRefusal(const absl::Status& status) {
  FUZZ_CHECK(absl::IsInvalidArgument(status), status.ToString());
  lion::CheckOneLine(status);
  const lion::HttpError error = lion::WriteError(status, std::nullopt);
  const json body = json::parse(error.body, nullptr, /*allow_exceptions=*/false);
  FUZZ_CHECK(error.code == 400 && body.is_object() && body["error"]["message"].is_string(), error.body);
}

// What one element of `input` would be.
bool Same(const json& element, const lion::v1::Input& input) {
  if (element.is_string()) return input.has_text() && input.text() == element.get<std::string>();
  if (!element.is_array() || !input.has_token_ids() ||
      input.token_ids().ids_size() != static_cast<int>(element.size())) {
    return false;
  }
  for (size_t i = 0; i < element.size(); ++i) {
    if (!element[i].is_number_unsigned() || element[i] != input.token_ids().ids(static_cast<int>(i))) return false;
  }
  return true;
}

template <typename Request>
void CheckRead(const std::string& body, const Request& request) {
  const json tree = json::parse(body, nullptr, /*allow_exceptions=*/false);
  FUZZ_CHECK(tree.is_object(), "what is no object was read");
  FUZZ_CHECK(request.inputs_size() <= kMaxInputs, "too many inputs");
  if (!tree.contains("input")) {
    FUZZ_CHECK(request.inputs_size() == 0, "inputs from nowhere");
    return;
  }
  const json& input = tree["input"];
  const bool is_one = input.is_string() || (input.is_array() && !input.empty() && input[0].is_number());
  FUZZ_CHECK(request.inputs_size() == (is_one ? 1 : static_cast<int>(input.size())), "another number of inputs");
  for (int i = 0; i < request.inputs_size(); ++i) {
    FUZZ_CHECK(Same(is_one ? input : input[static_cast<size_t>(i)], request.inputs(i)), "another input");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  if (const auto read = lion::ReadEmbeddings(body, kMaxInputs); read.ok()) {
    CheckRead(body, read->request);
  } else {
    CheckRefusal(read.status());
  }
  if (const auto read = lion::ReadClassify(body, kMaxInputs); read.ok()) {
    CheckRead(body, *read);
  } else {
    CheckRefusal(read.status());
  }
  return 0;
}
