// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Patches, gates, feature maps along paths, and row sums. A token belongs to one warp, or to one block where it has
// many heads; sums run over a lane's columns in order and then over the lanes in one tree.

#include <cuda_runtime.h>

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/image_launch.h"
#include "model/kernels/cuda/rows_device.cuh"

namespace lion::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr float kRowSumEps = 1e-6f;

__device__ __forceinline__ void FromFloat(float x, float* y) { *y = x; }
__device__ __forceinline__ void FromFloat(float x, __nv_bfloat16* y) { *y = __float2bfloat16(x); }
__device__ __forceinline__ void FromFloat(float x, __half* y) { *y = __float2half(x); }

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// The token at a place of a path, and the place of a token: both count from the picture's first, cls is 0 in both.
__device__ __forceinline__ int TokenAt(int path, int side, int place) {
  if (place == 0) return 0;
  const int line = (place - 1) / side;
  const int along = (place - 1) % side;
  const int at = line % 2 == 0 ? along : side - 1 - along;
  return 1 + (path == 0 ? line * side + at : at * side + line);
}
__device__ __forceinline__ int PlaceOf(int path, int side, int token) {
  if (token == 0) return 0;
  const int row = (token - 1) / side;
  const int column = (token - 1) % side;
  const int line = path == 0 ? row : column;
  const int at = path == 0 ? column : row;
  return 1 + line * side + (line % 2 == 0 ? at : side - 1 - at);
}

template <class T>
__global__ void __launch_bounds__(kThreads) UnfoldKernel(UnfoldParams params) {
  const int64_t t = blockIdx.x;
  const int index = static_cast<int>(params.tokens.index[t]);
  const int side = static_cast<int>(params.tokens.side[t]);
  const int p = params.p;
  const int K = 3 * p * p;
  const int64_t S = static_cast<int64_t>(side) * p;
  const float* pixels = params.pixels + static_cast<int64_t>(params.tokens.start[t]) * K;
  T* patch = static_cast<T*>(params.patches) + t * params.W;
  const int row = index > 0 ? (index - 1) / side : 0;
  const int column = index > 0 ? (index - 1) % side : 0;
  for (int k = threadIdx.x; k < params.W; k += kThreads) {
    float value = 0;
    if (index > 0 && k < K) {
      const int c = k / (p * p);
      const int y = k / p % p;
      value = pixels[(c * S + row * p + y) * S + column * p + k % p];
    }
    FromFloat(value, patch + k);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) EmbedKernel(ImageEmbedParams params) {
  const int64_t t = blockIdx.x;
  const uint32_t index = params.tokens.index[t];
  T* x = static_cast<T*>(params.x) + t * params.W;
  for (int e = threadIdx.x; e < params.W; e += kThreads) {
    float value = index == 0 ? params.cls[e] : ToFloat(x[e]);
    if (params.position_table != nullptr) value += params.position_table[static_cast<int64_t>(index) * params.W + e];
    FromFloat(value, x + e);
  }
}

// A warp a token; the block's tokens find the weights in the L1 cache.
template <class T>
__global__ void __launch_bounds__(kThreads) GateKernel(ImageGateParams params) {
  const int lane = threadIdx.x % kLanes;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (t >= params.T) return;
  const T* u = static_cast<const T*>(params.u) + t * params.W;
  for (int g = 0; g < params.G; ++g) {
    const float* weight = params.weight + static_cast<int64_t>(g) * params.W;
    float dot = 0;
    for (int column = lane * kVector; column < params.W; column += kLanes * kVector) {
      float a[kVector];
      float b[kVector];
      Load8(u + column, a);
      Load8(weight + column, b);
#pragma unroll
      for (int i = 0; i < kVector; ++i) dot = fmaf(a[i], b[i], dot);
    }
    const float z = WarpSum(dot) + params.bias[g];
    if (lane != 0) continue;
    const float log_a = fmaxf(-(fmaxf(z, 0.f) + log1pf(expf(-fabsf(z)))), -30.f);
    params.log_a[t * params.G + g] = isnan(z) ? z : log_a;
  }
}

// phi of one head's columns, kColumns of which this lane holds: lane, lane + 32, ... Zero past the true width.
template <int kColumns>
__device__ __forceinline__ void FeatureMap(float (&x)[kColumns], int lane, int D, bool unit) {
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const float v = x[c];
    float out;
    if (unit) {
      const float e = expf(-fabsf(v));
      out = (v < 0 ? v * e : v) / (1.f + e) + 0.5f;
    } else {
      out = v < 0 ? expf(v) : v + 1.f;
    }
    x[c] = lane + c * kLanes < D ? out : 0.f;
    squares = fmaf(x[c], x[c], squares);
  }
  if (!unit) return;
  const float scale = 1.f / sqrtf(WarpSum(squares));
#pragma unroll
  for (int c = 0; c < kColumns; ++c) x[c] *= scale;
}

// A block a place in every path; its warps take heads in turn.
template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads) PathKernel(PathParams params) {
  constexpr int kDp = kColumns * kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t t = blockIdx.x;
  const int place = static_cast<int>(params.tokens.index[t]);
  const int side = static_cast<int>(params.tokens.side[t]);
  const int64_t start = params.tokens.start[t];
  const int H = params.H;
  const int heads = 2 * params.P * H;
  const T* qkv = static_cast<const T*>(params.qkv);
  T* out = static_cast<T*>(params.path_qkv) + t * 3 * heads * kDp;
  for (int i = threadIdx.x / kLanes; i < params.P * H; i += kWarps) {
    const int path = i / H;
    const int h = i % H;
    const int64_t source = params.P == 1 ? t : start + TokenAt(path, side, place);
    float x[3][kColumns];
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      const T* from = qkv + ((source * 3 + part) * H + h) * kDp;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) x[part][c] = ToFloat(from[c * kLanes + lane]);
    }
    FeatureMap(x[0], lane, params.D, params.unit);
    FeatureMap(x[1], lane, params.D, params.unit);
#pragma unroll
    for (int kind = 0; kind < 2; ++kind) {
      const int head = (2 * path + kind) * H + h;
#pragma unroll
      for (int part = 0; part < 3; ++part) {
        T* to = out + (static_cast<int64_t>(part) * heads + head) * kDp;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const bool ones = kind == 1 && part == 2;
          FromFloat(ones ? (lane == 0 && c == 0 ? 1.f : 0.f) : x[part][c], to + c * kLanes + lane);
        }
      }
      if (params.log_gates != nullptr && lane == 0) {
        params.path_log_a[t * heads + head] = place == 0 ? 0.f : params.log_gates[source * params.P * H + path * H + h];
      }
    }
  }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads) RowSumKernel(RowSumParams params) {
  const int64_t t = blockIdx.x;
  const int index = static_cast<int>(params.tokens.index[t]);
  const int side = static_cast<int>(params.tokens.side[t]);
  const int64_t start = params.tokens.start[t];
  const int H = params.H;
  const int Dp = params.Dp;
  const int64_t stride = static_cast<int64_t>(2) * params.P * H * Dp;
  const S* path_y = static_cast<const S*>(params.path_y);
  T* y = static_cast<T*>(params.y) + t * H * Dp;
  for (int i = threadIdx.x; i < H * Dp; i += kThreads) {
    const int h = i / Dp;
    float numerator = 0;
    float denominator = 0;
    for (int path = 0; path < params.P; ++path) {
      const int64_t at = params.P == 1 ? t : start + PlaceOf(path, side, index);
      const S* heads = path_y + at * stride + static_cast<int64_t>(2) * path * H * Dp;
      numerator += ToFloat(heads[i]);
      denominator += ToFloat(heads[(H + h) * Dp]);
    }
    const float value = numerator / (denominator + static_cast<float>(params.P) * kRowSumEps);
    FromFloat(i % Dp < params.D ? value : 0.f, y + i);
  }
}

unsigned Blocks(int64_t n) { return static_cast<unsigned>(n); }

absl::Status CheckHeads(int P, int H, int Dp, int D) {
  if (P < 1 || P > 2 || H < 1 || D < 1 || D > Dp || (Dp != 32 && Dp != 64 && Dp != 128)) {
    return absl::InvalidArgumentError(
        absl::StrCat("image: ", P, " paths of ", H, " heads of ", D, " columns stored in ", Dp));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LaunchUnfold(const UnfoldParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.tokens.T, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    UnfoldKernel<T><<<Blocks(p.tokens.T), kThreads, 0, stream>>>(p);
    return LaunchStatus("UnfoldKernel");
  });
}

absl::Status LaunchImageEmbed(const ImageEmbedParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.tokens.T, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    EmbedKernel<T><<<Blocks(p.tokens.T), kThreads, 0, stream>>>(p);
    return LaunchStatus("EmbedKernel");
  });
}

absl::Status LaunchImageGates(const ImageGateParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.T, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    GateKernel<T><<<Blocks((p.T + kWarps - 1) / kWarps), kThreads, 0, stream>>>(p);
    return LaunchStatus("GateKernel");
  });
}

absl::Status LaunchPaths(const PathParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckHeads(p.P, p.H, p.Dp, p.D));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const unsigned blocks = Blocks(p.tokens.T);
    if (p.Dp == 32) PathKernel<T, 1><<<blocks, kThreads, 0, stream>>>(p);
    if (p.Dp == 64) PathKernel<T, 2><<<blocks, kThreads, 0, stream>>>(p);
    if (p.Dp == 128) PathKernel<T, 4><<<blocks, kThreads, 0, stream>>>(p);
    return LaunchStatus("PathKernel");
  });
}

absl::Status LaunchRowSums(const RowSumParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckHeads(p.P, p.H, p.Dp, p.D));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    if (p.sums_float32) {
      RowSumKernel<float, T><<<Blocks(p.tokens.T), kThreads, 0, stream>>>(p);
    } else {
      RowSumKernel<T, T><<<Blocks(p.tokens.T), kThreads, 0, stream>>>(p);
    }
    return LaunchStatus("RowSumKernel");
  });
}

}  // namespace lion::cuda
