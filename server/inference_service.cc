// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/inference_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "inference/open_inference_grpc.grpc.pb.h"
#include "server/answer.h"
#include "server/build_info.h"
#include "server/bytes.h"
#include "server/inference_messages.h"
#include "server/instant_call.h"
#include "server/rows_call.h"
#include "server/status_map.h"
#include "server/stream_reactor.h"
#include "server/unary_reactor.h"

namespace lion {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

// One ModelInferRequest, of a unary call or of a stream.
template <bool kStream>
class InferCall final : public RowsCall {
 public:
  using RowsCall::RowsCall;

  std::optional<ByteBuffer> ErrorAnswer(const absl::Status& status) const override {
    inference::ModelStreamInferResponse answer;
    const std::string message = ToGrpcStatus(status).error_message();  // cut to what fits a header, as unary ones are
    answer.set_error_message(message.empty() ? "failed without a message" : message);
    answer.mutable_infer_response()->set_id(id_);
    ByteBuffer bytes;
    SerializeBytes(answer, &bytes).IgnoreError();  // a few kilobytes
    return bytes;
  }

 private:
  absl::string_view request_name() const override { return inference::ModelInferRequest::descriptor()->full_name(); }
  bool ParseRequest() override {
    if (!ParseBytes(&request_bytes_, &request_)) return false;
    id_ = request_.id();
    raw_ = request_.raw_input_contents_size() > 0;
    return true;
  }
  const std::string& model_name() const override { return request_.model_name(); }
  const Inputs& inputs() const override { return query_.scores ? query_.classify.inputs() : query_.embed.inputs(); }

  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) override {
    absl::StatusOr<InferQuery> query = FromInfer(&request_, model, context().limits.max_inputs);
    if (!query.ok()) return query.status();
    query_ = *std::move(query);
    request_.Clear();
    return query_.scores ? PlanClassify(query_.classify, index, model, context().limits)
                         : PlanEmbed(query_.embed, index, model, context().limits);
  }
  bool rows_stand_alone() const override { return false; }
  void ReleaseRequest() override {
    query_.embed.Clear();
    query_.classify.Clear();
  }

  absl::Status BuildResponse(ByteBuffer* bytes) override {
    std::vector<float> values;
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (query_.scores) {
        AddScores(i, &values);
      } else {
        v1::EmbedResult result;
        FillEmbedResult(plan_, rows_[i], std::move(answers_[i].result), &result);
        const auto& vector = result.vectors(0).values();
        values.reserve(rows_.size() * vector.size());
        values.insert(values.end(), vector.begin(), vector.end());
      }
    }
    inference::ModelInferResponse answer = InferAnswer(served(), id_);
    AddOutput(query_.scores ? kScoresOutput : kEmbeddingOutput, static_cast<int64_t>(rows_.size()), std::move(values),
              raw_, &answer);
    if (!kStream) return SerializeBytes(answer, bytes);
    inference::ModelStreamInferResponse message;
    *message.mutable_infer_response() = std::move(answer);
    return SerializeBytes(message, bytes);
  }

  // In the order of the labels, not of the scores.
  void AddScores(size_t i, std::vector<float>* values) {
    v1::ClassifyResult result;
    FillClassifyResult(plan_, rows_[i], std::move(answers_[i].result), served().info, &result);
    const size_t begin = values->size();
    values->resize(begin + result.scores_size());
    for (const v1::LabelScore& score : result.scores()) (*values)[begin + score.index()] = score.score();
  }

  absl::Status Reword(absl::Status status) const override { return InInferenceWords(status); }

  inference::ModelInferRequest request_;  // until the plan is made
  InferQuery query_;
  std::string id_;
  bool raw_ = false;  // the contents of the request, and so of the answer
};

bool Serves(const ServiceContext& context) { return context.gate->state() == Gate::State::kServing; }

absl::StatusOr<inference::ServerLiveResponse> Live(const ServiceContext&, const ServedModels&,
                                                   const inference::ServerLiveRequest&, int*) {
  inference::ServerLiveResponse response;
  response.set_live(true);
  return response;
}

absl::StatusOr<inference::ServerReadyResponse> Ready(const ServiceContext& context, const ServedModels&,
                                                     const inference::ServerReadyRequest&, int*) {
  inference::ServerReadyResponse response;
  response.set_ready(Serves(context));
  return response;
}

// The model asked for. NOT_FOUND, also for a version that it has not.
absl::StatusOr<int> Find(const ServedModels& models, const std::string& name, const std::string& version) {
  absl::StatusOr<int> index = FindModel(models, name);
  if (!index.ok()) return index.status();
  const ServedModel& model = models[*index];
  if (!version.empty() && version != model.info.version) {
    return absl::NotFoundError(
        absl::StrCat("version: no version ", Quoted(version), " of ", model.name, "; it has ", model.info.version));
  }
  return index;
}

// A model that is not there is not ready, as with Triton: no error.
absl::StatusOr<inference::ModelReadyResponse> ModelReady(const ServiceContext& context, const ServedModels& models,
                                                         const inference::ModelReadyRequest& request, int* model) {
  const absl::StatusOr<int> index = Find(models, request.name(), request.version());
  if (index.ok()) *model = *index;
  inference::ModelReadyResponse response;
  response.set_ready(index.ok() && Serves(context));
  return response;
}

absl::StatusOr<inference::ServerMetadataResponse> ServerMetadata(const ServiceContext&, const ServedModels&,
                                                                 const inference::ServerMetadataRequest&, int*) {
  inference::ServerMetadataResponse response;
  response.set_name("lion-serve");
  response.set_version(std::string(BuildVersion()));
  return response;
}

absl::StatusOr<inference::ModelMetadataResponse> ModelMetadata(const ServiceContext&, const ServedModels& models,
                                                               const inference::ModelMetadataRequest& request,
                                                               int* model) {
  const absl::StatusOr<int> index = Find(models, request.name(), request.version());
  if (!index.ok()) return index.status();
  *model = *index;
  return InferMetadata(models[*index]);
}

absl::StatusOr<inference::RepositoryIndexResponse> Index(const ServiceContext&, const ServedModels& models,
                                                         const inference::RepositoryIndexRequest&, int*) {
  inference::RepositoryIndexResponse response;  // all are ready: what is not loaded is not served
  for (const ServedModel& model : models) {
    inference::RepositoryIndexResponse::ModelIndex* entry = response.add_models();
    entry->set_name(model.name);
    entry->set_version(model.info.version);
    entry->set_state("READY");
  }
  return response;
}

template <typename Request, typename Response,
          absl::StatusOr<Response> (*kAnswer)(const ServiceContext&, const ServedModels&, const Request&, int*)>
constexpr CallType Instant(bool gated) {
  return CallType(CallKind::kListModels, &MakeCall<InstantCall<Request, Response, kAnswer>>, gated);
}

constexpr CallType kLive = Instant<inference::ServerLiveRequest, inference::ServerLiveResponse, Live>(false);
constexpr CallType kReady = Instant<inference::ServerReadyRequest, inference::ServerReadyResponse, Ready>(false);
constexpr CallType kModelReady =
    Instant<inference::ModelReadyRequest, inference::ModelReadyResponse, ModelReady>(false);
constexpr CallType kServerMetadata =
    Instant<inference::ServerMetadataRequest, inference::ServerMetadataResponse, ServerMetadata>(true);
constexpr CallType kModelMetadata =
    Instant<inference::ModelMetadataRequest, inference::ModelMetadataResponse, ModelMetadata>(true);
constexpr CallType kIndex = Instant<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse, Index>(true);
constexpr CallType kInfer(CallKind::kEmbed, &MakeCall<InferCall<false>>);
constexpr CallType kStreamInfer(CallKind::kEmbed, &MakeCall<InferCall<true>>);

using Generated = inference::GRPCInferenceService;
using RawInfer =
    Generated::WithRawCallbackMethod_ModelInfer<Generated::WithRawCallbackMethod_ModelStreamInfer<Generated::Service>>;
using RawReady = Generated::WithRawCallbackMethod_ServerLive<
    Generated::WithRawCallbackMethod_ServerReady<Generated::WithRawCallbackMethod_ModelReady<RawInfer>>>;
using RawService = Generated::WithRawCallbackMethod_ServerMetadata<
    Generated::WithRawCallbackMethod_ModelMetadata<Generated::WithRawCallbackMethod_RepositoryIndex<RawReady>>>;

class InferenceService final : public RawService {
 public:
  explicit InferenceService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* ServerLive(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveServerLive, kLive, rpc, request, response);
  }
  ServerUnaryReactor* ServerReady(CallbackServerContext* rpc, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveServerReady, kReady, rpc, request, response);
  }
  ServerUnaryReactor* ModelReady(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveModelReady, kModelReady, rpc, request, response);
  }
  ServerUnaryReactor* ServerMetadata(CallbackServerContext* rpc, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveServerMetadata, kServerMetadata, rpc, request, response);
  }
  ServerUnaryReactor* ModelMetadata(CallbackServerContext* rpc, const ByteBuffer* request,
                                    ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveModelMetadata, kModelMetadata, rpc, request, response);
  }
  ServerUnaryReactor* RepositoryIndex(CallbackServerContext* rpc, const ByteBuffer* request,
                                      ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveRepositoryIndex, kIndex, rpc, request, response);
  }
  ServerUnaryReactor* ModelInfer(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kKserveModelInfer, kInfer, rpc, request, response);
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* ModelStreamInfer(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kKserveModelStreamInfer, kStreamInfer, rpc);
  }

 private:
  const ServiceContext* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext* context) {
  return std::make_unique<InferenceService>(context);
}

}  // namespace lion
