// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kThreads = 256;
constexpr int kVector = 8;                       // consecutive elements that a lane holds
constexpr int kChunkWidth = kLanes * kVector;    // columns that a warp covers at a time
constexpr int kMaxSharedGateBytes = 100 * 1024;  // two blocks a multiprocessor

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

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

// The sum over the warp, the same bits in every lane.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
  return x;
}

__device__ __forceinline__ float LogDecay(float z) {
  // r = sigmoid(-|z|): sigmoid(z) where z < 0, sigmoid(-z) elsewhere.
  const float e = expf(-fabsf(z));
  const float r = e / (1.f + e);
  const float log_a = z < 0 ? log1pf(1e-7f - r) : logf(r + 1e-7f);
  return isnan(z) ? z : fminf(log_a, 0.f);
}

// Where a row's values come from, before they are normalised.
struct EmbedSource {
  const uint32_t* ids;
  const uint32_t* type_ids;
  const uint32_t* positions;
  const float* words;
  const float* types;
  const float* position_table;
  int W;

  struct Row {
    const float* word;
    const float* type;
    const float* position;
  };
  __device__ __forceinline__ Row At(int64_t t) const {
    return {words + static_cast<int64_t>(ids[t]) * W, types + static_cast<int64_t>(type_ids[t]) * W,
            positions == nullptr ? nullptr : position_table + static_cast<int64_t>(positions[t]) * W};
  }
  static __device__ __forceinline__ void Load(const Row& row, int column, float (&v)[kVector]) {
    float other[kVector];
    Load8(row.word + column, v);
    Load8(row.type + column, other);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] += other[i];
    if (row.position == nullptr) return;
    Load8(row.position + column, other);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] += other[i];
  }
};

template <class T>
struct AddSource {
  const T* x;
  const T* delta;
  int W;

  struct Row {
    const T* x;
    const T* delta;
  };
  __device__ __forceinline__ Row At(int64_t t) const { return {x + t * W, delta == nullptr ? nullptr : delta + t * W}; }
  static __device__ __forceinline__ void Load(const Row& row, int column, float (&v)[kVector]) {
    Load8(row.x + column, v);
    if (row.delta == nullptr) return;
    float other[kVector];
    Load8(row.delta + column, other);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] += other[i];
  }
};

// A warp takes kRows rows at a time and keeps them in registers: lane l has columns (32 c + l) * 8 ... + 7 of chunk c.
// Two rows share what is read of gamma, beta and the gates' weights; each goes through the same instructions.
template <int kChunks>
constexpr int kRowsAtOnce = kChunks <= 4 ? 2 : 1;

template <class T, int kChunks, class Source>
__global__ void __launch_bounds__(kThreads, kChunks <= 8 ? 2 : 1)
    NormKernel(Source source, NormParams norm, GateParams gates, int gates_in_shared, int64_t num_rows, int W, T* out) {
  constexpr int kRows = kRowsAtOnce<kChunks>;
  extern __shared__ float4 shared_gates[];
  const int lane = threadIdx.x % kLanes;
  const int chunks = (W + kChunkWidth - 1) / kChunkWidth;
  const float4* gate_weight = reinterpret_cast<const float4*>(gates.weight);
  if (gates_in_shared != 0) {
    const int n = gates.H * chunks * (kChunkWidth / 4);
    for (int i = threadIdx.x; i < n; i += kThreads) shared_gates[i] = gate_weight[i];
    gate_weight = shared_gates;
    __syncthreads();
  }

  const int64_t num_warps = static_cast<int64_t>(gridDim.x) * (kThreads / kLanes);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  for (int64_t first = warp * kRows; first < num_rows; first += num_warps * kRows) {
    float v[kRows][kChunks][kVector];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      // Past the last row its values are read again and not written.
      const typename Source::Row row = source.At(min(first + r, num_rows - 1));
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int column = (c * kLanes + lane) * kVector;
        if (column < W) {
          Source::Load(row, column, v[r][c]);
        } else {
#pragma unroll
          for (int i = 0; i < kVector; ++i) v[r][c][i] = 0;
        }
      }
    }

    float scale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum += v[r][c][i];
      }
      const float mean = WarpSum(sum) / static_cast<float>(norm.num_true);
      float squares = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const int column = (c * kLanes + lane) * kVector + i;
          const bool counts = column < W && (column & norm.column_mask) < norm.true_width;
          v[r][c][i] = counts ? v[r][c][i] - mean : 0.f;
          squares = fmaf(v[r][c][i], v[r][c][i], squares);
        }
      }
      scale[r] = 1.f / sqrtf(WarpSum(squares) / static_cast<float>(norm.num_true) + norm.eps);
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = (c * kLanes + lane) * kVector;
      if (column >= W) continue;
      float gamma[kVector];
      float beta[kVector];
      Load8(norm.gamma + column, gamma);
      Load8(norm.beta + column, beta);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) v[r][c][i] = fmaf(v[r][c][i] * scale[r], gamma[i], beta[i]);
        if (first + r < num_rows) Store8(v[r][c], out + (first + r) * W + column);
      }
    }

    float z[kRows];
    for (int h = 0; h < gates.H; ++h) {
      const float4* w = gate_weight + h * chunks * (kChunkWidth / 4);
      float dot[kRows] = {};
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c >= chunks) continue;
        const float4 a = w[(2 * c) * kLanes + lane];
        const float4 b = w[(2 * c + 1) * kLanes + lane];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          dot[r] = fmaf(a.x, v[r][c][0], dot[r]);
          dot[r] = fmaf(a.y, v[r][c][1], dot[r]);
          dot[r] = fmaf(a.z, v[r][c][2], dot[r]);
          dot[r] = fmaf(a.w, v[r][c][3], dot[r]);
          dot[r] = fmaf(b.x, v[r][c][4], dot[r]);
          dot[r] = fmaf(b.y, v[r][c][5], dot[r]);
          dot[r] = fmaf(b.z, v[r][c][6], dot[r]);
          dot[r] = fmaf(b.w, v[r][c][7], dot[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float sum = WarpSum(dot[r]);
        if (lane == h % kLanes) z[r] = sum;
      }
      // Each lane has kept one head's z: their logarithms are taken side by side.
      if (h % kLanes == kLanes - 1 || h == gates.H - 1) {
        const int head = h / kLanes * kLanes + lane;
        if (head <= h) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            if (first + r < num_rows) gates.log_a[(first + r) * gates.H + head] = LogDecay(z[r] + gates.bias[head]);
          }
        }
      }
    }
  }
}

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
#pragma unroll 4
    for (int t = 0; t < block.count; ++t) {
      float v[kVector];
      Load8(row + static_cast<int64_t>(t) * W, v);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] += v[i];
    }
    Store8(sum, sums + static_cast<int64_t>(blockIdx.x) * W + column);
  }
}

__global__ void __launch_bounds__(kThreads) MeanKernel(const float* sums, int W, const PooledRow* rows, float* pooled) {
  const PooledRow row = rows[blockIdx.x];
  const int column = blockIdx.y * kThreads + threadIdx.x;
  if (column >= W) return;
  const float* block = sums + static_cast<int64_t>(row.first_block) * W + column;
  float sum = 0;
#pragma unroll 16
  for (int b = 0; b < row.num_blocks; ++b) sum += block[static_cast<int64_t>(b) * W];
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

int Multiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return count;
}

template <class T, int kChunks, class Source>
absl::Status LaunchNorm(const Source& source, const NormParams& norm, const GateParams& gates, int64_t T_, int W,
                        T* out, cudaStream_t stream) {
  const auto kernel = &NormKernel<T, kChunks, Source>;
  int64_t shared_bytes = static_cast<int64_t>(gates.H) * ((W + kChunkWidth - 1) / kChunkWidth) * kChunkWidth * 4;
  if (shared_bytes > kMaxSharedGateBytes) shared_bytes = 0;  // then the weights are read through the caches
  if (shared_bytes > 48 * 1024) {
    const absl::Status status = CudaStatus(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "cudaFuncSetAttribute");
    if (!status.ok()) return status;
  }
  const int64_t rows_a_block = kThreads / kLanes * kRowsAtOnce<kChunks>;
  // Blocks that have copied the gates' weights stay for many rows.
  const int64_t blocks =
      std::min<int64_t>((T_ + rows_a_block - 1) / rows_a_block, Multiprocessors() * (gates.H > 0 ? 2 : 4));
  kernel<<<static_cast<unsigned>(blocks), kThreads, shared_bytes, stream>>>(source, norm, gates, shared_bytes > 0, T_,
                                                                            W, out);
  return LaunchStatus("NormKernel");
}

template <class T, class Source>
absl::Status DispatchNorm(const Source& source, const NormParams& norm, const GateParams& gates, int64_t T_, int W,
                          T* out, cudaStream_t stream) {
  const int chunks = (W + kChunkWidth - 1) / kChunkWidth;
  if (chunks <= 1) return LaunchNorm<T, 1>(source, norm, gates, T_, W, out, stream);
  if (chunks <= 2) return LaunchNorm<T, 2>(source, norm, gates, T_, W, out, stream);
  if (chunks <= 3) return LaunchNorm<T, 3>(source, norm, gates, T_, W, out, stream);
  if (chunks <= 4) return LaunchNorm<T, 4>(source, norm, gates, T_, W, out, stream);
  if (chunks <= 8) return LaunchNorm<T, 8>(source, norm, gates, T_, W, out, stream);
  if (chunks <= 16) return LaunchNorm<T, 16>(source, norm, gates, T_, W, out, stream);
  return LaunchNorm<T, 32>(source, norm, gates, T_, W, out, stream);
}

absl::Status CheckWidth(int64_t T, int W) {
  if (T < 1) return absl::InvalidArgumentError(absl::StrCat("T ", T, " is not positive"));
  if (W < 16 || W % 16 != 0 || W > kMaxNormWidth) {
    return absl::InvalidArgumentError(absl::StrCat("W ", W, " is not a multiple of 16 up to ", kMaxNormWidth));
  }
  return absl::OkStatus();
}

// Calls fn with a null pointer of the element type.
template <class Function>
absl::Status WithType(ElementType type, const Function& fn) {
  switch (type) {
    case ElementType::kFloat32:
      return fn(static_cast<float*>(nullptr));
    case ElementType::kBFloat16:
      return fn(static_cast<__nv_bfloat16*>(nullptr));
    default:
      return absl::InvalidArgumentError("rows are float32 or bfloat16");
  }
}

}  // namespace

std::vector<float> PackGates(const float* weight, int64_t H, int64_t E) {
  const int64_t chunks = (E + kChunkWidth - 1) / kChunkWidth;
  std::vector<float> packed(H * chunks * kChunkWidth, 0.f);
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t e = 0; e < E; ++e) {
      const int64_t chunk = e / kChunkWidth;
      const int64_t lane = e % kChunkWidth / kVector;
      const int64_t half = e % kVector / 4;
      // A warp's 16-byte reads of one half lie side by side: no two lanes meet in a bank.
      packed[(((h * chunks + chunk) * 2 + half) * kLanes + lane) * 4 + e % 4] = weight[h * E + e];
    }
  }
  return packed;
}

absl::Status LaunchEmbed(const EmbedParams& p, cudaStream_t stream) {
  const absl::Status status = CheckWidth(p.T, p.W);
  if (!status.ok()) return status;
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const EmbedSource source = {p.ids, p.type_ids, p.positions, p.words, p.types, p.position_table, p.W};
    return DispatchNorm<T>(source, p.norm, p.gates, p.T, p.W, static_cast<T*>(p.x), stream);
  });
}

absl::Status LaunchAddNorm(const AddNormParams& p, cudaStream_t stream) {
  const absl::Status status = CheckWidth(p.T, p.W);
  if (!status.ok()) return status;
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const AddSource<T> source = {static_cast<const T*>(p.x), static_cast<const T*>(p.delta), p.W};
    return DispatchNorm<T>(source, p.norm, p.gates, p.T, p.W, static_cast<T*>(p.x), stream);
  });
}

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
  absl::Status status = CheckWidth(p.num_rows, p.W);
  if (!status.ok()) return status;
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    SumBlocksKernel<<<p.num_blocks, kThreads, 0, stream>>>(static_cast<const T*>(p.x), p.W, p.blocks, p.sums);
    absl::Status launched = LaunchStatus("SumBlocksKernel");
    if (!launched.ok()) return launched;
    const dim3 grid(p.num_rows, (p.W + kThreads - 1) / kThreads);
    MeanKernel<<<grid, kThreads, 0, stream>>>(p.sums, p.W, p.rows, p.pooled);
    return LaunchStatus("MeanKernel");
  });
}

absl::Status LaunchTokens(const TokensParams& p, cudaStream_t stream) {
  absl::Status status = CheckWidth(p.num_blocks, p.W);
  if (!status.ok()) return status;
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    TokensKernel<<<p.num_blocks, kThreads, 0, stream>>>(static_cast<const T*>(p.x), p.W, p.E, p.blocks, p.out);
    return LaunchStatus("TokensKernel");
  });
}

}  // namespace lion::cuda
