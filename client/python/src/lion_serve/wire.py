# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of lion.v1 as they travel, for what the typed clients do not show: wire.EmbedRequest, wire.POOLING_MEAN, ….

Loaded from the descriptors that the build made (wire.desc) into a pool of our own, so that a program may hold its own
generated copy of the same proto file, of any age. wire.pyi has the types.
"""

import pkgutil

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper


def _load() -> None:
    data = pkgutil.get_data(__package__, "wire.desc")
    assert data is not None
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    file = pool.FindFileByName("lion/v1/encoder.proto")
    for name, message in file.message_types_by_name.items():
        globals()[name] = message_factory.GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        globals()[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        globals().update({value.name: value.number for value in enum.values})


_load()
