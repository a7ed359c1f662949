// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CPU_GELU_FIT_H_
#define LION_MODEL_KERNELS_CPU_GELU_FIT_H_

// erf(u) = u P(2 u^2 / U^2 - 1) for |u| <= U, beyond which it is 1: polynomials fitted to u P with the error weighted
// evenly, from the highest power down.

namespace lion {

// Error 2.4e-7, for fp32.
inline constexpr float kErfLimit = 3.8f;
inline constexpr float kErf[] = {-0.00229288451f, 0.00574254384f, -0.00450774236f, 0.00558629911f, -0.0169492662f,
                                 0.0294785853f,   -0.0396942571f, 0.0541478805f,   -0.0723175108f, 0.0909731090f,
                                 -0.111207560f,   0.137731433f,   -0.185640514f,   0.372107685f};

// Error 3.5e-5, for values that are rounded to 8 bits next.
inline constexpr float kShortErfLimit = 3.6f;
inline constexpr float kShortErf[] = {-0.0191523042f, 0.0410202183f, -0.0284516364f, 0.0300220344f, -0.0679838955f,
                                      0.0961182117f,  -0.114154011f, 0.143078223f,   -0.195454374f, 0.392725378f};

}  // namespace lion

#endif  // LION_MODEL_KERNELS_CPU_GELU_FIT_H_
