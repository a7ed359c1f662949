// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lion {
namespace {

constexpr absl::string_view kScheme = "Bearer ";

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Parse(absl::string_view text) {
  ApiKeys keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": has ", words.size(), " words, not NAME SHA256HEX"));
    }
    const absl::string_view hex = words[1];
    if (hex.size() != 64 || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit)) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": the key's hash is not a SHA-256 of 64 hexadecimal digits"));
    }
    for (const Key& key : keys.keys_) {
      if (key.name == words[0]) {
        return absl::InvalidArgumentError(absl::StrCat("line ", number, ": the name ", key.name, " is given twice"));
      }
    }
    Key key;
    key.name = std::string(words[0]);
    const std::string bytes = absl::HexStringToBytes(hex);
    std::copy(bytes.begin(), bytes.end(), key.sha256.begin());
    keys.keys_.push_back(std::move(key));
  }
  if (keys.keys_.empty()) return absl::InvalidArgumentError("line 1: the file holds no key");
  return keys;
}

absl::StatusOr<ApiKeys> ApiKeys::ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  absl::StatusOr<ApiKeys> keys = Parse(text);
  if (!keys.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", keys.status().message()));
  return keys;
}

absl::Status ApiKeys::Check(std::optional<absl::string_view> authorization) const {
  if (!authorization.has_value()) {
    return absl::UnauthenticatedError("authorization: send the metadata 'authorization: Bearer KEY'");
  }
  if (!absl::StartsWithIgnoreCase(*authorization, kScheme)) {
    return absl::UnauthenticatedError("authorization: is not of the form 'Bearer KEY'");
  }
  const absl::string_view secret = authorization->substr(kScheme.size());
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), hash.data());
  bool known = false;  // no early exit: the time must not tell which key came close
  for (const Key& key : keys_) known |= CRYPTO_memcmp(hash.data(), key.sha256.data(), hash.size()) == 0;
  if (!known) return absl::UnauthenticatedError("authorization: the key is not known");
  return absl::OkStatus();
}

void LiveApiKeys::Set(ApiKeys keys) {
  auto next = std::make_shared<const ApiKeys>(std::move(keys));
  absl::MutexLock lock(&mu_);
  keys_.swap(next);
}

absl::Status LiveApiKeys::Check(std::optional<absl::string_view> authorization) const {
  std::shared_ptr<const ApiKeys> keys;
  {
    absl::ReaderMutexLock lock(&mu_);
    keys = keys_;
  }
  return keys->Check(authorization);
}

}  // namespace lion
