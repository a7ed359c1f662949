# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""How both clients connect: credentials, gRPC's options, the published service config, the RPCs by name."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, Callable, Sequence, Union

import grpc

from lion_serve import wire

SERVICE = "lion.v1.EncoderService"

# The one service config that all LION clients use (docs/client.md). gRPC obeys the server's grpc-retry-pushback-ms
# wherever a retry policy is set, and only there.
SERVICE_CONFIG = """{
  "loadBalancingConfig": [{"round_robin": {}}],
  "healthCheckConfig": {"serviceName": "lion.v1.EncoderService"},
  "methodConfig": [{
    "name": [{"service": "lion.v1.EncoderService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.2s",
      "maxBackoff": "5s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }
  }]
}"""

Pem = Union[str, "os.PathLike[str]", bytes]  # a file's path, or its content as bytes

_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 200),  # a server that restarts is found again within seconds
    ("grpc.service_config_disable_resolution", 1),  # no other config by way of DNS
]
_ENCODER_OPTIONS: list[tuple[str, Any]] = [
    *_RECONNECT,
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.max_receive_message_length", -1),  # a page of token vectors is far beyond gRPC's 4 MiB
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # gRPC forgets how to retry a call once its message outgrows this buffer, 256 KiB by default: less than a batch of
    # long texts. Only what is in flight is kept.
    ("grpc.per_rpc_retry_buffer_size", 1 << 30),
]
_HEALTH_OPTIONS: list[tuple[str, Any]] = [*_RECONNECT, ("grpc.max_reconnect_backoff_ms", 1000)]


@dataclasses.dataclass(frozen=True)
class Method:
    """An RPC of the service, by what it takes and gives."""

    name: str
    request: Any
    response: Any

    def open(self, factory: Callable[..., Any]) -> Any:
        """The callable that channel.unary_unary, unary_stream or stream_stream makes of it."""
        return factory(
            f"/{SERVICE}/{self.name}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )


EMBED = Method("Embed", wire.EmbedRequest, wire.EmbedResponse)
EMBED_STREAM = Method("EmbedStream", wire.EmbedRequest, wire.EmbedResponse)
EMBED_DOCUMENT = Method("EmbedDocument", wire.EmbedDocumentRequest, wire.EmbedDocumentResponse)
CLASSIFY = Method("Classify", wire.ClassifyRequest, wire.ClassifyResponse)
TOKENIZE = Method("Tokenize", wire.TokenizeRequest, wire.TokenizeResponse)
LIST_MODELS = Method("ListModels", wire.ListModelsRequest, wire.ListModelsResponse)


@dataclasses.dataclass(frozen=True)
class Connection:
    """What a client was told about the server. ValueError for options that make no sense, OSError for unreadable files."""

    target: str
    credentials: grpc.ChannelCredentials | None  # None: no TLS
    metadata: tuple[tuple[str, str], ...]
    deadline: float | None
    options: tuple[tuple[str, Any], ...]

    @staticmethod
    def make(
        target: str,
        *,
        tls: bool,
        tls_ca: Pem | None,
        tls_cert: Pem | None,
        tls_key: Pem | None,
        api_key: str | None,
        deadline: float | None,
        options: Sequence[tuple[str, Any]],
    ) -> Connection:
        if not target:
            raise ValueError("target: is empty")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline: {deadline} is not above 0 (None = no deadline)")
        if (tls_cert is None) != (tls_key is None):
            raise ValueError("tls_cert and tls_key: give both or neither")
        credentials = None
        if tls or tls_ca is not None or tls_cert is not None:
            credentials = grpc.ssl_channel_credentials(_read(tls_ca), _read(tls_key), _read(tls_cert))
        metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        return Connection(target, credentials, metadata, deadline, tuple(options))

    def encoder(self, api: Any) -> Any:
        """The channel for the service; api is grpc or grpc.aio."""
        return self._open(api, _ENCODER_OPTIONS)

    def health(self, api: Any) -> Any:
        """A channel for health alone: the encoder's hands out no connection while its service is not ready."""
        return self._open(api, _HEALTH_OPTIONS)

    def _open(self, api: Any, options: Sequence[tuple[str, Any]]) -> Any:
        all_options = list({**dict(options), **dict(self.options)}.items())  # the caller's win
        if self.credentials is None:
            return api.insecure_channel(self.target, options=all_options)
        return api.secure_channel(self.target, self.credentials, options=all_options)


def _read(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else pathlib.Path(pem).read_bytes()
