// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_IMAGES_H_
#define LION_CLIENT_IMAGES_H_

// The files that --images means.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lion::client {

// paths with each folder replaced by the pictures in it and below it, which are those that end in .jpg, .jpeg, .png or
// .webp in any case, by path. Links are followed to files, not to folders. What is no folder stays as it is. NOT_FOUND,
// naming it, for a folder that cannot be read or holds no picture.
absl::StatusOr<std::vector<std::string>> FindImages(const std::vector<std::string>& paths);

}  // namespace lion::client

#endif  // LION_CLIENT_IMAGES_H_
