// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_SERVICE_CONTEXT_H_
#define LION_SERVER_SERVICE_CONTEXT_H_

// What every call reaches: the models and the machinery, put together by Server. Borrowed; outlives every call.

#include "server/api_keys.h"
#include "server/batcher.h"
#include "server/clock.h"
#include "server/connections.h"
#include "server/executor.h"
#include "server/gate.h"
#include "server/live_models.h"
#include "server/memory_budget.h"
#include "server/metrics.h"
#include "server/tokenizer_pool.h"
#include "server/validate.h"

namespace lion {

class CallLog;  // call_log.h, which needs this

struct ServiceContext {
  LiveModels* models = nullptr;  // a call takes the set once (Call::models)
  ServiceLimits limits;
  ConnectionLimits connections;  // shown by ListModels
  Batcher* batcher = nullptr;
  MemoryBudget* memory = nullptr;  // null = no limit
  TokenizerPool* tokenizers = nullptr;
  Executor* executor = nullptr;
  Metrics* metrics = nullptr;
  Gate* gate = nullptr;
  CallLog* call_log = nullptr;            // null = calls that fail leave no line
  const LiveApiKeys* api_keys = nullptr;  // null = everybody may call
  Clock* clock = Clock::Real();
};

}  // namespace lion

#endif  // LION_SERVER_SERVICE_CONTEXT_H_
