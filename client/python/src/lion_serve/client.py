# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The blocking client. lion_serve.aio has the same for asyncio."""

from __future__ import annotations

import collections
import queue
import threading
import time
from types import TracebackType
from typing import Any, Callable, Iterable, Iterator, Sequence, TypeVar, Union

import grpc
from grpc_health.v1 import health_pb2

from lion_serve import _calls, _channel, types, wire
from lion_serve._base import ClientBase
from lion_serve._channel import SERVICE
from lion_serve._work import Batch, Work, messages
from lion_serve.errors import RowError, from_rpc

R = TypeVar("R")


class Client(ClientBase):
    """A connection to a LION server: any number of inputs a call, batched, several calls in flight, results in order.

        with Client("127.0.0.1:50051") as client:
            vectors = client.embed(["a cat", "a dog"]).vectors      # float32 [2, W]
            client.classify(["a compiler for C"], top_k=1)[0].label  # "devel"

    Thread-safe. Connects at the first call, so a wrong address shows there, as UNAVAILABLE. Calls that were refused or
    reached no server are tried again by gRPC (docs/client.md); rows refused inside a good answer are sent again by us.
    Not to be used across os.fork().

    target: HOST:PORT, or any gRPC target (dns:///…, unix:…, ipv4:A:P,B:P).
    model: the one that calls mean which name none; "" is the server's first.
    tls: TLS by gRPC's own authorities; tls_ca names others, tls_cert and tls_key are our own certificate. Each implies
        tls, and is a path, or the PEM itself as bytes.
    api_key: sent as "authorization: Bearer KEY".
    deadline: seconds for each call on the wire, its retries included; None = none. Streams have none unless asked.
    batch_size, max_in_flight: rows a call, calls at a time; of a stream: rows a message, messages without an answer.
    options: more of gRPC's channel options; they win over ours.
    """

    _api = grpc

    def close(self) -> None:
        """Cancels what is in flight. Calls after it fail."""
        self._encoder.close()
        with self._health_lock:
            if self._health is not None:
                self._health.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------------- calls

    def embed(
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
        rows = self._run(
            _channel.EMBED, request, inputs, lambda r: _calls.read_embeddings(r, vector_type), on_error, progress, served
        )
        return _calls.join_embeddings(rows, served.model, served.version)

    def embed_stream(
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
        deadline: float | None = None,
    ) -> Iterator[types.Embedding]:
        """As embed, over one stream: rows come as they are done, in order, and memory does not grow with their number.

        inputs is read on another thread, max_in_flight batches ahead; what it raises is raised here. With
        on_error="return" a failed row comes with its error. A stream that breaks (UNAVAILABLE) is not resumed.
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

    def embed_tokens(
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
        rows = self._run(
            _channel.EMBED, request, inputs, lambda r: _calls.read_token_embeddings(r, vector_type), on_error, progress
        )
        return _calls.with_failed(rows, _calls.failed_token_embeddings)

    def embed_document(
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
            for message in call:
                reader.take(message)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()
        return reader.document()

    def classify(
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
        rows = self._run(_channel.CLASSIFY, request, inputs, _calls.read_classifications, on_error, progress)
        return _calls.with_failed(rows, _calls.failed_classification)

    def tokenize(
        self,
        inputs: Iterable[types.Input],
        *,
        model: str | None = None,
        on_error: types.OnError = "raise",
        progress: types.Progress | None = None,
    ) -> list[types.Tokens]:
        """The ids of each text or pair."""
        request = wire.TokenizeRequest(model=self._name(model))
        rows = self._run(_channel.TOKENIZE, request, inputs, _calls.read_tokens, on_error, progress)
        return _calls.with_failed(rows, _calls.failed_tokens)

    def list_models(self) -> list[types.ModelInfo]:
        """What is served; the first is the default."""
        call = _channel.LIST_MODELS.open(self._encoder.unary_unary)
        try:
            answer = call(wire.ListModelsRequest(), timeout=self._connection.deadline, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return _calls.read_models(answer)

    def health(self, service: str = SERVICE) -> str:
        """SERVING or NOT_SERVING: whether the service is ready; of service "" whether the process lives.

        Asked once, without retries, so that the answer is that of this moment.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = self._health_stub().Check(request, timeout=self._connection.deadline)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def wait_until_ready(self, timeout: float) -> None:
        """Returns once the service is SERVING; TimeoutError if it is not within timeout seconds.

        Finds a server that starts later.
        """
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0:
            watch = self._health_stub().Watch(request, timeout=left, wait_for_ready=True)
            try:
                for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise from_rpc(error) from None
            finally:
                watch.cancel()
        raise TimeoutError(f"{self._connection.target} is not ready after {timeout} s")

    # ------------------------------------------------------------------------------------------------------- machinery

    def _run(
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
        return self._do(work, method, prototype, progress, served or _calls.Served())

    def _do(
        self, work: Work[R], method: _channel.Method, prototype: Any, progress: types.Progress | None, served: _calls.Served
    ) -> list[Union[R, RowError]]:
        call = method.open(self._encoder.unary_unary)
        answers: queue.SimpleQueue[tuple[Batch, Any]] = queue.SimpleQueue()
        in_flight: set[Any] = set()
        try:
            while True:
                while len(in_flight) < self._max_in_flight and (batch := work.take(time.monotonic())) is not None:
                    future = call.future(
                        _calls.with_inputs(prototype, [row.input for row in batch.rows]),
                        timeout=self._connection.deadline,
                        metadata=self._connection.metadata,
                    )
                    in_flight.add(future)
                    future.add_done_callback(lambda f, b=batch: answers.put((b, f)))
                if not in_flight and work.done:
                    return work.final()
                is_full = len(in_flight) == self._max_in_flight  # then what is due again waits for a free call
                try:
                    batch, future = answers.get(timeout=None if is_full else work.pause(time.monotonic()))
                except queue.Empty:
                    continue
                in_flight.discard(future)
                if future.code() == grpc.StatusCode.OK:
                    answer = future.result()
                    served.see(answer)
                    work.answered(batch, answer.results, time.monotonic())
                else:
                    work.failed(batch, from_rpc(future), time.monotonic())
                if progress is not None:
                    progress(work.num_done, work.total)
        finally:
            for future in in_flight:
                future.cancel()

    def _stream(
        self, prototype: Any, inputs: Iterable[types.Input], vector_type: str, raise_errors: bool, deadline: float | None
    ) -> Iterator[types.Embedding]:
        sent: collections.deque[list[Any]] = collections.deque()  # filled by gRPC's thread, emptied by the caller's
        unanswered = threading.Semaphore(self._max_in_flight)
        ended = False
        broken: list[Exception] = []

        def requests() -> Iterator[Any]:  # on gRPC's thread
            try:
                for rows in messages(_calls.wire_inputs(inputs), self._batch_size):
                    sent.append(rows)
                    if good := _calls.good(rows):
                        unanswered.acquire()
                        if ended:
                            return
                        yield _calls.with_inputs(prototype, good)
            except Exception as error:
                broken.append(error)
                raise

        call = _channel.EMBED_STREAM.open(self._encoder.stream_stream)(
            requests(), timeout=deadline, metadata=self._connection.metadata
        )
        index = 0
        try:
            for answer in call:
                rows = sent.popleft()
                results = answer.results
                if answer.HasField("error"):  # one reason for all of it: each row is asked for its own, by calls
                    work = Work(iter(_calls.good(rows)), list, batch_size=self._batch_size, raise_errors=False)
                    results = self._do(work, _channel.EMBED, prototype, None, _calls.Served())
                for row in _calls.read_stream(index, rows, results, vector_type, raise_errors):
                    yield row
                index += len(rows)
                unanswered.release()
            for rows in sent:  # the last ones, if none of them could travel
                yield from _calls.read_stream(index, rows, [], vector_type, raise_errors)
        except grpc.RpcError as error:
            if broken:
                raise broken[0] from None
            raise from_rpc(error) from None
        finally:
            call.cancel()
            ended = True
            unanswered.release()
