# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Between the typed values and the wire: inputs and options to requests, results to values. Shared by both clients."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any, Callable, Iterable, Iterator, Sequence, TypeVar, Union, cast

import grpc
import numpy as np

from lion_serve import types, wire
from lion_serve._work import at_index
from lion_serve.errors import LionError, RowError, RowsFailed, code_of

R = TypeVar("R")

_POOLING = {"model": wire.POOLING_UNSPECIFIED, "cls": wire.POOLING_CLS, "mean": wire.POOLING_MEAN}
_POOLING_NAMES = {wire.POOLING_CLS: "cls", wire.POOLING_MEAN: "mean"}
_MODES = {
    "auto": wire.COMPUTE_MODE_AUTO,
    "parallel": wire.COMPUTE_MODE_PARALLEL,
    "chunked": wire.COMPUTE_MODE_CHUNKED,
    "recurrent": wire.COMPUTE_MODE_RECURRENT,
}
_MODE_NAMES = {number: name for name, number in _MODES.items()}
_TRUNCATION = {"error": wire.TRUNCATION_ERROR, "right": wire.TRUNCATION_RIGHT, "left": wire.TRUNCATION_LEFT}
_VECTOR_TYPES = {
    "float32": wire.VECTOR_TYPE_FLOAT32,
    "float32_bytes": wire.VECTOR_TYPE_FLOAT32_BYTES,
    "float16_bytes": wire.VECTOR_TYPE_FLOAT16_BYTES,
    "int8_bytes": wire.VECTOR_TYPE_INT8_BYTES,
}
_PACKED = {"float32_bytes": "<f4", "float16_bytes": "<f2", "int8_bytes": "i1"}


def _one_of(field: str, value: str, names: dict[str, Any]) -> Any:
    if value not in names:
        raise ValueError(f"{field}: {value!r} is not one of {', '.join(names)}")
    return names[value]


# -------------------------------------------------------------------------------------------------------------- requests


def encode_options(truncation: str, mode: str, chunk_tokens: int) -> Any:
    return wire.EncodeOptions(
        truncation=_one_of("truncation", truncation, _TRUNCATION), mode=_one_of("mode", mode, _MODES), chunk_tokens=chunk_tokens
    )


def embed_request(
    model: str, options: Any, *, pooling: str, normalize: bool | None, dimensions: int, vector_type: str
) -> wire.EmbedRequest:
    """All of a request but its inputs."""
    request = wire.EmbedRequest(
        model=model,
        options=options,
        pooling=_one_of("pooling", pooling, _POOLING),
        dimensions=dimensions,
        vector_type=_one_of("vector_type", vector_type, _VECTOR_TYPES),
    )
    if normalize is not None:
        request.normalize = normalize
    return request


def tokens_request(model: str, options: Any, *, normalize: bool, dimensions: int, vector_type: str) -> wire.EmbedRequest:
    request = embed_request(
        model, options, pooling="model", normalize=normalize, dimensions=dimensions, vector_type=vector_type
    )
    request.pooling = wire.POOLING_TOKENS
    return request


_DOCUMENT_POOLING = {
    "windows": wire.POOLING_WINDOWS,
    "tokens": wire.POOLING_TOKENS,
    "cls": wire.POOLING_CLS,
    "mean": wire.POOLING_MEAN,
}

_BOUNDARIES = {"token": wire.WINDOW_BOUNDARY_TOKEN, "sentence": wire.WINDOW_BOUNDARY_SENTENCE}


def document_request(
    model: str,
    options: Any,
    document: types.Input,
    *,
    window: int,
    stride: int,
    boundary: str,
    with_document: bool,
    pooling: str,
    normalize: bool | None,
    dimensions: int,
    vector_type: str,
) -> wire.EmbedDocumentRequest:
    """LionError for a document that cannot travel."""
    content = wire_input(0, document)
    if isinstance(content, RowError):
        raise LionError(content.code, content.message.replace("inputs[0]", "input", 1))
    request = wire.EmbedDocumentRequest(
        model=model,
        input=content,
        options=options,
        pooling=_one_of("pooling", pooling, _DOCUMENT_POOLING),
        dimensions=dimensions,
        vector_type=_one_of("vector_type", vector_type, _VECTOR_TYPES),
        windows=wire.WindowOptions(
            size_tokens=window, stride_tokens=stride, boundary=_one_of("boundary", boundary, _BOUNDARIES)
        ),
        with_document=with_document,
    )
    if normalize is not None:
        request.normalize = normalize
    return request


def with_inputs(prototype: Any, inputs: Iterable[Any]) -> Any:
    request = type(prototype)()
    request.CopyFrom(prototype)
    request.inputs.extend(inputs)
    return request


def wire_inputs(inputs: Iterable[types.Input]) -> Iterator[Union[wire.Input, RowError]]:
    """Each input as it travels, or why it cannot: text that is not Unicode, an id out of range.

    TypeError for what is no input.
    """
    check_is_many(inputs)
    return (wire_input(index, value) for index, value in enumerate(inputs))


def check_is_many(inputs: Any) -> None:
    is_ids = isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iu" and inputs.ndim == 1
    is_picture = isinstance(inputs, (bytes, bytearray, memoryview, pathlib.Path)) or hasattr(inputs, "save")
    if isinstance(inputs, (str, types.TokenIds)) or is_ids or is_picture:
        raise TypeError(f"inputs: one {type(inputs).__name__}; give a list of inputs, [x] for one")


def wire_input(index: int, value: Any) -> Union[wire.Input, RowError]:
    field = "content"
    try:
        if isinstance(value, str):
            field = "text"
            return wire.Input(text=value)
        if isinstance(value, types.TokenIds):
            field = "token_ids"
            return wire.Input(token_ids=wire.TokenIds(ids=_ints(value.ids), type_ids=_ints(value.type_ids)))
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str):
            field = "text_pair"
            return wire.Input(text_pair=wire.TextPair(first=value[0], second=value[1]))
        if isinstance(value, (bytes, bytearray, memoryview)):
            field = "image"
            return wire.Input(image=bytes(value))
        if isinstance(value, pathlib.Path):
            field = "image"
            return wire.Input(image=value.read_bytes())
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            field = "pixels"
            return wire.Input(pixels=wire.PixelTensor(data=_pixels(value)))
        if hasattr(value, "convert") and hasattr(value, "save"):  # a PIL.Image
            field = "image"
            return wire.Input(image=_png(value))
        if isinstance(value, (list, tuple, np.ndarray)):
            field = "token_ids"
            return wire.Input(token_ids=wire.TokenIds(ids=_ints(value)))
    except ValueError as error:  # UnicodeEncodeError is one
        return RowError(index, grpc.StatusCode.INVALID_ARGUMENT, f"inputs[{index}].{field}: {error}")
    except OSError as error:
        return RowError(index, grpc.StatusCode.INVALID_ARGUMENT, f"inputs[{index}].{field}: {error}")
    except TypeError as error:
        raise TypeError(f"inputs[{index}].{field}: {error}") from None
    raise TypeError(
        f"inputs[{index}]: {type(value).__name__}; give a str, a pair of str, TokenIds, integers, or a picture: its bytes, a "
        "pathlib.Path, a PIL image, or normalised pixels as floats [3, S, S]"
    )


def _pixels(value: Any) -> bytes:
    if value.ndim != 3 or value.shape[0] != 3 or value.shape[1] != value.shape[2]:
        raise TypeError(f"floats of shape {list(value.shape)}; normalised pixels are [3, S, S]")
    return np.ascontiguousarray(value, "<f4").tobytes()


def _png(picture: Any) -> bytes:
    """Without loss, and its transparency as Pillow's convert("RGB") has it: dropped."""
    out = io.BytesIO()
    picture.convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()


def _ints(values: Any) -> list[int]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise TypeError(f"an array of {values.dtype}, {values.ndim}-dimensional; ids are one dimension of integers")
        return cast("list[int]", values.tolist())
    return list(values)


def raises(on_error: str) -> bool:
    return bool(_one_of("on_error", on_error, {"raise": True, "return": False}))


def good(rows: Iterable[Any]) -> list[Any]:
    """Those that travel."""
    return [row for row in rows if not isinstance(row, RowError)]


# --------------------------------------------------------------------------------------------------------------- results


class Served:
    """What the latest answer said of the model."""

    model = version = ""

    def see(self, answer: Any) -> None:
        self.model, self.version = answer.model, answer.model_version


def decode_vectors(vectors: Sequence[Any], vector_type: str) -> types.Floats:
    """float32 [len(vectors), W], the caller's own. One copy for all where they travelled packed."""
    if not vectors:
        return np.zeros((0, 0), np.float32)
    if vector_type == "float32":
        return np.array([vector.values for vector in vectors], np.float32)
    # A bytearray, so that the result may be written to.
    packed = np.frombuffer(bytearray().join([vector.data for vector in vectors]), _PACKED[vector_type]).reshape(len(vectors), -1)
    if vector_type == "int8_bytes":
        scales = np.array([vector.scale for vector in vectors], np.float32)
        return packed.astype(np.float32) * scales[:, None]
    return packed.astype(np.float32, copy=False)


def read_embeddings(results: Sequence[Any], vector_type: str) -> list[types.Embedding]:
    """Of good rows; their index is 0 until somebody sets it."""
    matrix = decode_vectors([result.vectors[0] for result in results], vector_type)
    return [
        types.Embedding(0, vector, result.token_count, result.truncated, _MODE_NAMES.get(result.mode, ""))
        for vector, result in zip(matrix, results)
    ]


def read_stream(
    index: int, rows: Sequence[Any], results: Iterable[Any], vector_type: str, raise_errors: bool
) -> Iterator[types.Embedding]:
    """One message's rows, the first of which is number index. results has one for each that travelled, or its RowError."""
    of_wire = iter(results)
    all_results = [row if isinstance(row, RowError) else next(of_wire) for row in rows]
    errors = [_row_error(index + i, result) for i, result in enumerate(all_results)]
    good = read_embeddings([result for result, error in zip(all_results, errors) if error is None], vector_type)
    embeddings = iter(good)
    for i, error in enumerate(errors):
        if error is None:
            yield dataclasses.replace(next(embeddings), index=index + i)
        elif raise_errors:
            raise RowsFailed([error])
        else:
            yield types.Embedding(index + i, _NO_VECTORS[0], 0, False, "", error)


def _row_error(index: int, result: Any) -> RowError | None:
    if isinstance(result, RowError):
        return dataclasses.replace(result, index=index, message=at_index(result.message, index))
    if result.HasField("error"):
        error = LionError(code_of(result.error.code), at_index(result.error.message, index))
        return RowError(index, error.code, error.message, error.retryable)
    return None


def join_embeddings(rows: Sequence[Union[types.Embedding, RowError]], model: str, version: str) -> types.Embeddings:
    good = [(i, row) for i, row in enumerate(rows) if isinstance(row, types.Embedding)]
    width = len(good[0][1].vector) if good else 0
    vectors = np.full((len(rows), width), np.nan, np.float32)
    counts, truncated, modes = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_), [""] * len(rows)
    for i, row in good:
        vectors[i], counts[i], truncated[i], modes[i] = row.vector, row.token_count, row.truncated, row.mode
    errors = tuple(row for row in rows if isinstance(row, RowError))
    return types.Embeddings(vectors, counts, truncated, tuple(modes), errors, model, version)


# A failed row of each kind.
_NO_VECTORS = np.zeros((1, 0), np.float32)
_NO_SPANS = np.zeros((0, 2), np.int64)
_NO_IDS = np.zeros(0, np.int64)


def failed_token_embeddings(error: RowError) -> types.TokenEmbeddings:
    return types.TokenEmbeddings(_NO_VECTORS[:0], _NO_SPANS, 0, False, "", error)


def failed_classification(error: RowError) -> types.Classification:
    return types.Classification((), 0, False, "", error)


def failed_tokens(error: RowError) -> types.Tokens:
    return types.Tokens(_NO_IDS, _NO_IDS, (), _NO_SPANS, error)


def with_failed(rows: Sequence[Union[R, RowError]], make: Callable[[RowError], R]) -> list[R]:
    return [make(row) if isinstance(row, RowError) else row for row in rows]


def read_token_embeddings(results: Sequence[Any], vector_type: str) -> list[types.TokenEmbeddings]:
    return [
        types.TokenEmbeddings(
            decode_vectors(result.vectors, vector_type),
            _spans(vector.span for vector in result.vectors),
            result.token_count,
            result.truncated,
            _MODE_NAMES.get(result.mode, ""),
        )
        for result in results
    ]


def _spans(spans: Iterable[Any]) -> types.Ints:
    return np.array([(span.start_byte, span.end_byte) for span in spans], np.int64).reshape(-1, 2)


class DocumentReader:
    """Takes a document's answer message by message."""

    def __init__(self, vector_type: str, progress: types.DocumentProgress | None) -> None:
        self._vector_type, self._progress = vector_type, progress
        self._vectors: list[types.Floats] = []
        self._spans: list[types.Ints] = []  # [n, 4]: tokens, bytes
        self._whole: types.Floats | None = None
        self._end: Any = None

    def take(self, message: Any) -> None:
        if message.HasField("progress"):
            if self._progress is not None:
                self._progress(message.progress.tokens_done, message.progress.tokens_total)
        elif message.HasField("vectors"):
            vectors = message.vectors.vectors
            self._vectors.append(decode_vectors(vectors, self._vector_type))
            spans = [(v.span.start_token, v.span.end_token, v.span.start_byte, v.span.end_byte) for v in vectors]
            self._spans.append(np.array(spans, np.int64))
        elif message.HasField("document"):
            self._whole = decode_vectors([message.document], self._vector_type)[0]
        elif message.HasField("end"):
            self._end = message.end

    def document(self) -> types.Document:
        """INTERNAL if the answer had no end: a server that says OK has sent it."""
        end = self._end
        if end is None or sum(map(len, self._vectors)) != end.num_vectors:
            raise LionError(grpc.StatusCode.INTERNAL, "the answer to the document is not complete")
        spans = np.concatenate(self._spans)
        return types.Document(
            vectors=np.concatenate(self._vectors),
            token_spans=spans[:, :2],
            byte_spans=spans[:, 2:],
            token_count=end.token_count,
            truncated=end.truncated,
            mode=_MODE_NAMES.get(end.mode, ""),
            model=end.model,
            model_version=end.model_version,
            whole=self._whole,
        )


def read_classifications(results: Sequence[Any]) -> list[types.Classification]:
    return [
        types.Classification(
            tuple(types.LabelScore(score.label, score.score, score.index) for score in result.scores),
            result.token_count,
            result.truncated,
            _MODE_NAMES.get(result.mode, ""),
        )
        for result in results
    ]


def read_tokens(results: Sequence[Any]) -> list[types.Tokens]:
    return [
        types.Tokens(np.array(r.ids, np.int64), np.array(r.type_ids, np.int64), tuple(r.tokens), _spans(r.spans)) for r in results
    ]


def _connection_limits(limits: Any) -> types.ConnectionLimits:
    def seconds(name: str) -> float | None:
        duration = getattr(limits, name)
        return duration.seconds + duration.nanos / 1e9 if limits.HasField(name) else None

    return types.ConnectionLimits(
        max_calls=limits.max_calls,
        max_idle=seconds("max_idle"),
        max_age=seconds("max_age"),
        max_age_grace=seconds("max_age_grace"),
        max_memory_bytes=limits.max_memory_bytes,
        keepalive_interval=seconds("keepalive_interval"),
        min_ping_interval=seconds("min_ping_interval"),
    )


def _image_info(image: Any) -> types.ImageInfo:
    return types.ImageInfo(
        size=image.size,
        patch_size=image.patch_size,
        max_size=image.max_size,
        size_fixed=image.size_fixed,
        channels=image.channels,
        prepared_size=image.prepared_size,
        media_types=tuple(image.media_types),
        max_image_pixels=image.max_image_pixels,
    )


def read_models(response: Any) -> list[types.ModelInfo]:
    return [
        types.ModelInfo(
            name=m.name,
            version=m.version,
            variant=m.variant,
            input=m.input,
            embedding_dimensions=m.embedding_dimensions,
            max_sequence_tokens=m.max_sequence_tokens,
            labels=tuple(m.labels),
            embeds=m.embeds,
            classifies=m.classifies,
            dtype=m.dtype,
            device=m.device,
            pooling=_POOLING_NAMES.get(m.pooling, ""),
            normalize=m.normalize,
            chunk_tokens=m.chunk_tokens,
            parallel_max_tokens=m.parallel_max_tokens,
            max_inputs=m.max_inputs,
            max_request_tokens=m.max_request_tokens,
            max_message_bytes=m.max_message_bytes,
            max_queue_tokens=m.max_queue_tokens,
            max_queue_bytes=m.max_queue_bytes,
            max_memory_bytes=m.max_memory_bytes,
            connection_limits=_connection_limits(m.connection_limits) if m.HasField("connection_limits") else None,
            image=_image_info(m.image) if m.HasField("image") else None,
        )
        for m in response.models
    ]
