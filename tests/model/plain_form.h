// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_PLAIN_FORM_H_
#define LION_TESTS_MODEL_PLAIN_FORM_H_

// The text encoder as plain torch operations on one sequence: M is built whole, nothing is fused, packed or chunked.
//
// In fp64 it is the truth that the engine is tested against. In bfloat16 it is the yardstick for the engine's error
// there: x, q, k, v, scores and all products in that type; z, log a, their sums, M and LayerNorm's statistics in fp32.
// In int8 likewise: the linear layers round x by the largest value of each token and W by that of each output channel,
// and sum exactly; all else is fp32.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/types.h"
#include "tests/model/random_model.h"

namespace lion {

// kInt8 and kFp8: the products' operands rounded with a scale a row, and a scale an output channel of the weights; what
// is around them in float32 and bfloat16.
enum class PlainType { kFloat64, kFloat32, kBFloat16, kFloat16, kInt8, kFp8 };

// The last hidden states (L, E) of ids with type ids all 0.
std::vector<double> PlainForm(const RandomModelOptions& options, const std::map<std::string, NamedTensor>& tensors,
                              const std::vector<uint32_t>& ids, PlainType type);

// The same of a model of one layer without absolute positions, at some positions of a sequence that may be very long:
// (positions, E). What is made of a token there depends on its id alone, so that a position costs O(L) for each head,
// and the sequence O(L) memory. Attention is the full one at any length; in lower types each of its scores is rounded
// as in PlainForm, and their sum over tokens is exact.
std::vector<double> PlainFormAt(const RandomModelOptions& options, const std::map<std::string, NamedTensor>& tensors,
                                const std::vector<uint32_t>& ids, const std::vector<int64_t>& positions,
                                PlainType type);

}  // namespace lion

#endif  // LION_TESTS_MODEL_PLAIN_FORM_H_
