// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_TILES_CUH_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_TILES_CUH_

// What the tensor-core attention kernels are put together from: the decays of a pair of tiles, D x D states in
// registers, shared and device memory, and the products of one tile. A block is one warpgroup (4 warps; a fifth feeds
// it) and takes all of q and k of a head, and of v and y at most 64 columns: heads of 128 columns are two blocks' work.
//
// A warp holds rows 16 w ... 16 w + 15 of every result, in the fragment order of hopper::Product. States in device
// memory lie in that order too, so that a thread moves 16 bytes at a time and reads back what the same thread of
// another block wrote.

#include <type_traits>

#include "model/kernels/cuda/attention_params.h"
#include "model/kernels/cuda/hopper.cuh"

namespace lion::cuda {

inline constexpr int kTile = kChunkTokens;
inline constexpr int kPair = 2 * kTile;
inline constexpr int kBlockThreads = 128;
// With the warpgroup that feeds a block, of which one warp works: a whole one, so that it can hand its registers over.
inline constexpr int kAllThreads = 2 * kBlockThreads;

// Synchronises the warpgroup that computes.
__device__ __forceinline__ void SyncWarpgroup() { asm volatile("bar.sync 1, %0;\n" ::"n"(kBlockThreads) : "memory"); }

template <int D>
struct HeadShape {
  static constexpr int kColumns = D < 64 ? D : 64;  // of a tile in shared memory
  static constexpr int kParts = D / kColumns;       // tiles side by side that q and k need; blocks that share a head
  static constexpr int kRowBytes = kColumns * 2;
  static constexpr int kTileBytes = kTile * kRowBytes;
  static constexpr int kStateFloats = D * kColumns;  // of one block's state
  static constexpr int kStateBytes = kStateFloats * 2;
  // A state of 32 rows fills two warps of the four.
  static constexpr int kStateThreads = D < 64 ? kBlockThreads / 2 : kBlockThreads;
};

// ------------------------------------------------------------------------------------------------------ 16-bit pairs

template <typename T>
__device__ __forceinline__ uint32_t Pack(float lo, float hi) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

template <typename T>
__device__ __forceinline__ float2 Unpack(uint32_t bits) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half22float2(*reinterpret_cast<const __half2*>(&bits));
  } else {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u));
  }
}

// ------------------------------------------------------------------------------------------------------------ decays

// 2^x for x <= 0; results below 2^-126 are 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Of one tile of at most 64 tokens, the rest as if a = 1. Sums in units of log 2.
struct TileDecays {
  float c[kTile];         // sum of log a over [start, i)
  float d[kTile];         // sum of log a over [start, i]
  float pre[kTile];       // prod of a over [start, i)
  float suf[kTile];       // prod of a over [j, end)
  float back_pre[kTile];  // prod of a over [start, j]
  float back_suf[kTile];  // prod of a over (i, end)
  float all;              // prod of a over the tile
  float unused[3];
};

// log2 a, held at 2^-115.
__device__ __forceinline__ float Log2A(float log_a) { return (log_a < -80.f ? -80.f : log_a) * 1.4426950408889634f; }

// Where the log a of a token and head lies.
__device__ __forceinline__ const float* LogAAt(const AttentionParams& p, int64_t token, int head) {
  return p.log_a + token * p.log_a_token_stride + head;
}

// The decays of both tiles of a pair from each thread's log2 a, in fp32 sums of a fixed tree. totals: 4 floats of
// shared memory. The block synchronises before (nobody reads out any more) and is synchronised after.
__device__ __forceinline__ void MakeDecays(float log_a, float* totals, TileDecays* out) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float sum = log_a;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if (lane >= step) sum += before;
  }
  float exclusive = __shfl_up_sync(0xFFFFFFFFu, sum, 1);
  if (lane == 0) exclusive = 0;
  if (lane == 31) totals[warp] = sum;
  SyncWarpgroup();
  const float base = warp % 2 == 1 ? totals[warp - 1] : 0;
  const float total = totals[warp / 2 * 2] + totals[warp / 2 * 2 + 1];
  const float c = base + exclusive;
  const float d = base + sum;
  TileDecays& tile = out[warp / 2];
  const int i = threadIdx.x % kTile;
  tile.c[i] = c;
  tile.d[i] = d;
  tile.pre[i] = Exp2(c);
  tile.back_pre[i] = Exp2(d);
  tile.suf[i] = Exp2(fminf(total - c, 0.f));
  tile.back_suf[i] = Exp2(fminf(total - d, 0.f));
  if (i == 0) tile.all = Exp2(total);
  SyncWarpgroup();
}

// ------------------------------------------------------------------------------------------------------------ states

// A block's state (D, kColumns) in fp32: r[m] has rows 64 m + 16 w ... of a thread's warp w.
template <int D>
struct State {
  using Shape = HeadShape<D>;
  static constexpr int kSize = Shape::kColumns / 2;
  static constexpr int kVectors = Shape::kParts * kSize / 4;
  float r[Shape::kParts][kSize];

  static __device__ __forceinline__ bool Mine() { return D >= 64 || threadIdx.x < Shape::kStateThreads; }

  __device__ __forceinline__ void Zero() {
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) r[m][i] = 0;
    }
  }
  __device__ __forceinline__ void Scale(float f) {
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) r[m][i] *= f;
    }
  }
  __device__ __forceinline__ float& At(int i) { return r[i / kSize][i % kSize]; }

  // = f * this + what lies at from.
  __device__ __forceinline__ void ScaleAndAddGlobal(float f, const float* from) {
    if (!Mine()) return;
    const float4* vectors = reinterpret_cast<const float4*>(from) + threadIdx.x;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float4 x = __ldcg(vectors + v * Shape::kStateThreads);
      At(4 * v) = f * At(4 * v) + x.x;
      At(4 * v + 1) = f * At(4 * v + 1) + x.y;
      At(4 * v + 2) = f * At(4 * v + 2) + x.z;
      At(4 * v + 3) = f * At(4 * v + 3) + x.w;
    }
  }
  __device__ __forceinline__ void StoreGlobal(float* to) {
    if (!Mine()) return;
    float4* vectors = reinterpret_cast<float4*>(to) + threadIdx.x;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      __stcg(vectors + v * Shape::kStateThreads, make_float4(At(4 * v), At(4 * v + 1), At(4 * v + 2), At(4 * v + 3)));
    }
  }
};

// For a product with q: rounded to T, times a power of two so that nothing overflows in float16. Returns what the
// product is to be multiplied by. largest: 4 floats of shared memory. In float16 the block is synchronised inside; the
// caller fences and synchronises after it.
template <typename T, int D>
__device__ __forceinline__ float StoreShared(State<D>& state, float* largest, unsigned char* to) {
  using Shape = HeadShape<D>;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float factor = 1;
  if constexpr (std::is_same_v<T, __half>) {
    SyncWarpgroup();    // the state before this one has read `largest`
    uint32_t bits = 0;  // those of the largest absolute value; NaN is the largest of all
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
#pragma unroll
      for (int i = 0; i < State<D>::kSize; ++i) bits = max(bits, __float_as_uint(fabsf(state.r[m][i])));
    }
    bits = __reduce_max_sync(0xFFFFFFFFu, bits);
    if (lane == 0) largest[warp] = __uint_as_float(bits);
    SyncWarpgroup();
    for (int w = 0; w < 4; ++w) bits = max(bits, __float_as_uint(largest[w]));
    // The largest value's exponent becomes 14.
    const int shift = min(max(static_cast<int>(bits >> 23) - 127 - 14, -100), 100);
    if (bits != 0) {
      factor = __uint_as_float(static_cast<uint32_t>(127 + shift) << 23);
      state.Scale(__uint_as_float(static_cast<uint32_t>(127 - shift) << 23));
    }
  }
  if (State<D>::Mine()) {
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 8; n += 2) {
        const float* r = state.r[m] + 4 * n;
        hopper::StoreMatrix4(to + hopper::Swizzled<Shape::kRowBytes>(64 * m + 16 * warp + lane % 16, n + lane / 16),
                             Pack<T>(r[0], r[1]), Pack<T>(r[2], r[3]), Pack<T>(r[4], r[5]), Pack<T>(r[6], r[7]));
      }
    }
  }
  // Back to what it was: the shift is exact.
  if constexpr (std::is_same_v<T, __half>) state.Scale(factor);
  return factor;
}

// The backward state at the end of a pair of tiles, kept where the pair's y is going to be written: (128 tokens,
// kColumns) elements, dense enough for bfloat16 or, in float16, fp32.
template <typename T, int D>
class PairState {
 public:
  using Shape = HeadShape<D>;
  static constexpr bool kPacked = !std::is_same_v<T, __half>;
  static constexpr int kVectors = State<D>::kVectors / (kPacked ? 2 : 1);  // 16 bytes each, of a thread

  // place: the first token's columns of this block; element: bytes of one of y; stride: elements between tokens.
  __device__ __forceinline__ PairState(char* place, int element, int64_t stride)
      : place_(place), row_vectors_(Shape::kColumns * element / 16), stride_(stride * element) {}

  __device__ __forceinline__ void Load(uint4 (&x)[kVectors]) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) x[v] = State<D>::Mine() ? __ldcg(At(v)) : make_uint4(0, 0, 0, 0);
  }

  __device__ __forceinline__ void Store(State<D>& state) const {
    if (!State<D>::Mine()) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint4 x;
      if constexpr (kPacked) {
        x = make_uint4(Pack<T>(state.At(8 * v), state.At(8 * v + 1)), Pack<T>(state.At(8 * v + 2), state.At(8 * v + 3)),
                       Pack<T>(state.At(8 * v + 4), state.At(8 * v + 5)),
                       Pack<T>(state.At(8 * v + 6), state.At(8 * v + 7)));
      } else {
        x = make_uint4(__float_as_uint(state.At(4 * v)), __float_as_uint(state.At(4 * v + 1)),
                       __float_as_uint(state.At(4 * v + 2)), __float_as_uint(state.At(4 * v + 3)));
      }
      __stcg(At(v), x);
    }
  }

  static __device__ __forceinline__ void Widen(const uint4 (&x)[kVectors], State<D>* state) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t words[4] = {x[v].x, x[v].y, x[v].z, x[v].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kPacked) {
          const float2 pair = Unpack<T>(words[i]);
          state->At(8 * v + 2 * i) = pair.x;
          state->At(8 * v + 2 * i + 1) = pair.y;
        } else {
          state->At(4 * v + i) = __uint_as_float(words[i]);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ uint4* At(int v) const {
    const int vector = v * Shape::kStateThreads + threadIdx.x;
    return reinterpret_cast<uint4*>(place_ + vector / row_vectors_ * stride_) + vector % row_vectors_;
  }
  char* place_;
  int row_vectors_;
  int64_t stride_;
};

// ---------------------------------------------------------------------------------------------------------- products

// k^T of a tile as the left operand of k^T v: a thread's pairs for the 4 steps of 16 tokens.
template <typename T, int D>
__device__ __forceinline__ void LoadKeys(const unsigned char* k, uint32_t (&a)[4][4]) {
  using Shape = HeadShape<D>;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    a[step][0] = a[step][1] = a[step][2] = a[step][3] = 0;
    if (D < 64 && warp >= D / 16) continue;
    hopper::LoadMatrix4Transposed(
        a[step], k + hopper::Swizzled<Shape::kRowBytes>(16 * step + lane % 8 + lane / 16 * 8, 2 * warp + lane / 8 % 2));
  }
}

// Each key times its factor f[j] g, rounded to T.
template <typename T>
__device__ __forceinline__ void ScaleKeys(const uint32_t (&a)[4][4], const float* f, float g, uint32_t (&out)[4][4]) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 x = *reinterpret_cast<const float2*>(f + 16 * step + 8 * half + column);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 pair = Unpack<T>(a[step][2 * half + i]);
        out[step][2 * half + i] = Pack<T>(pair.x * (x.x * g), pair.y * (x.y * g));
      }
    }
  }
}

// r (64, kColumns) += a^T v, asynchronous: the keys' fragments times a tile of v.
template <typename T, int D>
__device__ __forceinline__ void AddOuter(const uint32_t (&a)[4][4], const unsigned char* v,
                                         float (&r)[State<D>::kSize]) {
  using Shape = HeadShape<D>;
  const uint64_t tile = hopper::TileDescriptor<Shape::kRowBytes>(v);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    hopper::Product<T, Shape::kColumns>::template FromRegisters<true>(
        r, a[step], hopper::DownColumns<Shape::kRowBytes>(tile, step), true);
  }
}

// s (64, 64) = q k^T, asynchronous. q, k: kParts tiles each.
template <typename T, int D>
__device__ __forceinline__ void Scores(unsigned char* const (&q)[HeadShape<D>::kParts],
                                       unsigned char* const (&k)[HeadShape<D>::kParts], float (&s)[32]) {
  using Shape = HeadShape<D>;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const int part = step / (Shape::kColumns / 16);
    const int inside = step % (Shape::kColumns / 16);
    hopper::Product<T, 64>::template FromShared<false>(
        s, hopper::AlongRows<Shape::kRowBytes>(hopper::TileDescriptor<Shape::kRowBytes>(q[part]), inside),
        hopper::AlongRows<Shape::kRowBytes>(hopper::TileDescriptor<Shape::kRowBytes>(k[part]), inside), step > 0);
  }
}

// o (64, kColumns) = q times a state in shared memory, asynchronous.
template <typename T, int D>
__device__ __forceinline__ void TimesState(unsigned char* const (&q)[HeadShape<D>::kParts], const unsigned char* state,
                                           float (&o)[State<D>::kSize]) {
  using Shape = HeadShape<D>;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const int part = step / (Shape::kColumns / 16);
    const int inside = step % (Shape::kColumns / 16);
    hopper::Product<T, Shape::kColumns>::template FromShared<true>(
        o, hopper::AlongRows<Shape::kRowBytes>(hopper::TileDescriptor<Shape::kRowBytes>(q[part]), inside),
        hopper::DownColumns<Shape::kRowBytes>(hopper::TileDescriptor<Shape::kRowBytes>(state), step), step > 0);
  }
}

// o += p v, asynchronous: p the masked scores' fragments.
template <typename T, int D>
__device__ __forceinline__ void TimesValues(const uint32_t (&p)[4][4], const unsigned char* v,
                                            float (&o)[State<D>::kSize]) {
  AddOuter<T, D>(p, v, o);
}

enum class Mask { kInside, kBefore, kAfter };

// p = s * M * scale, rounded to T. kInside: rows and keys are one tile's; log_scale is log2 of the scale. kBefore and
// kAfter: the keys' tile lies before or after the rows', g = scale times the decays of the tiles between.
template <typename T, Mask kMask>
__device__ __forceinline__ void MaskScores(const float (&s)[32], const TileDecays& rows, const TileDecays& keys,
                                           float log_scale, float g, uint32_t (&p)[4][4]) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
  float lo[2];
  float hi[2];
  if constexpr (kMask == Mask::kInside) {
    lo[0] = rows.c[row] + log_scale;
    hi[0] = rows.c[row + 8] + log_scale;
    lo[1] = log_scale - rows.d[row];
    hi[1] = log_scale - rows.d[row + 8];
  } else {
    lo[0] = (kMask == Mask::kBefore ? rows.pre[row] : rows.back_suf[row]) * g;
    hi[0] = (kMask == Mask::kBefore ? rows.pre[row + 8] : rows.back_suf[row + 8]) * g;
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const int j = 8 * n + lane % 4 * 2;
    float m[4];
    if constexpr (kMask == Mask::kInside) {
      const float2 c = *reinterpret_cast<const float2*>(keys.c + j);
      const float2 d = *reinterpret_cast<const float2*>(keys.d + j);
      m[0] = Exp2(j < row ? lo[0] - c.x : d.x + lo[1]);
      m[1] = Exp2(j + 1 < row ? lo[0] - c.y : d.y + lo[1]);
      m[2] = Exp2(j < row + 8 ? hi[0] - c.x : d.x + hi[1]);
      m[3] = Exp2(j + 1 < row + 8 ? hi[0] - c.y : d.y + hi[1]);
    } else {
      const float2 f = *reinterpret_cast<const float2*>((kMask == Mask::kBefore ? keys.suf : keys.back_pre) + j);
      m[0] = lo[0] * f.x;
      m[1] = lo[0] * f.y;
      m[2] = hi[0] * f.x;
      m[3] = hi[0] * f.y;
    }
    const float* x = s + 4 * n;
    p[n / 2][n % 2 * 2] = Pack<T>(x[0] * m[0], x[1] * m[1]);
    p[n / 2][n % 2 * 2 + 1] = Pack<T>(x[2] * m[2], x[3] * m[3]);
  }
}

// A tile's rows [n, 64) are zero from here on. The caller fences and synchronises.
template <int kRowBytes>
__device__ __forceinline__ void ZeroTail(unsigned char* tile, int n) {
  for (int i = n * (kRowBytes / 16) + threadIdx.x; i < kTile * (kRowBytes / 16); i += kBlockThreads) {
    reinterpret_cast<uint4*>(tile)[i] = make_uint4(0, 0, 0, 0);  // a swizzle stays inside its row
  }
}

// y of the warp's 16 rows of a tile of n tokens from o. With 16 bits through the warp's own rows of a tile in shared
// memory that nothing reads any more, so that device memory is written 16 bytes a thread. y: the tile's first token's
// columns of this block; stride: elements between tokens.
template <typename T, int D>
__device__ __forceinline__ void StoreRows(const float (&o)[State<D>::kSize], int n, unsigned char* tile, T* y,
                                          int64_t stride) {
  using Shape = HeadShape<D>;
  const int lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 32 * 16;
#pragma unroll
  for (int c = 0; c < Shape::kColumns / 8; c += 2) {
    const float* r = o + 4 * c;
    hopper::StoreMatrix4(tile + hopper::Swizzled<Shape::kRowBytes>(row0 + lane % 16, c + lane / 16),
                         Pack<T>(r[0], r[1]), Pack<T>(r[2], r[3]), Pack<T>(r[4], r[5]), Pack<T>(r[6], r[7]));
  }
  __syncwarp();
  constexpr int kVectors = Shape::kRowBytes / 16;
#pragma unroll
  for (int i = lane; i < 16 * kVectors; i += 32) {
    const int row = row0 + i / kVectors;
    if (row >= n) continue;
    const uint4 x = *reinterpret_cast<const uint4*>(tile + hopper::Swizzled<Shape::kRowBytes>(row, i % kVectors));
    *reinterpret_cast<uint4*>(y + row * stride + i % kVectors * 8) = x;
  }
}

// The same in fp32, straight from registers: 32 bytes a quarter of a warp.
template <int D>
__device__ __forceinline__ void StoreWideRows(const float (&o)[State<D>::kSize], int n, float* y, int64_t stride) {
  const int lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int c = 0; c < HeadShape<D>::kColumns / 8; ++c) {
    float* at = y + 8 * c + lane % 4 * 2;
    if (row < n) *reinterpret_cast<float2*>(at + row * stride) = make_float2(o[4 * c], o[4 * c + 1]);
    if (row + 8 < n) *reinterpret_cast<float2*>(at + (row + 8) * stride) = make_float2(o[4 * c + 2], o[4 * c + 3]);
  }
}

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_TILES_CUH_
