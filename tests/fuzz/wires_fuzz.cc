// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: a byte that chooses, then a request of a wire of others: the JSON of POST /v1/embeddings (0) or /v1/classify
// (1), a ModelInferRequest of the Open Inference Protocol (2), or text-embeddings-inference's Embed, EmbedAll, Predict,
// PredictPair, Encode (3 to 7).
//
// Whatever the bytes: refused in words, as INVALID_ARGUMENT or NOT_FOUND; or made into a request of lion.v1 that would
// travel (its strings are UTF-8) and holds no more inputs than are allowed. A ModelInferRequest's texts are bytes: what
// is not UTF-8 there is refused by the tokenizer, later.

#include <cstdint>
#include <string>
#include <utility>

#include "google/protobuf/stubs/logging.h"
#include "inference/open_inference_grpc.pb.h"
#include "lion/v1/encoder.pb.h"
#include "server/http_messages.h"
#include "server/inference_messages.h"
#include "server/tei_messages.h"
#include "tei/v1/tei.pb.h"
#include "tests/fuzz/fuzz.h"

namespace lion {
namespace {

constexpr int kMaxInputs = 16;

ServedModel Model() {
  ServedModel model;
  model.name = "text";
  model.info.version = "0123456789ab";
  model.info.variant_name = "lion-s";
  model.info.hidden_width = 4;
  model.info.embedding_width = 3;
  model.info.vocab_size = 1000;
  model.info.type_vocab_size = 2;
  model.info.classifies = true;
  model.info.labels = {"a", "b", "c"};
  model.max_sequence_tokens = 64;
  return model;
}

void CheckRefusal(const absl::Status& status) {
  FUZZ_CHECK(absl::IsInvalidArgument(status) || absl::IsNotFound(status), status.ToString());
  FUZZ_CHECK(!status.message().empty(), "an error without words");
}

template <typename Request>
void CheckInputs(const Request& request) {
  FUZZ_CHECK(!request.inputs().empty(), "no inputs");
  FUZZ_CHECK(request.inputs().size() <= kMaxInputs, "more inputs than are allowed");
}

template <typename Request>
void CheckRequest(const Request& request) {
  FUZZ_CHECK(request.inputs().size() <= kMaxInputs, "more inputs than are allowed");
  Request again;
  FUZZ_CHECK(again.ParseFromString(request.SerializeAsString()), "it would not travel");
}

template <typename TeiRequest, typename Request>
void CheckTei(std::string_view bytes) {
  TeiRequest theirs;
  if (!theirs.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  Request ours;
  if (const absl::Status status = FromTei(std::move(theirs), &ours); !status.ok()) {
    CheckRefusal(status);
  } else {
    CheckRequest(ours);
  }
}

void CheckInfer(std::string_view bytes) {
  static const ServedModel* const model = new ServedModel(Model());
  inference::ModelInferRequest theirs;
  if (!theirs.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const absl::StatusOr<InferQuery> query = FromInfer(&theirs, *model, kMaxInputs);
  if (!query.ok()) {
    CheckRefusal(query.status());
    FUZZ_CHECK(!InInferenceWords(query.status()).message().empty(), "no words");
  } else if (query->scores) {
    CheckInputs(query->classify);
  } else {
    CheckInputs(query->embed);
  }
}

}  // namespace
}  // namespace lion

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  google::protobuf::SetLogHandler(nullptr);
  if (size == 0) return 0;
  const std::string_view bytes = lion::AsText(data + 1, size - 1);
  const absl::string_view json(bytes.data(), bytes.size());
  switch (data[0] & 7) {
    case 0:
      if (const auto embed = lion::ReadEmbeddings(json, lion::kMaxInputs); embed.ok()) {
        lion::CheckRequest(embed->request);
      } else {
        lion::CheckRefusal(embed.status());
        FUZZ_CHECK(!lion::WriteError(embed.status(), std::nullopt).body.empty(), "no body");
      }
      break;
    case 1:
      if (const auto classify = lion::ReadClassify(json, lion::kMaxInputs); classify.ok()) {
        lion::CheckRequest(*classify);
      } else {
        lion::CheckRefusal(classify.status());
      }
      break;
    case 2:
      lion::CheckInfer(bytes);
      break;
    case 3:
      lion::CheckTei<tei::v1::EmbedRequest, lion::v1::EmbedRequest>(bytes);
      break;
    case 4:
      lion::CheckTei<tei::v1::EmbedAllRequest, lion::v1::EmbedRequest>(bytes);
      break;
    case 5:
      lion::CheckTei<tei::v1::PredictRequest, lion::v1::ClassifyRequest>(bytes);
      break;
    case 6:
      lion::CheckTei<tei::v1::PredictPairRequest, lion::v1::ClassifyRequest>(bytes);
      break;
    case 7:
      lion::CheckTei<tei::v1::EncodeRequest, lion::v1::TokenizeRequest>(bytes);
      break;
  }
  return 0;
}
