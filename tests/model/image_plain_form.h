// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_MODEL_IMAGE_PLAIN_FORM_H_
#define LION_TESTS_MODEL_IMAGE_PLAIN_FORM_H_

// The image encoder as plain torch operations on one picture: a convolution, and M built whole and put back to grid
// order by an index of its rows and columns. Types as in plain_form.h; feature maps, row sums and the residual are fp32
// (fp64 in kFloat64), the sums are of the rounded scores, and the patches' product is of bfloat16 in kFp8.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/model/plain_form.h"
#include "tests/model/random_image_model.h"

namespace lion {

// The last hidden states (L, E) of pixels (3, S, S), after the last LayerNorm. Of the options, the model's shape
// counts.
std::vector<double> ImagePlainForm(const RandomImageModelOptions& options,
                                   const std::map<std::string, NamedTensor>& tensors, const std::vector<float>& pixels,
                                   PlainType type);
inline std::vector<double> ImagePlainForm(const RandomImageModel& model, const std::vector<float>& pixels,
                                          PlainType type) {
  return ImagePlainForm(model.options(), model.tensors(), pixels, type);
}

}  // namespace lion

#endif  // LION_TESTS_MODEL_IMAGE_PLAIN_FORM_H_
