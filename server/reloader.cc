// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/reloader.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/api_keys.h"
#include "server/clock.h"
#include "server/log.h"
#include "server/tls.h"

namespace lion {
namespace {

// How soon a version that is served no more is freed after the last call that needed it.
constexpr absl::Duration kReleaseInterval = absl::Milliseconds(100);

// How deep a model's files may lie: 2_Dense/model.safetensors, and a link or two around them.
constexpr int kMaxDepth = 4;

std::string StampOfFile(const std::string& path) {
  struct stat file = {};
  if (stat(path.c_str(), &file) != 0) return "absent";
  return absl::StrCat(file.st_ino, " ", file.st_size, " ", file.st_mtim.tv_sec, ".", file.st_mtim.tv_nsec);
}

}  // namespace

std::string StampOf(const std::string& path) {
  if (path.empty()) return "";
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return StampOfFile(path);
  constexpr auto kOptions = std::filesystem::directory_options::follow_directory_symlink |
                            std::filesystem::directory_options::skip_permission_denied;
  std::vector<std::string> files;
  for (std::filesystem::recursive_directory_iterator it(path, kOptions, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it.depth() >= kMaxDepth) it.disable_recursion_pending();
    if (it->is_directory(ignored)) continue;
    files.push_back(absl::StrCat(it->path().string(), " ", StampOfFile(it->path().string())));
  }
  std::sort(files.begin(), files.end());
  return absl::StrJoin(files, "\n");
}

Reloader::Reloader(Options options)
    : options_(std::move(options)), tried_{StampOf(options_.api_key_file), StampOfTls(), StampsOfModels()} {
  served_.resize(options_.model_directories.size(), true);
  seen_ = tried_.models;
}

Reloader::~Reloader() {
  Stop();
  if (thread_.joinable()) thread_.join();
}

void Reloader::Start(Server* server) {
  server_ = server;
  thread_ = std::thread([this] { Run(); });
}

void Reloader::Request() {
  absl::MutexLock lock(&mu_);
  requested_ = true;
}

bool Reloader::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (loading_) return false;
  }
  if (thread_.joinable()) thread_.join();
  return true;
}

void Reloader::Run() {
  bool released = true;
  absl::Time next_look = Clock::Real()->Now() + options_.interval;
  const auto called = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return requested_ || stopping_; };
  for (;;) {
    bool requested = false;
    {
      absl::MutexLock lock(&mu_);
      const absl::Time until = released ? next_look : Clock::Real()->Now() + kReleaseInterval;
      mu_.AwaitWithDeadline(absl::Condition(&called), until);
      if (stopping_) return;
      requested = std::exchange(requested_, false);
    }
    released = server_->ReleaseOldModels();
    const bool again = released && std::exchange(deferred_, false);
    const absl::Time now = Clock::Real()->Now();
    if (requested || now >= next_look) {
      ReloadFiles(requested);
      ReloadModels(requested || again);
      next_look = now + options_.interval;
    } else if (again) {
      ReloadModels(true);
    }
    released = server_->ReleaseOldModels();
  }
}

std::string Reloader::StampOfTls() const {
  return absl::StrCat(StampOf(options_.tls_cert), "\n", StampOf(options_.tls_key), "\n",
                      StampOf(options_.tls_client_ca));
}

std::vector<std::string> Reloader::StampsOfModels() const {
  std::vector<std::string> stamps;
  for (const std::string& directory : options_.model_directories) stamps.push_back(StampOf(directory));
  return stamps;
}

void Reloader::ReloadFiles(bool requested) {
  std::string api_keys = StampOf(options_.api_key_file);
  if (!options_.api_key_file.empty() && (requested || api_keys != tried_.api_keys)) {
    tried_.api_keys = std::move(api_keys);
    ReloadApiKeys();
  }
  std::string tls = StampOfTls();
  if (!options_.tls_cert.empty() && (requested || tls != tried_.tls)) {
    tried_.tls = std::move(tls);
    ReloadTls();
  }
}

void Reloader::ReloadModels(bool requested) {
  if (!requested && !options_.watch_models) return;
  std::vector<std::string> now = StampsOfModels();
  for (size_t i = 0; i < now.size(); ++i) {
    const bool changed = now[i] != tried_.models[i];
    const bool stands_still = std::exchange(seen_[i], now[i]) == now[i];
    const bool wanted = requested ? changed || !served_[i] : options_.watch_models && changed && stands_still;
    if (wanted) ReloadModel(static_cast<int>(i), std::move(now[i]));
  }
}

// In force first, then counted, then said: whoever has seen the line finds both.
void Reloader::ReloadApiKeys() {
  absl::StatusOr<ApiKeys> keys = ApiKeys::ReadFile(options_.api_key_file);
  const absl::Status status = keys.status();
  const size_t num_keys = keys.ok() ? keys->size() : 0;
  if (keys.ok()) server_->SetApiKeys(*std::move(keys));
  server_->metrics()->Reloaded(ReloadKind::kApiKeys, status.ok());
  if (status.ok()) {
    LogInfo(absl::StrCat("--api_key_file: ", options_.api_key_file, ": read again, ", num_keys, " keys"));
  } else {
    LogError(absl::StrCat("--api_key_file: ", status.message(), "; the keys before stay in force"));
  }
}

void Reloader::ReloadTls() {
  absl::StatusOr<TlsFiles> files = TlsFiles::Read(options_.tls_cert, options_.tls_key, options_.tls_client_ca);
  if (files.ok()) {
    if (absl::Status fresh = files->CheckNotExpired(Clock::Real()->Now()); !fresh.ok()) files = fresh;
  }
  const absl::Status status = files.status();
  if (files.ok()) server_->SetTls(*std::move(files));
  server_->metrics()->Reloaded(ReloadKind::kTls, status.ok());
  if (status.ok()) {
    LogInfo(absl::StrCat("--tls_cert: ", options_.tls_cert, ": read again"));
  } else {
    LogError(absl::StrCat(status.message(), "; the certificate before stays in force"));
  }
}

void Reloader::ReloadModel(int index, std::string stamp) {
  const ServedModel current = (*server_->models())[index];
  if (!server_->ReleaseOldModels()) {
    deferred_ = true;
    return LogInfo(absl::StrCat("model ", current.name, ": will be loaded again when no call needs the version before ",
                                current.info.version));
  }
  {
    absl::MutexLock lock(&mu_);
    if (stopping_) return;
    loading_ = true;
  }
  LogInfo(absl::StrCat("model ", current.name, ": loading it again from ", options_.model_directories[index]));
  absl::StatusOr<ServedModel> next = options_.load_model(index, current);
  const std::string version = next.ok() ? next->info.version : "";
  const absl::Status status = next.ok() ? server_->ReplaceModel(index, *std::move(next)) : next.status();
  server_->metrics()->Reloaded(ReloadKind::kModel, status.ok());
  tried_.models[index] = std::move(stamp);
  served_[index] = status.ok();
  if (status.ok()) {
    LogInfo(absl::StrCat("model ", current.name, ": version ", version, " serves in place of ", current.info.version));
  } else {
    LogError(
        absl::StrCat(status.message(), "; version ", current.info.version, " of model ", current.name, " serves on"));
  }
  absl::MutexLock lock(&mu_);
  loading_ = false;
}

}  // namespace lion
