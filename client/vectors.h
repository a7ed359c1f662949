// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_VECTORS_H_
#define LION_CLIENT_VECTORS_H_

// Vectors as they come off the wire, as floats, whatever VectorType they travelled in.

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

// type is the one that was asked for. INTERNAL if the bytes are no whole number of elements.
absl::StatusOr<std::vector<float>> DecodeVector(const v1::Vector& vector, v1::VectorType type);

// All of a result, in order.
absl::StatusOr<std::vector<std::vector<float>>> DecodeVectors(const v1::EmbedResult& result, v1::VectorType type);

// Euclidean length.
double Norm(absl::Span<const float> vector);

// Cosine of two vectors of one width; 0 if one is all zeros.
double Cosine(absl::Span<const float> a, absl::Span<const float> b);

}  // namespace lion::client

#endif  // LION_CLIENT_VECTORS_H_
