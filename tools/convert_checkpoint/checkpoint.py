# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as the converter sees it: the weights under their plain names, what stands beside them, what was left out.

Trainers wrap weights in more dictionaries and prefixes than one can list. Here the dictionary that holds the embedding of
words or patches is the model's, whatever is around it, and the prefixes of wrappers (state., model., module., …) are
taken off its names.
"""

import dataclasses
import re

import torch_file
from model_directory import weights
from model_directory.weights import Tensor

_WRAPPERS = re.compile(r"(?:(?:state_dict|state|model|module|_orig_mod|_fsdp_wrapped_module)\.)+")
_TEXT_KEY, _IMAGE_KEY = "embeddings.word_embeddings.weight", "patch_embed.proj.weight"


@dataclasses.dataclass
class Checkpoint:
    """kind: "text" or "image". tensors: {plain name: Tensor}; where: the path of their dictionary in the file ("" = the
    file itself). config: of transformers, where the file carries one ({} = not). vocabulary: words by id, or None.
    settings: of the training run. beside: {path: number of tensors} of other dictionaries with tensors, all left out."""

    kind: str
    where: str
    tensors: dict
    config: dict
    vocabulary: list | None
    settings: dict
    beside: dict
    skipped: dict


def plain_name(name):
    """The name without wrappers' prefixes: state.model.model.bert.x is bert.x."""
    return _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name


def _kind(names):
    """What the tensors called so are: "text", "image" or None."""
    plain = [plain_name(n) for n in names if isinstance(n, str)]
    if any(n in (_TEXT_KEY, "bert." + _TEXT_KEY) for n in plain):
        return "text"
    return "image" if _IMAGE_KEY in plain else None


def _dictionaries(tree):
    """Yields (path, dictionary) of every dictionary in the tree, each once and before those inside it."""
    waiting, seen = [("", tree)], set()
    while waiting:
        path, node = waiting.pop()
        if id(node) in seen:  # pickles can hold the same object twice, or inside itself
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            yield path, node
            items = list(node.items())
        else:
            items = list(enumerate(node))
        below = [(f"{path}.{k}" if path else str(k), v) for k, v in items if isinstance(v, (dict, list, tuple))]
        waiting += reversed(below)


def _lookup(tree, *keys):
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def open_checkpoint(path, where=None, skip_objects=False):
    """Reads a .pt (.pth, .bin, .ckpt) or .safetensors file. where: the path of the weights, if there are several.

    ValueError saying what is wrong.
    """
    if path.endswith(".safetensors"):
        tree, skipped = weights.read_safetensors(path), {}
    else:
        tree, skipped = torch_file.load(path, skip_objects)
    counts, candidates = {}, {}
    for at, dictionary in _dictionaries(tree if isinstance(tree, (dict, list, tuple)) else {}):
        tensors = {k: v for k, v in dictionary.items() if isinstance(v, Tensor)}
        if tensors:
            counts[at] = len(tensors)
        if _kind(tensors):
            candidates[at] = tensors
    if where is not None and where not in candidates:
        raise ValueError(f"{path}: has no weights of a LION encoder at --weights={where!r}, but at: {_listed(candidates)}")
    if not candidates:
        raise ValueError(
            f"{path}: holds no dictionary with {_TEXT_KEY} or {_IMAGE_KEY}, so no LION encoder. Dictionaries with "
            f"tensors: {_listed(counts)}"
        )
    if where is None and len(candidates) > 1:
        raise ValueError(f"{path}: holds weights {len(candidates)} times: choose one by --weights: {_listed(candidates)}")
    where = next(iter(candidates)) if where is None else where

    tensors = {}
    for name, tensor in candidates[where].items():
        plain = plain_name(str(name))
        if plain in tensors:
            raise ValueError(f"{path}: two tensors are called {plain} without their prefixes; the second is {name}")
        tensors[plain] = tensor
    hugging_face = _lookup(tree, "state", "integrations", "huggingface") or {}
    config = _lookup(hugging_face, "model", "config", "content")
    vocabulary = _lookup(hugging_face, "tokenizer", "vocab.txt", "content")
    arguments = _lookup(tree, "args")
    counts.pop(where)
    return Checkpoint(
        kind=_kind(candidates[where]),
        where=where,
        tensors=tensors,
        config=config if isinstance(config, dict) else {},
        vocabulary=[str(w) for w in vocabulary] if isinstance(vocabulary, list) else None,
        settings=arguments.settings if isinstance(arguments, torch_file.Namespace) else {},
        beside=_grouped(counts),
        skipped=skipped,
    )


def _grouped(counts):
    """Counts by the first two names of a path: state.optimizers, optimizer.state."""
    groups = {}
    for path, n in counts.items():
        group = ".".join(path.split(".")[:2])
        groups[group] = groups.get(group, 0) + n
    return groups


def _listed(paths):
    return ", ".join(repr(p) for p in list(paths)[:10]) or "none"
