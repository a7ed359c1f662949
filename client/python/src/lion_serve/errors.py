# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong: with a call (LionError), with some of its rows (RowError, RowsFailed)."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import grpc

_PUSHBACK = "grpc-retry-pushback-ms"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class LionError(Exception):
    """A call failed, after gRPC's own retries.

    code is a grpc.StatusCode; message is the server's, or gRPC's where none was reached.
    """

    def __init__(self, code: grpc.StatusCode, message: str, *, no_retry: bool = False) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self._no_retry = no_retry

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed. False where the server said that waiting cannot help."""
        return self.code in RETRYABLE and not self._no_retry


RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclasses.dataclass(frozen=True)
class RowError:
    """Why one input has no result. index counts the inputs given, from 0."""

    index: int
    code: grpc.StatusCode
    message: str
    retryable: bool = dataclasses.field(default=False, compare=False)  # as LionError.retryable

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class RowsFailed(LionError):
    """Raised with on_error="raise" (the default) at the first row that fails; errors holds all failures known by then."""

    def __init__(self, errors: Sequence[RowError]) -> None:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(errors[0].code, errors[0].message + more, no_retry=not errors[0].retryable)
        self.errors = tuple(errors)


def from_rpc(error: Any) -> LionError:
    """The LionError of a grpc.RpcError, of either API."""
    pushback = [value for key, value in error.trailing_metadata() or () if key == _PUSHBACK]
    return LionError(error.code(), error.details() or "", no_retry=any(str(value).startswith("-") for value in pushback))


def code_of(number: int) -> grpc.StatusCode:
    """The code of a number on the wire. OK has no place in an error: INTERNAL."""
    code = _CODES.get(number, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.INTERNAL if code == grpc.StatusCode.OK else code
