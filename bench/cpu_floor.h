// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_BENCH_CPU_FLOOR_H_
#define LION_BENCH_CPU_FLOOR_H_

// The floor of the CPU engine: the time that a model's matrix products take alone, by the fastest library at hand.
//
// Tried are MKL's products (at::linear), oneDNN's over packed weights, and for int8 also ATen's _int_mm, each in tiles
// of 256, 512 and 1,024 rows; the fastest counts. Every layer has weights of its own, as in the engine: they come from
// memory, not from a cache that one layer's would fit. Inputs and outputs of a tile are reused.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/compute_pool.h"
#include "model/types.h"

namespace lion {

struct ModelSize {
  int64_t width = 0;  // E; the feed-forward is 4 E wide
  int64_t num_layers = 0;
};

class CpuFloor {
 public:
  // Finds the fastest route. pool is borrowed.
  CpuFloor(const ModelSize& size, DType dtype, ComputePool* pool);
  ~CpuFloor();

  // Runs at least num_tokens through all layers' products, spread over the pool's workers; returns the number of tokens
  // it ran.
  int64_t Run(int64_t num_tokens);

  // "oneDNN packed, tiles of 512".
  const std::string& route() const { return route_; }
  // Of a token through all layers.
  double operations_per_token() const;

 private:
  struct Products;
  ModelSize size_;
  ComputePool* pool_;
  std::string route_;
  int64_t tile_ = 0;
  std::vector<std::unique_ptr<Products>> workers_;  // one a worker: weights are shared, tiles are not
};

}  // namespace lion

#endif  // LION_BENCH_CPU_FLOOR_H_
