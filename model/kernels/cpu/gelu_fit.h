// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_GELU_FIT_H_
#define LION_MODEL_KERNELS_CPU_GELU_FIT_H_

// GELU's erf: erf(x / sqrt 2) / 2 = x Q(2 x^2 / limit^2 - 1) for |x| <= limit, beyond which it is 1/2. Polynomials
// fitted to x Q, with the error weighted evenly, from the highest power down. So gelu(x) = x (1/2 + x' Q), x' being x
// cut at limit.

namespace lion {

// Error of erf 2.4e-7, for fp32.
inline constexpr float kErfLimit = 5.37401154f;
inline constexpr float kErf[] = {-0.000810657093f, 0.00203029585f, -0.0015937276f, 0.00197505499f, -0.00599247053f,
                                 0.0104222538f,    -0.0140340392f, 0.0191441667f,  -0.0255681011f, 0.0321638511f,
                                 -0.0393178099f,   0.0486954151f,  -0.0656338332f, 0.131559934f};

// Error of erf 3.5e-5, for values that are rounded to 8 bits next.
inline constexpr float kShortErfLimit = 5.09116882f;
inline constexpr float kShortErf[] = {-0.00677136209f, 0.0145028373f,  -0.0100591725f, 0.0106143921f,  -0.0240359368f,
                                      0.0339829196f,   -0.0403595376f, 0.0505857909f,  -0.0691035566f, 0.138849389f};

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_GELU_FIT_H_
