// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Attention in plain fp32, a whole row of one head a block, tile by tile: rows in fp32 and, in any type, rows of the
// recurrent form. Exact and slow: O(C + D) multiplications a column, and every element through shared memory.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "model/kernels/cuda/attention_kernels.h"

namespace lion::cuda {
namespace {

constexpr int kTile = kChunkTokens;
constexpr int kModeParallel = 0;
constexpr int kModeChunked = 1;
constexpr int kModeRecurrent = 2;

constexpr int kPlainThreads = 256;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float ToFloat(__half x) { return __half2float(x); }
__device__ void FromFloat(float x, float* y) { *y = x; }
__device__ void FromFloat(float x, __nv_bfloat16* y) { *y = __float2bfloat16(x); }
__device__ void FromFloat(float x, __half* y) { *y = __float2half(x); }

// One tile in fp32: n <= 64 tokens of a head.
template <int D>
struct PlainShared {
  float q[kTile][D + 1];
  float k[kTile][D + 1];
  float v[kTile][D + 1];
  float s[kTile][kTile + 1];
  float state[D][D + 1];
  double sum[kTile + 1];  // of log a over [start, i)
  double key_sum[kTile + 1];
};

template <typename T, int D>
__device__ void PlainLoad(const AttentionParams& p, int part, int token, int n, int head, float (*tile)[D + 1]) {
  const T* base = static_cast<const T*>(p.qkv);
  for (int i = threadIdx.x; i < n * D; i += kPlainThreads) {
    const int64_t row = static_cast<int64_t>(token + i / D) * 3 + part;
    tile[i / D][i % D] = ToFloat(base[(row * p.H + head) * D + i % D]);
  }
}

__device__ void PlainSums(const AttentionParams& p, int token, int n, int head, double* sum) {
  if (threadIdx.x != 0) return;
  sum[0] = 0;
  for (int i = 0; i < n; ++i) {
    double a = 0;
    if (p.log_a != nullptr) a = p.log_a[p.log_a_token_stride == 0 ? head : (token + i) * p.log_a_token_stride + head];
    sum[i + 1] = sum[i] + a;
  }
}

// y rows += or = s v, plus what the state holds for them: f(i) = prod of a between the state and row i. y (T, H, D) in
// fp32.
template <int D>
__device__ void PlainStore(const AttentionParams& p, int token, int n, int num_keys, int head, bool scores,
                           bool with_state, bool backward, bool accumulate, PlainShared<D>* sh, float* y) {
  for (int x = threadIdx.x; x < n * D; x += kPlainThreads) {
    const int i = x / D;
    const int e = x % D;
    float out = 0;
    if (scores) {
      for (int j = 0; j < num_keys; ++j) out += sh->s[i][j] * sh->v[j][e];
    }
    if (with_state) {
      float inter = 0;
      for (int d = 0; d < D; ++d) inter += sh->q[i][d] * sh->state[d][e];
      const double decay = backward ? sh->sum[n] - sh->sum[i + 1] : sh->sum[i];
      out += p.scale * expf(static_cast<float>(decay)) * inter;
    }
    float* at = y + (static_cast<int64_t>(token + i) * p.H + head) * D + e;
    *at = accumulate ? *at + out : out;
  }
}

// state = A state + sum_j f_j k_j v_j^T. The change of a tile is added up by itself, with A - 1 in place of A: each
// addition to a state that remembers a million tokens rounds at the state's size, much the same way every time, which
// errs by 1e-3 if every token makes one.
template <int D>
__device__ void PlainUpdate(int n, bool backward, PlainShared<D>* sh) {
  const float lost = expm1f(static_cast<float>(sh->sum[n]));
  for (int x = threadIdx.x; x < D * D; x += kPlainThreads) {
    float sum = lost * sh->state[x / D][x % D];
    for (int j = 0; j < n; ++j) {
      const double decay = backward ? sh->sum[j + 1] : sh->sum[n] - sh->sum[j];
      sum += expf(static_cast<float>(decay)) * sh->k[j][x / D] * sh->v[j][x % D];
    }
    sh->state[x / D][x % D] += sum;
  }
}

// all: every row, else the recurrent ones.
template <typename T, int D>
__global__ void __launch_bounds__(kPlainThreads) PlainRow(const AttentionParams p, bool all) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* sh = reinterpret_cast<PlainShared<D>*>(memory);
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[0]) return;
  const Segment s = p.segments[index];
  if (s.start != s.row_start || (!all && s.mode != kModeRecurrent)) return;
  const bool parallel = s.mode == kModeParallel;
  const int C = parallel ? kTile : s.mode == kModeChunked ? min(s.chunk, kTile) : 1;
  const int tiles = (s.row_length + C - 1) / C;
  auto size = [&](int tile) { return min(C, s.row_length - tile * C); };
  // Each element is added up by one thread, in fp32, and rounded once at the end.
  const bool wide = sizeof(T) == sizeof(float) || p.y_float32;
  auto* y = wide ? static_cast<float*>(p.y) : p.plain_y;
  auto round = [&] {
    if (wide) return;
    __syncthreads();
    for (int64_t x = threadIdx.x; x < static_cast<int64_t>(s.row_length) * D; x += kPlainThreads) {
      const int64_t at = (static_cast<int64_t>(s.row_start + x / D) * p.H + head) * D + x % D;
      FromFloat(y[at], static_cast<T*>(p.y) + at);
    }
  };

  for (int x = threadIdx.x; x < D * D; x += kPlainThreads) sh->state[x / D][x % D] = 0;
  for (int I = 0; I < tiles; ++I) {
    const int token = s.row_start + I * C;
    const int n = size(I);
    __syncthreads();
    PlainLoad<T, D>(p, 0, token, n, head, sh->q);
    PlainSums(p, token, n, head, sh->sum);
    // Chunked: the tile's own keys. Parallel: every tile's, nearest first.
    double between = 0;
    for (int turn = 0; turn < (parallel ? tiles : 1); ++turn) {
      const int J = turn <= I ? I - turn : turn;
      if (turn == I + 1) between = 0;
      const int num_keys = size(J);
      __syncthreads();
      PlainLoad<T, D>(p, 1, s.row_start + J * C, num_keys, head, sh->k);
      PlainLoad<T, D>(p, 2, s.row_start + J * C, num_keys, head, sh->v);
      PlainSums(p, s.row_start + J * C, num_keys, head, sh->key_sum);
      __syncthreads();
      for (int x = threadIdx.x; x < n * num_keys; x += kPlainThreads) {
        const int i = x / num_keys;
        const int j = x % num_keys;
        float dot = 0;
        for (int d = 0; d < D; ++d) dot += sh->q[i][d] * sh->k[j][d];
        double decay = 0;
        if (J == I) decay = j < i ? sh->sum[i] - sh->sum[j] : j > i ? sh->sum[j + 1] - sh->sum[i + 1] : 0;
        if (J < I) decay = sh->sum[i] + between + (sh->key_sum[num_keys] - sh->key_sum[j]);
        if (J > I) decay = (sh->sum[n] - sh->sum[i + 1]) + between + sh->key_sum[j + 1];
        sh->s[i][j] = p.scale * dot * expf(static_cast<float>(decay));
      }
      __syncthreads();
      if (J != I) between += sh->key_sum[num_keys];
      PlainStore<D>(p, token, n, num_keys, head, true, !parallel && I > 0, false, turn > 0, sh, y);
    }
    __syncthreads();
    if (!parallel && I + 1 < tiles) PlainUpdate<D>(n, false, sh);
  }
  if (parallel) return round();

  __syncthreads();
  for (int x = threadIdx.x; x < D * D; x += kPlainThreads) sh->state[x / D][x % D] = 0;
  for (int I = tiles - 1; I >= 0; --I) {
    const int token = s.row_start + I * C;
    const int n = size(I);
    __syncthreads();
    PlainLoad<T, D>(p, 0, token, n, head, sh->q);
    PlainLoad<T, D>(p, 1, token, n, head, sh->k);
    PlainLoad<T, D>(p, 2, token, n, head, sh->v);
    PlainSums(p, token, n, head, sh->sum);
    __syncthreads();
    if (I + 1 < tiles) PlainStore<D>(p, token, n, 0, head, false, true, true, true, sh, y);
    __syncthreads();
    if (I > 0) PlainUpdate<D>(n, true, sh);
  }
  round();
}

// ------------------------------------------------------------------------------------------------------------ launch

template <typename T, int D>
void Launch(const AttentionParams& p, bool all, cudaStream_t stream, LaunchFailure* failure) {
  constexpr int kBytes = sizeof(PlainShared<D>);
  if (!failure->Check(cudaFuncSetAttribute(PlainRow<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                      "attention: cudaFuncSetAttribute")) {
    return;
  }
  PlainRow<T, D><<<p.max_segments * p.H, kPlainThreads, kBytes, stream>>>(p, all);
  failure->Check(cudaGetLastError(), "attention: PlainRow");
}

template <typename T>
void LaunchType(const AttentionParams& p, bool all, cudaStream_t stream, LaunchFailure* failure) {
  if (p.D == 32) Launch<T, 32>(p, all, stream, failure);
  if (p.D == 64) Launch<T, 64>(p, all, stream, failure);
  if (p.D == 128) Launch<T, 128>(p, all, stream, failure);
}

}  // namespace

void EnqueuePlainAttention(const AttentionParams& p, cudaStream_t stream, LaunchFailure* failure) {
  switch (p.type) {
    case ElementType::kFloat32:
      return LaunchType<float>(p, true, stream, failure);
    case ElementType::kBFloat16:
      return LaunchType<__nv_bfloat16>(p, false, stream, failure);
    case ElementType::kFloat16:
      return LaunchType<__half>(p, false, stream, failure);
  }
}

}  // namespace lion::cuda
