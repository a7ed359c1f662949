// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_CUDA_TEST_H_
#define LION_TESTS_MODEL_CUDA_TEST_H_

// What tests of the CUDA backend share: a fixture that needs a device, and vectors on their way there and back.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <cmath>
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

// The bits of a value in a 16-bit type, and back.
inline uint16_t ToBits16(float value, cuda::ElementType type) {
  if (type == cuda::ElementType::kFloat16) return static_cast<__half_raw>(__float2half(value)).x;
  return static_cast<__nv_bfloat16_raw>(__float2bfloat16(value)).x;
}

inline float FromBits16(uint16_t bits, cuda::ElementType type) {
  if (type == cuda::ElementType::kFloat16) {
    __half_raw raw;
    raw.x = bits;
    return __half2float(raw);
  }
  __nv_bfloat16_raw raw;
  raw.x = bits;
  return __bfloat162float(raw);
}

// An array of floats on the device in an element type (rounded to it). Aborts the test's expectations where CUDA fails.
class DeviceValues {
 public:
  DeviceValues(const std::vector<float>& values, cuda::ElementType type) : type_(type) {
    if (type == cuda::ElementType::kFloat32) {
      Send(values.data(), values.size() * sizeof(float));
      return;
    }
    std::vector<uint16_t> rounded(values.size());
    for (size_t i = 0; i < values.size(); ++i) rounded[i] = ToBits16(values[i], type);
    Send(rounded.data(), rounded.size() * sizeof(uint16_t));
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
    std::vector<uint16_t> rounded(buffer_.bytes() / sizeof(uint16_t));
    Receive(rounded.data());
    std::vector<float> values;
    values.reserve(rounded.size());
    for (uint16_t bits : rounded) values.push_back(FromBits16(bits, type_));
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
  if (type == cuda::ElementType::kFloat32) return values;
  for (float& v : values) v = FromBits16(ToBits16(v, type), type);
  return values;
}

template <class T>
DeviceBuffer OnDevice(const std::vector<T>& values) {
  absl::StatusOr<DeviceBuffer> buffer = Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  return buffer.ok() ? *std::move(buffer) : DeviceBuffer();
}

// What n elements hold on the device.
template <class T>
std::vector<T> FromDevice(const DeviceBuffer& buffer, int64_t n) {
  std::vector<T> values(n);
  EXPECT_EQ(cudaMemcpy(values.data(), buffer.data(), n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
  return values;
}

// e4m3: the value of its bits, and the bits of a value (what exceeds 448 becomes 448).
inline float FromFp8(uint8_t bits) { return __half2float(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)); }
inline uint8_t ToFp8(float value) { return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3); }

// What rounding a result of about this size to the type costs at most: half a unit in the last place, or half of the
// smallest subnormal (1e-38 and less but for float16).
inline double Rounding(cuda::ElementType type, double size) {
  switch (type) {
    case cuda::ElementType::kBFloat16:
      return std::fabs(size) / 256;
    case cuda::ElementType::kFloat16:
      return std::fmax(std::fabs(size) / 2048, std::ldexp(1.0, -25));
    case cuda::ElementType::kFloat32:
      break;
  }
  return std::fabs(size) * std::numeric_limits<float>::epsilon() / 2;
}

inline std::string TypeName(cuda::ElementType type) {
  switch (type) {
    case cuda::ElementType::kBFloat16:
      return "bfloat16";
    case cuda::ElementType::kFloat16:
      return "float16";
    case cuda::ElementType::kFloat32:
      break;
  }
  return "float32";
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_CUDA_TEST_H_
