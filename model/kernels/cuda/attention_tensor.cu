// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Attention on tensor cores: y_i = scale * sum_j (q_i . k_j) M_ij v_j for every row and head of a packed batch.
// attention_launch.h has the plan, kernels/cpu/attention.h the formula, attention_tiles.cuh the parts.
//
// Tiles have 64 tokens and go in pairs. A block works through its segments pair by pair:
//   S (64, 64) = Q K^T, masked to P      O (64, D) = pre * (Q F) + suf * (Q B) + P V      F (D, D) = A F + (K suf)^T V
// F is carried along in registers. B at the end of each pair comes from a walk over the segment from its end, made
// before (kernel 1, or the same block where a segment is a whole row), which leaves it where the pair's y is going to
// be written; B at the end of a pair's first tile is made from it and the second tile when they are needed. So each of
// q, k, v is read once by kernel 3, and k, v once more by kernel 1.
//   1. AttendItems, kSums   what each segment of a long row adds to the states, and B inside it
//   2. ScanStates           their prefixes in both directions, where a row has many segments
//   3. AttendItems          y
// LION-LIT has no masks: kernel 1 sums k v^T over segments, kernel 3 multiplies q with the row's sum.
// All copies into shared memory are the copy engine's: a ring of tiles runs ahead of the products, over the ends of
// segments too. Bound by device memory: 2 (q, k, v, y) bytes an element once, k and v and 1/8 of y's size twice more.

#include <algorithm>

#include "model/kernels/cuda/attention_block.cuh"
#include "model/kernels/cuda/attention_feed.cuh"
#include "model/kernels/cuda/attention_kernels.h"
#include "model/kernels/cuda/attention_tiles.cuh"

namespace lion::cuda {
namespace {

// ------------------------------------------------------------------------------------------------------------ kernels

// Blocks that share a multiprocessor.
template <int D, bool kSums>
inline constexpr int kBlocksOf = kSums || D < 128 ? 2 : 1;

// Kernel 1 (kSums) or 3. Blocks take the segments' and heads' items in turn.
template <typename T, int D, bool kSums>
__global__ void __launch_bounds__(kAllThreads, kBlocksOf<D, kSums>)
    AttendItems(const __grid_constant__ AttentionParams p, const __grid_constant__ CUtensorMap map) {
  static_assert(kBlocksOf<D, kSums> * (sizeof(Shared<D, kSums>) + 1024) <= 228 * 1024);
  extern __shared__ __align__(1024) unsigned char memory[];
  auto* shared = reinterpret_cast<Shared<D, kSums>*>(memory);
  if (threadIdx.x == 0) shared->Init();
  __syncthreads();
  constexpr bool kShareRegisters = kBlocksOf<D, kSums> == 2;  // else there are enough
  if (threadIdx.x < kBlockThreads) {
    if constexpr (kShareRegisters) hopper::TakeRegisters<232>();
    Block<T, D, kSums>(p, shared).Run();
  } else {
    if constexpr (kShareRegisters) hopper::HandBackRegisters<24>();
    if (threadIdx.x < kBlockThreads + 32) Feed<D, kSums>(p, &map, shared);
  }
}

// Kernel 2: in place, from what each segment adds to the state that it starts from, in both directions; LION-LIT: the
// sum of all, at the first segment's backward state. A thread keeps 4 elements, float4 being what a state is read in.
__global__ void __launch_bounds__(kBlockThreads)
    ScanStates(const __grid_constant__ AttentionParams p, int units, int state_floats) {
  const int index = blockIdx.x / units;
  const int unit = blockIdx.x % units;
  if (index >= p.counts[1]) return;
  const StateRun run = p.runs[index];
  if (run.count <= kMaxUnscanned) return;
  const int vector = blockIdx.y * kBlockThreads + threadIdx.x;
  const int direction = blockIdx.z;
  const bool masked = p.log_a != nullptr;
  if (vector * 4 >= state_floats || (!masked && direction == 1)) return;
  const int head = unit / (units / p.H);
  auto at = [&](int state, int way) {
    return reinterpret_cast<float4*>(static_cast<float*>(p.states) +
                                     ((static_cast<int64_t>(run.first + state) * units + unit) * 2 + way) *
                                         state_floats) +
           vector;
  };
  const float* decays = static_cast<const float*>(p.states) + static_cast<int64_t>(p.max_states) * p.H * 2 * p.D * p.D +
                        static_cast<int64_t>(run.first) * p.H + head;
  constexpr int kAhead = 8;  // loads in flight
  float4 sum = make_float4(0, 0, 0, 0);
  for (int i = 0; i < run.count; i += kAhead) {
    float4 added[kAhead];
    float decay[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (i + u >= run.count) break;
      const int state = direction == 0 ? i + u : run.count - 1 - i - u;
      added[u] = __ldcg(at(state, direction));
      decay[u] = __ldcg(decays + static_cast<int64_t>(state) * p.H);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (i + u >= run.count) break;
      const int state = direction == 0 ? i + u : run.count - 1 - i - u;
      if (masked) __stcg(at(state, direction), sum);
      sum.x = decay[u] * sum.x + added[u].x;
      sum.y = decay[u] * sum.y + added[u].y;
      sum.z = decay[u] * sum.z + added[u].z;
      sum.w = decay[u] * sum.w + added[u].w;
    }
  }
  if (!masked) __stcg(at(0, 1), sum);
}

// ----------------------------------------------------------------------------------------------------------- launches

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// q, k and v as rows of 3 H D elements, in boxes of 64 tokens and the columns of one tile.
cudaError_t MakeMap(const AttentionParams& p, int columns, CUtensorMap* map) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {3 * static_cast<cuuint64_t>(p.H) * static_cast<cuuint64_t>(p.D),
                              static_cast<cuuint64_t>(p.T)};
  const cuuint64_t strides[] = {sizes[0] * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(columns), kTile};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = reinterpret_cast<EncodeTiled>(function)(
      map, p.type == ElementType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
      const_cast<void*>(p.qkv), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename T, int D, bool kSums>
void LaunchItems(const AttentionParams& p, cudaStream_t stream, LaunchFailure* failure) {
  constexpr int kBytes = sizeof(Shared<D, kSums>);
  constexpr auto kKernel = AttendItems<T, D, kSums>;
  CUtensorMap map;
  int device = 0;
  int processors = 0;
  if (!failure->Check(MakeMap(p, HeadShape<D>::kColumns, &map), "attention: cuTensorMapEncodeTiled") ||
      !failure->Check(cudaGetDevice(&device), "attention: cudaGetDevice") ||
      !failure->Check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                      "attention: cudaDeviceGetAttribute") ||
      !failure->Check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
                      "attention: cudaFuncSetAttribute")) {
    return;
  }
  const int64_t items = static_cast<int64_t>(p.max_segments) * p.H * HeadShape<D>::kParts;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(items, processors * kBlocksOf<D, kSums>));
  kKernel<<<blocks, kAllThreads, kBytes, stream>>>(p, map);
  failure->Check(cudaGetLastError(), kSums ? "attention: sums" : "attention: outputs");
}

template <int D>
void LaunchScan(const AttentionParams& p, cudaStream_t stream, LaunchFailure* failure) {
  const int units = p.H * HeadShape<D>::kParts;
  constexpr int kFloats = HeadShape<D>::kStateFloats;
  const dim3 grid(static_cast<unsigned>(p.max_runs * units), (kFloats / 4 + kBlockThreads - 1) / kBlockThreads, 2);
  ScanStates<<<grid, kBlockThreads, 0, stream>>>(p, units, kFloats);
  failure->Check(cudaGetLastError(), "attention: ScanStates");
}

template <int D>
void Launch(TensorKernel kernel, const AttentionParams& p, cudaStream_t stream, LaunchFailure* failure) {
  const bool half = p.type == ElementType::kFloat16;
  switch (kernel) {
    case TensorKernel::kSums:
      if (half) return LaunchItems<__half, D, true>(p, stream, failure);
      return LaunchItems<__nv_bfloat16, D, true>(p, stream, failure);
    case TensorKernel::kScan:
      return LaunchScan<D>(p, stream, failure);
    case TensorKernel::kOutputs:
      if (half) return LaunchItems<__half, D, false>(p, stream, failure);
      return LaunchItems<__nv_bfloat16, D, false>(p, stream, failure);
  }
}

}  // namespace

void EnqueueTensorKernel(TensorKernel kernel, const AttentionParams& p, cudaStream_t stream, LaunchFailure* failure) {
  if (failure->error != cudaSuccess) return;
  if (p.D == 32) Launch<32>(kernel, p, stream, failure);
  if (p.D == 64) Launch<64>(kernel, p, stream, failure);
  if (p.D == 128) Launch<128>(kernel, p, stream, failure);
}

}  // namespace lion::cuda
