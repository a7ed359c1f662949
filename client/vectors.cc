// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/vectors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lion::client {
namespace {

static_assert(std::endian::native == std::endian::little, "vectors travel little endian and are copied as they are");

float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const uint32_t bits =
      exponent == 31 ? sign | 0x7F800000 | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
  return std::bit_cast<float>(bits);
}

}  // namespace

absl::StatusOr<std::vector<float>> DecodeVector(const v1::Vector& vector, v1::VectorType type) {
  const std::string& data = vector.data();
  std::vector<float> values;
  switch (type) {
    case v1::VECTOR_TYPE_FLOAT32_BYTES:
      if (data.size() % 4 != 0) break;
      values.resize(data.size() / 4);
      std::memcpy(values.data(), data.data(), data.size());
      return values;
    case v1::VECTOR_TYPE_FLOAT16_BYTES:
      if (data.size() % 2 != 0) break;
      values.resize(data.size() / 2);
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, data.data() + 2 * i, 2);
        values[i] = FromHalf(half);
      }
      return values;
    case v1::VECTOR_TYPE_INT8_BYTES:
      values.resize(data.size());
      std::transform(data.begin(), data.end(), values.begin(),
                     [&](char c) { return static_cast<float>(static_cast<int8_t>(c)) * vector.scale(); });
      return values;
    default:
      return std::vector<float>(vector.values().begin(), vector.values().end());
  }
  return absl::InternalError(absl::StrCat("a vector of ", data.size(), " bytes is no whole number of ",
                                          v1::VectorType_Name(type), " elements"));
}

absl::StatusOr<std::vector<std::vector<float>>> DecodeVectors(const v1::EmbedResult& result, v1::VectorType type) {
  std::vector<std::vector<float>> vectors;
  for (const v1::Vector& vector : result.vectors()) {
    absl::StatusOr<std::vector<float>> values = DecodeVector(vector, type);
    if (!values.ok()) return values.status();
    vectors.push_back(*std::move(values));
  }
  return vectors;
}

double Norm(absl::Span<const float> vector) {
  double sum = 0;
  for (const float v : vector) sum += double{v} * v;
  return std::sqrt(sum);
}

double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  double dot = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) dot += double{a[i]} * b[i];
  const double norms = Norm(a) * Norm(b);
  return norms > 0 ? dot / norms : 0;
}

}  // namespace lion::client
