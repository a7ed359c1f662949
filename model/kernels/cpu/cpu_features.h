// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_CPU_FEATURES_H_
#define LION_MODEL_KERNELS_CPU_CPU_FEATURES_H_

// What this CPU and its operating system offer beyond what Highway 1.0 asks for. The same answers all through a
// process.

namespace lion {

// Matrix tiles (AMX) of bfloat16 or int8, and leave to use them: Linux asks a process to request it, which the first
// call does for all threads.
bool HasAmxBf16();
bool HasAmxInt8();

// Products and rounding of bfloat16 in AVX-512.
bool HasAvx512Bf16();

// The processor's name as it gives it ("Intel(R) Xeon(R) Processor"), empty where it gives none.
const char* CpuName();

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_CPU_FEATURES_H_
