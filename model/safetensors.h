// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_SAFETENSORS_H_
#define LION_MODEL_SAFETENSORS_H_

// Weights on disk: one safetensors file, or shards under an index, mapped and never copied.
//
// Headers are parsed and checked by the safetensors crate: sizes, offsets, overlaps and holes are its business, so a
// hostile header is refused before a byte of data is read. A file must not be cut short while it is mapped.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lion {

enum class StoredType { kF32, kF16, kBF16, kI64, kOther };

// A view of one tensor in a mapped file, little endian and row-major; lives as long as its WeightFiles. The shape's
// product and the bytes are known to agree and to fit their types.
struct StoredTensor {
  StoredType type = StoredType::kOther;
  std::string type_name;       // as the file says it: "F32", "BF16", ...
  std::vector<int64_t> shape;  // () = a scalar
  // May be unaligned for its type (the format promises nothing): read it with memcpy.
  const uint8_t* data = nullptr;
  size_t size_bytes = 0;
  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

class WeightFiles {
 public:
  // Maps directory/model.safetensors or, where there is none, all shards that directory/model.safetensors.index.json
  // names. Errors: NOT_FOUND naming what is missing; INVALID_ARGUMENT for a header that is too short, too long, not
  // JSON, with offsets out of the file, overlapping, or not matching shape and type; for a shard whose name leaves the
  // directory; for a tensor in two shards, one that the index places in a shard that lacks it, or one that it does not
  // name; for a name that is given twice; for what is not a regular file (never waits on a FIFO).
  static absl::StatusOr<std::unique_ptr<WeightFiles>> OpenDirectory(const std::string& directory);

  // Maps one file. Errors as above.
  static absl::StatusOr<std::unique_ptr<WeightFiles>> OpenFile(const std::string& path);

  ~WeightFiles();
  WeightFiles(const WeightFiles&) = delete;
  WeightFiles& operator=(const WeightFiles&) = delete;

  // By name; null if there is none.
  const StoredTensor* Find(std::string_view name) const;
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }

  // The files that were mapped, in the order of their names.
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  WeightFiles() = default;
  struct Mapping;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::vector<std::string> paths_;
};

}  // namespace lion

#endif  // LION_MODEL_SAFETENSORS_H_
