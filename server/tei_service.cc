// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/tei_service.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/answer.h"
#include "server/bytes.h"
#include "server/instant_call.h"
#include "server/rows_call.h"
#include "server/stream_reactor.h"
#include "server/tei_messages.h"
#include "server/unary_reactor.h"
#include "tei/v1/tei.grpc.pb.h"

namespace lion {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Stream = grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>;

// One request of tei.v1's. Theirs comes in, Ours (of one input) runs.
template <typename Theirs, typename Ours>
class TeiCall : public RowsCall {
 public:
  using RowsCall::RowsCall;

  std::optional<ByteBuffer> ErrorAnswer(const absl::Status&) const final { return std::nullopt; }

 protected:
  absl::string_view request_name() const final { return Theirs::descriptor()->full_name(); }
  bool ParseRequest() final {
    Theirs theirs;
    if (!ParseBytes(&request_bytes_, &theirs)) return false;
    Look(theirs);
    translated_ = FromTei(std::move(theirs), &request_);
    return true;
  }
  const std::string& model_name() const final { return request_.model(); }
  const Inputs& inputs() const final { return request_.inputs(); }
  absl::StatusOr<CallPlan> MakePlan(int index, const ServedModel& model) final {
    if (!translated_.ok()) return translated_;
    return Plan(index, model);
  }
  void ReleaseRequest() final { request_ = Ours(); }
  absl::Status Reword(absl::Status status) const final { return InTeiWords(status); }

  // Notes what the answer needs of the request.
  virtual void Look(const Theirs& theirs) = 0;
  virtual absl::StatusOr<CallPlan> Plan(int index, const ServedModel& model) const = 0;

  Ours request_;

 private:
  absl::Status translated_;
};

void Count(absl::string_view text, uint32_t* num_chars) { *num_chars += NumChars(text); }
void Count(const google::protobuf::RepeatedPtrField<std::string>& texts, uint32_t* num_chars) {
  for (const std::string& text : texts) Count(text, num_chars);
}

// What runs a row and tells of its cost: all but Tokenize. Result: lion.v1's of one row.
template <typename Theirs, typename Ours, typename Result, typename Answer>
class TeiRun : public TeiCall<Theirs, Ours> {
 public:
  using TeiCall<Theirs, Ours>::TeiCall;

 private:
  void Look(const Theirs& theirs) final { Count(theirs.inputs(), &num_chars_); }

  absl::Status BuildResponse(ByteBuffer* bytes) final {
    Result result;
    Fill(&result);
    Answer answer;
    ToTei(&result, &answer);
    v1::Timings timings;
    this->FillTimings(&timings);
    ToTei(timings, answer.mutable_metadata());
    answer.mutable_metadata()->set_compute_chars(num_chars_);
    return SerializeBytes(answer, bytes);
  }

  virtual void Fill(Result* result) = 0;

  uint32_t num_chars_ = 0;
};

template <typename Theirs, typename Answer>
class TeiEmbedCall final : public TeiRun<Theirs, v1::EmbedRequest, v1::EmbedResult, Answer> {
 public:
  using TeiRun<Theirs, v1::EmbedRequest, v1::EmbedResult, Answer>::TeiRun;

 private:
  absl::StatusOr<CallPlan> Plan(int index, const ServedModel& model) const override {
    return PlanEmbed(this->request_, index, model, this->context().limits);
  }
  void Fill(v1::EmbedResult* result) override {
    FillEmbedResult(this->plan_, this->rows_[0], std::move(this->answers_[0].result), result);
  }
};

template <typename Theirs>
class TeiPredictCall final : public TeiRun<Theirs, v1::ClassifyRequest, v1::ClassifyResult, tei::v1::PredictResponse> {
 public:
  using TeiRun<Theirs, v1::ClassifyRequest, v1::ClassifyResult, tei::v1::PredictResponse>::TeiRun;

 private:
  absl::StatusOr<CallPlan> Plan(int index, const ServedModel& model) const override {
    return PlanClassify(this->request_, index, model, this->context().limits);
  }
  void Fill(v1::ClassifyResult* result) override {
    FillClassifyResult(this->plan_, this->rows_[0], std::move(this->answers_[0].result), this->served().info, result);
  }
};

class TeiTokenizeCall final : public TeiCall<tei::v1::EncodeRequest, v1::TokenizeRequest> {
 public:
  using TeiCall::TeiCall;

 private:
  void Look(const tei::v1::EncodeRequest& theirs) override { add_special_tokens_ = theirs.add_special_tokens(); }
  absl::StatusOr<CallPlan> Plan(int index, const ServedModel& model) const override {
    return PlanTokenize(request_, index, model, context().limits);
  }
  PlannedRow MakeRow(int i) const override { return PlanTokenizeRow(inputs()[i], i, plan_, served()); }
  absl::Status BuildResponse(ByteBuffer* bytes) override {
    v1::TokenizeResult result;
    FillTokenizeResult(rows_[0], &result);
    tei::v1::EncodeResponse answer;
    ToTei(result, inputs()[0].text(), add_special_tokens_, &answer);
    return SerializeBytes(answer, bytes);
  }

  bool add_special_tokens_ = false;
};

absl::StatusOr<tei::v1::InfoResponse> Info(const ServiceContext& context, const ServedModels& models,
                                           const tei::v1::InfoRequest&, int* model) {
  *model = 0;
  return TeiInfo(models.front(), context);
}

// What this server does not do, in one word for the message.
enum class Lack { kSparse, kRerank, kDecode };

template <Lack kLack>
class LackingCall final : public Call {
 public:
  using Call::Call;

  void Start() override {
    Fail(absl::UnimplementedError(kLack == Lack::kSparse ? "EmbedSparse: models give dense vectors only"
                                  : kLack == Lack::kRerank
                                      ? "Rerank: no reranking models; Predict.PredictPair scores a pair"
                                      : "Decode: ids are not turned back into text"));
  }
  std::optional<ByteBuffer> ErrorAnswer(const absl::Status&) const override { return std::nullopt; }
};

using InfoCall = InstantCall<tei::v1::InfoRequest, tei::v1::InfoResponse, Info>;
using EmbedCall = TeiEmbedCall<tei::v1::EmbedRequest, tei::v1::EmbedResponse>;
using EmbedAllCall = TeiEmbedCall<tei::v1::EmbedAllRequest, tei::v1::EmbedAllResponse>;
using PredictCall = TeiPredictCall<tei::v1::PredictRequest>;
using PredictPairCall = TeiPredictCall<tei::v1::PredictPairRequest>;

constexpr CallType kInfo(CallKind::kListModels, &MakeCall<InfoCall>);
constexpr CallType kEmbed(CallKind::kEmbed, &MakeCall<EmbedCall>);
constexpr CallType kEmbedAll(CallKind::kEmbed, &MakeCall<EmbedAllCall>);
constexpr CallType kPredict(CallKind::kClassify, &MakeCall<PredictCall>);
constexpr CallType kPredictPair(CallKind::kClassify, &MakeCall<PredictPairCall>);
constexpr CallType kTokenize(CallKind::kTokenize, &MakeCall<TeiTokenizeCall>);
constexpr CallType kSparse(CallKind::kEmbed, &MakeCall<LackingCall<Lack::kSparse>>);
constexpr CallType kRerank(CallKind::kClassify, &MakeCall<LackingCall<Lack::kRerank>>);
constexpr CallType kDecode(CallKind::kTokenize, &MakeCall<LackingCall<Lack::kDecode>>);

using GeneratedInfo = tei::v1::Info;
using RawInfo = GeneratedInfo::WithRawCallbackMethod_Info<GeneratedInfo::Service>;

class InfoService final : public RawInfo {
 public:
  explicit InfoService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* Info(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiInfo, kInfo, rpc, request, response);
  }

 private:
  const ServiceContext* const context_;
};

using GeneratedEmbed = tei::v1::Embed;
using RawEmbed = GeneratedEmbed::WithRawCallbackMethod_EmbedAllStream<
    GeneratedEmbed::WithRawCallbackMethod_EmbedAll<GeneratedEmbed::WithRawCallbackMethod_EmbedSparseStream<
        GeneratedEmbed::WithRawCallbackMethod_EmbedSparse<GeneratedEmbed::WithRawCallbackMethod_EmbedStream<
            GeneratedEmbed::WithRawCallbackMethod_Embed<GeneratedEmbed::Service>>>>>>;

class EmbedService final : public RawEmbed {
 public:
  explicit EmbedService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* Embed(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiEmbed, kEmbed, rpc, request, response);
  }
  Stream* EmbedStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiEmbedStream, kEmbed, rpc);
  }
  ServerUnaryReactor* EmbedSparse(CallbackServerContext* rpc, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiEmbedSparse, kSparse, rpc, request, response);
  }
  Stream* EmbedSparseStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiEmbedSparseStream, kSparse, rpc);
  }
  ServerUnaryReactor* EmbedAll(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiEmbedAll, kEmbedAll, rpc, request, response);
  }
  Stream* EmbedAllStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiEmbedAllStream, kEmbedAll, rpc);
  }

 private:
  const ServiceContext* const context_;
};

using GeneratedPredict = tei::v1::Predict;
using RawPredict = GeneratedPredict::WithRawCallbackMethod_PredictPairStream<
    GeneratedPredict::WithRawCallbackMethod_PredictStream<GeneratedPredict::WithRawCallbackMethod_PredictPair<
        GeneratedPredict::WithRawCallbackMethod_Predict<GeneratedPredict::Service>>>>;

class PredictService final : public RawPredict {
 public:
  explicit PredictService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* Predict(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiPredict, kPredict, rpc, request, response);
  }
  ServerUnaryReactor* PredictPair(CallbackServerContext* rpc, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiPredictPair, kPredictPair, rpc, request, response);
  }
  Stream* PredictStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiPredictStream, kPredict, rpc);
  }
  Stream* PredictPairStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiPredictPairStream, kPredictPair, rpc);
  }

 private:
  const ServiceContext* const context_;
};

using GeneratedRerank = tei::v1::Rerank;
using RawRerank = GeneratedRerank::WithRawCallbackMethod_RerankStream<
    GeneratedRerank::WithRawCallbackMethod_Rerank<GeneratedRerank::Service>>;

// RerankStream is left to gRPC, which answers UNIMPLEMENTED.
class RerankService final : public RawRerank {
 public:
  explicit RerankService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* Rerank(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiRerank, kRerank, rpc, request, response);
  }

 private:
  const ServiceContext* const context_;
};

using GeneratedTokenize = tei::v1::Tokenize;
using RawTokenize = GeneratedTokenize::WithRawCallbackMethod_DecodeStream<
    GeneratedTokenize::WithRawCallbackMethod_Decode<GeneratedTokenize::WithRawCallbackMethod_TokenizeStream<
        GeneratedTokenize::WithRawCallbackMethod_Tokenize<GeneratedTokenize::Service>>>>;

class TokenizeService final : public RawTokenize {
 public:
  explicit TokenizeService(const ServiceContext* context) : context_(context) {}

  ServerUnaryReactor* Tokenize(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiTokenize, kTokenize, rpc, request, response);
  }
  Stream* TokenizeStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiTokenizeStream, kTokenize, rpc);
  }
  ServerUnaryReactor* Decode(CallbackServerContext* rpc, const ByteBuffer* request, ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTeiDecode, kDecode, rpc, request, response);
  }
  Stream* DecodeStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kTeiDecodeStream, kDecode, rpc);
  }

 private:
  const ServiceContext* const context_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> MakeTeiServices(const ServiceContext* context) {
  std::vector<std::unique_ptr<grpc::Service>> services;
  services.push_back(std::make_unique<InfoService>(context));
  services.push_back(std::make_unique<EmbedService>(context));
  services.push_back(std::make_unique<PredictService>(context));
  services.push_back(std::make_unique<RerankService>(context));
  services.push_back(std::make_unique<TokenizeService>(context));
  return services;
}

}  // namespace lion
