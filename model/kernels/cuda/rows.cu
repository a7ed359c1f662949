// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// GELU, means, tokens and the e4m3 copy: one pass over the rows each, bound by memory. LayerNorm is in rows_norm.cu.

#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/rows_device.cuh"
#include "model/kernels/cuda/rows_launch.h"

namespace lion::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kThreads = 256;

__device__ __forceinline__ float Gelu(float x) {
  // fminf and fmaxf drop a NaN; x itself carries it to the result.
  const float u = fmaxf(fminf(x * 0.70710678118654752f, 4.f), -4.f);
  const float u2 = u * u;
  float p = -2.72614225801306e-10f;
  p = fmaf(p, u2, 2.77068142495902e-08f);
  p = fmaf(p, u2, -2.10102402082508e-06f);
  p = fmaf(p, u2, -5.69250639462346e-05f);
  p = fmaf(p, u2, -7.34990630326855e-04f);
  p = fmaf(p, u2, -2.95459980854025e-03f);
  p = fmaf(p, u2, -1.60960333262415e-02f);
  float q = -1.45660718464996e-05f;
  q = fmaf(q, u2, -2.13374055278905e-04f);
  q = fmaf(q, u2, -1.68282697438203e-03f);
  q = fmaf(q, u2, -7.37332916720468e-03f);
  q = fmaf(q, u2, -1.42647390514189e-02f);
  const float erf = __fdividef(p * u, q);
  const float half = 0.5f * x;
  return fmaf(half, erf, half);
}

template <class T>
__global__ void __launch_bounds__(kThreads) GeluKernel(T* x, int64_t num_vectors) {
  constexpr int kUnroll = 4;  // loads in flight
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads * kUnroll + threadIdx.x;
  float v[kUnroll][kVector];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = first + u * kThreads;
    if (i < num_vectors) Load8(x + i * kVector, v[u]);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t i = first + u * kThreads;
    if (i >= num_vectors) return;
#pragma unroll
    for (int k = 0; k < kVector; ++k) v[u][k] = Gelu(v[u][k]);
    Store8(v[u], x + i * kVector);
  }
}

__global__ void __launch_bounds__(kThreads) TanhKernel(float* x, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) x[i] = tanhf(x[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) SumBlocksKernel(const T* x, int W, const TokenBlock* blocks, float* sums) {
  const TokenBlock block = blocks[blockIdx.x];
  for (int column = threadIdx.x * kVector; column < W; column += kThreads * kVector) {
    const T* row = x + static_cast<int64_t>(block.start) * W + column;
    float sum[kVector] = {};
#pragma unroll 16
    for (int t = 0; t < block.count; ++t) {
      float v[kVector];
      Load8(row + static_cast<int64_t>(t) * W, v);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] += v[i];
    }
    Store8(sum, sums + static_cast<int64_t>(blockIdx.x) * W + column);
  }
}

// A column of a group a thread: the sums from the group's start, then, in place, those to its end.
__global__ void __launch_bounds__(kThreads)
    ScanGroupsKernel(float* sums, float* __restrict__ prefixes, int W, const BlockGroup* groups) {
  const BlockGroup group = groups[blockIdx.x];
  const int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= W) return;
  const int64_t first = static_cast<int64_t>(group.first_block) * W + column;
  float sum = 0;
#pragma unroll 16
  for (int b = 0; b < group.num_blocks; ++b) {
    sum += __ldcg(sums + first + static_cast<int64_t>(b) * W);
    prefixes[first + static_cast<int64_t>(b) * W] = sum;
  }
  sum = 0;
#pragma unroll 16
  for (int b = group.num_blocks - 1; b >= 0; --b) {
    sum += sums[first + static_cast<int64_t>(b) * W];
    sums[first + static_cast<int64_t>(b) * W] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    MeanKernel(const float* sums, const float* prefixes, int W, const PooledRow* rows, float* pooled) {
  const PooledRow row = rows[blockIdx.x];
  const int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= W) return;
  const float* block = sums + static_cast<int64_t>(row.first_block) * W + column;
  float sum = 0;
  if (row.group_end > 0) {
    const int last = row.first_block + row.num_blocks - 1;
    sum = *block;
    if (last >= row.group_end) sum += prefixes[static_cast<int64_t>(last) * W + column];
  } else {
#pragma unroll 16
    for (int b = 0; b < row.num_blocks; ++b) sum += block[static_cast<int64_t>(b) * W];
  }
  pooled[static_cast<int64_t>(blockIdx.x) * W + column] = sum / static_cast<float>(row.count);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    TokensKernel(const T* x, int W, int E, const TokenBlock* blocks, float* out) {
  const TokenBlock block = blocks[blockIdx.x];
  for (int t = 0; t < block.count; ++t) {
    const T* from = x + static_cast<int64_t>(block.start + t) * W;
    float* to = out + (block.out + t) * E;
    for (int column = threadIdx.x; column < E; column += kThreads) to[column] = ToFloat(from[column]);
  }
}

// A warp a row, read twice: the second time from the L1 cache.
template <class T>
__global__ void __launch_bounds__(kThreads) QuantizeKernel(const T* x, int64_t num_rows, int W, Fp8Rows fp8) {
  const int lane = threadIdx.x % kLanes;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (t >= num_rows) return;
  const T* row = x + t * W;
  float v[kVector];
  float largest = 0;
#pragma unroll 4
  for (int column = lane * kVector; column < W; column += kLanes * kVector) {
    Load8(row + column, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) largest = fmaxf(largest, fabsf(v[i]));
  }
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
  }
  // As in LayerNorm: NaN passes through e4m3, an infinity becomes NaN.
  largest = fmaxf(largest, kMinFp8Largest);
  const float inverse = kFp8Max / largest;
#pragma unroll 4
  for (int column = lane * kVector; column < W; column += kLanes * kVector) {
    Load8(row + column, v);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] *= inverse;
    Store8Fp8(v, fp8.values + t * W + column);
  }
  if (lane == 0) fp8.scales[t] = largest / kFp8Max;
}

}  // namespace

absl::Status LaunchGelu(ElementType type, void* x, int64_t n, cudaStream_t stream) {
  if (n < 16 || n % 16 != 0) return absl::InvalidArgumentError(absl::StrCat("n ", n, " is not a multiple of 16"));
  return WithType(type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const int64_t num_vectors = n / kVector;
    const int64_t blocks = (num_vectors + 4 * kThreads - 1) / (4 * kThreads);
    GeluKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(static_cast<T*>(x), num_vectors);
    return LaunchStatus("GeluKernel");
  });
}

absl::Status LaunchTanh(float* x, int64_t n, cudaStream_t stream) {
  if (n < 1) return absl::InvalidArgumentError(absl::StrCat("n ", n, " is not positive"));
  TanhKernel<<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(x, n);
  return LaunchStatus("TanhKernel");
}

absl::Status LaunchPool(const PoolParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.num_rows, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    SumBlocksKernel<<<p.num_blocks, kThreads, 0, stream>>>(static_cast<const T*>(p.x), p.W, p.blocks, p.sums);
    LION_RETURN_IF_ERROR(LaunchStatus("SumBlocksKernel"));
    const unsigned columns = (p.W + kThreads - 1) / kThreads;
    if (p.num_groups > 0) {
      ScanGroupsKernel<<<dim3(p.num_groups, columns), kThreads, 0, stream>>>(p.sums, p.prefixes, p.W, p.groups);
      LION_RETURN_IF_ERROR(LaunchStatus("ScanGroupsKernel"));
    }
    MeanKernel<<<dim3(p.num_rows, columns), kThreads, 0, stream>>>(p.sums, p.prefixes, p.W, p.rows, p.pooled);
    return LaunchStatus("MeanKernel");
  });
}

absl::Status LaunchTokens(const TokensParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.num_blocks, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    TokensKernel<<<p.num_blocks, kThreads, 0, stream>>>(static_cast<const T*>(p.x), p.W, p.E, p.blocks, p.out);
    return LaunchStatus("TokensKernel");
  });
}

absl::Status LaunchQuantize(const QuantizeParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.T, p.W));
  if (p.type != ElementType::kBFloat16) return absl::InvalidArgumentError("only bfloat16 rows become e4m3");
  const auto blocks = static_cast<unsigned>((p.T + kThreads / kLanes - 1) / (kThreads / kLanes));
  QuantizeKernel<<<blocks, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(p.x), p.T, p.W, p.fp8);
  return LaunchStatus("QuantizeKernel");
}

}  // namespace lion::cuda
