// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_PIPELINE_H_
#define LION_CLIENT_PIPELINE_H_

// Any number of inputs through a server: batched into calls, several calls in flight, results in the order of the
// inputs.
//
// One row's way: 1. Add puts it into the batch being filled (blocks while the window is full). 2. The batch leaves when
// it is full, or when its first row has waited max_wait while a call is free to start. 3. Rows that come back with
// RESOURCE_EXHAUSTED or UNAVAILABLE are sent again alone, after a growing pause, up to max_attempts; so are all rows of
// a call that failed so. 4. If a call fails as a whole because every row of it is bad, each row is asked alone for its
// own reason. 5. emit is called with it. A call that fails for a reason that would meet every other call too (no such
// model, no such key, nobody listens) stops the pipeline: what is in flight is still awaited, the rows before that
// call's are emitted, and Finish returns why.
//
// Memory is bounded by 2 * max_in_flight batches, however many rows pass.
//
//   Pipeline<EmbedRpc> pipeline(&client, request_without_inputs, {}, [](const auto& row) { return Write(row); });
//   while (ReadInput(&input) && pipeline.Add(std::move(input), "texts.txt:1")) {}
//   absl::Status status = pipeline.Finish();

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "lion/v1/encoder.pb.h"

namespace lion::client {

struct PipelineOptions {
  int batch_size = 64;                // rows a call, at least 1; never above the server's max_inputs
  int64_t max_batch_bytes = 1 << 20;  // a call's content; a larger row travels alone
  int max_in_flight = 4;              // calls, at least 1
  int max_attempts = 4;  // of a row: how often it is sent at most, gRPC's own retries of a call not counted
  absl::Duration initial_backoff = absl::Milliseconds(250);  // before the second attempt; doubles with each
  absl::Duration max_backoff = absl::Seconds(5);
  absl::Duration max_wait =
      absl::Milliseconds(50);  // of a row in a batch that does not fill; infinite = until it is full
};

// The three RPCs that take inputs.
struct EmbedRpc {
  using Request = v1::EmbedRequest;
  using Response = v1::EmbedResponse;
  using Result = v1::EmbedResult;
};
struct ClassifyRpc {
  using Request = v1::ClassifyRequest;
  using Response = v1::ClassifyResponse;
  using Result = v1::ClassifyResult;
};
struct TokenizeRpc {
  using Request = v1::TokenizeRequest;
  using Response = v1::TokenizeResponse;
  using Result = v1::TokenizeResult;
};

// Add, AddFailed and Finish are called by one thread; emit is called on the pipeline's own, never twice at once.
template <typename Rpc>
class Pipeline {
 public:
  struct Row {
    int64_t index = 0;                             // how many rows were added before it
    std::string source;                            // as given to Add
    int64_t position = 0;                          // as given to Add
    const v1::Input* input = nullptr;              // null for a row of AddFailed
    absl::Status status;                           // without the batch's "inputs[3]: " in front
    const typename Rpc::Result* result = nullptr;  // filled exactly if status is OK
  };
  // Called once a row, in order. False stops the pipeline.
  using Emit = std::function<bool(const Row&)>;

  // request is what every call says beside its inputs. client is borrowed, and has no other caller meanwhile:
  // Cancel cancels all of its calls.
  Pipeline(Client* client, typename Rpc::Request request, const PipelineOptions& options, Emit emit);
  ~Pipeline();  // Cancel(), then waits

  // Takes one row. position is the caller's own (a progress bar's bytes, say). False once the pipeline has stopped: the
  // row will not be emitted.
  bool Add(v1::Input input, std::string source, int64_t position = 0);

  // A row that failed before it could be sent; emitted in its turn.
  bool AddFailed(absl::Status status, std::string source, int64_t position = 0);

  // Sends what is left and waits until every row has been emitted. OK, also where rows failed; the call's status if one
  // stopped the pipeline; CANCELLED after Cancel or if emit returned false. Call once.
  absl::Status Finish();

  // Stops now: calls in flight are cancelled and nothing more is emitted. Thread-safe, but not from emit.
  void Cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion::client

#endif  // LION_CLIENT_PIPELINE_H_
