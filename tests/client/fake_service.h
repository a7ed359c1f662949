// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_CLIENT_FAKE_SERVICE_H_
#define LION_TESTS_CLIENT_FAKE_SERVICE_H_

// A LION server whose answers can be told from its questions, on a free port of 127.0.0.1.
//
// A text of N bytes has N tokens and the vector {N, first byte}; ids have as many tokens and the vector {number, first
// id}. Texts beginning "bad" fail their row with INVALID_ARGUMENT, as the contract has it: alone beside good ones, the
// whole call if all are bad. before_call (below) can do anything else.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "lion/v1/encoder.grpc.pb.h"

namespace lion::client {

class FakeService final : public v1::EncoderService::Service {
 public:
  // Called before each Embed, Classify or Tokenize is answered, with the call's number from 0, its inputs and its
  // context; not OK answers the call. Set it before the server starts.
  std::function<grpc::Status(int, const google::protobuf::RepeatedPtrField<v1::Input>&, grpc::ServerContext*)>
      before_call;
  // Called for each row after that; a code that is not OK fails the row.
  std::function<grpc::StatusCode(int, const v1::Input&)> before_row;
  uint32_t max_inputs = 1024;

  int num_calls() const {
    absl::MutexLock lock(&mu_);
    return num_calls_;
  }
  int num_model_calls() const {
    absl::MutexLock lock(&mu_);
    return num_model_calls_;
  }
  int max_concurrent() const {
    absl::MutexLock lock(&mu_);
    return max_concurrent_;
  }
  // How many inputs each call had, in the order of arrival.
  std::vector<int> call_sizes() const {
    absl::MutexLock lock(&mu_);
    return call_sizes_;
  }
  v1::EmbedRequest last_embed() const {
    absl::MutexLock lock(&mu_);
    return last_embed_;
  }

  grpc::Status Embed(grpc::ServerContext* context, const v1::EmbedRequest* request,
                     v1::EmbedResponse* response) override {
    {
      absl::MutexLock lock(&mu_);
      last_embed_ = *request;
    }
    return Answer(context, *request, response, [&](const v1::Input& input, v1::EmbedResult* result) {
      v1::Vector* vector = result->add_vectors();
      vector->add_values(static_cast<float>(Size(input)));
      vector->add_values(static_cast<float>(First(input)));
      FillRow(input, request->options(), result);
    });
  }

  grpc::Status Classify(grpc::ServerContext* context, const v1::ClassifyRequest* request,
                        v1::ClassifyResponse* response) override {
    return Answer(context, *request, response, [&](const v1::Input& input, v1::ClassifyResult* result) {
      const char* labels[] = {"long, or not", "short"};
      for (uint32_t i = 0; i < 2; ++i) {
        v1::LabelScore* score = result->add_scores();
        score->set_label(labels[i]);
        score->set_index(i);
        score->set_score(i == 0 ? 0.75f : 0.25f);
      }
      FillRow(input, request->options(), result);
    });
  }

  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    return Answer(context, *request, response, [&](const v1::Input& input, v1::TokenizeResult* result) {
      for (uint32_t i = 0; i < Size(input); ++i) {
        result->add_ids(static_cast<uint8_t>(input.text()[i]));
        result->add_type_ids(0);
        result->add_tokens(input.text().substr(i, 1));
        v1::Span* span = result->add_spans();
        span->set_start_byte(i);
        span->set_end_byte(i + 1);
      }
    });
  }

  // A vector {N, i} a window of N tokens, two a message; progress before them.
  grpc::Status EmbedDocument(grpc::ServerContext*, const v1::EmbedDocumentRequest* request,
                             grpc::ServerWriter<v1::EmbedDocumentResponse>* writer) override {
    const auto tokens = static_cast<uint32_t>(Size(request->input()));
    if (absl::StartsWith(request->input().text(), "bad")) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "input: no good");
    }
    v1::EmbedDocumentResponse message;
    message.mutable_progress()->set_tokens_total(tokens);
    writer->Write(message);
    message.mutable_progress()->set_tokens_done(tokens);
    writer->Write(message);
    const uint32_t size = request->windows().size_tokens();
    uint32_t n = 0;
    for (uint32_t start = 0; start < tokens; start += size, ++n) {
      if (n % 2 == 0) message.mutable_vectors()->Clear();
      if (n % 2 == 0) message.mutable_vectors()->set_first_vector(n);
      v1::Vector* vector = message.mutable_vectors()->add_vectors();
      vector->add_values(static_cast<float>(size));
      vector->add_values(static_cast<float>(n));
      vector->mutable_span()->set_start_token(start);
      vector->mutable_span()->set_end_token(std::min(start + size, tokens));
      vector->mutable_span()->set_end_byte(vector->span().end_token());
      vector->mutable_span()->set_start_byte(start);
      if (n % 2 == 1 || start + size >= tokens) writer->Write(message);
    }
    if (request->with_document()) {
      message.mutable_document()->add_values(-1);
      message.mutable_document()->add_values(static_cast<float>(request->windows().boundary()));
      message.mutable_document()->mutable_span()->set_end_token(tokens);
      writer->Write(message);
    }
    message.mutable_end()->set_token_count(tokens);
    message.mutable_end()->set_num_vectors(n);
    writer->Write(message);
    return grpc::Status::OK;
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    {
      absl::MutexLock lock(&mu_);
      ++num_model_calls_;
    }
    v1::ModelInfo* model = response->add_models();
    model->set_name("fake");
    model->set_version("0123456789ab");
    model->set_variant("lion-s");
    model->set_input("text");
    model->set_embedding_dimensions(2);
    model->set_max_sequence_tokens(131'072);
    model->add_labels("long, or not");
    model->add_labels("short");
    model->set_embeds(true);
    model->set_classifies(true);
    model->set_dtype("float32");
    model->set_device("cpu");
    model->set_pooling(v1::POOLING_MEAN);
    model->set_normalize(true);
    model->set_chunk_tokens(64);
    model->set_parallel_max_tokens(256);
    model->set_max_inputs(max_inputs);
    model->set_max_request_tokens(1 << 20);
    model->set_max_message_bytes(64 << 20);
    model->set_max_queue_tokens(1 << 20);
    return grpc::Status::OK;
  }

 private:
  static size_t Size(const v1::Input& input) {
    return input.has_token_ids()   ? static_cast<size_t>(input.token_ids().ids_size())
           : input.has_text_pair() ? input.text_pair().first().size() + input.text_pair().second().size()
                                   : input.text().size();
  }
  static uint32_t First(const v1::Input& input) {
    if (input.has_token_ids()) return input.token_ids().ids(0);
    const std::string& text = input.has_text_pair() ? input.text_pair().first() : input.text();
    return text.empty() ? 0 : static_cast<uint8_t>(text[0]);
  }
  template <typename Result>
  static void FillRow(const v1::Input& input, const v1::EncodeOptions& options, Result* result) {
    result->set_token_count(static_cast<uint32_t>(Size(input)));
    result->set_mode(options.mode() > v1::COMPUTE_MODE_AUTO ? options.mode() : v1::COMPUTE_MODE_PARALLEL);
  }

  template <typename Request, typename Response, typename AnswerRow>
  grpc::Status Answer(grpc::ServerContext* context, const Request& request, Response* response, AnswerRow answer_row) {
    int call = 0;
    {
      absl::MutexLock lock(&mu_);
      call = num_calls_++;
      call_sizes_.push_back(request.inputs_size());
      max_concurrent_ = std::max(max_concurrent_, ++concurrent_);
    }
    const grpc::Status status = AnswerCall(call, context, request, response, answer_row);
    absl::MutexLock lock(&mu_);
    --concurrent_;
    return status;
  }

  template <typename Request, typename Response, typename AnswerRow>
  grpc::Status AnswerCall(int call, grpc::ServerContext* context, const Request& request, Response* response,
                          AnswerRow answer_row) {
    if (before_call != nullptr) {
      const grpc::Status status = before_call(call, request.inputs(), context);
      if (!status.ok()) return status;
    }
    int num_bad = 0;
    for (int i = 0; i < request.inputs_size(); ++i) {
      const v1::Input& input = request.inputs(i);
      auto* result = response->add_results();
      grpc::StatusCode code =
          absl::StartsWith(input.text(), "bad") ? grpc::StatusCode::INVALID_ARGUMENT : grpc::StatusCode::OK;
      if (code == grpc::StatusCode::OK && before_row != nullptr) code = before_row(call, input);
      if (code == grpc::StatusCode::OK) {
        answer_row(input, result);
        continue;
      }
      ++num_bad;
      result->mutable_error()->set_code(code);
      result->mutable_error()->set_message(absl::StrCat("inputs[", i, "]: no good: ", input.text()));
    }
    if (num_bad > 0 && num_bad == request.inputs_size()) {
      const v1::RowError& error = response->results(0).error();
      return grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message());
    }
    response->set_model("fake");
    return grpc::Status::OK;
  }

  mutable absl::Mutex mu_;
  int num_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int num_model_calls_ ABSL_GUARDED_BY(mu_) = 0;
  int concurrent_ ABSL_GUARDED_BY(mu_) = 0;
  int max_concurrent_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<int> call_sizes_ ABSL_GUARDED_BY(mu_);
  v1::EmbedRequest last_embed_ ABSL_GUARDED_BY(mu_);
};

// gRPC's own health service beside the fake; both run until destruction.
class FakeServer {
 public:
  explicit FakeServer(FakeService* service) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(-1);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(service);
    server_ = builder.BuildAndStart();
    SetReady(true);
  }
  ~FakeServer() { server_->Shutdown(); }

  std::string target() const { return absl::StrCat("127.0.0.1:", port_); }
  void SetReady(bool ready) { server_->GetHealthCheckService()->SetServingStatus("lion.v1.EncoderService", ready); }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace lion::client

#endif  // LION_TESTS_CLIENT_FAKE_SERVICE_H_
