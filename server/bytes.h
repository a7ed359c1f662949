// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_SERVER_BYTES_H_
#define LION_SERVER_BYTES_H_

// Messages to gRPC's bytes and back, as gRPC's own typed handlers do it: without a copy in between.

#include "absl/status/status.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/proto_buffer_writer.h"

namespace lion {

// False for what is not such a message, invalid UTF-8 in a string field included. Empties bytes.
inline bool ParseBytes(grpc::ByteBuffer* bytes, grpc::protobuf::MessageLite* message) {
  return grpc::GenericDeserialize<grpc::ProtoBufferReader, grpc::protobuf::MessageLite>(bytes, message).ok();
}

// INTERNAL if it does not fit protobuf's 2 GiB.
inline absl::Status SerializeBytes(const grpc::protobuf::MessageLite& message, grpc::ByteBuffer* bytes) {
  bool own = false;
  const grpc::Status status =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, grpc::protobuf::MessageLite>(message, bytes, &own);
  return status.ok() ? absl::OkStatus() : absl::InternalError("the answer could not be serialised");
}

}  // namespace lion

#endif  // LION_SERVER_BYTES_H_
