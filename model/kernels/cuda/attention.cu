// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// y_i = scale * sum_j (q_i . k_j) M_ij v_j for every row and head of a packed batch: attention_launch.h has the plan,
// and kernels/cpu/attention.h the formula.
//
// The tensor-core kernels take tiles of 64 tokens, 4 warps a block, 16 rows of the tile a warp. Shapes of one tile and
// head:
//   S (64, 64) = Q K^T                     16 x 64 a warp, masked in registers, rounded to the operands' type
//   O (64, D) += S V                       16 x D a warp
//   O (64, D) += pre * (Q F) + suf * (Q B) the states F and B in the operands' type, in shared memory
//   F (D, D)   = A F + (K * suf)^T V       D/4 x D a warp in fp32, in registers; B the mirror image
// A segment runs backward first, which leaves B at each tile's end in shared memory, then forward, which writes y once.
// K and V are read twice, the second time from L2; the next tile travels while this one computes. Rows of one tile need
// no states and have a kernel of their own, of which more fit a multiprocessor. Bound by shared memory and the
// tensor cores at D = 64; by device memory at D = 32.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "model/kernels/cuda/attention_params.h"

namespace lion::cuda {
namespace {

constexpr int kTile = kChunkTokens;
constexpr int kTilesPerSegment = kSegmentTokens / kTile;
constexpr int kThreads = 128;
constexpr int kModeParallel = 0;
constexpr int kModeChunked = 1;

// ---------------------------------------------------------------------------------------------------- 16-bit operands

template <typename T>
struct Pair;

template <>
struct Pair<__nv_bfloat16> {
  static __device__ uint32_t Pack(float lo, float hi) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float2 Unpack(uint32_t bits) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits));
  }
  static __device__ void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <>
struct Pair<__half> {
  static __device__ uint32_t Pack(float lo, float hi) {
    const __half2 pair = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float2 Unpack(uint32_t bits) { return __half22float2(*reinterpret_cast<const __half2*>(&bits)); }
  static __device__ void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

__device__ uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ void LoadMatrix4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}

__device__ void LoadMatrix4Transposed(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}

// 16 bytes from device to shared memory, or 16 zero bytes.
__device__ void CopyAsync16(void* to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(to)), "l"(from), "r"(bytes));
}
__device__ void CopyAsyncCommit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Until at most kPending of this thread's latest groups are under way.
template <int kPending>
__device__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// ------------------------------------------------------------------------------------------------- tiles and decays

// The decays of one tile of n tokens and everything that is taken from them; n <= 64, the rest as if a = 1.
struct TileDecays {
  float c[kTile];         // sum of log a over [start, i)
  float d[kTile];         // sum of log a over [start, i]
  float pre[kTile];       // prod of a over [start, i)
  float suf[kTile];       // prod of a over [j, end)
  float back_pre[kTile];  // prod of a over [start, j]
  float back_suf[kTile];  // prod of a over (i, end)
  float all;              // prod of a over the tile
};

// One warp makes the decays of one tile: two tokens a lane, sums in fp64, in the same tree for every tile.
__device__ void MakeDecays(const AttentionParams& p, int token, int n, int head, TileDecays* out) {
  const int lane = threadIdx.x % 32;
  const int i = lane * 2;
  if (p.log_a == nullptr) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      out->c[i + e] = out->d[i + e] = 0;
      out->pre[i + e] = out->suf[i + e] = out->back_pre[i + e] = out->back_suf[i + e] = 1;
    }
    if (lane == 0) out->all = 1;
    return;
  }
  auto log_a = [&](int t) -> double {
    if (t >= n) return 0;
    return p.log_a[p.log_a_token_stride == 0 ? head : (token + t) * p.log_a_token_stride + head];
  };
  const double first = log_a(i);
  const double second = log_a(i + 1);
  double sum = first + second;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double before = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if (lane >= step) sum += before;
  }
  const float total = static_cast<float>(__shfl_sync(0xFFFFFFFFu, sum, 31));
  const float c[2] = {static_cast<float>(sum - first - second), static_cast<float>(sum - second)};
  const float d[2] = {c[1], static_cast<float>(sum)};
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    out->c[i + e] = c[e];
    out->d[i + e] = d[e];
    out->pre[i + e] = __expf(fminf(c[e], 0.f));
    out->back_pre[i + e] = __expf(fminf(d[e], 0.f));
    out->suf[i + e] = __expf(fminf(total - c[e], 0.f));
    out->back_suf[i + e] = __expf(fminf(total - d[e], 0.f));
  }
  if (lane == 0) out->all = __expf(total);
}

template <typename T, int D>
struct Shape {
  static constexpr int kRow = D + 8;  // elements of a padded row in shared memory: no two of 8 rows share a bank
};

// Enqueues one operand's tile: tokens [token, token + n), rows past n are zero. part: 0 q, 1 k, 2 v.
template <typename T, int D>
__device__ void LoadTile(const AttentionParams& p, int part, int token, int n, int head, T* tile) {
  constexpr int kVectors = D / 8;  // of 16 bytes in a row
  const T* base = static_cast<const T*>(p.qkv) + (static_cast<int64_t>(token) * 3 + part) * p.H * D + head * D;
  const int64_t stride = static_cast<int64_t>(3) * p.H * D;
  for (int i = threadIdx.x; i < kTile * kVectors; i += kThreads) {
    const int row = i / kVectors;
    const int vector = i % kVectors;
    const bool valid = row < n;
    CopyAsync16(tile + row * Shape<T, D>::kRow + vector * 8, base + (valid ? row : 0) * stride + vector * 8, valid);
  }
}

// A state of D x D in fp32, spread over the block. With D = 64 a warp keeps 16 rows and all columns; with D = 32 two
// warps share 16 rows and each keeps half of the columns.
template <typename T, int D>
struct State {
  static constexpr int kWarpsPerRows = D == 32 ? 2 : 1;
  static constexpr int kColumns = D / kWarpsPerRows;
  static constexpr int kN = kColumns / 8;
  float r[kN][4];

  __device__ int Row0() const { return (threadIdx.x / 32) / kWarpsPerRows * 16; }
  __device__ int Column0() const { return (threadIdx.x / 32) % kWarpsPerRows * kColumns; }

  __device__ void Zero() {
#pragma unroll
    for (int n = 0; n < kN; ++n) r[n][0] = r[n][1] = r[n][2] = r[n][3] = 0;
  }

  __device__ void Scale(float f) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) r[n][i] *= f;
    }
  }

  __device__ void LoadGlobal(const float* from) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int column = Column0() + n * 8 + lane % 4 * 2;
      const float2 lo = *reinterpret_cast<const float2*>(from + (Row0() + lane / 4) * D + column);
      const float2 hi = *reinterpret_cast<const float2*>(from + (Row0() + lane / 4 + 8) * D + column);
      r[n][0] = lo.x, r[n][1] = lo.y, r[n][2] = hi.x, r[n][3] = hi.y;
    }
  }

  __device__ void StoreGlobal(float* to) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int column = Column0() + n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(to + (Row0() + lane / 4) * D + column) = make_float2(r[n][0], r[n][1]);
      *reinterpret_cast<float2*>(to + (Row0() + lane / 4 + 8) * D + column) = make_float2(r[n][2], r[n][3]);
    }
  }

  // Rounded to the operands' type, for a product with it.
  __device__ void StoreShared(T* to) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int column = Column0() + n * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(to + (Row0() + lane / 4) * Shape<T, D>::kRow + column) =
          Pair<T>::Pack(r[n][0], r[n][1]);
      *reinterpret_cast<uint32_t*>(to + (Row0() + lane / 4 + 8) * Shape<T, D>::kRow + column) =
          Pair<T>::Pack(r[n][2], r[n][3]);
    }
  }

  // += sum_j f[j] g k_j v_j^T over a tile.
  __device__ void Add(const T* k, const T* v, const float* f, float g) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      // K^T: rows d, columns j; the matrices of an A operand in the order (d 0-7, j 0-7), (d 8-15, j 0-7), (d 0-7, j
      // 8-15), ...
      uint32_t a[4];
      const int j = step * 16 + lane % 8 + lane / 16 * 8;
      LoadMatrix4Transposed(a, k + j * Shape<T, D>::kRow + Row0() + lane / 8 % 2 * 8);
      const int column = step * 16 + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = Pair<T>::Unpack(a[i]);
        const int at = column + i / 2 * 8;
        a[i] = Pair<T>::Pack(x.x * (f[at] * g), x.y * (f[at + 1] * g));
      }
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t b[4];
        LoadMatrix4Transposed(b, v + (step * 16 + lane % 16) * Shape<T, D>::kRow + Column0() + n * 8 + lane / 16 * 8);
        Pair<T>::Mma(r[n], a, b[0], b[1]);
        Pair<T>::Mma(r[n + 1], a, b[2], b[3]);
      }
    }
  }
};

// 16 rows of a tile times D columns, one warp's.
template <int D>
struct Rows {
  float r[D / 8][4];
  __device__ void Zero() {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) r[n][0] = r[n][1] = r[n][2] = r[n][3] = 0;
  }
};

// out = q m for the warp's 16 rows; m (D, D) in shared memory.
template <typename T, int D>
__device__ void TimesState(const T* q, const T* m, Rows<D>* out) {
  const int lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 32 * 16;
  out->Zero();
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4];
    LoadMatrix4(a, q + (row0 + lane % 16) * Shape<T, D>::kRow + step * 16 + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, m + (step * 16 + lane % 16) * Shape<T, D>::kRow + n * 8 + lane / 16 * 8);
      Pair<T>::Mma(out->r[n], a, b[0], b[1]);
      Pair<T>::Mma(out->r[n + 1], a, b[2], b[3]);
    }
  }
}

// out += f[i] * rows for the warp's 16 rows.
template <int D>
__device__ void AddScaled(const Rows<D>& rows, const float* f, float g, Rows<D>* out) {
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  const float lo = f[row] * g;
  const float hi = f[row + 8] * g;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    out->r[n][0] += lo * rows.r[n][0];
    out->r[n][1] += lo * rows.r[n][1];
    out->r[n][2] += hi * rows.r[n][2];
    out->r[n][3] += hi * rows.r[n][3];
  }
}

enum class Mask { kInside, kBefore, kAfter };

// out += [scores of the warp's 16 rows against a tile of keys, masked] v.
// kInside: the tile is the rows' own. kBefore / kAfter: the keys lie before / after, G = the decays of the tiles
// between.
template <typename T, int D, Mask kMask>
__device__ void AddTile(const T* q, const T* k, const T* v, const TileDecays& rows, const TileDecays& keys, float scale,
                        float G, bool decays, Rows<D>* out) {
  const int lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 32 * 16;
  float s[kTile / 8][4];
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4];
    LoadMatrix4(a, q + (row0 + lane % 16) * Shape<T, D>::kRow + step * 16 + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < kTile / 8; n += 2) {
      // K as the B operand (columns j, rows d): (j 0-7, d 0-7), (j 0-7, d 8-15), (j 8-15, d 0-7), (j 8-15, d 8-15).
      uint32_t b[4];
      LoadMatrix4(b, k + (n * 8 + lane % 8 + lane / 16 * 8) * Shape<T, D>::kRow + step * 16 + lane / 8 % 2 * 8);
      Pair<T>::Mma(s[n], a, b[0], b[1]);
      Pair<T>::Mma(s[n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row0 + lane / 4 + half * 8;
    const float row_factor = scale * (kMask == Mask::kBefore  ? rows.pre[i] * G
                                      : kMask == Mask::kAfter ? rows.back_suf[i] * G
                                                              : 1.f);
    const float c = rows.c[i];
    const float d = rows.d[i];
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int j = n * 8 + lane % 4 * 2 + e;
        float m = 1;
        if (kMask == Mask::kBefore) m = keys.suf[j];
        if (kMask == Mask::kAfter) m = keys.back_pre[j];
        if (kMask == Mask::kInside && decays) {
          const float x = j < i ? c - keys.c[j] : keys.d[j] - d;
          m = __expf(j == i ? 0.f : x);
        }
        s[n][half * 2 + e] *= row_factor * m;
      }
    }
  }
#pragma unroll
  for (int step = 0; step < kTile / 16; ++step) {
    const uint32_t a[4] = {Pair<T>::Pack(s[2 * step][0], s[2 * step][1]), Pair<T>::Pack(s[2 * step][2], s[2 * step][3]),
                           Pair<T>::Pack(s[2 * step + 1][0], s[2 * step + 1][1]),
                           Pair<T>::Pack(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      LoadMatrix4Transposed(b, v + (step * 16 + lane % 16) * Shape<T, D>::kRow + n * 8 + lane / 16 * 8);
      Pair<T>::Mma(out->r[n], a, b[0], b[1]);
      Pair<T>::Mma(out->r[n + 1], a, b[2], b[3]);
    }
  }
}

// y of the warp's 16 rows, through its own rows of the q tile so that device memory is written 16 bytes a thread.
template <typename T, int D>
__device__ void StoreRows(const AttentionParams& p, int token, int n, int head, const Rows<D>& out, T* q) {
  const int lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 32 * 16;
  __syncwarp();  // the warp's lanes have read q
#pragma unroll
  for (int t = 0; t < D / 8; ++t) {
    const int column = t * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t*>(q + (row0 + lane / 4) * Shape<T, D>::kRow + column) =
        Pair<T>::Pack(out.r[t][0], out.r[t][1]);
    *reinterpret_cast<uint32_t*>(q + (row0 + lane / 4 + 8) * Shape<T, D>::kRow + column) =
        Pair<T>::Pack(out.r[t][2], out.r[t][3]);
  }
  __syncwarp();
  constexpr int kVectors = D / 8;
  for (int i = lane; i < 16 * kVectors; i += 32) {
    const int row = row0 + i / kVectors;
    if (row >= n) continue;
    T* y = static_cast<T*>(p.y) + (static_cast<int64_t>(token + row) * p.H + head) * D + i % kVectors * 8;
    *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(q + row * Shape<T, D>::kRow + i % kVectors * 8);
  }
}

// ---------------------------------------------------------------------------------------------------------- kernels

// Where the states of a segment and head lie: (state, head, {forward, backward}, D, D), then (state, head) decays.
__device__ float* StateAt(const AttentionParams& p, int state, int head, int direction) {
  return static_cast<float*>(p.states) +
         ((static_cast<int64_t>(state) * p.H + head) * 2 + direction) * static_cast<int64_t>(p.D) * p.D;
}
__device__ float* DecayAt(const AttentionParams& p, int state, int head) {
  return static_cast<float*>(p.states) + static_cast<int64_t>(p.max_states) * p.H * 2 * p.D * p.D +
         static_cast<int64_t>(state) * p.H + head;
}

__device__ bool OnTensorCores(const Segment& s) {
  return s.mode == kModeParallel || (s.mode == kModeChunked && s.chunk == kChunkTokens);
}

// The decays of a segment's tiles, a warp a tile; the caller synchronises.
__device__ void SegmentDecays(const AttentionParams& p, const Segment& s, int head, TileDecays* decays) {
  for (int tile = threadIdx.x / 32; tile * kTile < s.length; tile += kThreads / 32) {
    MakeDecays(p, s.start + tile * kTile, min(kTile, s.length - tile * kTile), head, decays + tile);
  }
}

template <typename T, int D>
struct StatesShared {
  __align__(16) T k[2][kTile * Shape<T, D>::kRow];
  __align__(16) T v[2][kTile * Shape<T, D>::kRow];
  TileDecays decays[kTilesPerSegment];
};

// Kernel 1: what each segment of a long row adds to the states, forward at its end and backward at its start.
template <typename T, int D>
__global__ void __launch_bounds__(kThreads) SegmentStates(const AttentionParams p) {
  __shared__ StatesShared<T, D> shared;
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[0]) return;
  const Segment s = p.segments[index];
  if (s.state < 0) return;
  const int num_tiles = (s.length + kTile - 1) / kTile;
  auto load = [&](int tile) {
    const int n = min(kTile, s.length - tile * kTile);
    LoadTile<T, D>(p, 1, s.start + tile * kTile, n, head, shared.k[tile % 2]);
    LoadTile<T, D>(p, 2, s.start + tile * kTile, n, head, shared.v[tile % 2]);
    CopyAsyncCommit();
  };
  load(0);
  SegmentDecays(p, s, head, shared.decays);
  State<T, D> forward;
  State<T, D> backward;
  forward.Zero();
  backward.Zero();
  float before = 1;  // decays of the tiles already seen
  for (int tile = 0; tile < num_tiles; ++tile) {
    if (tile + 1 < num_tiles) {
      load(tile + 1);
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    __syncthreads();
    const TileDecays& decays = shared.decays[tile];
    forward.Scale(decays.all);
    forward.Add(shared.k[tile % 2], shared.v[tile % 2], decays.suf, 1);
    backward.Add(shared.k[tile % 2], shared.v[tile % 2], decays.back_pre, before);
    before *= decays.all;
    __syncthreads();  // before the tile after the next overwrites this one
  }
  forward.StoreGlobal(StateAt(p, s.state, head, 0));
  backward.StoreGlobal(StateAt(p, s.state, head, 1));
  if (threadIdx.x == 0) *DecayAt(p, s.state, head) = before;
}

// Kernel 2: in place, from what each segment adds to the state that it starts from, in both directions.
__global__ void __launch_bounds__(256) ScanStates(const AttentionParams p) {
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[1]) return;
  const StateRun run = p.runs[index];
  if (run.count == 2) return;  // each of the two starts from what the other adds: Output reads it there
  const int element = blockIdx.y * blockDim.x + threadIdx.x;
  if (element >= p.D * p.D) return;
  constexpr int kAhead = 16;  // loads in flight
  const int direction = blockIdx.z;
  float sum = 0;
  for (int i = 0; i < run.count; i += kAhead) {
    float added[kAhead];
    float decay[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int at = run.first + (direction == 0 ? i + u : run.count - 1 - i - u);
      const bool valid = i + u < run.count;
      added[u] = valid ? StateAt(p, at, head, direction)[element] : 0;
      decay[u] = valid ? *DecayAt(p, at, head) : 1;
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (i + u >= run.count) break;
      const int at = run.first + (direction == 0 ? i + u : run.count - 1 - i - u);
      StateAt(p, at, head, direction)[element] = sum;
      sum = decay[u] * sum + added[u];
    }
  }
}

template <typename T, int D>
struct OutputShared {
  __align__(16) T q[2][kTile * Shape<T, D>::kRow];
  __align__(16) T k[2][kTile * Shape<T, D>::kRow];
  __align__(16) T v[2][kTile * Shape<T, D>::kRow];
  __align__(16) T forward[D * Shape<T, D>::kRow];
  __align__(16) T backward[kTilesPerSegment][D * Shape<T, D>::kRow];
  TileDecays decays[kTilesPerSegment];
};

template <typename T, int D>
__device__ void ChunkedSegment(const AttentionParams& p, const Segment& s, int head, OutputShared<T, D>* shared) {
  const int num_tiles = (s.length + kTile - 1) / kTile;
  auto size = [&](int tile) { return min(kTile, s.length - tile * kTile); };
  const bool from_before = s.state >= 0 && s.start > s.row_start;
  const bool from_after = s.state >= 0 && s.start + s.length < s.row_start + s.row_length;
  const bool two = s.row_length <= 2 * kSegmentTokens;  // no prefixes were made: the neighbour's own sum is one

  // The tiles in the order of their use: backward from the last to the second, then forward from the first to the last.
  // Step u's k and v lie in buffer u % 2.
  const int back_steps = num_tiles - 1;
  const int steps = back_steps + num_tiles;
  auto load = [&](int u) {
    const int tile = u < back_steps ? num_tiles - 1 - u : u - back_steps;
    if (u >= back_steps) LoadTile<T, D>(p, 0, s.start + tile * kTile, size(tile), head, shared->q[u % 2]);
    LoadTile<T, D>(p, 1, s.start + tile * kTile, size(tile), head, shared->k[u % 2]);
    LoadTile<T, D>(p, 2, s.start + tile * kTile, size(tile), head, shared->v[u % 2]);
    CopyAsyncCommit();
  };
  load(0);
  SegmentDecays(p, s, head, shared->decays);
  State<T, D> state;
  state.Zero();
  if (from_after) state.LoadGlobal(StateAt(p, two ? s.state + 1 : s.state, head, 1));
  for (int u = 0; u < steps; ++u) {
    if (u + 1 < steps) {
      load(u + 1);
      CopyAsyncWait<1>();
    } else {
      CopyAsyncWait<0>();
    }
    const T* k = shared->k[u % 2];
    const T* v = shared->v[u % 2];
    if (u < back_steps) {
      const int tile = num_tiles - 1 - u;
      state.StoreShared(shared->backward[tile]);
      __syncthreads();
      state.Scale(shared->decays[tile].all);
      state.Add(k, v, shared->decays[tile].back_pre, 1);
      __syncthreads();  // before the step after the next overwrites k and v
      continue;
    }
    const int tile = u - back_steps;
    if (tile == 0) {
      state.StoreShared(shared->backward[0]);
      state.Zero();
      if (from_before) state.LoadGlobal(StateAt(p, two ? s.state - 1 : s.state, head, 0));
    }
    state.StoreShared(shared->forward);
    __syncthreads();
    T* q = shared->q[u % 2];
    const TileDecays& decays = shared->decays[tile];
    Rows<D> out;
    out.Zero();
    AddTile<T, D, Mask::kInside>(q, k, v, decays, decays, p.scale, 1, p.log_a != nullptr, &out);
    Rows<D> inter;
    if (from_before || tile > 0) {
      TimesState<T, D>(q, shared->forward, &inter);
      AddScaled<D>(inter, decays.pre, p.scale, &out);
    }
    if (from_after || tile + 1 < num_tiles) {
      TimesState<T, D>(q, shared->backward[tile], &inter);
      AddScaled<D>(inter, decays.back_suf, p.scale, &out);
    }
    if (tile + 1 < num_tiles) {
      state.Scale(decays.all);
      state.Add(k, v, decays.suf, 1);
    }
    StoreRows<T, D>(p, s.start + tile * kTile, size(tile), head, out, q);
    __syncthreads();
  }
}

// Loads q (or k and v) of a tile with its decays, and waits for all of it.
template <typename T, int D>
__device__ void LoadAll(const AttentionParams& p, int token, int n, int head, bool queries, TileDecays* decays,
                        OutputShared<T, D>* shared) {
  if (queries) LoadTile<T, D>(p, 0, token, n, head, shared->q[0]);
  LoadTile<T, D>(p, 1, token, n, head, shared->k[0]);
  LoadTile<T, D>(p, 2, token, n, head, shared->v[0]);
  CopyAsyncCommit();
  if (threadIdx.x < 32) MakeDecays(p, token, n, head, decays);
  CopyAsyncWait<0>();
  __syncthreads();
}

// Full attention for the segment's rows against the whole row.
template <typename T, int D>
__device__ void ParallelSegment(const AttentionParams& p, const Segment& s, int head, OutputShared<T, D>* shared) {
  const int row_tiles = (s.row_length + kTile - 1) / kTile;
  auto size = [&](int tile) { return min(kTile, s.row_length - tile * kTile); };
  const int first = (s.start - s.row_start) / kTile;
  T* q = shared->q[0];
  const T* k = shared->k[0];
  const T* v = shared->v[0];
  TileDecays& rows = shared->decays[0];
  TileDecays& keys = shared->decays[1];
  for (int I = first; I < first + (s.length + kTile - 1) / kTile; ++I) {
    Rows<D> out;
    out.Zero();
    LoadAll<T, D>(p, s.row_start + I * kTile, size(I), head, true, &rows, shared);
    AddTile<T, D, Mask::kInside>(q, k, v, rows, rows, p.scale, 1, p.log_a != nullptr, &out);
    __syncthreads();
    float G = 1;
    for (int J = I - 1; J >= 0; --J) {
      LoadAll<T, D>(p, s.row_start + J * kTile, size(J), head, false, &keys, shared);
      AddTile<T, D, Mask::kBefore>(q, k, v, rows, keys, p.scale, G, true, &out);
      G *= keys.all;
      __syncthreads();
    }
    G = 1;
    for (int J = I + 1; J < row_tiles; ++J) {
      LoadAll<T, D>(p, s.row_start + J * kTile, size(J), head, false, &keys, shared);
      AddTile<T, D, Mask::kAfter>(q, k, v, rows, keys, p.scale, G, true, &out);
      G *= keys.all;
      __syncthreads();
    }
    StoreRows<T, D>(p, s.row_start + I * kTile, size(I), head, out, q);
    __syncthreads();
  }
}

// Rows of at most one tile, in any form that the tensor cores take.
__device__ bool OneTile(const Segment& s) { return s.row_length <= kTile; }

template <typename T, int D>
struct TileShared {
  __align__(16) T q[kTile * Shape<T, D>::kRow];
  __align__(16) T k[kTile * Shape<T, D>::kRow];
  __align__(16) T v[kTile * Shape<T, D>::kRow];
  TileDecays decays;
};

// Kernel 3 for rows of one tile.
template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 5) OneTileOutput(const AttentionParams p) {
  __shared__ TileShared<T, D> shared;
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[0]) return;
  const Segment s = p.segments[index];
  if (!OnTensorCores(s) || !OneTile(s)) return;
  LoadTile<T, D>(p, 0, s.start, s.length, head, shared.q);
  LoadTile<T, D>(p, 1, s.start, s.length, head, shared.k);
  LoadTile<T, D>(p, 2, s.start, s.length, head, shared.v);
  CopyAsyncCommit();
  if (threadIdx.x < 32) MakeDecays(p, s.start, s.length, head, &shared.decays);
  CopyAsyncWait<0>();
  __syncthreads();
  if (threadIdx.x / 32 * 16 >= s.length) return;  // none of this warp's rows counts
  Rows<D> out;
  out.Zero();
  AddTile<T, D, Mask::kInside>(shared.q, shared.k, shared.v, shared.decays, shared.decays, p.scale, 1,
                               p.log_a != nullptr, &out);
  StoreRows<T, D>(p, s.start, s.length, head, out, shared.q);
}

// Kernel 3: the outputs of one segment and head of a longer row.
template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 2) Output(const AttentionParams p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* shared = reinterpret_cast<OutputShared<T, D>*>(memory);
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[0]) return;
  const Segment s = p.segments[index];
  if (!OnTensorCores(s) || OneTile(s)) return;
  if (s.mode == kModeParallel) {
    ParallelSegment<T, D>(p, s, head, shared);
  } else {
    ChunkedSegment<T, D>(p, s, head, shared);
  }
}

// ------------------------------------------------------------------------------------------------- the plain kernel

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

// state = A state + sum_j f_j k_j v_j^T.
template <int D>
__device__ void PlainUpdate(int n, bool backward, PlainShared<D>* sh) {
  const float all = expf(static_cast<float>(sh->sum[n]));
  for (int x = threadIdx.x; x < D * D; x += kPlainThreads) {
    float sum = all * sh->state[x / D][x % D];
    for (int j = 0; j < n; ++j) {
      const double decay = backward ? sh->sum[j + 1] : sh->sum[n] - sh->sum[j];
      sum += expf(static_cast<float>(decay)) * sh->k[j][x / D] * sh->v[j][x % D];
    }
    sh->state[x / D][x % D] = sum;
  }
}

// A whole row of one head, tile by tile: what the tensor-core kernels do not take.
template <typename T, int D>
__global__ void __launch_bounds__(kPlainThreads) PlainRow(const AttentionParams p, bool all) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* sh = reinterpret_cast<PlainShared<D>*>(memory);
  const int index = blockIdx.x / p.H;
  const int head = blockIdx.x % p.H;
  if (index >= p.counts[0]) return;
  const Segment s = p.segments[index];
  if (s.start != s.row_start || (!all && OnTensorCores(s))) return;
  const bool parallel = s.mode == kModeParallel;
  const int C = parallel ? kTile : s.mode == kModeChunked ? min(s.chunk, kTile) : 1;
  const int tiles = (s.row_length + C - 1) / C;
  auto size = [&](int tile) { return min(C, s.row_length - tile * C); };
  // Each element is added up by one thread, in fp32, and rounded once at the end.
  auto* y = sizeof(T) == sizeof(float) ? static_cast<float*>(p.y) : p.plain_y;
  auto round = [&] {
    if constexpr (sizeof(T) == sizeof(float)) return;
    __syncthreads();
    for (int x = threadIdx.x; x < s.row_length * D; x += kPlainThreads) {
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

// ---------------------------------------------------------------------------------------------------------- launches

struct Failure {
  cudaError_t error = cudaSuccess;
  const char* call = "";
  bool Check(cudaError_t result, const char* name) {
    if (error == cudaSuccess && result != cudaSuccess) {
      error = result;
      call = name;
    }
    return error == cudaSuccess;
  }
};

template <typename T, int D>
void EnqueueTensor(const AttentionParams& p, cudaStream_t stream, Failure* failure) {
  if (p.max_runs > 0) {
    SegmentStates<T, D><<<p.max_segments * p.H, kThreads, 0, stream>>>(p);
    if (!failure->Check(cudaGetLastError(), "attention: SegmentStates")) return;
    ScanStates<<<dim3(p.max_runs * p.H, (D * D + 255) / 256, 2), 256, 0, stream>>>(p);
    if (!failure->Check(cudaGetLastError(), "attention: ScanStates")) return;
  }
  OneTileOutput<T, D><<<p.max_segments * p.H, kThreads, 0, stream>>>(p);
  if (!failure->Check(cudaGetLastError(), "attention: OneTileOutput")) return;
  if (p.only_one_tile) return;
  constexpr int kBytes = sizeof(OutputShared<T, D>);
  if (!failure->Check(cudaFuncSetAttribute(Output<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                      "attention: cudaFuncSetAttribute")) {
    return;
  }
  Output<T, D><<<p.max_segments * p.H, kThreads, kBytes, stream>>>(p);
  failure->Check(cudaGetLastError(), "attention: Output");
}

template <typename T, int D>
void EnqueuePlain(const AttentionParams& p, bool all, cudaStream_t stream, Failure* failure) {
  constexpr int kBytes = sizeof(PlainShared<D>);
  if (!failure->Check(cudaFuncSetAttribute(PlainRow<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                      "attention: cudaFuncSetAttribute")) {
    return;
  }
  PlainRow<T, D><<<p.max_segments * p.H, kPlainThreads, kBytes, stream>>>(p, all);
  failure->Check(cudaGetLastError(), "attention: PlainRow");
}

template <typename T>
void Enqueue16(const AttentionParams& p, cudaStream_t stream, Failure* failure) {
  if (p.D == 32) {
    EnqueueTensor<T, 32>(p, stream, failure);
    if (p.plain) EnqueuePlain<T, 32>(p, false, stream, failure);
  } else if (p.D == 64) {
    EnqueueTensor<T, 64>(p, stream, failure);
    if (p.plain) EnqueuePlain<T, 64>(p, false, stream, failure);
  } else {
    EnqueuePlain<T, 128>(p, true, stream, failure);
  }
}

}  // namespace

cudaError_t EnqueueAttention(const AttentionParams& p, cudaStream_t stream, const char** call) {
  Failure failure;
  switch (p.type) {
    case ElementType::kBFloat16:
      Enqueue16<__nv_bfloat16>(p, stream, &failure);
      break;
    case ElementType::kFloat16:
      Enqueue16<__half>(p, stream, &failure);
      break;
    case ElementType::kFloat32:
      if (p.D == 32) EnqueuePlain<float, 32>(p, true, stream, &failure);
      if (p.D == 64) EnqueuePlain<float, 64>(p, true, stream, &failure);
      if (p.D == 128) EnqueuePlain<float, 128>(p, true, stream, &failure);
      break;
  }
  *call = failure.call;
  return failure.error;
}

}  // namespace lion::cuda
