// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "server/encoder_service.h"

#include "lion/v1/encoder.grpc.pb.h"
#include "server/document_reactor.h"
#include "server/stream_reactor.h"
#include "server/unary_reactor.h"

namespace lion {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using Generated = v1::EncoderService;
using RawService = Generated::WithRawCallbackMethod_Embed<Generated::WithRawCallbackMethod_EmbedStream<
    Generated::WithRawCallbackMethod_EmbedDocument<Generated::WithRawCallbackMethod_Classify<
        Generated::WithRawCallbackMethod_ClassifyStream<Generated::WithRawCallbackMethod_Tokenize<
            Generated::WithRawCallbackMethod_ListModels<Generated::Service>>>>>>>;

class EncoderServiceImpl final : public RawService {
 public:
  explicit EncoderServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* Embed(CallbackServerContext* rpc, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kEmbed, CallKind::kEmbed, rpc, request, response);
  }
  grpc::ServerUnaryReactor* Classify(CallbackServerContext* rpc, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kClassify, CallKind::kClassify, rpc, request, response);
  }
  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext* rpc, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kTokenize, CallKind::kTokenize, rpc, request, response);
  }
  grpc::ServerUnaryReactor* ListModels(CallbackServerContext* rpc, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    return HandleUnary(context_, Rpc::kListModels, CallKind::kListModels, rpc, request, response);
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* EmbedStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kEmbedStream, CallKind::kEmbed, rpc);
  }
  grpc::ServerWriteReactor<ByteBuffer>* EmbedDocument(CallbackServerContext* rpc, const ByteBuffer* request) override {
    return HandleDocument(context_, rpc, request);
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* ClassifyStream(CallbackServerContext* rpc) override {
    return HandleStream(context_, Rpc::kClassifyStream, CallKind::kClassify, rpc);
  }

 private:
  const ServiceContext* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeEncoderService(const ServiceContext* context) {
  return std::make_unique<EncoderServiceImpl>(context);
}

}  // namespace lion
