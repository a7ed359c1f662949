// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_CUDA_STATUS_H_
#define LION_MODEL_KERNELS_CUDA_CUDA_STATUS_H_

// CUDA's error codes as statuses that name the call.

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lion::cuda {

// What an error means for the work to come.
enum class CudaFault {
  kNone,
  kMemory,  // there is no memory for this call; the next one may find some
  kLost,    // the device takes no more work of this process ("sticky"), or is not to be had
  kCall,    // this call alone
};

constexpr CudaFault Classify(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return CudaFault::kNone;
    case cudaErrorMemoryAllocation:
      return CudaFault::kMemory;
    // Every later call of the process reports these again.
    case cudaErrorAssert:
    case cudaErrorContained:
    case cudaErrorECCUncorrectable:
    case cudaErrorExternalDevice:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorMpsClientTerminated:
    case cudaErrorMpsRpcFailure:
    case cudaErrorMpsServerNotReady:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorUnknown:
    // The device is gone, or others have it to themselves.
    case cudaErrorDeviceUninitialized:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoDevice:
    case cudaErrorStartupFailure:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return CudaFault::kLost;
    default:
      return CudaFault::kCall;
  }
}

// OK; RESOURCE_EXHAUSTED where memory ran out; UNAVAILABLE where the device is lost; else INTERNAL. All name the call:
// "cudaMemcpyAsync: an illegal memory access ... (700)".
inline absl::Status CudaStatus(cudaError_t error, absl::string_view call) {
  const CudaFault fault = Classify(error);
  if (fault == CudaFault::kNone) return absl::OkStatus();
  const std::string message = absl::StrCat(call, ": ", cudaGetErrorString(error), " (", static_cast<int>(error), ")");
  if (fault == CudaFault::kMemory) return absl::ResourceExhaustedError(message);
  if (fault == CudaFault::kLost) return absl::UnavailableError(message);
  return absl::InternalError(message);
}

// What a kernel's launch left behind. Errors of the kernel's run come with a later call.
inline absl::Status LaunchStatus(absl::string_view kernel) {
  return CudaStatus(cudaGetLastError(), absl::StrCat("launch of ", kernel));
}

// Puts a StatusOr's value into *out.
template <class T>
absl::Status Assign(absl::StatusOr<T> from, T* out) {
  if (!from.ok()) return from.status();
  *out = *std::move(from);
  return absl::OkStatus();
}

}  // namespace lion::cuda

// Leaves the function with the status that expression gives, if it is an error.
#define LION_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                  \
    if (absl::Status lion_status = (expression); !lion_status.ok()) return lion_status; \
  } while (false)

#endif  // LION_MODEL_KERNELS_CUDA_CUDA_STATUS_H_
