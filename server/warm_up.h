// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_WARM_UP_H_
#define LION_SERVER_WARM_UP_H_

// The first batches of a model, run before anybody may call: buffers are grown and kernels made while nobody waits.

#include <optional>

#include "absl/status/status.h"
#include "model/types.h"
#include "server/served_model.h"

namespace lion {

// Encodes a batch of ModelInfo::max_batch_tokens tokens on every device, on all at once, and on each as often at once
// as it takes batches: half of it as long as rows get, half in short rows, so that both sides of the crossover run; and
// one row through the head, if the model has one. An image model: as many pictures of its own size as fit. Not counted
// by any metric. Blocks. default_mode: as in ServiceLimits. The first error, if any, naming model and device.
absl::Status WarmUp(const ServedModel& model, std::optional<ComputeMode> default_mode);

}  // namespace lion

#endif  // LION_SERVER_WARM_UP_H_
