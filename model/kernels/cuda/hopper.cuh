// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_HOPPER_CUH_
#define LION_MODEL_KERNELS_CUDA_HOPPER_CUH_

// Hopper's own instructions (sm_90a) as functions: barriers on copies, tensor copies, warpgroup products, and the
// layouts of shared memory that the last two agree on.
//
// A tile in shared memory has rows of kRowBytes, 128 or 64: 64 or 32 elements of 16 bits, dense, its 16-byte chunks
// swizzled as the tensor copy engine lays them: the chunk's index is xor-ed with the address bits above the row. A
// tile starts at a multiple of 1,024 bytes.

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace lion::cuda::hopper {

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ------------------------------------------------------------------------------------------- barriers and copies

__device__ __forceinline__ void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(SharedAddress(barrier)), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine; the block synchronises after it.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// One arrival, and bytes that copies are to bring before the phase ends.
__device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}

// One arrival.
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(SharedAddress(barrier)) : "memory");
}

// One arrival, once this thread's CopyAsync4 so far have come.
__device__ __forceinline__ void ArriveAfterCopies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(SharedAddress(barrier)) : "memory");
}

// 4 bytes to shared memory, zeros if not valid.
__device__ __forceinline__ void CopyAsync4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(SharedAddress(to)), "l"(from), "r"(valid ? 4 : 0)
               : "memory");
}

__device__ __forceinline__ void WaitBarrier(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// The box of the map at (column, row) to shared memory, counted by the barrier. Rows past the map's end are zero.
__device__ __forceinline__ void CopyBox(const CUtensorMap* map, void* to, uint64_t* barrier, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n" ::"r"(
          SharedAddress(to)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(column), "r"(row)
      : "memory");
}

__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

// Orders this thread's ordinary accesses to shared memory before the products' and the copy engine's that follow the
// next barrier of the block.
__device__ __forceinline__ void FenceShared() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// ---------------------------------------------------------------------------------------------------- shared memory

// The offset in bytes of a 16-byte chunk of a row in a swizzled tile.
template <int kRowBytes>
__device__ __forceinline__ uint32_t Swizzled(int row, int chunk) {
  static_assert(kRowBytes == 128 || kRowBytes == 64);
  const int flip = kRowBytes == 128 ? row & 7 : row >> 1 & 3;
  return row * kRowBytes + ((chunk ^ flip) << 4);
}

__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&r)[4], const unsigned char* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p))
               : "memory");
}

__device__ __forceinline__ void StoreMatrix4(unsigned char* p, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(SharedAddress(p)), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}

// What a product reads of a swizzled tile. Rows: the product's sum runs along the row, so that M or N counts rows; a
// step of 16 of the sum is 32 bytes. Columns: the sum runs down the rows; a step is 16 rows.
template <int kRowBytes>
__device__ __forceinline__ uint64_t TileDescriptor(const unsigned char* tile) {
  constexpr uint64_t kGroup = 8 * kRowBytes >> 4;         // between groups of 8 rows
  constexpr uint64_t kLayout = kRowBytes == 128 ? 1 : 2;  // swizzle of 128 or 64 bytes
  return kLayout << 62 | kGroup << 32 | uint64_t{1} << 16 | (SharedAddress(tile) & 0x3FFFF) >> 4;
}
template <int kRowBytes>
__device__ __forceinline__ uint64_t AlongRows(uint64_t descriptor, int step) {
  return descriptor + step * (32 >> 4);
}
template <int kRowBytes>
__device__ __forceinline__ uint64_t DownColumns(uint64_t descriptor, int step) {
  return descriptor + step * (16 * kRowBytes >> 4);
}

// Hands registers of this warpgroup's threads back, or takes some that others of its block have handed back.
template <int kRegisters>
__device__ __forceinline__ void HandBackRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

// --------------------------------------------------------------------------------------------- warpgroup products

__device__ __forceinline__ void ProductFence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void ProductCommit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void ProductWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// Says that a register array changes here: the compiler moves no access to it across.
template <int kSize>
__device__ __forceinline__ void HoldRegisters(float (&r)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// d (64, N) = a b (+ d if accumulate), a step of 16 of the sum; 4 warps, asynchronous. d[4 n + i] of a thread: rows
// lane / 4 (i < 2) and lane / 4 + 8 of its warp's 16, columns 8 n + lane % 4 * 2 + i % 2. FromShared takes a from
// shared memory along rows, FromRegisters as four pairs in the fragment order of mma.m16n8k16. kDown: b's sum runs
// down its columns.
template <typename T, int N>
struct Product;

#define LION_D16                                                                                              \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define LION_D32                                                                                                    \
  LION_D16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define LION_N32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
#define LION_N64                                                                                                \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28," \
  "%29,%30,%31}"

#define LION_PRODUCT(TYPE, NAME, N, LIST, OUT, I0, I1, I2, I3, I4, I5, I6)                                          \
  template <>                                                                                                       \
  struct Product<TYPE, N> {                                                                                         \
    template <bool kDown>                                                                                           \
    static __device__ __forceinline__ void FromShared(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2                                                         \
                   ", 0;\n"                                                                                         \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " " LIST ", %" #I0 ", %" #I1     \
                   ", p, 1, 1, 0, %" #I3 ";\n}\n"                                                                   \
                   : OUT                                                                                            \
                   : "l"(a), "l"(b), "r"(static_cast<int32_t>(accumulate)), "n"(kDown ? 1 : 0));                    \
    }                                                                                                               \
    template <bool kDown>                                                                                           \
    static __device__ __forceinline__ void FromRegisters(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,     \
                                                         bool accumulate) {                                         \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5                                                         \
                   ", 0;\n"                                                                                         \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " " LIST ", {%" #I0 ",%" #I1     \
                   ",%" #I2 ",%" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}\n"                                         \
                   : OUT                                                                                            \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(accumulate)),     \
                     "n"(kDown ? 1 : 0));                                                                           \
    }                                                                                                               \
  };

LION_PRODUCT(__nv_bfloat16, "bf16", 64, LION_N64, LION_D32, 32, 33, 34, 35, 36, 37, 38)
LION_PRODUCT(__nv_bfloat16, "bf16", 32, LION_N32, LION_D16, 16, 17, 18, 19, 20, 21, 22)
LION_PRODUCT(__half, "f16", 64, LION_N64, LION_D32, 32, 33, 34, 35, 36, 37, 38)
LION_PRODUCT(__half, "f16", 32, LION_N32, LION_D16, 16, 17, 18, 19, 20, 21, 22)

#undef LION_PRODUCT
#undef LION_D16
#undef LION_D32
#undef LION_N32
#undef LION_N64

}  // namespace lion::cuda::hopper

#endif  // LION_MODEL_KERNELS_CUDA_HOPPER_CUH_
