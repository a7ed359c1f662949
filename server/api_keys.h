// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_API_KEYS_H_
#define LION_SERVER_API_KEYS_H_

// Who may call: the keys of --api_key_file, kept as SHA-256 hashes, so that the file gives nobody access.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace lion {

class ApiKeys {
 public:
  // Lines "NAME SHA256HEX"; blank lines and lines that begin with # are skipped. INVALID_ARGUMENT naming the line for
  // anything else, for a name given twice, and where no key is left.
  static absl::StatusOr<ApiKeys> Parse(absl::string_view text);

  // The same from a file; messages begin with its path. NOT_FOUND if it cannot be read.
  static absl::StatusOr<ApiKeys> ReadFile(const std::string& path);

  // authorization: the metadata entry of that name, nullopt if none came. OK for "Bearer KEY" with a known key, else
  // UNAUTHENTICATED. Takes the same time whichever key is right, or none. Immutable, so thread-safe.
  absl::Status Check(std::optional<absl::string_view> authorization) const;

  size_t size() const { return keys_.size(); }

 private:
  struct Key {
    std::string name;
    std::array<uint8_t, 32> sha256;
  };
  std::vector<Key> keys_;
};

// The keys in force, which may be replaced while calls are checked. Thread-safe.
class LiveApiKeys {
 public:
  explicit LiveApiKeys(ApiKeys keys) : keys_(std::make_shared<const ApiKeys>(std::move(keys))) {}

  void Set(ApiKeys keys);
  absl::Status Check(std::optional<absl::string_view> authorization) const;  // by the newest keys

 private:
  mutable absl::Mutex mu_;
  std::shared_ptr<const ApiKeys> keys_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lion

#endif  // LION_SERVER_API_KEYS_H_
