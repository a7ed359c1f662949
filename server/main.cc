// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// lion-server: flags, models, server, signals. docs/operations.md is its manual.
//
// Exit codes: 0 after SIGTERM or SIGINT; 1 a flag that absl refuses, a port in use, every device lost, a second signal;
// 2 a value that we refuse, or an unreadable or inconsistent model directory.

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "model/compute_pool.h"
#include "model/cpu_dtype.h"
#include "model/crossover_cache.h"
#include "model/image_input/preprocessor.h"
#include "model/model.h"
#include "server/build_info.h"
#include "server/connections.h"
#include "server/ending.h"
#include "server/flags.h"
#include "server/log.h"
#include "server/reloader.h"
#include "server/server.h"

namespace lion {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitRefused = 2;

// Of the compute threads. They may take every core for as long as there is work; gRPC's threads, who refuse, answer and
// tell health, come first when they have something to do, and need little.
constexpr int kComputeNice = 5;

// SIGTERM, SIGINT and SIGHUP, taken by one thread. Before ServeSignals the first two end the process at once (nothing
// has been accepted yet); after it the first of them is announced, and the second ends the process with 1. SIGHUP asks
// the reloader; before ServeSignals everything is being read anyway.
class Signals {
 public:
  // Before any other thread starts: they inherit the blocked signals. Never destroyed.
  explicit Signals(Ending* ending) : ending_(ending) {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    std::thread([this] { Run(); }).detach();
  }

  // reloader is borrowed, for as long as the process.
  void ServeSignals(Reloader* reloader) { reloader_ = reloader; }

 private:
  void Run() {
    for (bool first = true;;) {
      int number = 0;
      if (sigwait(&set_, &number) != 0) continue;
      Reloader* const reloader = reloader_;
      if (number == SIGHUP) {
        if (reloader != nullptr) reloader->Request();
        continue;
      }
      if (reloader == nullptr) {
        LogInfo("signal while loading: stopped");
        _exit(0);
      }
      if (!first) {
        LogError("second signal: stopped without draining");
        _exit(kExitFailed);
      }
      first = false;
      ending_->Announce(Ending::Cause::kSignal);
    }
  }

  Ending* const ending_;
  sigset_t set_;
  std::atomic<Reloader*> reloader_ = nullptr;  // null while loading
};

int NumCores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int Refuse(const absl::Status& status) {
  LogError(status.message());
  return kExitRefused;
}

// Loads one of config's models. options: what differs from model to model.
absl::StatusOr<ServedModel> LoadModel(const ModelSpec& spec, const ServerConfig& config, ModelOptions options,
                                      ComputePool* pool) {
  options.directory = spec.directory;
  options.devices = config.devices;
  options.dtype = config.dtype;
  options.chunk_tokens = config.chunk_tokens;
  options.crossover_cache = CrossoverCache::DefaultPath();
  absl::StatusOr<std::unique_ptr<Model>> loaded = Model::Load(options, pool);
  if (!loaded.ok()) {
    return absl::Status(loaded.status().code(), absl::StrCat("model ", spec.name, ": ", loaded.status().message()));
  }
  struct Owned {
    std::unique_ptr<Model> model;
    std::optional<ImagePreprocessor> preprocessor;
  };
  const auto owned = std::make_shared<Owned>();
  owned->model = *std::move(loaded);
  Model* const model = owned->model.get();
  ServedModel served;
  served.name = spec.name;
  served.info = model->info();
  served.tokenizer = model->tokenizer();
  if (served.info.input == "image") {
    absl::StatusOr<std::optional<ImagePreprocessor>> preprocessor = ImagePreprocessor::Load(
        spec.directory, served.info.image_size, served.info.patch_size, served.info.image_size_fixed);
    if (!preprocessor.ok()) {
      return absl::Status(preprocessor.status().code(),
                          absl::StrCat("model ", spec.name, ": ", preprocessor.status().message()));
    }
    owned->preprocessor = *std::move(preprocessor);
    if (owned->preprocessor.has_value()) served.preprocessor = &*owned->preprocessor;
  }
  served.encoders.assign(model->encoders().begin(), model->encoders().end());
  served.max_sequence_tokens = served.info.max_positions == 0
                                   ? config.max_sequence_tokens
                                   : std::min(config.max_sequence_tokens, served.info.max_positions);
  served.owner = owned;
  return served;
}

// All of them, in order. The crossover is measured on the first and holds for all: so one flag reproduces it.
absl::StatusOr<ServedModels> LoadModels(const ServerConfig& config, ComputePool* pool) {
  ServedModels models;
  for (const ModelSpec& spec : config.models) {
    LogInfo(absl::StrCat("loading model ", spec.name, " from ", spec.directory));
    ModelOptions options;
    options.max_batch_tokens = config.max_batch_tokens;
    options.memory_share = 1.0 / static_cast<double>(config.models.size() - models.size());
    options.parallel_max_tokens = models.empty() ? config.parallel_max_tokens : models.front().info.parallel_max_tokens;
    absl::StatusOr<ServedModel> model = LoadModel(spec, config, options, pool);
    if (!model.ok()) return model.status();
    models.push_back(*std::move(model));
  }
  return models;
}

void LogModel(const ServedModel& model) {
  const ModelInfo& info = model.info;
  for (const std::string& warning : info.warnings) LogWarning(absl::StrCat("model ", model.name, ": ", warning));
  LogInfo(absl::StrCat("model ", model.name, ": ", info.variant_name, ", version ", info.version, ", ",
                       std::string(Name(info.dtype)), " on ", info.device, ", width ", info.embedding_width, ", up to ",
                       model.max_sequence_tokens, " tokens, batches of ", info.max_batch_tokens, ", ",
                       info.classifies ? absl::StrCat(info.labels.size(), " labels") : "no classification head",
                       info.input == "image" ? (model.preprocessor == nullptr ? ", no preprocessor (pixels only)" : "")
                       : model.tokenizer == nullptr ? ", no tokenizer (ids only)"
                                                    : ""));
}

int Main(int argc, char** argv) {
  std::vector<std::string> arguments;
  const FlagValues flags = ParseFlags(argc, argv, &arguments);
  if (flags.log_format == "json") SetLogFormat(LogFormat::kJson);
  RouteLibraryLogs();
  Ending& ending = *new Ending;  // as long as the process, like the thread of
  Signals& signals = *new Signals(&ending);

  absl::StatusOr<ServerConfig> config = CheckFlags(flags, arguments, NumCores(), NumCudaDevices());
  if (!config.ok()) return Refuse(config.status());
  LogInfo(absl::StrCat("lion-server ", std::string(BuildVersion()), " (", std::string(BuildCommit()), "), ",
                       config->compute_threads, " compute threads, ", config->server.tokenizer_threads,
                       " tokenizer threads"));
  if (config->server.api_keys.has_value() && config->server.tls.cert.empty()) {
    LogWarning("--api_key_file without TLS: keys travel in the clear; set --tls_cert and --tls_key");
  }

  LogInfo(absl::StrCat("up to ", RaiseOpenFiles(), " open files, so fewer connections than that"));

  ComputePool pool(ComputePool::Options{.num_threads = config->compute_threads, .nice = kComputeNice});
  if (config->measure_dtype) {
    const absl::StatusOr<CpuDTypeChoice> choice = ChooseCpuDType(&pool);
    if (!choice.ok()) return Refuse(choice.status());
    config->dtype = choice->dtype;
    LogInfo(absl::StrCat("--dtype=auto: ", std::string(Name(choice->dtype)),
                         choice->speedup == 0 ? ", this CPU has no bfloat16"
                                              : absl::StrFormat(", bfloat16 is %.1f times as fast", choice->speedup)));
  }
  Reloader::Options reloading = config->reloading;
  reloading.load_model = [&config, &pool](int index, const ServedModel& current) {
    // As the version that serves: the same forms for the same lengths, and batches that the queue is set to.
    ModelOptions options;
    options.max_batch_tokens = current.info.max_batch_tokens;
    options.parallel_max_tokens = current.info.parallel_max_tokens;
    absl::StatusOr<ServedModel> model = LoadModel(config->models[index], *config, options, &pool);
    if (model.ok()) LogModel(*model);
    return model;
  };
  Reloader& reloader = *new Reloader(std::move(reloading));  // like ending

  absl::StatusOr<ServedModels> models = LoadModels(*config, &pool);
  if (!models.ok()) return Refuse(models.status());
  std::vector<std::string> names;
  for (const ServedModel& model : *models) {
    names.push_back(model.name);
    LogModel(model);
  }
  // Rows of one length take one form only if these are the same; so do their bits.
  LogInfo(absl::StrCat("to reproduce: --parallel_max_tokens=", models->front().info.parallel_max_tokens,
                       " --chunk_tokens=", models->front().info.chunk_tokens,
                       " --dtype=", std::string(Name(models->front().info.dtype))));

  config->server.on_device_lost = ending.WatchDevices(static_cast<int>(config->devices.size()));
  absl::StatusOr<std::unique_ptr<Server>> created = Server::Create(config->server, *std::move(models));
  if (!created.ok()) {
    LogError(created.status().message());
    return kExitFailed;
  }
  std::unique_ptr<Server> server = *std::move(created);
  if (absl::Status status = server->WarmUp(); !status.ok()) {
    LogError(status.message());
    return kExitFailed;
  }
  signals.ServeSignals(&reloader);
  server->Open();
  reloader.Start(server.get());
  const std::string& http = server->http_address();
  LogInfo(absl::StrCat("ready grpc=", server->address(), " metrics=", server->metrics_address(),
                       " models=", absl::StrJoin(names, ","), http.empty() ? "" : " http=", http));

  const ProcessEnd end = DrainAtEnd(server.get(), &ending);
  if (end.at_once || !reloader.Stop()) _exit(end.exit_code);
  return end.exit_code;
}

}  // namespace
}  // namespace lion

int main(int argc, char** argv) { return lion::Main(argc, argv); }
