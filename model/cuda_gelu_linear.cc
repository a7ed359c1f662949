// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/cuda_gelu_linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/cuda_rounding.h"
#include "model/kernels/cuda/cuda_status.h"
#include "model/kernels/cuda/gemm_gelu_launch.h"
#include "model/kernels/cuda/rows_launch.h"

namespace lion {

absl::StatusOr<std::unique_ptr<CudaGeluLinear>> CudaGeluLinear::Create(CublasLt* lt,
                                                                       const CudaGeluLinearOptions& options,
                                                                       const float* weight, const float* bias) {
  const int64_t N = options.N;
  const int64_t K = options.K;
  if (N < 16 || N % 16 != 0 || K < 16 || K % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a product of ", N, " x ", K, " is not padded to multiples of 16"));
  }
  std::unique_ptr<CudaGeluLinear> linear(new CudaGeluLinear);
  linear->options_ = options;
  if (!options.fp8 && options.type == cuda::ElementType::kFloat32) {
    LION_RETURN_IF_ERROR(
        cuda::Assign(CudaLinear::Create(lt, {.N = N, .K = K, .type = cuda::ElementType::kFloat32}, weight, bias),
                     &linear->product_));
    return linear;
  }
  std::vector<float> biases(bias, bias + N);
  if (options.fp8) {
    for (float& b : biases) b /= options.y_scale;
    LION_RETURN_IF_ERROR(UploadFp8(weight, N, K, options.y_scale, &linear->weight_, &linear->weight_scales_));
  } else {
    LION_RETURN_IF_ERROR(UploadAs(options.type, weight, N * K, &linear->weight_));
  }
  LION_RETURN_IF_ERROR(cuda::Assign(Upload(biases.data(), N * 4), &linear->bias_));
  return linear;
}

absl::Status CudaGeluLinear::Run(const Rows& rows, cudaStream_t stream) const {
  if (rows.M < 1) return absl::InvalidArgumentError(absl::StrCat("M ", rows.M, " is not positive"));
  if (product_ != nullptr) {
    LION_RETURN_IF_ERROR(product_->Run({.M = rows.M, .x = rows.x, .y = rows.y}, stream));
    return cuda::LaunchGelu(cuda::ElementType::kFloat32, rows.y, rows.M * options_.N, stream);
  }
  cuda::GemmGeluParams params;
  params.type = options_.type;
  params.fp8 = options_.fp8;
  params.M = rows.M;
  params.N = options_.N;
  params.K = options_.K;
  params.x = rows.x;
  params.weight = weight_.data();
  params.bias = bias_.At<float>(0);
  params.y = rows.y;
  params.x_scales = rows.x_scales;
  if (options_.fp8) params.weight_scales = weight_scales_.At<float>(0);
  params.y_scale = options_.y_scale;
  return cuda::LaunchGemmGelu(params, stream);
}

float GeluScale(const float* weight, const float* bias, const float* gamma, const float* beta, int64_t N, int64_t K) {
  constexpr double kRounding = (1 + 1.0 / 16) * (1 + 1.0 / 16);
  double most = 0;
  for (int64_t n = 0; n < N; ++n) {
    double squares = 0;
    double sum = 0;
    for (int64_t k = 0; k < K; ++k) {
      const double w = weight[n * K + k];
      squares += w * gamma[k] * w * gamma[k];
      sum += std::fabs(w * beta[k]);
    }
    most = std::max(most, kRounding * (std::sqrt(static_cast<double>(K) * squares) + sum) + std::fabs(bias[n]));
  }
  // Within limits that keep the powers of the scale in fp32: a model of zeros has no bound at all.
  const double exponent = std::ceil(std::log2(std::fmax(most, 1e-6) / cuda::kFp8Max));
  return static_cast<float>(std::ldexp(1.0, static_cast<int>(std::fmin(std::fmax(exponent, -20), 20))));
}

}  // namespace lion
