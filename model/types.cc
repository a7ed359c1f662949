// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/types.h"

#include <utility>

namespace lion {
namespace {

constexpr std::pair<ComputeMode, absl::string_view> kModes[] = {
    {ComputeMode::kParallel, "parallel"}, {ComputeMode::kChunked, "chunked"}, {ComputeMode::kRecurrent, "recurrent"}};

constexpr std::pair<DType, absl::string_view> kDTypes[] = {{DType::kFloat32, "float32"},
                                                           {DType::kBFloat16, "bfloat16"},
                                                           {DType::kFloat16, "float16"},
                                                           {DType::kInt8, "int8"},
                                                           {DType::kFp8, "fp8"}};

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

absl::string_view Name(ComputeMode mode) { return NameIn(kModes, mode); }
absl::string_view Name(DType dtype) { return NameIn(kDTypes, dtype); }
std::optional<ComputeMode> ParseComputeMode(absl::string_view name) { return ParseIn(kModes, name); }
std::optional<DType> ParseDType(absl::string_view name) { return ParseIn(kDTypes, name); }

}  // namespace lion
