# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what torch.save wrote without torch and without running anything that the file names.

A .pt file is a zip archive: a pickle (data.pkl) of plain objects, in which each tensor is a reference into a file of raw
numbers (data/KEY). A pickle may name any function of any module and have it called; here only the few names below mean
something, and none of them is imported. Any other name is refused:

    ValueError: last.pt: the pickle asks for os.system, which a checkpoint of weights does not need

With skip_objects such an object becomes an Opaque instead, an empty shell: nothing is imported or called, and what was in
it is lost. Trainers store metrics and schedulers so, beside the weights.
"""

import collections
import io
import pickle
import pickletools
import re
import zipfile

import numpy as np
from model_directory.weights import TYPES, Tensor

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

# Data that no weight is made of, left out without a word: states of random generators, times.
_LEFT_OUT = re.compile(
    r"numpy\.(?:(?:_?core)\.multiarray\.(?:_reconstruct|scalar)|ndarray|dtype(?:s\.\w+)?)|_codecs\.encode"
    r"|datetime\.(?:timedelta|datetime)|collections\.(?:defaultdict|deque)|(?:builtins|__builtin__)\.(?:bytes|bytearray|set|frozenset|slice|complex)"
    r"|pathlib\.(?:PosixPath|WindowsPath|PurePosixPath)|torch\.device"
)


class Refused(ValueError):
    """A pickle that asks for what it must not; the text is for the user."""


class _Sealed(type):
    """A class that a pickle can make instances of but not change."""

    def __setattr__(cls, name, value):
        raise ValueError("the pickle writes into a class")


class Opaque(metaclass=_Sealed):
    """In the place of an object that was not made. Takes whatever a pickle does to it."""

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def __setstate__(self, _):
        pass

    append = extend = add = __setstate__

    def __setitem__(self, *_):
        pass


class Namespace(metaclass=_Sealed):
    """argparse.Namespace: the settings of a training run, as the dictionary .settings."""

    def __init__(self):
        self.settings = {}

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise ValueError("the pickle's argparse.Namespace has no dictionary of settings")
        self.settings = {str(k): v for k, v in state.items()}


class _OrderedDict(collections.OrderedDict, metaclass=_Sealed):
    """A state_dict; the attribute _metadata that torch gives it is dropped."""

    def __setstate__(self, _):
        pass


class _Call:
    """A function that a pickle may call, and nothing else of it."""

    __slots__ = ("_function",)

    def __init__(self, function):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name, value):
        raise ValueError("the pickle writes into a function")

    def __call__(self, *args):
        return self._function(*args)


class _Name(collections.namedtuple("_Name", "kind")):
    """A storage class or a dtype: its type's name in TYPES."""

    __slots__ = ()


_Storage = collections.namedtuple("_Storage", "key type")


class _Archive:
    """The zip around the pickle. Entries of tensors are stored as they are, so nothing unfolds into more than the file."""

    def __init__(self, path):
        self.path = path
        self._zip = zipfile.ZipFile(path)
        pickles = [n for n in self._zip.namelist() if n.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{path}: is a zip without one data.pkl, not what torch.save writes")
        self._prefix = pickles[0][: -len("data.pkl")]
        for entry in self._zip.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: {entry.filename} is compressed, which torch.save never does")
        self._names = set(self._zip.namelist())
        if self.prefixed("byteorder") in self._names and self.bytes("byteorder") != b"little":
            raise ValueError(f"{path}: was written on a big-endian machine")
        self._last = (None, b"")

    def prefixed(self, name):
        return self._prefix + name

    def bytes(self, name):
        return self._zip.read(self.prefixed(name))

    def size(self, key):
        """Bytes of storage `key`; KeyError if there is none."""
        return self._zip.getinfo(self.prefixed(f"data/{key}")).file_size

    def storage(self, key):
        # Views of one storage follow each other: the last is kept.
        if self._last[0] != key:
            self._last = (key, self.bytes(f"data/{key}"))
        return self._last[1]


def _check_memo(pickled):
    """The unpickler's table of objects is as long as its largest index, whatever the file's size: 4 bytes ask for 64 GiB."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(pickled):
            raise ValueError(f"object {argument} of a pickle of {len(pickled)} bytes")


class _Reader(pickle.Unpickler):
    def __init__(self, archive, pickled, skip_objects):
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._archive = archive
        self._skip_objects = skip_objects
        self.skipped = collections.Counter()

    def find_class(self, module, name):
        full = f"{module}.{name}"
        if module in ("torch", "torch.storage"):
            if name in _STORAGES:
                return _Name(_STORAGES[name])
            if name in _DTYPES:
                return _Name(_DTYPES[name])
        known = {
            "collections.OrderedDict": _OrderedDict,
            "argparse.Namespace": Namespace,
            "torch._utils._rebuild_tensor_v2": _Call(self._tensor),
            "torch._utils._rebuild_tensor_v3": _Call(self._tensor_v3),
            "torch._utils._rebuild_parameter": _Call(lambda data, *_: data),
            "torch._utils._rebuild_parameter_with_state": _Call(lambda data, *_: data),
            "torch.Size": _Call(lambda sizes=(): tuple(sizes)),
        }
        if full in known:
            return known[full]
        if not _LEFT_OUT.fullmatch(full):
            if not self._skip_objects:
                raise Refused(f"{self._archive.path}: the pickle asks for {full}, which a checkpoint of weights does not need")
            self.skipped[full] += 1
        return _Sealed(name.rsplit(".", 1)[-1], (Opaque,), {})

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Name)):
            raise Refused(f"{self._archive.path}: a storage is not described as torch.save does")
        return _Storage(str(pid[2]), pid[1].kind)

    def _tensor(self, storage, offset, shape, strides, *_):
        return self._view(storage, storage.type, offset, shape, strides)

    def _tensor_v3(self, storage, offset, shape, strides, _requires_grad, _hooks, dtype, *_):
        return self._view(storage, dtype.kind, offset, shape, strides)

    def _view(self, storage, kind, offset, shape, strides):
        archive, path = self._archive, self._archive.path
        dtype = np.dtype(TYPES[kind])
        numbers = [offset, *shape, *strides]
        if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise Refused(f"{path}: a tensor's shape {shape} and strides {strides} are not whole numbers from 0")
        try:
            available = archive.size(storage.key) // dtype.itemsize
        except KeyError:
            raise Refused(f"{path}: has no numbers for storage {storage.key}: the file is cut") from None
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides)) if 0 not in shape else 0
        if last >= available and 0 not in shape:
            raise Refused(f"{path}: a tensor of shape {tuple(shape)} reaches beyond storage {storage.key}: the file is cut")

        def read():
            flat = np.frombuffer(archive.storage(storage.key), dtype)
            bytes_ = [s * dtype.itemsize for s in strides]
            return np.lib.stride_tricks.as_strided(flat[offset:], shape, bytes_, writeable=False).copy("C")

        return Tensor(kind, tuple(shape), read)


def load(path, skip_objects=False):
    """(the object that torch.save was given, {name: how often} of what became Opaque). Tensors are Tensor.

    ValueError naming the file and what is wrong with it. The file stays open as long as a Tensor of it lives.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: is not a zip archive. torch.save writes one since torch 1.6; read an older file with that torch "
            "(torch.load with weights_only=True) and save it again"
        )
    archive = _Archive(path)
    pickled = archive.bytes("data.pkl")
    reader = _Reader(archive, pickled, skip_objects)
    try:
        _check_memo(pickled)
        tree = reader.load()
    except Refused:
        raise
    except Exception as e:  # a broken pickle fails in as many ways as there are opcodes
        raise ValueError(f"{path}: the pickle cannot be read: {type(e).__name__}: {e}") from None
    return tree, dict(reader.skipped)
