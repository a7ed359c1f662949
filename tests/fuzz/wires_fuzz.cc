// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Input: a byte that chooses, then a request of a wire of others: the JSON of POST /v1/embeddings (0) or /v1/classify
// (1), a ModelInferRequest of the Open Inference Protocol to a text model (2) or an image model (10), or
// text-embeddings-inference's Embed, EmbedAll, Predict, PredictPair, Encode (3 to 7).
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

ServedModel TextModel() {
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

ServedModel ImageModel() {
  ServedModel model = TextModel();
  model.name = "image";
  model.info.input = "image";
  model.info.vocab_size = model.info.type_vocab_size = 0;
  model.info.image_size = 8;
  model.info.patch_size = 4;
  return model;
}

void CheckRefusal(const absl::Status& status) {
  FUZZ_CHECK(absl::IsInvalidArgument(status) || absl::IsNotFound(status), status.ToString());
  FUZZ_CHECK(!status.message().empty(), "an error without words");
}

template <typename Request>
void CheckInputs(const Request& request, const ServedModel& model) {
  FUZZ_CHECK(!request.inputs().empty(), "no inputs");
  FUZZ_CHECK(request.inputs().size() <= kMaxInputs, "more inputs than are allowed");
  for (const v1::Input& input : request.inputs()) {
    FUZZ_CHECK((input.has_image() || input.has_pixels()) == (model.info.input == "image"), "not the model's kind");
    FUZZ_CHECK(!input.has_pixels() || (!input.pixels().data().empty() && input.pixels().data().size() % 12 == 0),
               "no pixels of three planes");
  }
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

void CheckInfer(std::string_view bytes, const ServedModel& model) {
  inference::ModelInferRequest theirs;
  if (!theirs.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const absl::StatusOr<InferQuery> query = FromInfer(&theirs, model, kMaxInputs);
  if (!query.ok()) {
    CheckRefusal(query.status());
    FUZZ_CHECK(!InInferenceWords(query.status()).message().empty(), "no words");
  } else if (query->scores) {
    CheckInputs(query->classify, model);
  } else {
    CheckInputs(query->embed, model);
  }
}

}  // namespace
}  // namespace lion

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const text = new lion::ServedModel(lion::TextModel());
  static const auto* const image = new lion::ServedModel(lion::ImageModel());
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
      lion::CheckInfer(bytes, (data[0] & 8) != 0 ? *image : *text);
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
