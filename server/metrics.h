// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_METRICS_H_
#define LION_SERVER_METRICS_H_

// Every metric of the service, by one class: names, labels and buckets live in metrics.cc and nowhere else.
//
// Labels come from fixed sets: model names are those given to Create plus "unknown", codes are gRPC's, reasons and
// modes are enums. Nothing a caller sends can become a label. All methods are thread-safe and never block for long.
// What has few label values stands at 0 from the start; lion_rpc_requests_total and lion_rpc_duration_seconds begin
// with the first call of their kind. Negative durations (the clock was set back) count as 0.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/types.h"
#include "server/served_model.h"

namespace lion {

enum class Rpc {
  kEmbed,
  kEmbedStream,
  kClassify,
  kClassifyStream,
  kTokenize,
  kListModels,
  kEmbedDocument,
  kHttpEmbeddings,
  kHttpClassify,
  kHttpModels,
  kTeiInfo,
  kTeiEmbed,
  kTeiEmbedStream,
  kTeiEmbedSparse,
  kTeiEmbedSparseStream,
  kTeiEmbedAll,
  kTeiEmbedAllStream,
  kTeiPredict,
  kTeiPredictStream,
  kTeiPredictPair,
  kTeiPredictPairStream,
  kTeiRerank,
  kTeiTokenize,
  kTeiTokenizeStream,
  kTeiDecode,
  kTeiDecodeStream,
  kKserveServerLive,
  kKserveServerReady,
  kKserveModelReady,
  kKserveServerMetadata,
  kKserveModelMetadata,
  kKserveModelInfer,
  kKserveModelStreamInfer,
  kKserveRepositoryIndex
};
enum class DropReason { kCancelled, kDeadline, kDrain };                                  // rows
enum class RejectReason { kQueueFull, kDeadline, kMemory, kDraining, kUnauthenticated };  // calls

enum class ReloadKind { kApiKeys, kTls, kModel };

std::string_view Name(Rpc rpc);  // "Embed", ...: the label

// "OK", "INVALID_ARGUMENT", ...: the label of a status code.
std::string_view CodeName(absl::StatusCode code);

class Metrics {
 public:
  static constexpr int kUnknownModel = -1;  // the label "unknown": no served model was reached

  // models in the server's order; the index is what the methods below take (only RpcEnded takes kUnknownModel). Where a
  // model has two versions in the queue, index + models.size() is the same model too. All are on the same devices. A
  // scrape asks their encoders what they use, and keeps their owners.
  explicit Metrics(const std::vector<ServedModel>& models);
  ~Metrics();  // ends Listen first; no other call may be in progress

  // A call: Started when its handler begins, Ended just before Finish, whatever the outcome. A stream counts once.
  void RpcStarted(Rpc rpc);
  void RpcEnded(Rpc rpc, int model, absl::StatusCode code, absl::Duration duration);
  void Rejected(RejectReason reason);

  // A row's text turned into ids (one observation an input).
  void Tokenized(int model, absl::Duration duration);

  // Rows that wait: +1 / -1 with their tokens.
  void QueueChanged(int model, int sequences, int64_t tokens);
  // A row left the queue for a device, how long after its submission. Again if that device was lost and it went back.
  void LeftQueue(int model, absl::Duration waited);
  void Dropped(DropReason reason);
  // A batch has run (failed ones too).
  void BatchEnded(int model, int sequences, int64_t tokens, absl::Duration compute);
  // A row's encoding has ended, listener or not, its values finite or not. Not for rows of a batch that failed.
  void SequenceEnded(int model, ComputeMode mode, int64_t tokens);
  void BadRow(int model);

  // A new version of a model is served in place of the one before: what lion_model_info and the devices' use say of it.
  void ModelReplaced(int model, const ServedModel& version);

  // A line of the log that was left out, because there were too many.
  void LogSuppressed();

  // What was read again has taken the place of the one before, or was bad and has not.
  void Reloaded(ReloadKind kind, bool ok);

  // device: index into the devices that all models share.
  void DeviceLost(int device);
  // A batch's rows went back to the queue, because its device was lost.
  void BatchRetried();

  // The Prometheus text of everything, as /metrics shows it.
  std::string Text() const;

  // Serves it at /metrics on "HOST:PORT" or "[IPV6]:PORT" (port 0 = any) until destruction. Returns the real port.
  // Errors are MetricsEndpoint's; FAILED_PRECONDITION the second time. Call it from one thread.
  absl::StatusOr<int> Listen(const std::string& address);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lion

#endif  // LION_SERVER_METRICS_H_
