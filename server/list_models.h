// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_LIST_MODELS_H_
#define LION_SERVER_LIST_MODELS_H_

// What ListModels says of the models served and of the server's limits. Pure.

#include <vector>

#include "lion/v1/encoder.pb.h"
#include "server/connections.h"
#include "server/served_model.h"
#include "server/validate.h"

namespace lion {

v1::ListModelsResponse ListModels(const std::vector<ServedModel>& models, const ServiceLimits& limits,
                                  const ConnectionLimits& connections);

}  // namespace lion

#endif  // LION_SERVER_LIST_MODELS_H_
