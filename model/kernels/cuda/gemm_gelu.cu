// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)), GELU in its erf form: the first product of a feed-forward layer, of
// which a library's epilogues have the tanh form only, and which takes a third as long again if GELU passes over y on
// its own.
//
// 2 M N K operations, bound by the tensor cores at large M and by reading W at small M. A CUTLASS kernel for sm_90a:
// one warp feeds shared memory by TMA, and two groups of four warps take tiles of y in turn ("pingpong"), so that the
// bias, GELU and the store of one tile run in the shadow of the next one's products. Where M, N or K ends inside a
// tile, TMA reads zeros and writes nothing. Each element of y is summed over K in order by one block; there is no split
// of K, and nothing depends on M.
//
// GELU has about 13 instructions an element to hide: gelu(z) = max(z, 0) - |z| h(|z|), h(t) = 1 - Phi(t) = 2^P(t), Phi
// the normal distribution, P of degree 8. No division, no branch, and on the negative side nothing that cancels.

// An assertion is a function call, across which the compiler does not pipeline products (ptxas C7510).
#ifndef NDEBUG
#define NDEBUG
#endif

#include <atomic>

#include "cutlass/cutlass.h"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm90_visitor_compute_tma_warpspecialized.hpp"
#include "cutlass/epilogue/fusion/sm90_visitor_load_tma_warpspecialized.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "model/kernels/cuda/gemm_gelu_params.h"

namespace lion::cuda {
namespace {

constexpr int kMaxDevices = 64;

// Before its last rounding gelu(z) errs by less than 9e-8, and down to z = -5 by less than bfloat16's rounding of it. P
// falls everywhere, so h goes to 0 for large t. NaN stays NaN; an infinite z gives NaN.
__device__ __forceinline__ float GeluErf(float z) {
  constexpr float kP[] = {-0.99999988f,    -1.15110970f,    -0.459169239f,  -0.0526216105f, 0.00725483242f,
                          -2.89915508e-4f, -1.20767523e-4f, 2.52864993e-5f, -1.63959510e-6f};
  const float t = fabsf(z);
  float p = kP[8];
#pragma unroll
  for (int i = 7; i >= 0; --i) p = fmaf(p, t, kP[i]);
  float h;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(h) : "f"(p));
  return fmaf(-t, h, fmaxf(z, 0.f));
}

// What CUTLASS's epilogue calls on a few elements at a time.
template <class Values>
struct AddBiasGelu {
  CUTLASS_DEVICE Values operator()(const Values& sums, const Values& bias) const {
    Values y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Values::kElements; ++i) y[i] = GeluErf(sums[i] + bias[i]);
    return y;
  }
};

// One instantiation: Tile (rows, columns, K) of a block, and how many blocks share what they read (Cluster, along M).
template <class T, class Tile, class Cluster>
class PingpongKernel {
 public:
  static cudaError_t Enqueue(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
    cutlass::KernelHardwareInfo hardware;
    if (const cudaError_t error = Prepare(&hardware, call); error != cudaSuccess) return error;

    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {static_cast<int>(p.M), static_cast<int>(p.N), static_cast<int>(p.K), 1},
        {static_cast<const T*>(p.x), RowMajor(p.K), static_cast<const T*>(p.weight), RowMajor(p.K)},
        {{{}, {static_cast<const T*>(p.bias)}, {}}, nullptr, RowMajor(p.N), static_cast<T*>(p.y), RowMajor(p.N)},
        hardware};
    // x is the large operand: neighbours in time share its rows and find W in the L2 cache.
    arguments.scheduler.raster_order = cutlass::gemm::kernel::detail::RasterOrderOptions::AlongN;
    // Encodes the TMA descriptors, which travel with the launch as its parameter.
    typename Gemm::Params params = Gemm::to_underlying_arguments(arguments, nullptr);

    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = Launch(Gemm::get_grid_shape(params), &attribute);
    config.stream = stream;
    void* kernel_arguments[] = {&params};
    *call = "launch of gemm_gelu";
    return cudaLaunchKernelExC(&config, Function(), kernel_arguments);
  }

 private:
  using Bias = cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, T, float>;
  using Compute =
      cutlass::epilogue::fusion::Sm90Compute<AddBiasGelu, T, float, cutlass::FloatRoundStyle::round_to_nearest>;
  using Fusion = cutlass::epilogue::fusion::Sm90EVT<Compute, cutlass::epilogue::fusion::Sm90AccFetch, Bias>;
  static constexpr int kAlign = 16 / sizeof(T);
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, cutlass::layout::RowMajor, kAlign, T,
      cutlass::layout::RowMajor, kAlign, cutlass::epilogue::TmaWarpSpecialized, Fusion>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, T, cutlass::layout::RowMajor, kAlign, T,
      cutlass::layout::ColumnMajor, kAlign, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedPingpong>::CollectiveOp;
  using Gemm = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;

  static cute::Stride<int64_t, cute::_1, int64_t> RowMajor(int64_t columns) { return {columns, cute::_1{}, 0}; }

  static const void* Function() { return reinterpret_cast<const void*>(&cutlass::device_kernel<Gemm>); }

  static cudaLaunchConfig_t Launch(dim3 grid, cudaLaunchAttribute* attribute) {
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim = {cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = Gemm::get_block_shape();
    config.dynamicSmemBytes = Gemm::SharedStorageSize;
    config.attrs = attribute;
    config.numAttrs = 1;
    return config;
  }

  // Once a device: lifts the kernel's limit on shared memory, and asks how many clusters run at once, which is how many
  // the grid has. Threads that race here find the same.
  static cudaError_t Prepare(cutlass::KernelHardwareInfo* hardware, const char** call) {
    static std::atomic<int> num_clusters[kMaxDevices];
    int device = 0;
    *call = "cudaGetDevice";
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
    if (device >= kMaxDevices) return cudaErrorInvalidDevice;
    int clusters = num_clusters[device].load(std::memory_order_acquire);
    if (clusters == 0) {
      *call = "cudaFuncSetAttribute for gemm_gelu";
      if (const cudaError_t error =
              cudaFuncSetAttribute(Function(), cudaFuncAttributeMaxDynamicSharedMemorySize, Gemm::SharedStorageSize);
          error != cudaSuccess) {
        return error;
      }
      cudaLaunchAttribute attribute;
      const dim3 one_cluster(cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), 1);
      const cudaLaunchConfig_t config = Launch(one_cluster, &attribute);
      *call = "cudaOccupancyMaxActiveClusters for gemm_gelu";
      if (const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, Function(), &config);
          error != cudaSuccess) {
        return error;
      }
      if (clusters < 1) return cudaErrorLaunchOutOfResources;
      num_clusters[device].store(clusters, std::memory_order_release);
    }
    hardware->device_id = device;
    hardware->sm_count = clusters * static_cast<int>(cute::size(Cluster{}));
    hardware->max_active_clusters = clusters;
    return cudaSuccess;
  }
};

using cute::_1;
using cute::_128;
using cute::_2;
using cute::_64;

template <class T>
cudaError_t EnqueueTyped(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
  // Of ten shapes tried on an H100, 128 x 128 was the fastest from here on, 64 x 64 with fewer tiles.
  constexpr int64_t kMinWideTiles = 96;
  const int64_t wide_tiles = ((p.M + 127) / 128) * ((p.N + 127) / 128);
  const bool wide = p.tile == GemmGeluTile::kAuto ? wide_tiles >= kMinWideTiles : p.tile == GemmGeluTile::kWide;
  if (wide) return PingpongKernel<T, cute::Shape<_128, _128, _64>, cute::Shape<_2, _1, _1>>::Enqueue(p, stream, call);
  return PingpongKernel<T, cute::Shape<_64, _64, _64>, cute::Shape<_1, _1, _1>>::Enqueue(p, stream, call);
}

}  // namespace

cudaError_t EnqueueGemmGelu(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
  if (p.type == ElementType::kFloat16) return EnqueueTyped<cutlass::half_t>(p, stream, call);
  return EnqueueTyped<cutlass::bfloat16_t>(p, stream, call);
}

}  // namespace lion::cuda
