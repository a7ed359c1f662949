# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors as the tools pass them on: named, typed, shaped, read from their file only when asked for.

numpy has no bfloat16, so the values of a BF16 tensor are its bits, uint16, until values() widens them.
"""

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Callable

import numpy as np

# Safetensors' name of a type, and what numpy holds it in.
TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_HEADER = 100 << 20


@dataclasses.dataclass(frozen=True)
class Tensor:
    """type: a key of TYPES. read() gives the values (shape, TYPES[type]), C-contiguous, each time anew."""

    type: str
    shape: tuple
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self):
        return math.prod(self.shape) * np.dtype(TYPES[self.type]).itemsize

    def values(self, dtype=np.float64):
        """The numbers themselves, as dtype."""
        raw = self.read()
        if self.type == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(dtype)


def of_array(array):
    """A Tensor around an array of a type that numpy has."""
    kind = next(k for k, t in TYPES.items() if k != "BF16" and t == array.dtype)
    return Tensor(kind, tuple(array.shape), lambda: np.ascontiguousarray(array))


def converted(tensor, kind):
    """The same tensor as one of F32, F16, BF16, rounded to nearest even. Its numbers are checked when they are read."""
    if tensor.type == kind:
        return tensor

    def read():
        values = tensor.values(np.float64 if tensor.type == "F64" else np.float32).astype(np.float32)
        if kind == "F32":
            return values
        if kind == "F16":
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, which the writer refuses
                return values.astype(np.float16)
        return bfloat16_bits(values)

    return Tensor(kind, tensor.shape, read)


def bfloat16_bits(values):
    """float32 values rounded to nearest even as bfloat16's bits, uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint64(0x7FC0), rounded).astype(np.uint16)


def read_safetensors(path):
    """{name: Tensor} of one .safetensors file, mapped. ValueError naming the file if it is not one."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"{path}: is not a safetensors file")
        try:
            header = json.loads(f.read(length))
        except ValueError as e:
            raise ValueError(f"{path}: is not a safetensors file: {e}") from None
        data = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))[8 + length :]
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        kind, shape = entry["dtype"], tuple(entry["shape"])
        if kind not in TYPES:
            raise ValueError(f"{path}: tensor '{name}' is {kind}, which is none of {', '.join(TYPES)}")
        if not 0 <= begin <= end <= len(data) or end - begin != math.prod(shape) * np.dtype(TYPES[kind]).itemsize:
            raise ValueError(f"{path}: tensor '{name}' does not fit its place in the file")

        def read(begin=begin, end=end, kind=kind, shape=shape):
            return np.frombuffer(data[begin:end], TYPES[kind]).reshape(shape).copy()

        tensors[name] = Tensor(kind, shape, read)
    return tensors


def read_model_weights(directory):
    """{name: Tensor} of model.safetensors, or of the shards that model.safetensors.index.json lists."""
    index = os.path.join(directory, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_safetensors(os.path.join(directory, "model.safetensors"))
    with open(index, encoding="utf-8") as f:
        files = sorted(set(json.load(f)["weight_map"].values()))
    return {name: t for file in files for name, t in read_safetensors(os.path.join(directory, file)).items()}


def write_safetensors(path, tensors):
    """Writes {name: Tensor} of F32, F16 and BF16, one tensor in memory at a time. The library's own writer for numpy knows
    no BF16. ValueError naming the tensor that has a value not finite."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.type, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            raw = tensor.read()
            finite = ((raw >> 7) & 0xFF) != 0xFF if tensor.type == "BF16" else np.isfinite(raw)
            if not finite.all():
                raise ValueError(f"tensor '{name}' has {(~finite).sum()} values that are not finite as {tensor.type}")
            f.write(raw.tobytes())
