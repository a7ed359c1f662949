// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/client.h"

#include <fstream>
#include <sstream>
#include <unordered_set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "client/service_config.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "lion/v1/encoder.grpc.pb.h"

namespace lion::client {
namespace {

// Marks a status whose server said that waiting cannot help.
constexpr char kNoRetryPayload[] = "lion.v1/no-retry";
constexpr char kPushbackTrailer[] = "grpc-retry-pushback-ms";

// gRPC forgets how to retry a call once its message outgrows this buffer, 256 KiB by default: less than one batch of
// long texts. Only what is in flight is kept.
constexpr int kRetryBufferBytes = 1 << 30;

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty()) return absl::NotFoundError(absl::StrCat(flag, ": cannot read ", path));
  return text.str();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(const ConnectOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("tls_cert and tls_key: give both or neither");
  }
  if (!UsesTls(options)) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  struct File {
    const char* flag;
    const std::string& path;
    std::string& pem;
  };
  for (const File& file :
       {File{"tls_ca", options.tls_ca, ssl.pem_root_certs}, File{"tls_cert", options.tls_cert, ssl.pem_cert_chain},
        File{"tls_key", options.tls_key, ssl.pem_private_key}}) {
    if (file.path.empty()) continue;
    absl::StatusOr<std::string> pem = ReadPem(file.flag, file.path);
    if (!pem.ok()) return pem.status();
    file.pem = *std::move(pem);
  }
  return grpc::SslCredentials(ssl);
}

absl::Status ToAbsl(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto pushback = trailers.find(kPushbackTrailer);
  if (pushback != trailers.end() && pushback->second.starts_with("-")) result.SetPayload(kNoRetryPayload, absl::Cord());
  return result;
}

// The calls in flight. Outlives the client where a callback is still on its way out.
class InFlight {
 public:
  void Add(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    contexts_.insert(context);
  }
  void Remove(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    contexts_.erase(context);
  }
  void CancelAll() {
    absl::MutexLock lock(&mu_);
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }
  void AwaitNone() {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](InFlight* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) { return self->contexts_.empty(); }, this));
  }

 private:
  absl::Mutex mu_;
  std::unordered_set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mu_);
};

// Keeps the process's first two channels. All callback calls share one completion queue, which goes with the last
// channel that used it; gRPC 1.51 now and then aborts in doing so (cq refcount, "prior > 0") while a thread is still on
// its way in.
void KeepForever(const std::shared_ptr<grpc::Channel>& encoder, const std::shared_ptr<grpc::Channel>& health) {
  // volatile, so that the compiler keeps a variable that nobody reads: leak checkers look for the channels there.
  static auto* volatile kept = new std::pair(encoder, health);
  static_cast<void>(kept);
}

}  // namespace

bool UsesTls(const ConnectOptions& options) {
  return options.tls || !options.tls_ca.empty() || !options.tls_cert.empty() || !options.tls_server_name.empty();
}

bool MayRetry(const absl::Status& status) {
  return (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) &&
         !status.GetPayload(kNoRetryPayload).has_value();
}

std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

struct Client::Impl {
  ConnectOptions options;
  std::unique_ptr<v1::EncoderService::Stub> encoder;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
  std::shared_ptr<InFlight> in_flight = std::make_shared<InFlight>();

  // With the deadline and the key, and among those in flight.
  std::shared_ptr<grpc::ClientContext> NewContext() const {
    auto context = std::make_shared<grpc::ClientContext>();
    if (options.deadline != absl::InfiniteDuration())
      context->set_deadline(absl::ToChronoTime(absl::Now() + options.deadline));
    if (!options.api_key.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", options.api_key));
    in_flight->Add(context.get());
    return context;
  }

  // Starts a call by start(context, on_done) and calls done once it has ended.
  template <typename Start>
  void Call(Start start, Done done) {
    std::shared_ptr<grpc::ClientContext> context = NewContext();
    // done runs before the call counts as over: the destructor waits for both.
    start(context.get(), [context, calls = in_flight, done = std::move(done)](grpc::Status status) {
      done(ToAbsl(status, *context));
      calls->Remove(context.get());
    });
  }

  template <typename Response, typename Start>
  absl::StatusOr<Response> BlockingCall(Start start) {
    Response response;
    absl::Status result;
    absl::Notification ended;
    Call([&](grpc::ClientContext* context, auto on_done) { start(context, &response, std::move(on_done)); },
         [&](absl::Status status) {
           result = std::move(status);
           ended.Notify();
         });
    ended.WaitForNotification();
    if (!result.ok()) return result;
    return response;
  }
};

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ConnectOptions& options) {
  if (options.target.empty()) return absl::InvalidArgumentError("target: is empty");
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("deadline: ", absl::FormatDuration(options.deadline), " is not above 0"));
  }
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = MakeCredentials(options);
  if (!credentials.ok()) return credentials.status();

  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // a page of token vectors is far beyond gRPC's 4 MiB
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetServiceConfigJSON(kServiceConfigJson);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);  // no other config by way of DNS
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, options.retry ? 1 : 0);
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBufferBytes);

  // A server that restarts is found again within seconds; gRPC's own pause grows to two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000);

  // The encoder's channel hands out no connection while its service is not ready, so health is asked on another.
  grpc::ChannelArguments plain;
  plain.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  plain.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  plain.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);

  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
    plain.SetSslTargetNameOverride(options.tls_server_name);
  }

  auto impl = std::make_unique<Impl>();
  impl->options = options;
  const auto encoder_channel = grpc::CreateCustomChannel(options.target, *credentials, arguments);
  const auto health_channel = grpc::CreateCustomChannel(options.target, *credentials, plain);
  KeepForever(encoder_channel, health_channel);
  impl->encoder = v1::EncoderService::NewStub(encoder_channel);
  impl->health = grpc::health::v1::Health::NewStub(health_channel);
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Client::~Client() {
  impl_->in_flight->CancelAll();
  impl_->in_flight->AwaitNone();
}

void Client::CancelAll() { impl_->in_flight->CancelAll(); }

void Client::EmbedAsync(const v1::EmbedRequest* request, v1::EmbedResponse* response, Done done) {
  impl_->Call([&](grpc::ClientContext* context,
                  auto on_done) { impl_->encoder->async()->Embed(context, request, response, std::move(on_done)); },
              std::move(done));
}

void Client::ClassifyAsync(const v1::ClassifyRequest* request, v1::ClassifyResponse* response, Done done) {
  impl_->Call([&](grpc::ClientContext* context,
                  auto on_done) { impl_->encoder->async()->Classify(context, request, response, std::move(on_done)); },
              std::move(done));
}

void Client::TokenizeAsync(const v1::TokenizeRequest* request, v1::TokenizeResponse* response, Done done) {
  impl_->Call([&](grpc::ClientContext* context,
                  auto on_done) { impl_->encoder->async()->Tokenize(context, request, response, std::move(on_done)); },
              std::move(done));
}

absl::StatusOr<v1::EmbedResponse> Client::Embed(const v1::EmbedRequest& request) {
  return impl_->BlockingCall<v1::EmbedResponse>([&](auto* context, auto* response, auto on_done) {
    impl_->encoder->async()->Embed(context, &request, response, std::move(on_done));
  });
}

absl::StatusOr<v1::ClassifyResponse> Client::Classify(const v1::ClassifyRequest& request) {
  return impl_->BlockingCall<v1::ClassifyResponse>([&](auto* context, auto* response, auto on_done) {
    impl_->encoder->async()->Classify(context, &request, response, std::move(on_done));
  });
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request) {
  return impl_->BlockingCall<v1::TokenizeResponse>([&](auto* context, auto* response, auto on_done) {
    impl_->encoder->async()->Tokenize(context, &request, response, std::move(on_done));
  });
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels() {
  const v1::ListModelsRequest request;
  return impl_->BlockingCall<v1::ListModelsResponse>([&](auto* context, auto* response, auto on_done) {
    impl_->encoder->async()->ListModels(context, &request, response, std::move(on_done));
  });
}

absl::Status Client::EmbedDocument(const v1::EmbedDocumentRequest& request,
                                   const std::function<bool(const v1::EmbedDocumentResponse&)>& message) {
  const std::shared_ptr<grpc::ClientContext> context = impl_->NewContext();
  const auto reader = impl_->encoder->EmbedDocument(context.get(), request);
  v1::EmbedDocumentResponse received;
  bool going = true;
  while (reader->Read(&received)) {
    going = going && message(received);
    if (!going) context->TryCancel();  // and read on, to its end
  }
  const absl::Status status = ToAbsl(reader->Finish(), *context);
  impl_->in_flight->Remove(context.get());
  return going ? status : absl::CancelledError("stopped by the caller");
}

absl::StatusOr<grpc::health::v1::HealthCheckResponse::ServingStatus> Client::Health(const std::string& service) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  absl::StatusOr<grpc::health::v1::HealthCheckResponse> response =
      impl_->BlockingCall<grpc::health::v1::HealthCheckResponse>([&](auto* context, auto* answer, auto on_done) {
        impl_->health->async()->Check(context, &request, answer, std::move(on_done));
      });
  if (!response.ok()) return response.status();
  return response->status();
}

}  // namespace lion::client
