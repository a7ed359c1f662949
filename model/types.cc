// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/types.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lion {
namespace {

constexpr std::pair<ComputeMode, absl::string_view> kModes[] = {
    {ComputeMode::kParallel, "parallel"}, {ComputeMode::kChunked, "chunked"}, {ComputeMode::kRecurrent, "recurrent"}};

constexpr std::pair<DType, absl::string_view> kDTypes[] = {{DType::kFloat32, "float32"},
                                                           {DType::kBFloat16, "bfloat16"},
                                                           {DType::kFloat16, "float16"},
                                                           {DType::kInt8, "int8"},
                                                           {DType::kFp8, "fp8"}};

constexpr DType kCpuDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8};
constexpr DType kCudaDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFp8};

template <typename E, size_t N>
absl::string_view NameIn(const std::pair<E, absl::string_view> (&table)[N], E value) {
  for (const auto& [entry, name] : table) {
    if (entry == value) return name;
  }
  return "unknown";
}

template <typename E, size_t N>
std::optional<E> ParseIn(const std::pair<E, absl::string_view> (&table)[N], absl::string_view name) {
  for (const auto& [entry, entry_name] : table) {
    if (entry_name == name) return entry;
  }
  return std::nullopt;
}

}  // namespace

absl::string_view Name(Variant variant) {
  switch (variant) {
    case Variant::kLit:
      return "lion-lit";
    case Variant::kD:
      return "lion-d";
    case Variant::kS:
      return "lion-s";
  }
  return "unknown";
}

absl::string_view Name(Pooling pooling) {
  switch (pooling) {
    case Pooling::kCls:
      return "cls";
    case Pooling::kMean:
      return "mean";
    case Pooling::kTokens:
      return "tokens";
  }
  return "unknown";
}

absl::string_view Name(DeviceKind kind) { return kind == DeviceKind::kCpu ? "cpu" : "cuda"; }

absl::Span<const DType> DTypesOf(DeviceKind kind) {
  return kind == DeviceKind::kCpu ? absl::MakeConstSpan(kCpuDTypes) : absl::MakeConstSpan(kCudaDTypes);
}

absl::Status CheckDType(DType dtype, DeviceKind kind) {
  const absl::Span<const DType> has = DTypesOf(kind);
  if (std::find(has.begin(), has.end(), dtype) != has.end()) return absl::OkStatus();
  const auto append_name = [](std::string* out, DType one) { absl::StrAppend(out, Name(one)); };
  return absl::InvalidArgumentError(absl::StrCat("dtype ", Name(dtype), " is not available on ", Name(kind),
                                                 ": it has ", absl::StrJoin(has, ", ", append_name)));
}

absl::string_view Name(ComputeMode mode) { return NameIn(kModes, mode); }
absl::string_view Name(DType dtype) { return NameIn(kDTypes, dtype); }
std::optional<ComputeMode> ParseComputeMode(absl::string_view name) { return ParseIn(kModes, name); }
std::optional<DType> ParseDType(absl::string_view name) { return ParseIn(kDTypes, name); }

}  // namespace lion
