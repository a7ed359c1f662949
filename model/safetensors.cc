// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/safetensors.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/mapped_file.h"
#include "model/rust/lion_hf.h"

namespace lion {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

StoredType ToType(std::string_view name) {
  if (name == "F32") return StoredType::kF32;
  if (name == "F16") return StoredType::kF16;
  if (name == "BF16") return StoredType::kBF16;
  if (name == "I64") return StoredType::kI64;
  return StoredType::kOther;
}

// A name out of a file, for a message: quoted, on one line, not endless.
std::string Shown(std::string_view name) {
  constexpr size_t kMaxShown = 100;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(std::string(name.substr(0, kMaxShown))),
                      name.size() > kMaxShown ? "..." : "", "\"");
}

std::string Join(const std::string& directory, const std::string& name) {
  return absl::StrCat(directory, directory.empty() || directory.back() == '/' ? "" : "/", name);
}

// A file of the directory itself: nothing that leads elsewhere.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// Tensor to shard, as the index says it.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const MappedFile& file) {
  using Json = nlohmann::json;
  // The parser keeps the last of two equal keys; keys of the object "weight_map" have depth 2.
  std::set<std::string> seen;
  std::string repeated;
  auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 2 && !seen.insert(value.get<std::string>()).second) {
      repeated = value.get<std::string>();
    }
    if (event == Json::parse_event_t::key && depth == 1) seen.clear();
    return true;
  };
  const Json index = Json::parse(file.data(), file.data() + file.size(), watch, /*allow_exceptions=*/false);
  if (index.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(file.path(), ": not valid JSON"));
  if (!repeated.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": two entries named ", Shown(repeated)));
  }
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": \"weight_map\" must be an object that names at least one tensor"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": tensor ", Shown(tensor), " must name a file in the same directory, not ",
                       shard.is_string() ? Shown(shard.get_ref<const std::string&>()) : shard.type_name()));
    }
    shards.emplace(tensor, shard.get_ref<const std::string&>());
  }
  return shards;
}

// The tensors of one mapped file.
absl::StatusOr<std::map<std::string, StoredTensor, std::less<>>> ReadTensors(const MappedFile& file) {
  LionHfTensors read = {};
  char* error = nullptr;
  if (lion_hf_safetensors_read(file.data(), file.size(), &read, &error) != LION_HF_OK) {
    absl::Status status = absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", error));
    lion_hf_error_free(error);
    return status;
  }
  absl::Cleanup free_read = [&read] { lion_hf_tensors_free(&read); };
  std::map<std::string, StoredTensor, std::less<>> tensors;
  for (size_t i = 0; i < read.size; ++i) {
    const LionHfTensor& from = read.tensors[i];
    StoredTensor to;
    to.type = ToType(from.dtype);
    to.type_name = from.dtype;
    to.shape.assign(from.shape, from.shape + from.rank);
    to.data = file.data() + from.begin;
    to.size_bytes = from.end - from.begin;
    tensors.emplace(std::string(from.name, from.name_size), std::move(to));
  }
  return tensors;
}

}  // namespace

struct WeightFiles::Mapping {
  std::unique_ptr<MappedFile> file;
};

WeightFiles::~WeightFiles() = default;

absl::StatusOr<std::unique_ptr<WeightFiles>> WeightFiles::OpenFile(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  auto tensors = ReadTensors(**file);
  if (!tensors.ok()) return tensors.status();
  std::unique_ptr<WeightFiles> files(new WeightFiles);
  files->tensors_ = *std::move(tensors);
  files->mappings_.push_back(std::make_unique<Mapping>(Mapping{*std::move(file)}));
  files->paths_.push_back(path);
  return files;
}

absl::StatusOr<std::unique_ptr<WeightFiles>> WeightFiles::OpenDirectory(const std::string& directory) {
  absl::StatusOr<std::unique_ptr<WeightFiles>> single = OpenFile(Join(directory, kSingleFile));
  if (!absl::IsNotFound(single.status())) return single;

  absl::StatusOr<std::unique_ptr<MappedFile>> index = MappedFile::Open(Join(directory, kIndexFile));
  if (absl::IsNotFound(index.status())) {
    struct stat info;
    if (stat(directory.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      return absl::NotFoundError(absl::StrCat(directory, ": no such directory"));
    }
    return absl::NotFoundError(absl::StrCat(directory, ": holds neither ", kSingleFile, " nor ", kIndexFile));
  }
  if (!index.ok()) return index.status();
  auto shard_of = ReadIndex(**index);
  if (!shard_of.ok()) return shard_of.status();

  std::set<std::string> shards;
  for (const auto& [tensor, shard] : *shard_of) shards.insert(shard);
  std::unique_ptr<WeightFiles> files(new WeightFiles);
  for (const std::string& shard : shards) {
    const std::string path = Join(directory, shard);
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
    if (!file.ok()) return file.status();
    auto tensors = ReadTensors(**file);
    if (!tensors.ok()) return tensors.status();
    for (auto& [name, tensor] : *tensors) {
      const auto planned = shard_of->find(name);
      if (planned == shard_of->end() || planned->second != shard) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": holds tensor ", Shown(name), ", which ", kIndexFile, " ",
            planned == shard_of->end() ? "does not name" : absl::StrCat("places in ", Shown(planned->second))));
      }
      files->tensors_.emplace(name, std::move(tensor));
    }
    files->mappings_.push_back(std::make_unique<Mapping>(Mapping{*std::move(file)}));
    files->paths_.push_back(path);
  }
  // Every tensor found was planned, in its own shard: what is missing now is in no shard.
  for (const auto& [tensor, shard] : *shard_of) {
    if (files->Find(tensor) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(Join(directory, shard), ": lacks tensor ", Shown(tensor),
                                                     ", which ", kIndexFile, " places there"));
    }
  }
  return files;
}

const StoredTensor* WeightFiles::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace lion
