// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_LINEAR_H_
#define LION_MODEL_LINEAR_H_

// y = x W^T + b with weights packed once, the same bits for a row whatever runs beside it.
//
// In bfloat16 and int8, where the CPU has matrix tiles and K is a whole number of their steps, our own kernel takes it
// (kernels/cpu/product_amx.h): any number of rows, the same bits in all. Else oneDNN does, as follows.
//
// oneDNN compiles a kernel for every number of rows, and on some CPUs (AMX in bfloat16) two of them sum in different
// orders. So rows run in tiles of a few fixed sizes, created at load, and only of sizes that were seen to give the same
// bits: for each (N, K, dtype) all sizes are tried once on the same random data, and the largest set that agrees is
// kept.
//
// int8: x is rounded by the caller, row by row (QuantizeRow in kernels/cpu/rows.h), W here, once, by the largest value
// of each output channel. The products are summed in int32, exactly, whatever the order; what comes out is the sum
// times the channel's scale, rounded to bfloat16. The row's scale and the bias are the caller's to apply: it has a pass
// over y to make in any case. y = out * (the row's scale) + bias(). Our own kernel applies them itself if asked to
// (RunWhole).

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "model/types.h"

namespace lion {

class Linear {
 public:
  // Rows of x that must exist past the last one that counts (their values are of no interest, but must be initialised).
  static constexpr int64_t kMaxTileRows = 512;

  // OK if this CPU's int8 products are exact. UNIMPLEMENTED where they are not: before VNNI, pairs of products saturate
  // at 16 bits. Must run on a ComputePool's worker.
  static absl::Status CheckInt8();

  // What is to be added to the bytes of an int8 operand, modulo 256: 0 where the CPU multiplies signed bytes by signed
  // ones, 128 where its x must be unsigned.
  static uint8_t Int8Offset();

  // weight: (N, K) row-major fp32; bias: (N) or null = none. Copied and packed; the caller's may go. dtype is kFloat32,
  // kBFloat16 or kInt8: of x and W; y is float in kFloat32, else bfloat16. Must run on a ComputePool's worker.
  static std::unique_ptr<Linear> Pack(const float* weight, const float* bias, int64_t N, int64_t K, DType dtype);

  ~Linear();

  // Calls use(first_row, num_rows, y) for tiles that together cover [0, rows) in order; y: (num_rows, N), valid during
  // the call, in which it may be overwritten. It may be the x of a product with the same tile_rows(): what that one
  // reads past num_rows is there. x: (rows + kMaxTileRows, K), dense, in the dtype. Must run on a ComputePool's worker.
  // Thread-safe.
  void Run(const void* x, int64_t rows, const std::function<void(int64_t, int64_t, void*)>& use) const;
  // Whether our own kernel runs it, in which case x need be readable for kTileSlackRows past the last row only, and so
  // is every y: it may be another such product's x as it is.
  bool on_tiles() const;
  static constexpr int64_t kTileSlackRows = 31;
  // Run with all that makes y whole done in the product's shadow, on_tiles() only: in int8 the rows' scales and the
  // bias (scales: (rows), of x's; not read in bfloat16), then erf GELU (kernels/cpu/rows.h) if asked for. y is
  // bfloat16.
  enum class After { kNothing, kGelu };
  void RunWhole(const void* x, const float* scales, int64_t rows, After after,
                const std::function<void(int64_t, int64_t, void*)>& use) const;
  // The same, without GELU, to places of its own: column n of row r to
  // y[n / group_width * group_stride + r * group_width + n % group_width], group_width a multiple of 32.
  void RunToGroups(const void* x, const float* scales, int64_t rows, int64_t group_width, int64_t group_stride,
                   uint16_t* y) const;

  int64_t out_width() const { return N_; }
  int64_t in_width() const { return K_; }
  DType dtype() const { return dtype_; }
  // (N), zeros where Pack had none. kInt8 only: elsewhere, and in RunWhole, y has it already.
  const float* bias() const { return bias_.data(); }

  // oneDNN's tile sizes in use, ascending; kMaxTileRows alone where our kernel runs.
  const std::vector<int64_t>& tile_rows() const { return tile_rows_; }

 private:
  struct Packed;
  Linear() = default;
  int64_t N_ = 0;
  int64_t K_ = 0;
  DType dtype_ = DType::kFloat32;
  std::vector<float> bias_;
  std::vector<int64_t> tile_rows_;
  std::unique_ptr<Packed> packed_;
};

}  // namespace lion

#endif  // LION_MODEL_LINEAR_H_
