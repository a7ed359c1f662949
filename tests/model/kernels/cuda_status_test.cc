// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/kernels/cuda/cuda_status.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion::cuda {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(CudaStatusTest, TellsALostDeviceFromACallThatFailed) {
  const struct {
    cudaError_t error;
    CudaFault fault;
    absl::StatusCode code;
  } cases[] = {
      {cudaSuccess, CudaFault::kNone, absl::StatusCode::kOk},
      {cudaErrorMemoryAllocation, CudaFault::kMemory, absl::StatusCode::kResourceExhausted},
      {cudaErrorIllegalAddress, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorLaunchFailure, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorLaunchTimeout, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorECCUncorrectable, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorNvlinkUncorrectable, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorMisalignedAddress, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorIllegalInstruction, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorHardwareStackError, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorAssert, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorDevicesUnavailable, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorNoDevice, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorUnknown, CudaFault::kLost, absl::StatusCode::kUnavailable},
      {cudaErrorInvalidValue, CudaFault::kCall, absl::StatusCode::kInternal},
      {cudaErrorInvalidConfiguration, CudaFault::kCall, absl::StatusCode::kInternal},
      {cudaErrorLaunchOutOfResources, CudaFault::kCall, absl::StatusCode::kInternal},
      {cudaErrorStreamCaptureUnsupported, CudaFault::kCall, absl::StatusCode::kInternal},
      {cudaErrorNotReady, CudaFault::kCall, absl::StatusCode::kInternal},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Classify(c.error), c.fault) << cudaGetErrorString(c.error);
    EXPECT_EQ(CudaStatus(c.error, "cudaCall").code(), c.code) << cudaGetErrorString(c.error);
  }
}

TEST(CudaStatusTest, NamesTheCallAndTheError) {
  const std::string message(CudaStatus(cudaErrorIllegalAddress, "cudaMemcpyAsync to the host").message());
  EXPECT_THAT(message, StartsWith("cudaMemcpyAsync to the host: "));
  EXPECT_THAT(message, HasSubstr("(700)"));
}

}  // namespace
}  // namespace lion::cuda
