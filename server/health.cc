// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/health.h"

#include <functional>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/bytes.h"

namespace lion {
namespace {

namespace pb = grpc::health::v1;
using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using Status = pb::HealthCheckResponse;
using RawService =
    pb::Health::WithRawCallbackMethod_Check<pb::Health::WithRawCallbackMethod_Watch<pb::Health::Service>>;

const char kUnparsable[] = "request does not parse as grpc.health.v1.HealthCheckRequest";

ByteBuffer Serialize(Status::ServingStatus status) {
  Status response;
  response.set_status(status);
  ByteBuffer bytes;
  SerializeBytes(response, &bytes).IgnoreError();  // two bytes
  return bytes;
}

// One Watch: sends the newest status whenever the last one is on its way.
class Watcher final : public grpc::ServerWriteReactor<ByteBuffer>, public std::enable_shared_from_this<Watcher> {
 public:
  explicit Watcher(std::function<void(Watcher*)> gone) : gone_(std::move(gone)) {}

  void Start() {
    absl::MutexLock lock(&mu_);
    self_ = shared_from_this();
  }

  void Send(Status::ServingStatus status) {
    absl::MutexLock lock(&mu_);
    next_ = status;
    Pump();
  }

  void End(const grpc::Status& status) {
    absl::MutexLock lock(&mu_);
    if (!end_.has_value()) end_ = status;
    Pump();
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok && !end_.has_value()) end_ = grpc::Status::CANCELLED;
    Pump();
  }

  void OnDone() override {
    gone_(this);
    std::shared_ptr<Watcher> self;  // the end of this
    absl::MutexLock lock(&mu_);
    self = std::move(self_);
  }

 private:
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_ || writing_) return;
    if (end_.has_value()) {
      finished_ = true;
      Finish(*end_);
    } else if (next_ != sent_) {
      sent_ = next_;
      bytes_ = Serialize(*sent_);
      writing_ = true;
      StartWrite(&bytes_);
    }
  }

  const std::function<void(Watcher*)> gone_;
  absl::Mutex mu_;
  ByteBuffer bytes_;  // gRPC's while writing_
  std::optional<Status::ServingStatus> next_ ABSL_GUARDED_BY(mu_);
  std::optional<Status::ServingStatus> sent_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<Watcher> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
};

}  // namespace

struct HealthService::Impl final : public RawService {
  explicit Impl(const std::string& service_name) : name(service_name) {}

  grpc::ServerUnaryReactor* Check(CallbackServerContext* context, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    pb::HealthCheckRequest parsed;
    ByteBuffer bytes = *request;
    if (!ParseBytes(&bytes, &parsed)) {
      reactor->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, kUnparsable));
      return reactor;
    }
    const Status::ServingStatus status = StatusOf(parsed.service());
    if (status == Status::SERVICE_UNKNOWN) {
      reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "service: not served here; known are '' and " + name));
      return reactor;
    }
    *response = Serialize(status);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<ByteBuffer>* Watch(CallbackServerContext*, const ByteBuffer* request) override {
    auto watcher = std::make_shared<Watcher>([this](Watcher* gone) {
      absl::MutexLock lock(&mu);
      watchers.erase(gone);
    });
    watcher->Start();
    pb::HealthCheckRequest parsed;
    ByteBuffer bytes = *request;
    if (!ParseBytes(&bytes, &parsed)) {
      watcher->End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, kUnparsable));
      return watcher.get();
    }
    absl::MutexLock lock(&mu);
    if (ended) {
      watcher->End(Ended());
    } else {
      // Inside the lock, so that what SetServing says comes after this.
      watchers[watcher.get()] = {watcher, parsed.service() == name};
      watcher->Send(StatusOfLocked(parsed.service()));
    }
    return watcher.get();
  }

  Status::ServingStatus StatusOf(const std::string& service) {
    absl::MutexLock lock(&mu);
    return StatusOfLocked(service);
  }
  Status::ServingStatus StatusOfLocked(const std::string& service) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (service.empty()) return Status::SERVING;
    if (service != name) return Status::SERVICE_UNKNOWN;
    return serving ? Status::SERVING : Status::NOT_SERVING;
  }
  static grpc::Status Ended() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "server is draining"); }

  const std::string name;
  absl::Mutex mu;
  bool serving ABSL_GUARDED_BY(mu) = false;
  bool ended ABSL_GUARDED_BY(mu) = false;
  struct Entry {
    std::weak_ptr<Watcher> watcher;
    bool named = false;  // of the named service
  };
  absl::flat_hash_map<const Watcher*, Entry> watchers ABSL_GUARDED_BY(mu);
};

HealthService::HealthService(const std::string& name) : impl_(std::make_unique<Impl>(name)) {}

HealthService::~HealthService() = default;

grpc::Service* HealthService::service() { return impl_.get(); }

bool HealthService::serving() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->serving;
}

void HealthService::SetServing(bool serving) {
  absl::MutexLock lock(&impl_->mu);
  impl_->serving = serving;
  for (const auto& [key, entry] : impl_->watchers) {
    if (!entry.named) continue;
    if (const auto watcher = entry.watcher.lock()) watcher->Send(impl_->StatusOfLocked(impl_->name));
  }
}

void HealthService::EndWatches() {
  absl::MutexLock lock(&impl_->mu);
  impl_->ended = true;
  for (const auto& [key, entry] : impl_->watchers) {
    if (const auto watcher = entry.watcher.lock()) watcher->End(Impl::Ended());
  }
}

}  // namespace lion
