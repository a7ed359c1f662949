// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_CUDA_TEST_H_
#define LION_TESTS_MODEL_CUDA_TEST_H_

// What tests of the CUDA backend share: a fixture that needs a device, and vectors on their way there and back.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/cuda_memory.h"
#include "model/kernels/cuda/attention_params.h"

namespace lion {

// Runs where there is a CUDA device. Elsewhere its tests are reported as skipped, each by name: what a machine without
// a device cannot show is not to look as if it had been shown.
template <class Base = testing::Test>
class OnCudaDevice : public Base {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "there is no CUDA device here";
  }
};

inline std::vector<float> NormalValues(int64_t n, uint32_t seed, float scale = 1, float offset = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(offset, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// An array of floats on the device in an element type (rounded to it). Aborts the test's expectations where CUDA fails.
class DeviceValues {
 public:
  DeviceValues(const std::vector<float>& values, cuda::ElementType type) : type_(type) {
    if (type == cuda::ElementType::kFloat32) {
      Send(values.data(), values.size() * sizeof(float));
      return;
    }
    std::vector<__nv_bfloat16> rounded(values.size());
    for (size_t i = 0; i < values.size(); ++i) rounded[i] = __float2bfloat16(values[i]);
    Send(rounded.data(), rounded.size() * sizeof(__nv_bfloat16));
  }

  // Every element is NaN until a kernel writes it.
  static DeviceValues Poisoned(int64_t n, cuda::ElementType type) {
    return DeviceValues(std::vector<float>(n, std::numeric_limits<float>::quiet_NaN()), type);
  }

  // Waits for the device.
  std::vector<float> Read() const {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaPeekAtLastError());
    if (type_ == cuda::ElementType::kFloat32) {
      std::vector<float> values(buffer_.bytes() / sizeof(float));
      Receive(values.data());
      return values;
    }
    std::vector<__nv_bfloat16> rounded(buffer_.bytes() / sizeof(__nv_bfloat16));
    Receive(rounded.data());
    std::vector<float> values;
    for (__nv_bfloat16 v : rounded) values.push_back(__bfloat162float(v));
    return values;
  }

  void* data() const { return buffer_.data(); }
  float* floats() const { return buffer_.At<float>(0); }

 private:
  void Send(const void* values, size_t bytes) {
    absl::StatusOr<DeviceBuffer> buffer = Upload(values, static_cast<int64_t>(bytes));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    if (buffer.ok()) buffer_ = *std::move(buffer);
  }
  void Receive(void* values) const {
    EXPECT_EQ(cudaMemcpy(values, buffer_.data(), buffer_.bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
  }

  cuda::ElementType type_;
  DeviceBuffer buffer_;
};

// values as the type holds them.
inline std::vector<float> Rounded(std::vector<float> values, cuda::ElementType type) {
  if (type == cuda::ElementType::kBFloat16) {
    for (float& v : values) v = __bfloat162float(__float2bfloat16(v));
  }
  return values;
}

template <class T>
DeviceBuffer OnDevice(const std::vector<T>& values) {
  absl::StatusOr<DeviceBuffer> buffer = Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  return buffer.ok() ? *std::move(buffer) : DeviceBuffer();
}

// Half a unit in the last place of the type, relative: what rounding a result to it costs.
inline double HalfUlp(cuda::ElementType type) {
  return type == cuda::ElementType::kBFloat16 ? 1.0 / 256 : std::numeric_limits<float>::epsilon() / 2.0;
}

inline std::string TypeName(cuda::ElementType type) {
  return type == cuda::ElementType::kBFloat16 ? "bfloat16" : "float32";
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_CUDA_TEST_H_
