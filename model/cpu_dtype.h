// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CPU_DTYPE_H_
#define LION_MODEL_CPU_DTYPE_H_

// The CPU's precision where nobody names one.

#include "absl/status/statusor.h"
#include "model/compute_pool.h"
#include "model/types.h"

namespace lion {

struct CpuDTypeChoice {
  DType dtype = DType::kFloat32;  // or kBFloat16
  double speedup = 0;             // of bfloat16 over float32 in a large product; 0 = the CPU has no bfloat16 to measure
};

// bfloat16 where the CPU multiplies it in hardware (AVX-512 or AMX) and a batch's product was measured to be at least
// kMinBFloat16Speedup times as fast as float32's: with less, its rounding is not worth it. On the demo model it finds
// what float32 finds (docs/benchmarks.md). int8 is never chosen. Takes some hundredths of a second, on one of pool's
// workers. Errors as ComputePool::Run's.
absl::StatusOr<CpuDTypeChoice> ChooseCpuDType(ComputePool* pool);

inline constexpr double kMinBFloat16Speedup = 1.25;

}  // namespace lion

#endif  // LION_MODEL_CPU_DTYPE_H_
