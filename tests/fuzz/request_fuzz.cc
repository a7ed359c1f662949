// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: a byte that chooses the RPC (bits 0, 1; bit 3: EmbedDocument) and whether the message came by a stream (bit
// 2), then the bytes of a request.
//
// Each goes its whole way through a Call: parsed, checked, planned, tokenized, run by a fake encoder, answered.
// Whatever the bytes: done is called once; what does not parse is said to; an error has words and is never INTERNAL; an
// answer parses and has one result an input, each with vectors of one width or an error of its own; nothing stays
// pending.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/support/byte_buffer.h"
#include "lion/v1/encoder.pb.h"
#include "server/bytes.h"
#include "server/call.h"
#include "server/document_call.h"
#include "tests/fakes/fake_encoder.h"
#include "tests/fuzz/fuzz.h"

namespace lion {
namespace {

// What a Call reaches: the models "text" and "ids" on a fake encoder, one thread of each kind, small limits. Lives as
// long as the process.
class Service {
 public:
  Service() : encoder_(EncoderOptions()) {
    google::protobuf::SetLogHandler(nullptr);  // it has a line for each string that is not UTF-8
    auto tokenizer = Tokenizer::Open(LION_SOURCE_DIR "/tests/model/testdata/tokenizer.json");
    FUZZ_CHECK(tokenizer.ok(), tokenizer.status().ToString());
    tokenizer_ = *std::move(tokenizer);
    ServedModel text;
    text.name = "text";
    text.info.version = "0123456789ab";
    text.info.variant = Variant::kS;
    text.info.variant_name = "lion-s";
    text.info.hidden_width = 4;
    text.info.embedding_width = 3;
    text.info.vocab_size = 1000;
    text.info.type_vocab_size = 2;
    text.info.classifies = true;
    text.info.labels = {"a", "b", "c"};
    text.info.normalize = true;
    text.info.chunk_tokens = 32;
    text.info.parallel_max_tokens = 8;
    text.tokenizer = tokenizer_.get();
    text.encoders = {&encoder_};
    text.max_sequence_tokens = 64;
    ServedModel ids = text;
    ids.name = "ids";
    ids.tokenizer = nullptr;
    ids.info.classifies = false;
    ids.info.labels.clear();
    ids.info.normalize = false;
    ids.max_sequence_tokens = 2000;
    models_ = std::make_unique<LiveModels>(ServedModels{text, ids});
    context_.models = models_.get();
    context_.limits.max_inputs = 16;
    context_.limits.max_request_tokens = context_.limits.max_queue_tokens = 4000;
    metrics_ = std::make_unique<Metrics>(*models_->Get());
    executor_ = std::make_unique<Executor>(1);
    Batcher::Options batching;
    batching.max_queue_tokens = context_.limits.max_queue_tokens;
    batching.metrics = metrics_.get();
    batcher_ = std::make_unique<Batcher>(*models_->Get(), batching);
    tokenizers_ = std::make_unique<TokenizerPool>(TokenizerPool::Options{.num_threads = 1});
    context_.batcher = batcher_.get();
    context_.tokenizers = tokenizers_.get();
    context_.executor = executor_.get();
    context_.metrics = metrics_.get();
  }

  // The call's result; waits for it.
  CallResult Run(CallKind kind, bool stream, std::string_view request) {
    Outcome outcome;
    Call::Options options = Options();
    options.kind = kind;
    if (stream) options.on_wait = [](bool) {};
    const auto call = Call::Create(&context_, options, Bytes(request), outcome.Done());
    Wait(call.get(), &outcome);
    return std::move(outcome.result);
  }

  // The same of EmbedDocument, its whole answer read.
  void RunDocument(std::string_view request) {
    Outcome outcome;
    const auto call = std::make_shared<DocumentCall>(
        &context_, Options(), Bytes(request),
        [](int64_t done, int64_t total) { FUZZ_CHECK(0 <= done && done <= total, "progress"); }, outcome.Done());
    Wait(call.get(), &outcome);
    v1::EmbedDocumentRequest parsed;
    const bool parses = parsed.ParseFromArray(request.data(), static_cast<int>(request.size()));
    FUZZ_CHECK(outcome.result.unparsable == !parses, outcome.result.status.ToString());
    if (!outcome.result.status.ok()) {
      FUZZ_CHECK(!outcome.result.status.message().empty(), "an error without words");
      FUZZ_CHECK(!absl::IsInternal(outcome.result.status), outcome.result.status.ToString());
      return;
    }
    uint64_t num_vectors = 0;
    bool ended = false;
    for (;;) {
      absl::StatusOr<std::optional<grpc::ByteBuffer>> bytes = call->NextMessage();
      FUZZ_CHECK(bytes.ok(), bytes.status().ToString());
      if (!bytes->has_value()) break;
      FUZZ_CHECK(!ended, "a message behind the end");
      v1::EmbedDocumentResponse message;
      FUZZ_CHECK(ParseBytes(&**bytes, &message), "a message does not parse");
      FUZZ_CHECK(!message.has_vectors() || message.vectors().first_vector() == num_vectors, "vectors in order");
      num_vectors += message.vectors().vectors_size();
      ended = message.has_end();
      FUZZ_CHECK(!ended || message.end().num_vectors() == num_vectors, "all vectors");
    }
    FUZZ_CHECK(ended && num_vectors > 0, "an answer without an end");
  }

 private:
  struct Outcome {
    CallResult result;
    std::atomic<int> num_results = 0;
    absl::Notification done;

    std::function<void(CallResult)> Done() {
      return [this](CallResult of_call) {
        FUZZ_CHECK(num_results++ == 0, "answered twice");
        result = std::move(of_call);
        done.Notify();
      };
    }
  };

  static grpc::ByteBuffer Bytes(std::string_view request) {
    grpc::Slice slice(request.data(), request.size());
    return grpc::ByteBuffer(&slice, 1);
  }

  Call::Options Options() const {
    Call::Options options;
    options.started = context_.clock->Now();
    options.cancelled = std::make_shared<std::atomic<bool>>(false);
    return options;
  }

  void Wait(Call* call, Outcome* outcome) {
    call->Start();
    outcome->done.WaitForNotification();
    FUZZ_CHECK(batcher_->num_pending_rows() == 0, "rows of a call that has been answered");
    call->Cut();  // comes too late, and must do nothing
  }

  static FakeEncoder::Options EncoderOptions() {
    FakeEncoder::Options options;
    options.hidden_width = 4;
    options.embedding_width = 3;
    options.num_labels = 3;
    return options;
  }

  FakeEncoder encoder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<LiveModels> models_;
  ServiceContext context_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Batcher> batcher_;
  std::unique_ptr<TokenizerPool> tokenizers_;
};

void CheckRow(const v1::EmbedRequest& request, const v1::EmbedResult& row) {
  FUZZ_CHECK(!row.vectors().empty() && row.token_count() > 0, row.ShortDebugString());
  FUZZ_CHECK(row.mode() != v1::COMPUTE_MODE_UNSPECIFIED && row.mode() != v1::COMPUTE_MODE_AUTO, row.ShortDebugString());
  const v1::Vector& first = row.vectors(0);
  for (const v1::Vector& vector : row.vectors()) {
    FUZZ_CHECK(vector.values().size() == first.values().size() && vector.data().size() == first.data().size(),
               "widths");
    FUZZ_CHECK(vector.values().empty() != vector.data().empty(), "one of values and data");
    for (const float x : vector.values()) FUZZ_CHECK(std::isfinite(x), row.ShortDebugString());
    FUZZ_CHECK(vector.span().start_token() <= vector.span().end_token(), "tokens of a span");
    FUZZ_CHECK(vector.span().start_byte() <= vector.span().end_byte(), "bytes of a span");
  }
  const int width = static_cast<int>(request.dimensions());
  FUZZ_CHECK(width == 0 || first.values().empty() || first.values().size() == width, "dimensions");
}

void CheckRow(const v1::ClassifyRequest& request, const v1::ClassifyResult& row) {
  FUZZ_CHECK(!row.scores().empty() && row.token_count() > 0, row.ShortDebugString());
  FUZZ_CHECK(request.top_k() == 0 || row.scores().size() <= request.top_k(), "top_k");
  for (int i = 0; i < row.scores().size(); ++i) {
    FUZZ_CHECK(std::isfinite(row.scores(i).score()), row.ShortDebugString());
    FUZZ_CHECK(i == 0 || row.scores(i).score() <= row.scores(i - 1).score(), "highest first");
  }
}

void CheckRow(const v1::TokenizeRequest&, const v1::TokenizeResult& row) {
  FUZZ_CHECK(row.ids().size() == row.tokens().size() && row.ids().size() == row.spans().size() &&
                 row.ids().size() == row.type_ids().size(),
             "one of each for each id");
}

template <typename Request, typename Response>
void Check(std::string_view bytes, CallResult result) {
  Request request;
  const bool parses = request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  FUZZ_CHECK(result.unparsable == !parses, result.status.ToString());
  if (!result.status.ok()) {
    FUZZ_CHECK(!result.status.message().empty(), "an error without words");
    FUZZ_CHECK(!absl::IsInternal(result.status) && !absl::IsUnknown(result.status), result.status.ToString());
    return;
  }
  Response response;
  FUZZ_CHECK(ParseBytes(&result.response, &response), "the answer does not parse");
  FUZZ_CHECK(response.results().size() == request.inputs().size(), response.ShortDebugString());
  for (const auto& row : response.results()) {
    if (row.has_error()) {
      FUZZ_CHECK(row.error().code() != 0 && !row.error().message().empty(), row.ShortDebugString());
      FUZZ_CHECK(row.error().code() != static_cast<int>(absl::StatusCode::kInternal), row.ShortDebugString());
    } else {
      CheckRow(request, row);
    }
  }
}

}  // namespace
}  // namespace lion

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static lion::Service* const service = new lion::Service();
  if (size == 0) return 0;
  const bool stream = (data[0] & 4) != 0;
  const std::string_view request = lion::AsText(data + 1, size - 1);
  if ((data[0] & 8) != 0) {
    service->RunDocument(request);
    return 0;
  }
  switch (data[0] & 3) {
    case 0:
      lion::Check<lion::v1::EmbedRequest, lion::v1::EmbedResponse>(
          request, service->Run(lion::CallKind::kEmbed, stream, request));
      break;
    case 1:
      lion::Check<lion::v1::ClassifyRequest, lion::v1::ClassifyResponse>(
          request, service->Run(lion::CallKind::kClassify, stream, request));
      break;
    case 2:
      lion::Check<lion::v1::TokenizeRequest, lion::v1::TokenizeResponse>(
          request, service->Run(lion::CallKind::kTokenize, stream, request));
      break;
    case 3:
      service->Run(lion::CallKind::kListModels, stream, request);
      break;
  }
  return 0;
}
