// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_BENCH_PRODUCT_FLOOR_H_
#define LION_BENCH_PRODUCT_FLOOR_H_

// The floor that an encoder on a GPU is measured against: its layers' four matrix products alone, each by the fastest
// algorithm that cuBLASLt has for that number of rows, without bias, on values like the encoder's: normal activations,
// for `down` GELU of them, and weights of an encoder's size.
//
// There are two, since a GPU that does nothing but products soon lowers its clock to keep within its power: "sustained"
// is all layers' products in a row, again and again, which is what a stream of batches can come near; "rested" is each
// product alone after a pause, which no mix of kernels can beat.

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/cuda_events.h"
#include "model/cuda_memory.h"
#include "model/types.h"

namespace lion::bench {

// Milliseconds of one layer.
struct FloorTimes {
  double qkv = 0;
  double out = 0;
  double up = 0;
  double down = 0;
  double sum = 0;
};

struct Floors {
  FloorTimes sustained;
  FloorTimes rested;
};

// On the current device. One thread.
class ProductFloor {
 public:
  static constexpr int64_t kMaxRows = 131072;

  struct Options {
    int64_t E = 768;
    int64_t FF = 3072;
    int64_t num_layers = 12;
    DType dtype = DType::kBFloat16;  // of the operands. kFp8 is e4m3 with results in bfloat16; kFloat32 is not TF32
  };

  // Allocates and fills the operands. RESOURCE_EXHAUSTED without memory; INVALID_ARGUMENT for kInt8.
  static absl::StatusOr<std::unique_ptr<ProductFloor>> Create(const Options& options);
  ~ProductFloor();

  // Medians over repeats, for products of T rows; above kMaxRows they are those of kMaxRows, scaled: no index of a
  // product's matrices is to leave 32 bits. The first call for a T tries the algorithms.
  absl::StatusOr<Floors> Measure(int64_t T, int repeats);

 private:
  struct Product;

  explicit ProductFloor(const Options& options);
  absl::StatusOr<std::array<cublasLtMatmulAlgo_t, 4>> Choose(int64_t T);
  absl::Status Run(const Product& product, int64_t T, const cublasLtMatmulAlgo_t& algorithm) const;
  // One run of the product by itself: milliseconds.
  absl::StatusOr<double> Time(const Product& product, int64_t T, const cublasLtMatmulAlgo_t& algorithm);
  absl::StatusOr<FloorTimes> MeasureSustained(int64_t T, int repeats);
  absl::StatusOr<FloorTimes> MeasureRested(int64_t T, int repeats);

  const Options options_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cudaStream_t stream_ = nullptr;
  DeviceBuffer workspace_;
  DeviceBuffer x_;       // (kMaxRows, E): normal
  DeviceBuffer hidden_;  // (kMaxRows, FF): GELU of normal values
  DeviceBuffer y_;
  DeviceBuffer weight_;
  StageTimer timer_;
  std::map<int64_t, std::array<cublasLtMatmulAlgo_t, 4>> choices_;  // by T
};

}  // namespace lion::bench

#endif  // LION_BENCH_PRODUCT_FLOOR_H_
