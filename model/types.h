// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_TYPES_H_
#define LION_MODEL_TYPES_H_

// The small vocabulary shared by everything that computes or serves: variants, forms, pooling, precisions.

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace lion {

// How the decay a_t of the linear attention is made (docs/design.md, "The mathematics").
enum class Variant {
  kLit,  // a_t = 1
  kD,    // a_t = sigmoid(alpha), one a head
  kS,    // a_t = 1 - sigmoid(w . x_t + b), one a head and token
};

// The three exact forms of the attention. There is no "auto" here: whoever submits a row has resolved it
// (ResolveMode in model/model.h).
enum class ComputeMode { kParallel, kChunked, kRecurrent };

// What a row's answer is made from.
enum class Pooling {
  kCls,     // row 0 of the last hidden states, then Dense
  kMean,    // the mean over the row's tokens, special tokens included, then Dense
  kTokens,  // the last hidden states themselves, never Dense
};

// The precision of the matrix products and their operands. Gates, decays, states, LayerNorm and sums are fp32 always.
enum class DType { kFloat32, kBFloat16, kFloat16, kInt8, kFp8 };

// Stable lower-case names, as flags, metrics and ListModels show them: "lion-s", "chunked", "mean", "bfloat16".
absl::string_view Name(Variant variant);
absl::string_view Name(ComputeMode mode);
absl::string_view Name(Pooling pooling);
absl::string_view Name(DType dtype);

// What every device takes: the widest head (D), and the largest chunk (C) that a row, a caller or a flag may name.
inline constexpr int64_t kMaxHeadWidth = 128;
inline constexpr int kMaxChunkTokens = 128;

// Planes of a picture, and the tokens of one of S x S pixels: the cls row and (S / patch_size)^2 patches. S: a multiple
// of patch_size.
inline constexpr int64_t kImageChannels = 3;
constexpr int64_t ImageTokens(int64_t S, int64_t patch_size) { return 1 + (S / patch_size) * (S / patch_size); }

// The kinds of device, and the precisions that each has, in the order in which messages list them.
enum class DeviceKind { kCpu, kCuda };
absl::string_view Name(DeviceKind kind);  // "cpu", "cuda"
absl::Span<const DType> DTypesOf(DeviceKind kind);

// OK, or INVALID_ARGUMENT "dtype fp8 is not available on cpu: it has float32, bfloat16, int8".
absl::Status CheckDType(DType dtype, DeviceKind kind);

// The inverse of Name; nullopt for anything else ("auto" included).
std::optional<ComputeMode> ParseComputeMode(absl::string_view name);
std::optional<DType> ParseDType(absl::string_view name);

}  // namespace lion

#endif  // LION_MODEL_TYPES_H_
