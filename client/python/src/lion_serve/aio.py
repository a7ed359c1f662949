# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio. lion_serve.client has the same, blocking."""

from __future__ import annotations

import asyncio
import collections
import time
from types import TracebackType
from typing import Any, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence, TypeVar, Union

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from lion_serve import _calls, _channel, types, wire
from lion_serve._base import ClientBase
from lion_serve._channel import SERVICE
from lion_serve._work import Batch, Cutter, Work
from lion_serve.errors import RowError, from_rpc

R = TypeVar("R")


class AsyncClient(ClientBase):
    """As Client, for one event loop: make it and use it there.

        async with AsyncClient("127.0.0.1:50051") as client:
            vectors = (await client.embed(["a cat", "a dog"])).vectors
            async for row in client.embed_stream(lines):
                ...
    """

    _api = grpc.aio

    async def close(self) -> None:
        """Cancels what is in flight. Calls after it fail."""
        await self._encoder.close()
        if self._health is not None:
            await self._health.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---------------------------------------------------------------------------------------------------------- calls

    async def embed(
        self,
        inputs: Iterable[types.Input],
        *,
        model: str | None = None,
        pooling: types.Pooling = "model",
        normalize: bool | None = None,
        dimensions: int = 0,
        truncation: types.Truncation = "error",
        mode: types.Mode = "auto",
        chunk_tokens: int = 0,
        vector_type: types.VectorType = "float32_bytes",
        on_error: types.OnError = "raise",
        progress: types.Progress | None = None,
    ) -> types.Embeddings:
        """One vector an input.

        normalize: None = as the model's pipeline does. dimensions: 0 = all, N = the first N. chunk_tokens: 0 = the
        server's choice. vector_type: how vectors travel; they arrive as float32. on_error: "raise" raises RowsFailed at
        the first row that fails, "return" gives it a row of NaN and an entry in errors. LionError if a call fails in a
        way that would meet all the others.
        """
        request = _calls.embed_request(
            self._name(model),
            _calls.encode_options(truncation, mode, chunk_tokens),
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            vector_type=vector_type,
        )
        served = _calls.Served()
        rows = await self._run(
            _channel.EMBED, request, inputs, lambda r: _calls.read_embeddings(r, vector_type), on_error, progress, served
        )
        return _calls.join_embeddings(rows, served.model, served.version)

    def embed_stream(
        self,
        inputs: Union[Iterable[types.Input], AsyncIterable[types.Input]],
        *,
        model: str | None = None,
        pooling: types.Pooling = "model",
        normalize: bool | None = None,
        dimensions: int = 0,
        truncation: types.Truncation = "error",
        mode: types.Mode = "auto",
        chunk_tokens: int = 0,
        vector_type: types.VectorType = "float32_bytes",
        on_error: types.OnError = "raise",
        deadline: float | None = None,
    ) -> AsyncIterator[types.Embedding]:
        """As embed, over one stream: rows come as they are done, in order, and memory does not grow with their number.

        inputs, iterable or async iterable, is read max_in_flight batches ahead; what it raises is raised here.
        With on_error="return" a failed row comes with its error. A stream that breaks (UNAVAILABLE) is not resumed.
        """
        prototype = _calls.embed_request(
            self._name(model),
            _calls.encode_options(truncation, mode, chunk_tokens),
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            vector_type=vector_type,
        )
        _calls.check_is_many(inputs)
        return self._stream(prototype, inputs, vector_type, _calls.raises(on_error), deadline)

    async def embed_tokens(
        self,
        inputs: Iterable[types.Input],
        *,
        model: str | None = None,
        normalize: bool = False,
        dimensions: int = 0,
        truncation: types.Truncation = "error",
        mode: types.Mode = "auto",
        chunk_tokens: int = 0,
        vector_type: types.VectorType = "float32_bytes",
        on_error: types.OnError = "raise",
        progress: types.Progress | None = None,
    ) -> list[types.TokenEmbeddings]:
        """One vector a token of each input, with its place in the text."""
        request = _calls.tokens_request(
            self._name(model),
            _calls.encode_options(truncation, mode, chunk_tokens),
            normalize=normalize,
            dimensions=dimensions,
            vector_type=vector_type,
        )
        rows = await self._run(
            _channel.EMBED, request, inputs, lambda r: _calls.read_token_embeddings(r, vector_type), on_error, progress
        )
        return _calls.with_failed(rows, _calls.failed_token_embeddings)

    async def embed_document(
        self,
        document: types.Input,
        *,
        window: int = 256,
        stride: int = 0,
        boundary: types.WindowBoundary = "token",
        with_document: bool = False,
        pooling: types.DocumentPooling = "windows",
        model: str | None = None,
        normalize: bool | None = None,
        dimensions: int = 0,
        truncation: types.Truncation = "error",
        mode: types.Mode = "auto",
        chunk_tokens: int = 0,
        vector_type: types.VectorType = "float32_bytes",
        deadline: float | None = None,
        progress: types.DocumentProgress | None = None,
    ) -> types.Document:
        """One long document in one pass: a vector a window of its tokens, each knowing the whole (late chunking).

        window, stride: tokens; stride 0 = window. boundary "sentence": windows end where a sentence does, and have at
        most window tokens. with_document: a vector of the whole too, of the same pass (Document.whole).
        pooling: tokens, cls and mean give one a token, or one of the whole.
        progress(tokens done, tokens in all) is called while it runs. deadline: seconds, None = none. LionError if it
        fails. A document may be as long as the server's max_message_bytes and max_sequence_tokens say.
        """
        request = _calls.document_request(
            self._name(model),
            _calls.encode_options(truncation, mode, chunk_tokens),
            document,
            window=window,
            stride=stride,
            boundary=boundary,
            with_document=with_document,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            vector_type=vector_type,
        )
        reader = _calls.DocumentReader(vector_type, progress)
        call = _channel.EMBED_DOCUMENT.open(self._encoder.unary_stream)(
            request, timeout=deadline, metadata=self._connection.metadata
        )
        try:
            async for message in call:
                reader.take(message)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()
        return reader.document()

    async def classify(
        self,
        inputs: Iterable[types.Input],
        *,
        model: str | None = None,
        top_k: int = 0,
        raw_scores: bool = False,
        truncation: types.Truncation = "error",
        mode: types.Mode = "auto",
        chunk_tokens: int = 0,
        on_error: types.OnError = "raise",
        progress: types.Progress | None = None,
    ) -> list[types.Classification]:
        """The top_k likeliest labels of each input, highest first; 0 = all. raw_scores: logits, not probabilities."""
        request = wire.ClassifyRequest(
            model=self._name(model),
            options=_calls.encode_options(truncation, mode, chunk_tokens),
            top_k=top_k,
            raw_scores=raw_scores,
        )
        rows = await self._run(_channel.CLASSIFY, request, inputs, _calls.read_classifications, on_error, progress)
        return _calls.with_failed(rows, _calls.failed_classification)

    async def tokenize(
        self,
        inputs: Iterable[types.Input],
        *,
        model: str | None = None,
        on_error: types.OnError = "raise",
        progress: types.Progress | None = None,
    ) -> list[types.Tokens]:
        """The ids of each text or pair."""
        request = wire.TokenizeRequest(model=self._name(model))
        rows = await self._run(_channel.TOKENIZE, request, inputs, _calls.read_tokens, on_error, progress)
        return _calls.with_failed(rows, _calls.failed_tokens)

    async def list_models(self) -> list[types.ModelInfo]:
        """What is served; the first is the default."""
        call = _channel.LIST_MODELS.open(self._encoder.unary_unary)
        try:
            answer = await call(wire.ListModelsRequest(), timeout=self._connection.deadline, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return _calls.read_models(answer)

    async def health(self, service: str = SERVICE) -> str:
        """SERVING or NOT_SERVING: whether the service is ready; of service "" whether the process lives.

        Asked once, without retries, so that the answer is that of this moment.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await self._health_stub().Check(request, timeout=self._connection.deadline)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def wait_until_ready(self, timeout: float) -> None:
        """Returns once the service is SERVING; TimeoutError if it is not within timeout seconds.

        Finds a server that starts later.
        """
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0:
            watch = self._health_stub().Watch(request, timeout=left, wait_for_ready=True)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise from_rpc(error) from None
            finally:
                watch.cancel()
        raise TimeoutError(f"{self._connection.target} is not ready after {timeout} s")

    # ------------------------------------------------------------------------------------------------------- machinery

    async def _run(
        self,
        method: _channel.Method,
        prototype: Any,
        inputs: Iterable[types.Input],
        read: Callable[[Sequence[Any]], Sequence[R]],
        on_error: types.OnError,
        progress: types.Progress | None,
        served: _calls.Served | None = None,
    ) -> list[Union[R, RowError]]:
        work = Work(
            _calls.wire_inputs(inputs), read, batch_size=self._batch_size, raise_errors=_calls.raises(on_error), total=inputs
        )
        return await self._do(work, method, prototype, progress, served or _calls.Served())

    async def _do(
        self, work: Work[R], method: _channel.Method, prototype: Any, progress: types.Progress | None, served: _calls.Served
    ) -> list[Union[R, RowError]]:
        call = method.open(self._encoder.unary_unary)
        in_flight: dict[asyncio.Task[Any], Batch] = {}
        try:
            while True:
                while len(in_flight) < self._max_in_flight and (batch := work.take(time.monotonic())) is not None:
                    in_flight[asyncio.create_task(self._answer(call, prototype, batch))] = batch
                if not in_flight and work.done:
                    return work.final()
                pause = work.pause(time.monotonic())
                if not in_flight:
                    await asyncio.sleep(pause or 0)
                    continue
                is_full = len(in_flight) == self._max_in_flight  # then what is due again waits for a free call
                ended, _ = await asyncio.wait(in_flight, timeout=None if is_full else pause, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    batch = in_flight.pop(task)
                    try:
                        answer = task.result()
                    except grpc.RpcError as error:
                        work.failed(batch, from_rpc(error), time.monotonic())
                    else:
                        served.see(answer)
                        work.answered(batch, answer.results, time.monotonic())
                    if progress is not None:
                        progress(work.num_done, work.total)
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    async def _answer(self, call: Any, prototype: Any, batch: Batch) -> Any:
        return await call(
            _calls.with_inputs(prototype, [row.input for row in batch.rows]),
            timeout=self._connection.deadline,
            metadata=self._connection.metadata,
        )

    async def _stream(
        self,
        prototype: Any,
        inputs: Union[Iterable[types.Input], AsyncIterable[types.Input]],
        vector_type: str,
        raise_errors: bool,
        deadline: float | None,
    ) -> AsyncIterator[types.Embedding]:
        call = _channel.EMBED_STREAM.open(self._encoder.stream_stream)(timeout=deadline, metadata=self._connection.metadata)
        sent: collections.deque[list[Any]] = collections.deque()
        unanswered = asyncio.Semaphore(self._max_in_flight)
        broken: list[Exception] = []

        async def write() -> None:
            try:
                async for rows in _messages(inputs, self._batch_size):
                    sent.append(rows)
                    if good := _calls.good(rows):
                        await unanswered.acquire()
                        await call.write(_calls.with_inputs(prototype, good))
                await call.done_writing()
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass  # the call has ended; reading says why
            except Exception as error:
                broken.append(error)
                call.cancel()

        writer = asyncio.create_task(write())
        index = 0
        try:
            async for answer in call:
                rows = sent.popleft()
                results = answer.results
                if answer.HasField("error"):  # one reason for all of it: each row is asked for its own, by calls
                    work = Work(iter(_calls.good(rows)), list, batch_size=self._batch_size, raise_errors=False)
                    results = await self._do(work, _channel.EMBED, prototype, None, _calls.Served())
                for row in _calls.read_stream(index, rows, results, vector_type, raise_errors):
                    yield row
                index += len(rows)
                unanswered.release()
            for rows in sent:  # the last ones, if none of them could travel
                for row in _calls.read_stream(index, rows, [], vector_type, raise_errors):
                    yield row
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except asyncio.CancelledError:
            if broken:
                raise broken[0] from None
            raise
        finally:
            call.cancel()
            writer.cancel()


async def _messages(
    inputs: Union[Iterable[types.Input], AsyncIterable[types.Input]], batch_size: int
) -> AsyncIterator[list[Any]]:
    cutter = Cutter(batch_size)
    index = 0
    async for value in _each(inputs):
        if full := cutter.add(_calls.wire_input(index, value)):
            yield full
        index += 1
    if cutter.rows:
        yield cutter.rows


async def _each(inputs: Union[Iterable[R], AsyncIterable[R]]) -> AsyncIterator[R]:
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
