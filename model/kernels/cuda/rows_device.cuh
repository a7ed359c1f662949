// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ROWS_DEVICE_CUH_
#define LION_MODEL_KERNELS_CUDA_ROWS_DEVICE_CUH_

// What the row kernels share on the device: eight consecutive elements of a row between memory and fp32 registers, and
// the dispatch by type. For .cu files alone.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion::cuda {

inline constexpr int kVector = 8;  // consecutive elements that a thread holds: 16 bytes of a 16-bit type

__device__ __forceinline__ void Load8(const float* p, float (&v)[kVector]) {
  const float4 a = reinterpret_cast<const float4*>(p)[0];
  const float4 b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

__device__ __forceinline__ void Load8(const __nv_bfloat16* p, float (&v)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
}

__device__ __forceinline__ void Load8(const __half* p, float (&v)[kVector]) {
  union {
    uint4 raw;
    __half2 pairs[4];
  } in;
  in.raw = *reinterpret_cast<const uint4*>(p);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(in.pairs[i]);
    v[2 * i] = pair.x;
    v[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void Store8(const float (&v)[kVector], float* p) {
  reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ __forceinline__ void Store8(const float (&v)[kVector], __nv_bfloat16* p) {
  union {
    __nv_bfloat162 pairs[4];
    uint4 raw;
  } out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<uint4*>(p) = out.raw;
}

__device__ __forceinline__ void Store8(const float (&v)[kVector], __half* p) {
  union {
    __half2 pairs[4];
    uint4 raw;
  } out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.pairs[i] = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<uint4*>(p) = out.raw;
}

// e4m3: to nearest, ties to even; what exceeds 448 becomes 448, NaN stays NaN.
__device__ __forceinline__ void Store8Fp8(const float (&v)[kVector], uint8_t* p) {
  union {
    __nv_fp8x2_storage_t pairs[4];
    uint2 raw;
  } out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.pairs[i] = __nv_cvt_float2_to_fp8x2(make_float2(v[2 * i], v[2 * i + 1]), __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<uint2*>(p) = out.raw;
}

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }

// Calls fn with a null pointer of the element type.
template <class Function>
absl::Status WithType(ElementType type, const Function& fn) {
  switch (type) {
    case ElementType::kFloat32:
      return fn(static_cast<float*>(nullptr));
    case ElementType::kBFloat16:
      return fn(static_cast<__nv_bfloat16*>(nullptr));
    case ElementType::kFloat16:
      return fn(static_cast<__half*>(nullptr));
  }
  return absl::InvalidArgumentError(absl::StrCat("rows of an unknown type ", static_cast<int>(type)));
}

inline absl::Status CheckRowShape(int64_t T, int W) {
  if (T < 1) return absl::InvalidArgumentError(absl::StrCat("T ", T, " is not positive"));
  if (W < 16 || W % 16 != 0 || W > kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("W ", W, " is not a multiple of 16 up to ", kMaxNormWidth));
  }
  return absl::OkStatus();
}

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ROWS_DEVICE_CUH_
