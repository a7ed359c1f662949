// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: an API-key file, a line "%%", the metadata entry `authorization` of a call.
//
// Whatever the bytes: a file is read or refused in one line that names a line of it; nobody comes in without an entry;
// and who comes in has sent "Bearer KEY" with a KEY whose SHA-256 stands in the file.

#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/api_keys.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<std::string_view> parts = lion::Parts(lion::AsText(data, size));
  const std::string file(parts[0]);
  const absl::StatusOr<lion::ApiKeys> keys = lion::ApiKeys::Parse(file);
  if (!keys.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(keys.status()), keys.status().ToString());
    FUZZ_CHECK(absl::StartsWith(keys.status().message(), "line "), keys.status().ToString());
    return 0;
  }
  FUZZ_CHECK(keys->size() >= 1, "a file without keys is refused");
  FUZZ_CHECK(!keys->Check(std::nullopt).ok(), "no entry");
  if (parts.size() < 2) return 0;

  const absl::string_view entry(parts[1].data(), parts[1].size());
  const absl::Status status = keys->Check(entry);
  if (!status.ok()) {
    FUZZ_CHECK(absl::IsUnauthenticated(status), status.ToString());
    lion::CheckOneLine(status);
    return 0;
  }
  constexpr absl::string_view kScheme = "bearer ";
  FUZZ_CHECK(absl::StartsWithIgnoreCase(entry, kScheme), "another scheme");
  const absl::string_view secret = entry.substr(kScheme.size());
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), hash.data());
  const std::string hex =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
  FUZZ_CHECK(absl::StrContains(absl::AsciiStrToLower(file), hex), "its hash is not in the file");
  return 0;
}
