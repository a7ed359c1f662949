// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_RESIZE_H_
#define LION_MODEL_IMAGE_INPUT_RESIZE_H_

// Resizing as Pillow's Image.resize does it on 8-bit RGB, which is what image models were trained on: a separable
// filter, widened by the factor by which the picture shrinks (so that it does not alias), in two passes with 8 bits
// between them, across first. The same bits as Pillow's before 13, as the tests see (13 resizes some tall pictures down
// first: samples differ by 1 of 255 at most).

#include <cstdint>

#include "model/image_input/picture.h"

namespace lion {

enum class Filter { kBilinear, kBicubic, kLanczos };

// A part of the resized picture. It may reach beyond it on any side.
struct Window {
  int64_t x = 0;
  int64_t y = 0;
  int64_t width = 0;
  int64_t height = 0;
};

// The pixels of window of picture resized to (width, height); black where window reaches beyond. Nothing else of the
// resized picture is computed, so width and height may be any numbers of up to 2^40: time and memory are those of the
// window and of the part of picture below it. All sizes at least 1.
Picture ResizedWindow(const Picture& picture, int64_t width, int64_t height, Filter filter, const Window& window);

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_RESIZE_H_
