// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_rounding.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/kernels/cpu/rows.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {

absl::Status UploadAs(cuda::ElementType type, const float* values, int64_t n, DeviceBuffer* buffer) {
  if (type == cuda::ElementType::kFloat32) return cuda::Assign(Upload(values, n * 4), buffer);
  std::vector<uint16_t> rounded(n);
  if (type == cuda::ElementType::kBFloat16) {
    ToBFloat16(values, rounded.data(), n);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      const auto half = static_cast<__half_raw>(__float2half_rn(values[i]));
      if ((half.x & 0x7FFF) == 0x7C00 && std::isfinite(values[i])) {
        return absl::InvalidArgumentError(absl::StrCat("a weight of ", values[i], " is above float16's 65504"));
      }
      rounded[i] = half.x;
    }
  }
  return cuda::Assign(Upload(rounded.data(), n * 2), buffer);
}

absl::Status UploadFp8(const float* weight, int64_t N, int64_t K, float unit, DeviceBuffer* values,
                       DeviceBuffer* scales) {
  std::vector<uint8_t> rounded(N * K);
  std::vector<float> row_scales(N);
  for (int64_t n = 0; n < N; ++n) {
    const float* row = weight + n * K;
    float largest = cuda::kMinFp8Largest;
    for (int64_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(row[k]));
    row_scales[n] = largest / cuda::kFp8Max / unit;
    const float inverse = cuda::kFp8Max / largest;
    for (int64_t k = 0; k < K; ++k) {
      rounded[n * K + k] = __nv_cvt_float_to_fp8(row[k] * inverse, __NV_SATFINITE, __NV_E4M3);
    }
  }
  LION_RETURN_IF_ERROR(cuda::Assign(Upload(row_scales.data(), N * 4), scales));
  return cuda::Assign(Upload(rounded.data(), N * K), values);
}

}  // namespace lion
