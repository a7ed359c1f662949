// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_IMAGE_INPUT_EXIF_H_
#define LION_MODEL_IMAGE_INPUT_EXIF_H_

// The one thing that is wanted of EXIF: how the camera was held.

#include "absl/strings/string_view.h"
#include "model/image_input/picture.h"

namespace lion {

// The orientation that a block of EXIF names, 1 to 8; 1 where it names none, or makes no sense. exif begins with
// "Exif\0\0" or with its TIFF header ("II" or "MM").
int ExifOrientation(absl::string_view exif);

// picture as it is to be seen, turned as EXIF's orientation 1 to 8 says:
//   1 as it is · 2 mirrored left to right · 3 half a turn · 4 mirrored top to bottom · 5 rows and columns exchanged ·
//   6 a quarter turn clockwise · 7 exchanged along the other diagonal · 8 a quarter turn counterclockwise
Picture Oriented(Picture picture, int orientation);

}  // namespace lion

#endif  // LION_MODEL_IMAGE_INPUT_EXIF_H_
