// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: one byte, then a file. Byte even: a model.safetensors. Odd: the model.safetensors.index.json of a directory
// with two good shards, a.safetensors (tensor "x") and b.safetensors (tensor "y").
//
// Whatever the bytes: the file is refused in one line, or every tensor lies inside what was mapped, with as many bytes
// as its shape and type say.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "model/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace {

// A file with one tensor of two floats.
std::string Shard(const std::string& tensor) {
  const std::string header = "{\"" + tensor + "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
  std::string bytes(1, static_cast<char>(header.size()));
  bytes.resize(8, '\0');
  return bytes + header + std::string(8, '\0');
}

int64_t ElementBytes(lion::StoredType type) {
  switch (type) {
    case lion::StoredType::kF32:
      return 4;
    case lion::StoredType::kF16:
    case lion::StoredType::kBF16:
      return 2;
    case lion::StoredType::kI64:
      return 8;
    case lion::StoredType::kOther:
      return 0;
  }
  return 0;
}

void Check(const absl::StatusOr<std::unique_ptr<lion::WeightFiles>>& files) {
  if (!files.ok()) {
    lion::CheckOneLine(files.status());
    return;
  }
  for (const auto& [name, tensor] : (*files)->tensors()) {
    FUZZ_CHECK((*files)->Find(name) == &tensor, name);
    if (tensor.type != lion::StoredType::kOther) {
      FUZZ_CHECK(tensor.num_elements() * ElementBytes(tensor.type) == static_cast<int64_t>(tensor.size_bytes), name);
    }
    // Read from end to end: outside the mapping this faults.
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < tensor.size_bytes; ++i) sum = sum ^ tensor.data[i];
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view file = lion::AsText(data + 1, size - 1);
  if (data[0] % 2 == 0) {
    const int fd = memfd_create("model.safetensors", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0, "memfd_create");
    FUZZ_CHECK(write(fd, file.data(), file.size()) == static_cast<ssize_t>(file.size()), "write");
    Check(lion::WeightFiles::OpenFile("/proc/self/fd/" + std::to_string(fd)));
    close(fd);
    return 0;
  }
  static const lion::ScratchFolder folder;
  static const bool written = [] {
    folder.Write("a.safetensors", Shard("x"));
    folder.Write("b.safetensors", Shard("y"));
    return true;
  }();
  (void)written;
  folder.Write("model.safetensors.index.json", file);
  Check(lion::WeightFiles::OpenDirectory(folder.path()));
  return 0;
}
