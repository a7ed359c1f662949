# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What goes in and what comes out. Plain values: nothing here knows the wire."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Callable, Iterator, Literal, Optional, Protocol, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from lion_serve.errors import RowError

Pooling = Literal["model", "cls", "mean"]  # model: the model's own
DocumentPooling = Literal["windows", "tokens", "cls", "mean"]
WindowBoundary = Literal["token", "sentence"]
Mode = Literal["auto", "parallel", "chunked", "recurrent"]  # auto: by length; all give the same result up to rounding
Truncation = Literal["error", "right", "left"]
VectorType = Literal["float32", "float32_bytes", "float16_bytes", "int8_bytes"]  # how vectors travel; they arrive as float32
OnError = Literal["raise", "return"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Token ids, used as given. type_ids empty = all 0, else as many as ids."""

    ids: Union[Sequence[int], npt.NDArray[np.integer]]
    type_ids: Union[Sequence[int], npt.NDArray[np.integer]] = ()


class Picture(Protocol):
    """What a PIL.Image.Image is to us."""

    def convert(self, mode: str) -> Any: ...

    def save(self, fp: Any, format: str) -> None: ...


# A text, a pair of texts, or token ids: a list or array of integers is ids. For image models a picture: the bytes of a
# JPEG, PNG or WebP, a pathlib.Path to one (a str is a text), a PIL image, or pixels, normalised, as floats [3, S, S].
Input = Union[
    str,
    Tuple[str, str],
    TokenIds,
    Sequence[int],
    npt.NDArray[np.integer],
    bytes,
    pathlib.Path,
    Picture,
    npt.NDArray[np.floating],
]

# Called on the caller's thread (or loop) after each answer: rows done, rows in all (None where inputs have no length).
Progress = Callable[[int, Optional[int]], None]

# Called likewise while a document runs: tokens done, tokens in all.
DocumentProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """One vector an input, in order. Behaves as its matrix: len(), indexing, np.asarray()."""

    vectors: Floats  # [N, W]; a row of NaN for a failed input; [0, 0] if there was no input
    token_counts: npt.NDArray[np.int64]  # [N]: tokens run, special ones included; 0 in a failed row
    truncated: npt.NDArray[np.bool_]  # [N]
    modes: tuple[str, ...]  # the form that ran: parallel, chunked, recurrent; "" in a failed row
    errors: tuple[RowError, ...]  # by index; empty unless on_error="return"
    model: str
    model_version: str

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Floats]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Floats:
        row: Floats = self.vectors[index]
        return row

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.floating]:
        if dtype is None or np.dtype(dtype) == self.vectors.dtype:
            return self.vectors.copy() if copy else self.vectors
        return self.vectors.astype(dtype)


# Below, error is set where the row failed and on_error is "return"; all else is then 0 or empty.


@dataclasses.dataclass(frozen=True)
class Embedding:
    """One input's vector, from embed_stream."""

    index: int
    vector: Floats  # [W]
    token_count: int
    truncated: bool
    mode: str
    error: RowError | None = None


@dataclasses.dataclass(frozen=True)
class TokenEmbeddings:
    """One vector a token, special tokens included."""

    vectors: Floats  # [T, H]
    byte_spans: Ints  # [T, 2], half open, in the input's UTF-8; 0, 0 for special tokens and ids
    token_count: int
    truncated: bool
    mode: str
    error: RowError | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    """One document's vectors from one pass, in order: one a window, or what its pooling makes."""

    vectors: Floats  # [N, W]
    token_spans: Ints  # [N, 2], half open, in the document's tokens, special ones included; 0, 0 for cls and mean
    byte_spans: Ints  # [N, 2], half open, in the document's UTF-8; 0, 0 for token ids
    token_count: int
    truncated: bool
    mode: str
    model: str
    model_version: str
    whole: Floats | None = None  # [W]: the whole document's vector, with with_document

    def __len__(self) -> int:
        return len(self.vectors)


@dataclasses.dataclass(frozen=True)
class LabelScore:
    label: str
    score: float
    index: int  # of the label in ModelInfo.labels


@dataclasses.dataclass(frozen=True)
class Classification:
    scores: tuple[LabelScore, ...]  # highest first
    token_count: int
    truncated: bool
    mode: str
    error: RowError | None = None

    @property
    def label(self) -> str:
        """The likeliest; "" in a failed row."""
        return self.scores[0].label if self.scores else ""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The ids that embed would run, not truncated."""

    ids: Ints  # [T]
    type_ids: Ints  # [T]
    tokens: tuple[str, ...]
    byte_spans: Ints  # [T, 2]
    error: RowError | None = None


@dataclasses.dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may take. Durations are seconds; None = no limit."""

    max_calls: int  # at once, streams too
    max_idle: float | None  # then a connection without a call is closed
    max_age: float | None  # then it is told to end, give or take a tenth
    max_age_grace: float | None  # then its calls are cut
    max_memory_bytes: int  # of all connections and incoming messages together
    keepalive_interval: float | None  # a silent connection with calls is asked for a sign of life
    min_ping_interval: float | None  # clients that ping more often are sent away


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What pictures an image model takes. One of S x S pixels is 1 + (S / patch_size)^2 tokens."""

    size: int  # S of the pictures that the model was trained on
    patch_size: int  # S of pixels is a multiple of it
    max_size: int  # the largest S of pixels
    size_fixed: bool  # S of pixels is size, and nothing else
    channels: int  # planes of pixels
    prepared_size: int  # S that encoded pictures are brought to; 0 = the model takes pixels only
    media_types: tuple[str, ...]  # of encoded pictures: image/jpeg, ...; empty = the model takes pixels only
    max_image_pixels: int  # width times height of an encoded picture


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is served under one name, and its limits."""

    name: str
    version: str
    variant: str  # lion-lit, lion-d, lion-s, -natural
    input: str  # text or image
    embedding_dimensions: int
    max_sequence_tokens: int
    labels: tuple[str, ...]
    embeds: bool
    classifies: bool
    dtype: str
    device: str
    pooling: str
    normalize: bool
    chunk_tokens: int
    parallel_max_tokens: int
    max_inputs: int
    max_request_tokens: int
    max_message_bytes: int
    max_queue_tokens: int
    max_queue_bytes: int = 0  # texts that wait to be tokenized, encoded pictures to be decoded; 0 = an older server
    max_memory_bytes: int = 0  # of long rows together; 0 = no limit
    connection_limits: ConnectionLimits | None = None  # None = an older server
    image: ImageInfo | None = None  # None = a text model
