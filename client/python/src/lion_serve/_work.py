# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Any number of inputs, cut into calls; what to do with each answer. No I/O, no clock, no threads: both clients drive it.

One row's way: 1. take() puts it into the next batch, by number and size. 2. The driver sends the batch and tells
answered() or failed(). 3. A row that was refused for want of room (RESOURCE_EXHAUSTED, UNAVAILABLE) waits a growing
pause and is taken again, up to MAX_ATTEMPTS times. 4. A call that was refused because every row of it is bad is sent
again row by row, so that each has its own reason; one that was too large is cut in two. 5. What is final stands in
the order of the inputs. An error that would meet every other call too (no such model, a wrong key, no
server) is raised by failed() and ends the work.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import re
from typing import Any, Callable, Generic, Iterable, Iterator, Sequence, TypeVar, Union

import grpc

from lion_serve.errors import LionError, RowError, RowsFailed, code_of

R = TypeVar("R")

MAX_BATCH_BYTES = 1 << 20  # a larger row travels alone
MAX_ATTEMPTS = 4  # of a row; gRPC's own retries of a call are not counted
INITIAL_BACKOFF = 0.25  # seconds
MAX_BACKOFF = 5.0

# A failure of these rows, not of all: the time was too short for them, they could not be taken, they broke something.
_OF_THESE_ROWS = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
)


@dataclasses.dataclass
class Row:
    index: int  # among the inputs given
    input: Any  # wire.Input


@dataclasses.dataclass
class Batch:
    rows: list[Row]
    attempts: int = 0  # before this one
    not_before: float = 0.0  # by the driver's clock, in seconds


class Work(Generic[R]):
    """The driver: while not done: send what take() gives; tell what came of it; with nothing to take, wait pause().

    inputs yields a wire.Input, or the RowError of one that cannot travel. read turns the results of one answer into
    values. raise_errors: take(), answered() and failed() raise RowsFailed at the first row that fails for good. total is
    what the inputs were made of: its length, if it has one, is how many there will be.
    """

    def __init__(
        self,
        inputs: Iterable[Any],
        read: Callable[[Sequence[Any]], Sequence[R]],
        *,
        batch_size: int,
        raise_errors: bool,
        total: Any = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.total: int | None = len(total) if hasattr(total, "__len__") else None
        self.num_done = 0
        self._results: list[Union[R, RowError, None]] = []
        self._inputs: Iterator[Any] = iter(inputs)
        self._read = read
        self._batch_size = batch_size
        self._raise_errors = raise_errors
        self._uniform = uniform
        self._next: Any = None  # read from inputs, in no batch yet
        self._ended = False
        self._again: collections.deque[Batch] = collections.deque()
        self._num_out = 0
        self._any_failed = False

    @property
    def done(self) -> bool:
        return self._ended and not self._again and self._num_out == 0

    def take(self, now: float) -> Batch | None:
        """The next batch to send, None if there is none at this moment. Reads no more inputs than that takes."""
        for _ in range(len(self._again)):
            batch = self._again.popleft()
            if batch.not_before <= now:
                self._num_out += 1
                return batch
            self._again.append(batch)
        rows: list[Row] = []
        num_bytes = 0
        while not self._ended and len(rows) < self._batch_size:
            if self._next is None:
                self._next = next(self._inputs, None)
            if self._next is None:
                self._ended = True
                break
            if isinstance(self._next, RowError):
                self._results.append(None)
                self._finish(self._next.index, self._next)
                self._next = None
                self._raise_if_failed()
                continue
            size = self._next.ByteSize()
            if rows and num_bytes + size > MAX_BATCH_BYTES:
                break
            rows.append(Row(len(self._results), self._next))
            self._results.append(None)
            num_bytes += size
            self._next = None
        if not rows:
            return None
        self._num_out += 1
        return Batch(rows)

    def pause(self, now: float) -> float | None:
        """Seconds until take() has something again by itself; None if only an answer can bring that about."""
        return max(0.0, min(batch.not_before for batch in self._again) - now) if self._again else None

    def answered(self, batch: Batch, results: Sequence[Any], now: float) -> None:
        if len(results) != len(batch.rows):
            what = f"the server answered {len(results)} results to {len(batch.rows)} inputs"
            return self.failed(batch, LionError(grpc.StatusCode.INTERNAL, what), now)
        self._num_out -= 1
        again = []
        good = []
        for row, result in zip(batch.rows, results):
            if not result.HasField("error"):
                good.append((row, result))
                continue
            error = LionError(code_of(result.error.code), result.error.message)
            if error.retryable and batch.attempts + 1 < MAX_ATTEMPTS:
                again.append(row)
            else:
                self._fail(row, error)
        for (row, _), value in zip(good, self._read([result for _, result in good])):
            self._finish(row.index, value)
        self._send_again(again, batch, now)
        self._raise_if_failed()

    def failed(self, batch: Batch, error: LionError, now: float) -> None:
        self._num_out -= 1
        may_retry = error.retryable and batch.attempts + 1 < MAX_ATTEMPTS
        about_inputs = error.code == grpc.StatusCode.INVALID_ARGUMENT and error.message.startswith("inputs")
        if may_retry:
            self._send_again(batch.rows, batch, now)
        elif len(batch.rows) > 1 and (about_inputs or error.message.startswith("inputs[")):
            # "inputs[3]…": every row is bad, but only one reason was told. "inputs: …": too much for one call.
            size = 1 if error.message.startswith("inputs[") else (len(batch.rows) + 1) // 2
            for i in range(0, len(batch.rows), size):
                self._again.append(Batch(batch.rows[i : i + size], batch.attempts))
        elif about_inputs or error.message.startswith("inputs[") or error.code in _OF_THESE_ROWS:
            for row in batch.rows:
                self._fail(row, error)
            self._raise_if_failed()
        else:
            raise error

    def final(self) -> list[Union[R, RowError]]:
        """Every row's, in the order of the inputs. For when the work is done."""
        assert self.done
        return [result for result in self._results if result is not None]

    def _send_again(self, rows: list[Row], batch: Batch, now: float) -> None:
        if rows:
            pause = min(INITIAL_BACKOFF * 2**batch.attempts, MAX_BACKOFF) * self._uniform(0.8, 1.2)
            self._again.append(Batch(rows, batch.attempts + 1, now + pause))

    def _fail(self, row: Row, error: LionError) -> None:
        self._finish(row.index, RowError(row.index, error.code, at_index(error.message, row.index), error.retryable))

    def _finish(self, index: int, result: Union[R, RowError]) -> None:
        self._results[index] = result
        self.num_done += 1
        self._any_failed = isinstance(result, RowError) or self._any_failed

    def _raise_if_failed(self) -> None:
        if self._raise_errors and self._any_failed:
            raise RowsFailed([result for result in self._results if isinstance(result, RowError)])


def at_index(message: str, index: int) -> str:
    """The server counts inputs within a call; the caller counts all that it gave."""
    return re.sub(r"^inputs\[\d+\]", f"inputs[{index}]", message)


class Cutter:
    """Cuts a stream's inputs into messages by number and size.

    RowErrors among them, which do not travel, keep their places and count for nothing.
    """

    def __init__(self, batch_size: int) -> None:
        self.rows: list[Any] = []  # of the message being filled
        self._batch_size = batch_size
        self._num_good = self._num_bytes = 0

    def add(self, value: Any) -> list[Any] | None:
        """Takes one input; the rows of a message that is full now, if one is."""
        full = None
        is_good = not isinstance(value, RowError)
        size = value.ByteSize() if is_good else 0
        if self._num_good and self._num_bytes + size > MAX_BATCH_BYTES:
            full = self._cut()
        self.rows.append(value)
        self._num_good += is_good
        self._num_bytes += size
        if full is None and self._num_good >= self._batch_size:
            full = self._cut()
        return full

    def _cut(self) -> list[Any]:
        full, self.rows, self._num_good, self._num_bytes = self.rows, [], 0, 0
        return full


def messages(inputs: Iterable[Any], batch_size: int) -> Iterator[list[Any]]:
    cutter = Cutter(batch_size)
    for value in inputs:
        if full := cutter.add(value):
            yield full
    if cutter.rows:
        yield cutter.rows
