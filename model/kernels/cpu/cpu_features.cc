// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace lion {
namespace {

struct Leaf {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
};

// Zeros where the CPU has no such leaf.
Leaf Cpuid(uint32_t leaf, uint32_t subleaf) {
  Leaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return Leaf();
  return out;
}

bool HasTiles() {
  static const bool has = [] {
    constexpr uint32_t kOsSavesState = 1u << 27;
    constexpr uint32_t kTiles = 1u << 24;
    if ((Cpuid(1, 0).ecx & kOsSavesState) == 0 || (Cpuid(7, 0).edx & kTiles) == 0) return false;
    constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

}  // namespace

// Asking the CPU is slow in a virtual machine: once is enough.
bool HasAvx512Bf16() {
  static const bool has = [] {
    constexpr uint32_t kOsSavesState = 1u << 27;
    if ((Cpuid(1, 0).ecx & kOsSavesState) == 0) return false;
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr uint32_t kVectorState = 0xE6;  // of SSE, AVX and the three parts of AVX-512
    // AVX-512 F, DQ, BW and VL.
    constexpr uint32_t kParts = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    return (low & kVectorState) == kVectorState && (Cpuid(7, 0).ebx & kParts) == kParts &&
           (Cpuid(7, 1).eax & (1u << 5)) != 0;
  }();
  return has;
}

bool HasAmxBf16() {
  static const bool has = (Cpuid(7, 0).edx & (1u << 22)) != 0 && HasAvx512Bf16() && HasTiles();
  return has;
}

bool HasAmxInt8() {
  static const bool has = (Cpuid(7, 0).edx & (1u << 25)) != 0 && HasTiles();
  return has;
}

const char* CpuName() {
  static const std::string& name = *new std::string([] {
    std::string text;
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
      const Leaf part = Cpuid(leaf, 0);
      char bytes[sizeof(part)];
      std::memcpy(bytes, &part, sizeof(part));
      text.append(bytes, sizeof(bytes));
    }
    text = text.substr(0, text.find('\0'));
    const size_t first = text.find_first_not_of(' ');
    return first == std::string::npos ? std::string() : text.substr(first, text.find_last_not_of(' ') - first + 1);
  }());
  return name.c_str();
}

}  // namespace lion
