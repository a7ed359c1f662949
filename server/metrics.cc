// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/metrics.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <utility>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/metric_family.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "server/build_info.h"
#include "server/metrics_endpoint.h"
#include "server/scraped_metrics.h"

namespace lion {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// Label values, each table in the order of its enum.
constexpr std::string_view kRpcNames[] = {"Embed",
                                          "EmbedStream",
                                          "Classify",
                                          "ClassifyStream",
                                          "Tokenize",
                                          "ListModels",
                                          "EmbedDocument",
                                          "http.Embeddings",
                                          "http.Classify",
                                          "http.Models",
                                          "tei.Info",
                                          "tei.Embed",
                                          "tei.EmbedStream",
                                          "tei.EmbedSparse",
                                          "tei.EmbedSparseStream",
                                          "tei.EmbedAll",
                                          "tei.EmbedAllStream",
                                          "tei.Predict",
                                          "tei.PredictStream",
                                          "tei.PredictPair",
                                          "tei.PredictPairStream",
                                          "tei.Rerank",
                                          "tei.Tokenize",
                                          "tei.TokenizeStream",
                                          "tei.Decode",
                                          "tei.DecodeStream",
                                          "kserve.ServerLive",
                                          "kserve.ServerReady",
                                          "kserve.ModelReady",
                                          "kserve.ServerMetadata",
                                          "kserve.ModelMetadata",
                                          "kserve.ModelInfer",
                                          "kserve.ModelStreamInfer",
                                          "kserve.RepositoryIndex"};
constexpr std::string_view kDropReasons[] = {"cancelled", "deadline", "drain"};
constexpr std::string_view kRejectReasons[] = {"queue_full", "deadline", "memory", "draining", "unauthenticated"};
constexpr std::string_view kReloadKinds[] = {"api_keys", "tls", "model"};
constexpr std::string_view kReloadResults[] = {"refused", "ok"};  // by bool
constexpr std::string_view kCodeNames[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};
constexpr ComputeMode kModes[] = {ComputeMode::kParallel, ComputeMode::kChunked, ComputeMode::kRecurrent};

constexpr size_t kNumRpcs = std::size(kRpcNames);
constexpr size_t kNumCodes = std::size(kCodeNames);
static_assert(kNumRpcs == static_cast<size_t>(Rpc::kKserveRepositoryIndex) + 1);
static_assert(std::size(kDropReasons) == static_cast<size_t>(DropReason::kDrain) + 1);
static_assert(std::size(kRejectReasons) == static_cast<size_t>(RejectReason::kUnauthenticated) + 1);
static_assert(std::size(kReloadKinds) == static_cast<size_t>(ReloadKind::kModel) + 1);
static_assert(kNumCodes == static_cast<size_t>(absl::StatusCode::kUnauthenticated) + 1);

template <typename Enum>
constexpr size_t Index(Enum value) {
  return static_cast<size_t>(value);
}

// From half a millisecond, a short text on a GPU, to a minute, a very long document on a CPU.
const Histogram::BucketBoundaries& DurationBuckets() {
  static const auto* buckets = new Histogram::BucketBoundaries{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                               0.25,   0.5,   1,      2.5,   5,    10,    30,   60};
  return *buckets;
}

// 1, 2, 4 … 2^last.
Histogram::BucketBoundaries PowersOfTwo(int last) {
  Histogram::BucketBoundaries buckets;
  for (int power = 0; power <= last; ++power) buckets.push_back(std::ldexp(1.0, power));
  return buckets;
}

double Seconds(absl::Duration d) { return absl::ToDoubleSeconds(std::max(d, absl::ZeroDuration())); }

size_t CodeIndex(absl::StatusCode code) {
  const size_t index = static_cast<size_t>(code);
  return index < kNumCodes ? index : static_cast<size_t>(absl::StatusCode::kUnknown);
}

}  // namespace

std::string_view Name(Rpc rpc) { return kRpcNames[Index(rpc)]; }

std::string_view CodeName(absl::StatusCode code) { return kCodeNames[CodeIndex(code)]; }

struct Metrics::Impl {
  // The series of one served model, found once: the hot path looks nothing up.
  struct PerModel {
    Counter* sequences[std::size(kModes)];
    Counter* tokens[std::size(kModes)];
    Histogram* sequence_tokens;
    Gauge* queue_sequences;
    Gauge* queue_tokens;
    Histogram* queue_duration;
    Histogram* tokenize_duration;
    Histogram* compute_duration;
    Histogram* batch_tokens;
    Histogram* batch_sequences;
    Counter* bad_rows;
  };

  explicit Impl(const std::vector<ServedModel>& models);

  prometheus::Family<Counter>& CounterFamily(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<Gauge>& GaugeFamily(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<Histogram>& HistogramFamily(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }

  // lion_model_info's series of a version, one a device.
  std::vector<Gauge*> AddModelInfo(const ServedModel& model);

  // Series that begin with their first call: rpc × model (the last is "unknown"), and × code.
  size_t CallIndex(Rpc rpc, int model) const {
    const bool known = model >= 0 && model < static_cast<int>(per_model.size());
    return Index(rpc) * model_labels.size() + (known ? static_cast<size_t>(model) : per_model.size());
  }
  Labels CallLabels(Rpc rpc, int model) const {
    return {{"rpc", std::string(Name(rpc))}, {"model", model_labels[CallIndex(rpc, model) % model_labels.size()]}};
  }
  const PerModel& Of(int model) const { return per_model[static_cast<size_t>(model) % per_model.size()]; }
  Counter& Requests(Rpc rpc, int model, absl::StatusCode code);
  Histogram& CallDuration(Rpc rpc, int model);

  prometheus::Registry registry;
  std::unique_ptr<ScrapedMetrics> scraped;
  std::vector<std::string> model_labels;  // the served names, then "unknown"
  std::vector<PerModel> per_model;
  prometheus::Family<Counter>* requests_family;
  prometheus::Family<Histogram>* call_duration_family;
  prometheus::Family<Gauge>* model_info;
  std::vector<std::vector<Gauge*>> model_info_series;  // of each model, touched by one thread at a time
  std::vector<std::atomic<Counter*>> requests;
  std::vector<std::atomic<Histogram*>> call_durations;
  Gauge* in_flight[kNumRpcs];
  Counter* rejected[std::size(kRejectReasons)];
  Counter* dropped[std::size(kDropReasons)];
  Counter* reloads[std::size(kReloadKinds)][std::size(kReloadResults)];
  std::vector<Gauge*> device_up;
  Counter* batch_retries;
  Counter* log_suppressed;
  std::unique_ptr<MetricsEndpoint> endpoint;  // last: its thread reads the above
};

Metrics::Impl::Impl(const std::vector<ServedModel>& models)
    : requests(kNumRpcs * (models.size() + 1) * kNumCodes), call_durations(kNumRpcs * (models.size() + 1)) {
  requests_family = &CounterFamily("lion_rpc_requests_total", "Calls that have ended, by status code.");
  call_duration_family =
      &HistogramFamily("lion_rpc_duration_seconds", "From a call's begin to its end, whatever the outcome.");
  auto& in_flight_family = GaugeFamily("lion_rpc_in_flight", "Calls that have begun and not ended.");
  auto& sequences = CounterFamily("lion_sequences_total", "Sequences encoded, by the form that was run.");
  auto& tokens = CounterFamily("lion_tokens_total", "Tokens encoded, as run, by the form that was run.");
  auto& sequence_tokens = HistogramFamily("lion_sequence_tokens", "Tokens of a sequence encoded.");
  auto& queue_sequences = GaugeFamily("lion_queue_sequences", "Sequences that wait for the device.");
  auto& queue_tokens = GaugeFamily("lion_queue_tokens", "Tokens of the sequences that wait for the device.");
  auto& queue_duration =
      HistogramFamily("lion_queue_duration_seconds", "How long a sequence waited before it left for the device.");
  auto& tokenize_duration = HistogramFamily("lion_tokenize_duration_seconds", "Turning one input's text into ids.");
  auto& compute_duration = HistogramFamily("lion_compute_duration_seconds", "Running one batch on the device.");
  auto& batch_tokens = HistogramFamily("lion_batch_tokens", "Tokens of a batch.");
  auto& batch_sequences = HistogramFamily("lion_batch_sequences", "Sequences of a batch.");
  auto& rejected_family = CounterFamily("lion_rejected_total", "Calls refused before any work, by reason.");
  auto& dropped_family = CounterFamily("lion_dropped_total", "Sequences taken and then dropped unrun, by reason.");
  auto& reloads_family =
      CounterFamily("lion_reloads_total", "Files read again while serving, by what and whether they were taken.");
  auto& bad_rows = CounterFamily("lion_bad_rows_total", "Sequences whose answer held NaN or infinity.");
  auto& device_up_family = GaugeFamily("lion_device_up", "1 while batches run on the device, 0 when it was lost.");
  batch_retries =
      &CounterFamily("lion_batch_retries_total", "Batches that went back to the queue, because their device was lost.")
           .Add({});
  log_suppressed =
      &CounterFamily("lion_log_suppressed_total", "Lines about failed calls that were left out of the log.").Add({});
  model_info = &GaugeFamily("lion_model_info", "1 for each replica of a served model.");
  auto& build_info = GaugeFamily("lion_build_info", "1, with what this server was built from.");

  for (size_t rpc = 0; rpc < kNumRpcs; ++rpc)
    in_flight[rpc] = &in_flight_family.Add({{"rpc", std::string(kRpcNames[rpc])}});
  for (size_t reason = 0; reason < std::size(kRejectReasons); ++reason) {
    rejected[reason] = &rejected_family.Add({{"reason", std::string(kRejectReasons[reason])}});
  }
  for (size_t reason = 0; reason < std::size(kDropReasons); ++reason) {
    dropped[reason] = &dropped_family.Add({{"reason", std::string(kDropReasons[reason])}});
  }

  for (size_t kind = 0; kind < std::size(kReloadKinds); ++kind) {
    for (size_t ok = 0; ok < std::size(kReloadResults); ++ok) {
      reloads[kind][ok] =
          &reloads_family.Add({{"what", std::string(kReloadKinds[kind])}, {"result", std::string(kReloadResults[ok])}});
    }
  }

  const Histogram::BucketBoundaries token_buckets = PowersOfTwo(24);
  const Histogram::BucketBoundaries batch_sequence_buckets = PowersOfTwo(12);
  std::vector<ScrapedMetrics::Device> devices;
  for (const ServedModel& model : models) {
    const Labels labels = {{"model", model.name}};
    PerModel& series = per_model.emplace_back();
    for (size_t mode = 0; mode < std::size(kModes); ++mode) {
      const Labels mode_labels = {{"model", model.name}, {"mode", std::string(Name(kModes[mode]))}};
      series.sequences[mode] = &sequences.Add(mode_labels);
      series.tokens[mode] = &tokens.Add(mode_labels);
    }
    series.sequence_tokens = &sequence_tokens.Add(labels, token_buckets);
    series.queue_sequences = &queue_sequences.Add(labels);
    series.queue_tokens = &queue_tokens.Add(labels);
    series.queue_duration = &queue_duration.Add(labels, DurationBuckets());
    series.tokenize_duration = &tokenize_duration.Add(labels, DurationBuckets());
    series.compute_duration = &compute_duration.Add(labels, DurationBuckets());
    series.batch_tokens = &batch_tokens.Add(labels, token_buckets);
    series.batch_sequences = &batch_sequences.Add(labels, batch_sequence_buckets);
    series.bad_rows = &bad_rows.Add(labels);
    model_info_series.push_back(AddModelInfo(model));
    devices.resize(model.info.devices.size());
    for (size_t device = 0; device < devices.size(); ++device) {
      devices[device].name = model.info.devices[device];
      devices[device].encoders.push_back({model.encoders[device], model.owner});
    }
    model_labels.push_back(model.name);
  }
  for (const ScrapedMetrics::Device& device : devices) {
    device_up.push_back(&device_up_family.Add({{"device", device.name}}));
    device_up.back()->Set(1);
  }
  model_labels.push_back("unknown");
  build_info.Add({{"version", std::string(BuildVersion())}, {"commit", std::string(BuildCommit())}}).Set(1);
  scraped = std::make_unique<ScrapedMetrics>(
      std::move(devices),
      prometheus::MetricFamily{"lion_device_memory_bytes",
                               "Memory of a device: used (on the cpu by this process, on a GPU by all) and total; on a "
                               "GPU also what this process holds for weights and for buffers.",
                               prometheus::MetricType::Gauge,
                               {}},
      prometheus::MetricFamily{"lion_device_busy_seconds_total",
                               "Time during which a batch was on the GPU, all models together.",
                               prometheus::MetricType::Counter,
                               {}});
}

std::vector<Gauge*> Metrics::Impl::AddModelInfo(const ServedModel& model) {
  std::vector<Gauge*> series;
  for (const std::string& device : model.info.devices) {
    series.push_back(&model_info->Add({{"model", model.name},
                                       {"version", model.info.version},
                                       {"variant", model.info.variant_name},
                                       {"dtype", std::string(Name(model.info.dtype))},
                                       {"device", device}}));
    series.back()->Set(1);
  }
  return series;
}

Counter& Metrics::Impl::Requests(Rpc rpc, int model, absl::StatusCode code) {
  std::atomic<Counter*>& cached = requests[CallIndex(rpc, model) * kNumCodes + CodeIndex(code)];
  Counter* series = cached.load(std::memory_order_acquire);
  if (series == nullptr) {
    Labels labels = CallLabels(rpc, model);
    labels["code"] = std::string(CodeName(code));
    series = &requests_family->Add(labels);  // two threads at once get the same one
    cached.store(series, std::memory_order_release);
  }
  return *series;
}

Histogram& Metrics::Impl::CallDuration(Rpc rpc, int model) {
  std::atomic<Histogram*>& cached = call_durations[CallIndex(rpc, model)];
  Histogram* series = cached.load(std::memory_order_acquire);
  if (series == nullptr) {
    series = &call_duration_family->Add(CallLabels(rpc, model), DurationBuckets());
    cached.store(series, std::memory_order_release);
  }
  return *series;
}

Metrics::Metrics(const std::vector<ServedModel>& models) : impl_(std::make_unique<Impl>(models)) {}
Metrics::~Metrics() = default;

void Metrics::RpcStarted(Rpc rpc) { impl_->in_flight[Index(rpc)]->Increment(); }

void Metrics::RpcEnded(Rpc rpc, int model, absl::StatusCode code, absl::Duration duration) {
  impl_->Requests(rpc, model, code).Increment();
  impl_->CallDuration(rpc, model).Observe(Seconds(duration));
  impl_->in_flight[Index(rpc)]->Decrement();
}

void Metrics::Rejected(RejectReason reason) { impl_->rejected[Index(reason)]->Increment(); }

void Metrics::Tokenized(int model, absl::Duration duration) {
  impl_->Of(model).tokenize_duration->Observe(Seconds(duration));
}

void Metrics::QueueChanged(int model, int sequences, int64_t tokens) {
  impl_->Of(model).queue_sequences->Increment(sequences);
  impl_->Of(model).queue_tokens->Increment(static_cast<double>(tokens));
}

void Metrics::LeftQueue(int model, absl::Duration waited) { impl_->Of(model).queue_duration->Observe(Seconds(waited)); }

void Metrics::Dropped(DropReason reason) { impl_->dropped[Index(reason)]->Increment(); }

void Metrics::BatchEnded(int model, int sequences, int64_t tokens, absl::Duration compute) {
  const Impl::PerModel& series = impl_->Of(model);
  series.compute_duration->Observe(Seconds(compute));
  series.batch_tokens->Observe(static_cast<double>(tokens));
  series.batch_sequences->Observe(sequences);
}

void Metrics::SequenceEnded(int model, ComputeMode mode, int64_t tokens) {
  const Impl::PerModel& series = impl_->Of(model);
  series.sequences[Index(mode)]->Increment();
  series.tokens[Index(mode)]->Increment(static_cast<double>(tokens));
  series.sequence_tokens->Observe(static_cast<double>(tokens));
}

void Metrics::BadRow(int model) { impl_->Of(model).bad_rows->Increment(); }

void Metrics::ModelReplaced(int model, const ServedModel& version) {
  std::vector<Gauge*>& series = impl_->model_info_series[model];
  for (Gauge* gauge : series) impl_->model_info->Remove(gauge);
  series = impl_->AddModelInfo(version);
  impl_->scraped->Replace(model, version.encoders, version.owner);
}

void Metrics::LogSuppressed() { impl_->log_suppressed->Increment(); }

void Metrics::Reloaded(ReloadKind kind, bool ok) { impl_->reloads[Index(kind)][ok ? 1 : 0]->Increment(); }

void Metrics::DeviceLost(int device) { impl_->device_up[device]->Set(0); }

void Metrics::BatchRetried() { impl_->batch_retries->Increment(); }

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  for (prometheus::MetricFamily& family : impl_->scraped->Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

absl::StatusOr<int> Metrics::Listen(const std::string& address) {
  if (impl_->endpoint != nullptr) return absl::FailedPreconditionError("metrics: already listening");
  absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint =
      MetricsEndpoint::Create(address, [this] { return Text(); });
  if (!endpoint.ok()) return endpoint.status();
  impl_->endpoint = *std::move(endpoint);
  return impl_->endpoint->port();
}

}  // namespace lion
