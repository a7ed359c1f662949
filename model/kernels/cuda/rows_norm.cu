// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// LayerNorm with what follows it in the same pass: the gates of the layer that reads the row next, and its e4m3 copy.
//
//   v = (x - mean(x)) / sqrt(var(x) + eps) * gamma + beta;  log_a = log(1 - sigmoid(w v + b) + 1e-7);  q = v / scale
//
// A row belongs to one warp, which keeps it in registers: lane l has columns (32 c + l) * 8 ... + 7 of chunk c. Sums
// run over a lane's columns in order and then over the lanes in one tree: the same in both kernels, for any number of
// rows.
//
// FewRowsKernel: one row a warp, in and out; bound by memory, 2 elements a column, of which 32 warps a multiprocessor
// keep enough in flight. Where rows are few, several warps read the same row and share its gates, whose weights take
// longer to arrive than all else.
// ManyRowsKernel, for many rows with gates: the gates' weights (4 bytes a column and head) have to be read from shared
// memory for every row, so a warp takes kRows rows at a time, and a block stays for all of its rows. While a warp works
// on its rows the next ones are copied into shared memory. 288 multiply-adds a lane and row for 12 gates, and the
// exchanges that add them up, take about as long as the memory does. The dots on tensor cores, as w * gamma in three
// bfloat16 parts times x as it lies, were no faster (0.112 ms both at 65,536 x 768 on an H100).

#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/hopper.cuh"
#include "model/kernels/cuda/rows_device.cuh"
#include "model/kernels/cuda/rows_launch.h"

namespace lion::cuda {
namespace {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kChunkWidth = kLanes * kVector;  // columns that a warp covers at a time
constexpr int kHeadsAtOnce = 4;                // gates whose sums a lane holds
constexpr int kManyWarps = 12;                 // 168 registers a thread
constexpr int kFewWarps = 4;
// Up to here the warps of a block share one row's gates.
constexpr int64_t kMaxSharedRows = 2048;
// From here on every multiprocessor has work for ManyRowsKernel.
constexpr int64_t kMinManyRows = 8192;
constexpr int64_t kSharedBytes = 227 * 1024;  // a block's at most, of which kStaticBytes for barriers
constexpr int64_t kStaticBytes = 1024;

// What becomes of a row.
struct NormTask {
  NormParams norm;
  GateParams gates;
  Fp8Rows fp8;
  void* out;
  int64_t num_rows;
  int W;
  bool dense;  // every stored column counts
};

// The sum over the warp, the same bits in every lane.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// N sums over the warp, N a power of two, for little more than one exchange each: at every step a lane hands half of
// its sums to its partner. Lane l gets sum l / (32 / N), with the bits that WarpSum gives.
template <int N, int kOffset = kLanes / 2>
__device__ __forceinline__ float WarpSums(const float (&s)[N], int lane) {
  if constexpr (N > 1) {
    const bool upper = (lane & kOffset) != 0;
    float half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float given = upper ? s[i] : s[i + N / 2];
      const float kept = upper ? s[i + N / 2] : s[i];
      half[i] = kept + __shfl_xor_sync(kAllLanes, given, kOffset);
    }
    return WarpSums<N / 2, kOffset / 2>(half, lane);
  } else {
    float sum = s[0];
#pragma unroll
    for (int offset = kOffset; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    return sum;
  }
}

__device__ __forceinline__ float LogDecay(float z) {
  // r = sigmoid(-|z|): sigmoid(z) where z < 0, sigmoid(-z) elsewhere.
  const float e = expf(-fabsf(z));
  const float r = e / (1.f + e);
  const float log_a = z < 0 ? log1pf(1e-7f - r) : logf(r + 1e-7f);
  return isnan(z) ? z : fminf(log_a, 0.f);
}

// v, with 0 in columns past W, becomes the normalised rows, still in fp32; 0 in columns that do not count.
template <int kChunks, int kRows>
__device__ __forceinline__ void Normalise(float (&v)[kRows][kChunks][kVector], const NormTask& task, int lane) {
  float scale[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum += v[r][c][i];
    }
    const float mean = WarpSum(sum) / static_cast<float>(task.norm.num_true);
    float squares = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = (c * kLanes + lane) * kVector;
      if (column >= task.W) continue;
      if (task.dense) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) v[r][c][i] -= mean;
      } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const bool counts = ((column + i) & task.norm.column_mask) < task.norm.true_width;
          v[r][c][i] = counts ? v[r][c][i] - mean : 0.f;
        }
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) squares = fmaf(v[r][c][i], v[r][c][i], squares);
    }
    scale[r] = 1.f / sqrtf(WarpSum(squares) / static_cast<float>(task.norm.num_true) + task.norm.eps);
  }
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kLanes + lane) * kVector;
    if (column >= task.W) continue;
    float gamma[kVector];
    float beta[kVector];
    Load8(task.norm.gamma + column, gamma);
    Load8(task.norm.beta + column, beta);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) v[r][c][i] = fmaf(v[r][c][i] * scale[r], gamma[i], beta[i]);
    }
  }
}

// Writes rows first ... of v, those below num_rows, in T.
template <class T, int kChunks, int kRows>
__device__ __forceinline__ void Store(const float (&v)[kRows][kChunks][kVector], const NormTask& task, int64_t first,
                                      int lane) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (first + r >= task.num_rows) return;
    T* row = static_cast<T*>(task.out) + (first + r) * task.W;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = (c * kLanes + lane) * kVector;
      if (column < task.W) Store8(v[r][c], row + column);
    }
  }
}

// The same rows in e4m3, each with its scale.
template <int kChunks, int kRows>
__device__ __forceinline__ void StoreFp8(const float (&v)[kRows][kChunks][kVector], const NormTask& task, int64_t first,
                                         int lane) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (first + r >= task.num_rows) return;
    float largest = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) largest = fmaxf(largest, fabsf(v[r][c][i]));
    }
    // fmaxf drops a NaN, which e4m3 itself carries on. An infinity makes 0 * inf of itself: NaN too.
    largest = fmaxf(WarpMax(largest), kMinFp8Largest);
    const float inverse = kFp8Max / largest;
    uint8_t* row = task.fp8.values + (first + r) * task.W;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = (c * kLanes + lane) * kVector;
      if (column >= task.W) continue;
      float scaled[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) scaled[i] = v[r][c][i] * inverse;
      Store8Fp8(scaled, row + column);
    }
    if (lane == 0) task.fp8.scales[first + r] = largest / kFp8Max;
  }
}

// log_a of rows first ... for every parts-th group of heads from part on. weight: PackGates' layout, in shared or
// global memory.
template <int kChunks, int kRows>
__device__ __forceinline__ void StoreGates(const float (&v)[kRows][kChunks][kVector], const NormTask& task,
                                           const float4* weight, int64_t first, int lane, int part, int parts) {
  const int H = task.gates.H;
  const int chunks = (task.W + kChunkWidth - 1) / kChunkWidth;
  for (int start = part * kHeadsAtOnce; start < H; start += parts * kHeadsAtOnce) {
    float dots[kRows * kHeadsAtOnce] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks) continue;
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        // Past the last head, that one again; its sum is dropped.
        const float4* w = weight + (static_cast<int64_t>(min(start + h, H - 1)) * chunks + c) * (kChunkWidth / 4);
        const float4 a = w[lane];
        const float4 b = w[kLanes + lane];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          float& dot = dots[r * kHeadsAtOnce + h];
          dot = fmaf(a.x, v[r][c][0], dot);
          dot = fmaf(a.y, v[r][c][1], dot);
          dot = fmaf(a.z, v[r][c][2], dot);
          dot = fmaf(a.w, v[r][c][3], dot);
          dot = fmaf(b.x, v[r][c][4], dot);
          dot = fmaf(b.y, v[r][c][5], dot);
          dot = fmaf(b.z, v[r][c][6], dot);
          dot = fmaf(b.w, v[r][c][7], dot);
        }
      }
    }
    const float sum = WarpSums(dots, lane);
    constexpr int kLanesASum = kLanes / (kRows * kHeadsAtOnce);
    const int64_t row = first + lane / kLanesASum / kHeadsAtOnce;
    const int head = start + lane / kLanesASum % kHeadsAtOnce;
    if (lane % kLanesASum == 0 && head < H && row < task.num_rows) {
      task.gates.log_a[row * H + head] = LogDecay(sum + task.gates.bias[head]);
    }
  }
}

// All that follows once rows first ... are in registers. part, parts: of the warps that share the rows.
template <class T, int kChunks, int kRows>
__device__ __forceinline__ void Finish(float (&v)[kRows][kChunks][kVector], const NormTask& task, const float4* weight,
                                       int64_t first, int lane, int part = 0, int parts = 1) {
  Normalise(v, task, lane);
  if (task.out != nullptr && part == 0) Store<T>(v, task, first, lane);
  if (task.fp8.values != nullptr && part == 0) StoreFp8(v, task, first, lane);
  if (task.gates.H > 0) StoreGates(v, task, weight, first, lane, part, parts);
}

// ------------------------------------------------------------------------------------------------------ few rows

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

template <class X>
struct RowSource {
  const X* x;
  int W;

  using Row = const X*;
  __device__ __forceinline__ Row At(int64_t t) const { return x + t * W; }
  static __device__ __forceinline__ void Load(const Row& row, int column, float (&v)[kVector]) {
    Load8(row + column, v);
  }
};

// parts: 1, or the warps of a block, which then has one row.
template <class T, int kChunks, class Source>
__global__ void __launch_bounds__(kFewWarps* kLanes, kChunks <= 3   ? 8
                                                     : kChunks <= 4 ? 6
                                                     : kChunks <= 8 ? 3
                                                                    : 2)
    FewRowsKernel(Source source, NormTask task, int parts) {
  const int lane = threadIdx.x % kLanes;
  const int warp = threadIdx.x / kLanes;
  const int64_t t = parts > 1 ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanes) + warp;
  if (t >= task.num_rows) return;  // never where warps wait for each other
  const typename Source::Row row = source.At(t);
  float v[1][kChunks][kVector] = {};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kLanes + lane) * kVector;
    if (column < task.W) Source::Load(row, column, v[0][c]);
  }
  if (parts > 1) __syncthreads();  // the row may be written over itself
  Finish<T>(v, task, reinterpret_cast<const float4*>(task.gates.weight), t, lane, parts > 1 ? warp : 0, parts);
}

// ----------------------------------------------------------------------------------------------------- many rows

template <int kChunks>
constexpr int kRowsAtOnce = kChunks == 1   ? 8
                            : kChunks <= 3 ? 4
                                           : 2;

// Shared memory: the gates' weights (gate_bytes), then kRows rows a warp.
template <class X, class T, int kChunks>
__global__ void __launch_bounds__(kManyWarps* kLanes, 1) ManyRowsKernel(const X* x, NormTask task, int gate_bytes) {
  constexpr int kRows = kRowsAtOnce<kChunks>;
  extern __shared__ float4 shared[];
  __shared__ uint64_t barriers[kManyWarps];
  const int lane = threadIdx.x % kLanes;
  const int warp = threadIdx.x / kLanes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kManyWarps * kRows;
  // Neighbouring warps of different blocks take neighbouring rows.
  int64_t first = (static_cast<int64_t>(warp) * gridDim.x + blockIdx.x) * kRows;
  X* buffer = reinterpret_cast<X*>(reinterpret_cast<char*>(shared) + gate_bytes) + warp * kRows * task.W;
  auto copy_rows = [&](int64_t start) {
    const auto rows = static_cast<int>(min(static_cast<int64_t>(kRows), task.num_rows - start));
    const int bytes = rows * task.W * static_cast<int>(sizeof(X));
    hopper::ArriveExpecting(&barriers[warp], bytes);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     hopper::SharedAddress(buffer)),
                 "l"(x + start * task.W), "r"(bytes), "r"(hopper::SharedAddress(&barriers[warp]))
                 : "memory");
  };
  if (lane == 0) {
    hopper::InitBarrier(&barriers[warp], 1);
    hopper::FenceBarrierInit();
    if (first < task.num_rows) copy_rows(first);
  }
  const float4* weight = reinterpret_cast<const float4*>(task.gates.weight);
  if (gate_bytes > 0) {
    for (int i = threadIdx.x; i < gate_bytes / 16; i += kManyWarps * kLanes) shared[i] = weight[i];
    weight = shared;
  }
  __syncthreads();

  uint32_t parity = 0;
  for (; first < task.num_rows; first += step) {
    hopper::WaitBarrier(&barriers[warp], parity);
    parity ^= 1;
    float v[kRows][kChunks][kVector] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      // Past the last row that one again, which is not written.
      const X* row = buffer + min(static_cast<int64_t>(r), task.num_rows - 1 - first) * task.W;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int column = (c * kLanes + lane) * kVector;
        if (column < task.W) Load8(row + column, v[r][c]);
      }
    }
    __syncwarp();  // every lane has read the rows
    if (lane == 0 && first + step < task.num_rows) copy_rows(first + step);
    Finish<T>(v, task, weight, first, lane);
  }
}

// ------------------------------------------------------------------------------------------------------- launches

int Multiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return count;
}

template <class T, int kChunks, class Source>
absl::Status LaunchFewRows(const Source& source, const NormTask& task, cudaStream_t stream) {
  const int parts =
      task.num_rows <= kMaxSharedRows ? std::clamp((task.gates.H + kHeadsAtOnce - 1) / kHeadsAtOnce, 1, kFewWarps) : 1;
  // One row a block where warps share it, or while there are more multiprocessors than rows.
  const int rows = parts > 1 || task.num_rows <= Multiprocessors() ? 1 : kFewWarps;
  const auto blocks = static_cast<unsigned>((task.num_rows + rows - 1) / rows);
  FewRowsKernel<T, kChunks><<<blocks, rows * parts * kLanes, 0, stream>>>(source, task, parts);
  return LaunchStatus("FewRowsKernel");
}

template <class T, class Source>
absl::Status DispatchFewRows(const Source& source, const NormTask& task, cudaStream_t stream) {
  const int chunks = (task.W + kChunkWidth - 1) / kChunkWidth;
  if (chunks <= 1) return LaunchFewRows<T, 1>(source, task, stream);
  if (chunks <= 2) return LaunchFewRows<T, 2>(source, task, stream);
  if (chunks <= 3) return LaunchFewRows<T, 3>(source, task, stream);
  if (chunks <= 4) return LaunchFewRows<T, 4>(source, task, stream);
  if (chunks <= 8) return LaunchFewRows<T, 8>(source, task, stream);
  if (chunks <= 16) return LaunchFewRows<T, 16>(source, task, stream);
  return LaunchFewRows<T, 32>(source, task, stream);
}

template <class X, class T, int kChunks>
absl::Status LaunchManyRows(const X* x, const NormTask& task, cudaStream_t stream) {
  constexpr int kRows = kRowsAtOnce<kChunks>;
  const auto kernel = &ManyRowsKernel<X, T, kChunks>;
  const int64_t chunks = (task.W + kChunkWidth - 1) / kChunkWidth;
  const int64_t row_bytes = int64_t{kManyWarps} * kRows * task.W * static_cast<int64_t>(sizeof(X));
  int64_t gate_bytes = task.gates.H * chunks * kChunkWidth * 4;
  // What does not fit is read through the caches.
  if (gate_bytes + row_bytes + kStaticBytes > kSharedBytes) gate_bytes = 0;
  const int64_t shared_bytes = gate_bytes + row_bytes;
  LION_RETURN_IF_ERROR(CudaStatus(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
      "cudaFuncSetAttribute for ManyRowsKernel"));
  kernel<<<Multiprocessors(), kManyWarps * kLanes, shared_bytes, stream>>>(x, task, static_cast<int>(gate_bytes));
  return LaunchStatus("ManyRowsKernel");
}

NormTask Task(const NormParams& norm, const GateParams& gates, const Fp8Rows& fp8, void* out, int64_t T, int W) {
  return {norm, gates, fp8, out, T, W, norm.column_mask == -1 && norm.true_width == W};
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
  LION_RETURN_IF_ERROR(CheckRowShape(p.T, p.W));
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    const EmbedSource source = {p.ids, p.type_ids, p.positions, p.words, p.types, p.position_table, p.W};
    return DispatchFewRows<T>(source, Task(p.norm, p.gates, p.fp8, p.x, p.T, p.W), stream);
  });
}

namespace {

template <class X, class T>
absl::Status LaunchTyped(const LayerNormParams& p, cudaStream_t stream) {
  const auto* x = static_cast<const X*>(p.x);
  const NormTask task = Task(p.norm, p.gates, p.fp8, p.out, p.T, p.W);
  const bool many = p.gates.H > 0 && p.T >= kMinManyRows && p.W <= 4 * kChunkWidth;
  if (!many) return DispatchFewRows<T>(RowSource<X>{x, p.W}, task, stream);
  if (p.W <= kChunkWidth) return LaunchManyRows<X, T, 1>(x, task, stream);
  if (p.W <= 2 * kChunkWidth) return LaunchManyRows<X, T, 2>(x, task, stream);
  if (p.W <= 3 * kChunkWidth) return LaunchManyRows<X, T, 3>(x, task, stream);
  return LaunchManyRows<X, T, 4>(x, task, stream);
}

}  // namespace

absl::Status LaunchLayerNorm(const LayerNormParams& p, cudaStream_t stream) {
  LION_RETURN_IF_ERROR(CheckRowShape(p.T, p.W));
  if (p.x_float32 && p.type == ElementType::kBFloat16) {
    return absl::InvalidArgumentError("a LayerNorm of float32 rows gives float32 or float16");
  }
  if (p.x_float32 && p.type == ElementType::kFloat16) return LaunchTyped<float, __half>(p, stream);
  return WithType(p.type, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    return LaunchTyped<T, T>(p, stream);
  });
}

}  // namespace lion::cuda
