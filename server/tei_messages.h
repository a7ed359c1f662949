// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_TEI_MESSAGES_H_
#define LION_SERVER_TEI_MESSAGES_H_

// tei.v1's messages to lion.v1's and back. Pure functions.
//
// A request of tei.v1 holds one text and names no model: it is for the first one. Its fields mean what they do in
// text-embeddings-inference: normalize unset is true, truncate unset refuses what is over-long, add_special_tokens
// unset leaves them out.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "lion/v1/encoder.pb.h"
#include "server/service_context.h"
#include "tei/v1/tei.pb.h"

namespace lion {

// What a request asks for; texts are moved out of it. INVALID_ARGUMENT naming tei.v1's field for what lion.v1 could not
// say: a direction outside its list, a prompt_name (models have no prompts here), dimensions of 0, a pair that is none.
absl::Status FromTei(tei::v1::EmbedRequest request, v1::EmbedRequest* out);
absl::Status FromTei(tei::v1::EmbedAllRequest request, v1::EmbedRequest* out);
absl::Status FromTei(tei::v1::PredictRequest request, v1::ClassifyRequest* out);
absl::Status FromTei(tei::v1::PredictPairRequest request, v1::ClassifyRequest* out);
absl::Status FromTei(const tei::v1::EncodeRequest& request, v1::TokenizeRequest* out);

// A row's answer. result is moved from.
void ToTei(v1::EmbedResult* result, tei::v1::EmbedResponse* out);
void ToTei(v1::EmbedResult* result, tei::v1::EmbedAllResponse* out);
void ToTei(v1::ClassifyResult* result, tei::v1::PredictResponse* out);
// text is what was tokenized. Special tokens have their own name as text and no start and stop; the others have the
// bytes of the text that they stand for.
void ToTei(const v1::TokenizeResult& result, absl::string_view text, bool add_special_tokens,
           tei::v1::EncodeResponse* out);
void ToTei(const v1::Timings& timings, tei::v1::Metadata* out);

// model, the first one, and the server's limits. Nothing limits the number of calls but their tokens: a call has at
// least one, so max_concurrent_requests is max_queue_tokens.
tei::v1::InfoResponse TeiInfo(const ServedModel& model, const ServiceContext& context);

// An error of lion.v1's, said with tei.v1's fields.
absl::Status InTeiWords(const absl::Status& status);

// Unicode characters of a text that is UTF-8.
uint32_t NumChars(absl::string_view text);

}  // namespace lion

#endif  // LION_SERVER_TEI_MESSAGES_H_
