# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the blocking client and the one for asyncio have in common: their options, and the channel made of them."""

from __future__ import annotations

import threading
from typing import Any, Sequence

from grpc_health.v1 import health_pb2_grpc

from lion_serve import _channel
from lion_serve._channel import Pem


class ClientBase:
    _api: Any  # grpc or grpc.aio: each client names its own

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        model: str = "",
        tls: bool = False,
        tls_ca: Pem | None = None,
        tls_cert: Pem | None = None,
        tls_key: Pem | None = None,
        api_key: str | None = None,
        deadline: float | None = 60.0,
        batch_size: int = 64,
        max_in_flight: int = 4,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight: {max_in_flight} is below 1")
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is below 1")
        self._connection = _channel.Connection.make(
            target,
            tls=tls,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            api_key=api_key,
            deadline=deadline,
            options=options,
        )
        self._model = model
        self._batch_size = batch_size
        self._max_in_flight = max_in_flight
        self._encoder = self._connection.encoder(self._api)
        self._health_lock = threading.Lock()
        self._health: Any = None  # the channel for health, made at its first use

    def _name(self, model: str | None) -> str:
        return self._model if model is None else model

    def _health_stub(self) -> Any:
        with self._health_lock:
            if self._health is None:
                self._health = self._connection.health(self._api)
        return health_pb2_grpc.HealthStub(self._health)
