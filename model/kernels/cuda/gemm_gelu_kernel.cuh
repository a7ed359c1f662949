// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_GEMM_GELU_KERNEL_CUH_
#define LION_MODEL_KERNELS_CUDA_GEMM_GELU_KERNEL_CUH_

// y (M, N) = gelu(x (M, K) W (N, K)^T + b (N)), GELU in its erf form: the first product of a feed-forward layer, of
// which a library's epilogues have the tanh form only, and which takes a third as long again if GELU passes over y on
// its own. For the gemm_gelu_*.cu files alone, one an element type, so that they compile side by side.
//
// 2 M N K operations, bound by the tensor cores at large M and by reading W at small M. A CUTLASS kernel for sm_90a:
// one warp feeds shared memory by TMA, and two groups of four warps take tiles of y in turn ("pingpong"), so that the
// bias, GELU and the store of one tile run in the shadow of the next one's products. Where M, N or K ends inside a
// tile, TMA reads zeros and writes nothing. Each element of y is summed over K in order by one block; there is no split
// of K, and nothing depends on M.
//
// GELU has about ten instructions an element to hide: gelu(z) = max(z, 0) - |z| h(|z|), h(t) = 1 - Phi(t) = 2^P(t), Phi
// the normal distribution. No division, no branch, and on the negative side nothing that cancels.

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

namespace lion::cuda::gemm_gelu {

inline constexpr int kMaxDevices = 64;

// P's coefficients, fitted to gelu's error. P falls everywhere, so that h goes to 0 for large t.
//   kFine:   gelu(z) errs by less than 9e-8, and down to z = -5 by less than bfloat16's rounding of it.
//   kCoarse: by less than 1.6e-6, and down to z = -3, where gelu(z) is -0.004, by less than 3.3e-4 of itself: a sixth
//   of
//            bfloat16's rounding. Three instructions an element less, which is 0.02 ms of 0.49 at 65,536 x 3,072.
inline constexpr int kFineTerms = 9;
inline constexpr int kCoarseTerms = 6;
inline constexpr float kFine[kFineTerms] = {-0.99999988f,    -1.15110970f,   -0.459169239f,
                                            -0.0526216105f,  0.00725483242f, -2.89915508e-4f,
                                            -1.20767523e-4f, 2.52864993e-5f, -1.63959510e-6f};
inline constexpr float kCoarse[kCoarseTerms] = {-1.00013063f,   -1.15005268f,   -0.461759370f,
                                                -0.0500809089f, 0.00634211644f, -3.61558981e-4f};

template <int kTerms>
struct Polynomial {
  float terms[kTerms];
};

// gelu(s z) / s for the s whose powers the polynomial's terms were multiplied with. NaN stays NaN; an infinite z gives
// NaN.
template <int kTerms>
__device__ __forceinline__ float Gelu(float z, const Polynomial<kTerms>& polynomial) {
  const float t = fabsf(z);
  float p = polynomial.terms[kTerms - 1];
#pragma unroll
  for (int i = kTerms - 2; i >= 0; --i) p = fmaf(p, t, polynomial.terms[i]);
  float h;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(h) : "f"(p));
  return fmaf(-t, h, fmaxf(z, 0.f));
}

template <int kTerms>
Polynomial<kTerms> Scaled(const float (&terms)[kTerms], float s) {
  Polynomial<kTerms> scaled;
  float power = 1;
  for (int i = 0; i < kTerms; ++i, power *= s) scaled.terms[i] = terms[i] * power;
  return scaled;
}

// What CUTLASS's epilogue calls on a few elements at a time: bias and GELU; or scales of x's row and W's, bias and
// GELU, all in units of y's scale.
template <class Values>
struct AddBiasGelu {
  using Arguments = Polynomial<kCoarseTerms>;
  CUTLASS_DEVICE Values operator()(const Values& sums, const Values& bias, const Arguments& polynomial) const {
    Values y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Values::kElements; ++i) y[i] = Gelu(sums[i] + bias[i], polynomial);
    return y;
  }
};

template <class Values>
struct AddBiasGeluFine {
  using Arguments = Polynomial<kFineTerms>;
  CUTLASS_DEVICE Values operator()(const Values& sums, const Values& bias, const Arguments& polynomial) const {
    Values y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Values::kElements; ++i) y[i] = Gelu(sums[i] + bias[i], polynomial);
    return y;
  }
};

template <class Values>
struct ScaleAddBiasGelu {
  using Arguments = Polynomial<kCoarseTerms>;
  CUTLASS_DEVICE Values operator()(const Values& sums, const Values& x_scales, const Values& weight_scales,
                                   const Values& bias, const Arguments& polynomial) const {
    Values y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < Values::kElements; ++i) {
      y[i] = Gelu(fmaf(sums[i] * x_scales[i], weight_scales[i], bias[i]), polynomial);
    }
    return y;
  }
};

// The types: what x, W and y are, how x W^T is summed, and what becomes of a sum.
template <class T, template <class> class Function>
struct SixteenBits {
  using Element = T;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  template <class Tile>
  using Fusion = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<Function, T, float, cutlass::FloatRoundStyle::round_to_nearest>,
      cutlass::epilogue::fusion::Sm90AccFetch, cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float>>;
  template <class Arguments>
  static void Set(const GemmGeluParams& p, Arguments* fusion) {
    if constexpr (std::is_same_v<typename Function<float>::Arguments, Polynomial<kFineTerms>>) {
      *fusion = {{}, {p.bias}, Scaled(kFine, 1)};
    } else {
      *fusion = {{}, {p.bias}, Scaled(kCoarse, 1)};
    }
  }
};

struct Fp8 {
  using Element = cutlass::float_e4m3_t;
  using Schedule = cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum;
  template <class Tile>
  using Fusion = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<ScaleAddBiasGelu, Element, float,
                                             cutlass::FloatRoundStyle::round_to_nearest>,
      cutlass::epilogue::fusion::Sm90AccFetch, cutlass::epilogue::fusion::Sm90ColBroadcast<0, Tile, float>,
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float>,
      cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float>>;
  template <class Arguments>
  static void Set(const GemmGeluParams& p, Arguments* fusion) {
    *fusion = {{}, {p.x_scales}, {p.weight_scales}, {p.bias}, Scaled(kCoarse, p.y_scale)};
  }
};

// One instantiation: Tile (rows, columns, K) of a block, and how many blocks share what they read (Cluster, along M).
template <class Types, class Tile, class Cluster>
class PingpongKernel {
 public:
  static cudaError_t Enqueue(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
    cutlass::KernelHardwareInfo hardware;
    if (const cudaError_t error = Prepare(&hardware, call); error != cudaSuccess) return error;

    typename Gemm::Arguments arguments{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {static_cast<int>(p.M), static_cast<int>(p.N), static_cast<int>(p.K), 1},
        {static_cast<const Element*>(p.x), RowMajor(p.K), static_cast<const Element*>(p.weight), RowMajor(p.K)},
        {{}, nullptr, RowMajor(p.N), static_cast<Element*>(p.y), RowMajor(p.N)},
        hardware};
    Types::Set(p, &arguments.epilogue.thread);
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
  using Element = typename Types::Element;
  static constexpr int kAlign = 16 / sizeof(Element);
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, cutlass::layout::RowMajor, kAlign, Element,
      cutlass::layout::RowMajor, kAlign, cutlass::epilogue::TmaWarpSpecialized,
      typename Types::template Fusion<Tile>>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor, kAlign, Element,
      cutlass::layout::ColumnMajor, kAlign, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      typename Types::Schedule>::CollectiveOp;
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

// Depth: K of a tile, 128 bytes of it.
template <class Types, class Depth>
cudaError_t Enqueue(const GemmGeluParams& p, cudaStream_t stream, const char** call) {
  // Of ten shapes tried on an H100, 128 x 128 was the fastest from here on, 64 x 64 with fewer tiles.
  constexpr int64_t kMinWideTiles = 96;
  const int64_t wide_tiles = ((p.M + 127) / 128) * ((p.N + 127) / 128);
  const bool wide = p.tile == GemmGeluTile::kAuto ? wide_tiles >= kMinWideTiles : p.tile == GemmGeluTile::kWide;
  if (wide) {
    return PingpongKernel<Types, cute::Shape<_128, _128, Depth>, cute::Shape<_2, _1, _1>>::Enqueue(p, stream, call);
  }
  return PingpongKernel<Types, cute::Shape<_64, _64, Depth>, cute::Shape<_1, _1, _1>>::Enqueue(p, stream, call);
}

}  // namespace lion::cuda::gemm_gelu

#endif  // LION_MODEL_KERNELS_CUDA_GEMM_GELU_KERNEL_CUH_
