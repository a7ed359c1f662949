// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_ROUNDING_H_
#define LION_MODEL_CUDA_ROUNDING_H_

// Weights on their way to a CUDA device in another type than fp32. Rounded on the host, to nearest; uploaded to the
// current device. RESOURCE_EXHAUSTED without memory.

#include <cstdint>

#include "absl/status/status.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion {

// values (n) in the type. INVALID_ARGUMENT naming the value for one that float16 does not hold (above 65,504).
absl::Status UploadAs(cuda::ElementType type, const float* values, int64_t n, DeviceBuffer* buffer);

// weight (N, K) in e4m3: the largest value of a row becomes 448, and scales (N), fp32, say what 1 stands for, in units
// of unit.
absl::Status UploadFp8(const float* weight, int64_t N, int64_t K, float unit, DeviceBuffer* values,
                       DeviceBuffer* scales);

}  // namespace lion

#endif  // LION_MODEL_CUDA_ROUNDING_H_
