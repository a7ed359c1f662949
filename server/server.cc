// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/server.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/call_log.h"
#include "server/connections.h"
#include "server/encoder_service.h"
#include "server/executor.h"
#include "server/gate.h"
#include "server/health.h"
#include "server/http_endpoint.h"
#include "server/inference_service.h"
#include "server/service_context.h"
#include "server/tei_service.h"
#include "server/tokenizer_pool.h"
#include "server/warm_up.h"

namespace lion {
namespace {

// Serialising is memory traffic: a few threads reach the roof, and more would take cores from the encoder.
constexpr int kMaxExecutorThreads = 4;

int NumExecutorThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, kMaxExecutorThreads);
}

// address with its port replaced by the one that was bound.
std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

ServedModels Numbered(ServedModels models) {
  for (size_t i = 0; i < models.size(); ++i) models[i].queue_index = static_cast<int>(i);
  return models;
}

// What the batcher is to have entries for: each model twice, so that two versions of it can be in the queue at once.
ServedModels Twice(const ServedModels& models) {
  ServedModels twice = models;
  twice.insert(twice.end(), models.begin(), models.end());
  return twice;
}

}  // namespace

// Members are destroyed from the last to the first: gRPC and HTTP before what their handlers reach, the tokenizer
// threads before the batcher that they submit to, that before the executor which ends its calls and the health that it
// changes.
struct Server::Impl {
  Impl(Options opts, ServedModels served)
      : options(std::move(opts)),
        models(Numbered(std::move(served))),
        tls(options.tls),
        metrics(*models.Get()),
        memory(options.max_memory_bytes > 0 ? options.max_memory_bytes : DefaultMemoryBytes(*models.Get())),
        executor(NumExecutorThreads()),
        health(kServiceName) {
    context.models = &models;
    context.limits = options.limits;
    context.limits.max_queue_bytes = options.max_tokenizer_bytes;
    context.limits.max_memory_bytes = memory.max_bytes();
    context.connections = options.connections;
    context.memory = &memory;
    context.executor = &executor;
    context.metrics = &metrics;
    context.gate = &gate;
    context.call_log = &call_log;
    if (options.api_keys.has_value()) context.api_keys = &api_keys.emplace(*options.api_keys);
    releasable.resize(models.Get()->size());
    context.clock = options.clock;
    Batcher::Options batching;
    batching.max_queue_tokens = options.limits.max_queue_tokens;
    batching.clock = options.clock;
    batching.metrics = &metrics;
    batching.on_device_lost = [this](const LostDevice& lost) { OnDeviceLost(lost); };
    batcher = std::make_unique<Batcher>(Twice(*models.Get()), batching);
    context.batcher = batcher.get();
    TokenizerPool::Options tokenizing;
    tokenizing.num_threads = options.tokenizer_threads;
    tokenizing.clock = options.clock;
    tokenizing.max_pending_bytes = options.max_tokenizer_bytes;
    tokenizers = std::make_unique<TokenizerPool>(tokenizing);
    context.tokenizers = tokenizers.get();
    services = MakeTeiServices(&context);
    services.push_back(MakeInferenceService(&context));
    services.push_back(MakeEncoderService(&context));
  }

  void OnDeviceLost(const LostDevice& lost);

  // Ends every call that is inside, then gRPC. limit: how long the last answers may take.
  void Shutdown(absl::Duration limit);

  const Options options;
  LiveModels models;
  std::vector<bool> releasable;  // of each model: the batcher's other entry holds a version that is served no more
  std::optional<LiveApiKeys> api_keys;
  LiveTls tls;
  Metrics metrics;
  Gate gate;
  MemoryBudget memory;
  CallLog call_log;
  ServiceContext context;
  Executor executor;
  HealthService health;
  std::atomic<bool> no_device = false;
  std::unique_ptr<Batcher> batcher;
  std::unique_ptr<TokenizerPool> tokenizers;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<HttpEndpoint> http;
  bool shut_down = false;
};

void Server::Impl::OnDeviceLost(const LostDevice& lost) {
  if (lost.num_left == 0) {
    no_device = true;
    health.SetServing(false);
  }
  if (options.on_device_lost != nullptr) options.on_device_lost(lost);
}

void Server::Impl::Shutdown(absl::Duration limit) {
  if (shut_down) return;
  shut_down = true;
  health.EndWatches();
  gate.StartDraining();
  gate.CutAll();
  if (http != nullptr) gate.WaitUntilEmpty(limit);  // closing its port takes answers on their way with it
  http.reset();
  if (grpc_server != nullptr) grpc_server->Shutdown(absl::ToChronoTime(Clock::Real()->Now() + limit));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() { impl_->Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<Server>> Server::Create(Options options, ServedModels models) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(models));
  const Options& opts = impl->options;

  absl::StatusOr<int> metrics_port = impl->metrics.Listen(opts.metrics_listen);
  if (!metrics_port.ok()) {
    return absl::UnavailableError(absl::StrCat("--metrics_listen: ", metrics_port.status().message()));
  }

  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  for (const auto& service : impl->services) builder.RegisterService(service.get());
  builder.RegisterService(impl->health.service());
  builder.SetMaxReceiveMessageSize(static_cast<int>(opts.limits.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);  // kMaxAnswerBytes is checked before an answer is computed
  Apply(opts.connections, &builder);
  // Or a second server on the same port would silently take half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(opts.listen, impl->tls.Credentials(), &port);
  impl->grpc_server = builder.BuildAndStart();
  if (impl->grpc_server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("--listen: cannot bind ", opts.listen, ": the port is in use, or the address is not ours"));
  }
  if (!opts.http_listen.empty()) {
    HttpEndpoint::Options http;
    http.listen = opts.http_listen;
    http.tls = opts.tls;
    http.serving = [health = &impl->health] { return health->serving(); };
    absl::StatusOr<std::unique_ptr<HttpEndpoint>> endpoint = HttpEndpoint::Create(&impl->context, std::move(http));
    if (!endpoint.ok()) {
      return absl::Status(endpoint.status().code(), absl::StrCat("--http_listen: ", endpoint.status().message()));
    }
    impl->http = *std::move(endpoint);
  }
  std::unique_ptr<Server> server(new Server(std::move(impl)));
  server->address_ = WithPort(server->impl_->options.listen, port);
  server->metrics_address_ = WithPort(server->impl_->options.metrics_listen, *metrics_port);
  if (const HttpEndpoint* http = server->impl_->http.get(); http != nullptr) {
    server->http_address_ = WithPort(server->impl_->options.http_listen, http->port());
  }
  return server;
}

absl::Status Server::WarmUp() {
  for (const ServedModel& model : *impl_->models.Get()) {
    absl::Status status = lion::WarmUp(model, impl_->options.limits.default_mode);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void Server::SetApiKeys(ApiKeys keys) { impl_->api_keys->Set(std::move(keys)); }

void Server::SetTls(TlsFiles files) { impl_->tls.Set(std::move(files)); }

std::shared_ptr<const ServedModels> Server::models() const { return impl_->models.Get(); }

absl::Status Server::ReplaceModel(int index, ServedModel model) {
  Impl& impl = *impl_;
  ServedModels next = *impl.models.Get();
  ServedModel& entry = next[index];
  if (!ReleaseOldModels() && impl.releasable[index]) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", entry.name, ": calls still run on the version before ", entry.info.version));
  }
  bool same_devices = model.info.devices == entry.info.devices && model.encoders.size() == entry.encoders.size();
  for (size_t i = 0; same_devices && i < model.encoders.size(); ++i) {
    same_devices = model.encoders[i]->max_concurrent_batches() == entry.encoders[i]->max_concurrent_batches();
  }
  if (!same_devices) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", entry.name, ": is on ", model.info.device, ", not on ", entry.info.device));
  }
  if (absl::Status status = lion::WarmUp(model, impl.options.limits.default_mode); !status.ok()) return status;

  // The batcher has two entries for each model; the one that does not serve has no rows.
  const int num_models = static_cast<int>(next.size());
  model.name = entry.name;
  model.queue_index = entry.queue_index == index ? index + num_models : index;
  impl.batcher->Replace(model.queue_index, model);
  impl.metrics.ModelReplaced(index, model);
  entry = std::move(model);
  impl.models.Set(std::move(next));
  impl.releasable[index] = true;
  return absl::OkStatus();
}

bool Server::ReleaseOldModels() {
  Impl& impl = *impl_;
  if (std::find(impl.releasable.begin(), impl.releasable.end(), true) == impl.releasable.end()) return true;
  if (!impl.models.WaitForOldCalls(absl::ZeroDuration())) return false;
  const std::shared_ptr<const ServedModels> models = impl.models.Get();
  const int num_models = static_cast<int>(models->size());
  for (int i = 0; i < num_models; ++i) {
    if (!impl.releasable[i]) continue;
    const ServedModel& served = (*models)[i];
    impl.batcher->Replace(served.queue_index == i ? i + num_models : i, served);
    impl.releasable[i] = false;
  }
  return true;
}

void Server::Open() {
  impl_->gate.Open();
  impl_->health.SetServing(true);
}

bool Server::Drain(absl::Time signalled) {
  Impl& impl = *impl_;
  const absl::Time end = signalled + impl.options.drain_timeout;
  const auto left = [&](absl::Time until) { return std::max(until - impl.options.clock->Now(), absl::ZeroDuration()); };

  impl.health.SetServing(false);
  if (!impl.no_device) absl::SleepFor(left(std::min(signalled + impl.options.drain_delay, end)));

  impl.gate.StartDraining();
  const absl::Time refused_until = impl.options.clock->Now() + impl.options.refusal_time;
  const bool clean = impl.gate.WaitUntilEmpty(left(end));
  if (!clean) {
    impl.gate.CutAll();
    impl.gate.WaitUntilEmpty(impl.options.last_answers);
  }
  absl::SleepFor(left(refused_until));
  // A call has ended for us when gRPC has its answer: what of it waits for a slow reader is gRPC's to send.
  impl.Shutdown(std::max(left(end), impl.options.last_answers));
  return clean;
}

Metrics* Server::metrics() { return &impl_->metrics; }

}  // namespace lion
