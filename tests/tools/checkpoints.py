# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints with random weights, as trainers write them, and torch.save's file format without torch.

    write_torch(path, composer(text_weights("lion-s")))
    python tests/tools/checkpoints.py FOLDER              # writes one of a text and one of an image encoder
"""

import collections
import io
import pathlib
import pickle
import sys
import zipfile

import numpy as np

VOCABULARY, WIDTH, HEADS, LAYERS, FEED_FORWARD, CLASSES = 211, 48, 4, 2, 96, 5
PATCH, SIZE, IMAGE_HEADS = 8, 32, 3


# --------------------------------------------------------------------------------------------------------- file format


class Global:
    """A name in a pickle: a function or a class of a module that need not be there."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """An object that a pickle makes by calling function(*args), with state set afterwards if it is not None."""

    opcode = pickle.REDUCE

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state


class New(Call):
    """An object of the class `function`, made by its __new__."""

    opcode = pickle.NEWOBJ


class _Pickler(pickle._Pickler):
    """The pure Python pickler, which lets one write names that cannot be imported."""

    def __init__(self, file, storages):
        super().__init__(file, protocol=2)
        self._storages = storages

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.args))
            self.write(obj.opcode)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        elif isinstance(obj, np.ndarray):
            self.save(_tensor(obj, self._storages))
        elif isinstance(obj, collections.OrderedDict):  # a state_dict, which torch gives an attribute of its own
            self.save(Call(Global("collections", "OrderedDict")))
            for key, value in obj.items():
                self.save(key)
                self.save(value)
                self.write(pickle.SETITEM)
            self.save({"_metadata": {"": {"version": 1}}})
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


class _Storage:
    def __init__(self, kind, key, numel):
        self.pid = ("storage", Global("torch", kind), key, "cuda:0", numel)


_KINDS = {np.float32: "FloatStorage", np.float16: "HalfStorage", np.float64: "DoubleStorage", np.int64: "LongStorage", np.uint16: "BFloat16Storage"}


def _tensor(array, storages):
    """array as torch writes it; a transposed array keeps its strides. uint16 stands for bfloat16."""
    base = array if array.flags.c_contiguous else array.T
    key = str(len(storages))
    storages.append(np.ascontiguousarray(base).tobytes())
    storage = _Storage(_KINDS[array.dtype.type], key, array.size)
    strides = tuple(s // array.itemsize for s in array.strides)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, 0, array.shape, strides, False, Call(Global("collections", "OrderedDict")))


def namespace(**settings):
    """argparse.Namespace(**settings)."""
    return New(Global("argparse", "Namespace"), state=settings)


def write_torch(path, tree):
    """torch.save(tree, path), for a tree of plain objects, arrays, Calls and Globals."""
    storages, pickled = [], io.BytesIO()
    _Pickler(pickled, storages).dump(tree)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, data in enumerate(storages):
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


# -------------------------------------------------------------------------------------------------------------- weights


def _normal(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def _linear(rng, name, rows, columns):
    return {f"{name}.weight": _normal(rng, rows, columns), f"{name}.bias": _normal(rng, rows)}


def _norm(rng, name):
    return {f"{name}.weight": 1 + _normal(rng, WIDTH), f"{name}.bias": _normal(rng, WIDTH)}


def text_weights(variant, layer_norm_after=False, head=None, seed=0):
    """The state_dict of a text encoder; head: None, "mlm" or "classifier"."""
    rng = np.random.default_rng(seed)
    embeddings, w = "bert.embeddings.", collections.OrderedDict()
    w[f"{embeddings}position_ids"] = np.arange(512)[None]
    for name, rows in (("word", VOCABULARY), ("position", 512), ("token_type", 2)):
        w[f"{embeddings}{name}_embeddings.weight"] = _normal(rng, rows, WIDTH)
    w |= _norm(rng, f"{embeddings}LayerNorm")
    for n in range(LAYERS):
        layer = f"bert.encoder.layer.{n}."
        for part in ("query", "key", "value"):
            w |= _linear(rng, f"{layer}attention.self.{part}", WIDTH, WIDTH)
        if layer_norm_after:
            w |= _norm(rng, f"{layer}attention.self.layer_norm")
        if variant == "lion-d":
            w[f"{layer}attention.self.ai"] = rng.uniform(1, 4, HEADS).astype(np.float32)
        if variant == "lion-s":
            w |= _linear(rng, f"{layer}attention.self.Wa_i", HEADS, WIDTH)
        w |= _linear(rng, f"{layer}attention.output.dense", WIDTH, WIDTH) | _norm(rng, f"{layer}attention.output.LayerNorm")
        w |= _linear(rng, f"{layer}intermediate.dense", FEED_FORWARD, WIDTH)
        w |= _linear(rng, f"{layer}output.dense", WIDTH, FEED_FORWARD) | _norm(rng, f"{layer}output.LayerNorm")
    if head != "mlm":
        w |= _linear(rng, "bert.pooler.dense", WIDTH, WIDTH)
    if head == "classifier":
        w |= _linear(rng, "classifier", CLASSES, WIDTH)
    if head == "mlm":
        w |= _linear(rng, "cls.predictions.transform.dense", WIDTH, WIDTH) | _norm(rng, "cls.predictions.transform.LayerNorm")
        w["cls.predictions.decoder.weight"] = w[f"{embeddings}word_embeddings.weight"]
        w["cls.predictions.bias"] = _normal(rng, VOCABULARY)
        w["cls.predictions.decoder.bias"] = w["cls.predictions.bias"]
    return w


def image_weights(mask_type, order="Normal", positions=False, classes=7, seed=0):
    """The state_dict of an image encoder."""
    rng = np.random.default_rng(seed)
    w = collections.OrderedDict(cls_token=_normal(rng, 1, 1, WIDTH))
    if positions:
        w["pos_embed"] = _normal(rng, 1, 1 + (SIZE // PATCH) ** 2, WIDTH)
    w["patch_embed.proj.weight"] = _normal(rng, WIDTH, 3, PATCH, PATCH)
    w["patch_embed.proj.bias"] = _normal(rng, WIDTH)
    for n in range(LAYERS):
        block = f"blocks.{n}."
        w |= _norm(rng, f"{block}norm1") | _linear(rng, f"{block}attn.qkv", 3 * WIDTH, WIDTH)
        for path in ("a_i", "a2_i")[: 2 if order == "S" else 1]:
            if mask_type == "Decay":
                w[f"{block}attn.{path}"] = rng.uniform(1, 4, IMAGE_HEADS).astype(np.float32)
            if mask_type == "Selective":
                w |= _linear(rng, f"{block}attn.{path}", IMAGE_HEADS, WIDTH)
        w |= _linear(rng, f"{block}attn.proj", WIDTH, WIDTH) | _norm(rng, f"{block}norm2")
        w |= _linear(rng, f"{block}mlp.fc1", 4 * WIDTH, WIDTH) | _linear(rng, f"{block}mlp.fc2", WIDTH, 4 * WIDTH)
    w |= _norm(rng, "norm")
    if classes:
        w |= _linear(rng, "head", classes, WIDTH)
    return w


# ------------------------------------------------------------------------------------------------------------ what wraps


def prefixed(weights, prefix):
    return collections.OrderedDict((prefix + name, t) for name, t in weights.items())


def adam(weights):
    """AdamW's state over weights, by number as torch.optim has it."""
    numbers = enumerate(w for w in weights.values() if w.dtype == np.float32)
    state = {i: {"step": np.float32([7]), "exp_avg": np.zeros_like(w), "exp_avg_sq": np.zeros_like(w)} for i, w in numbers}
    return {"state": state, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.98), "params": list(state)}]}


def composer(weights, config=None, vocabulary=None):
    """What composer saves of a masked-LM or a fine-tuning run; config and vocabulary as its Hugging Face integration keeps them."""
    named = {f"model.{k}": {"exp_avg": np.zeros_like(w), "exp_avg_sq": np.zeros_like(w)} for k, w in weights.items() if w.dtype == np.float32}
    state = {
        "model": prefixed(weights, "model."),
        "optimizers": {"DecoupledAdamW": {"state": named, "param_groups": [{"lr": 5e-4}]}},
        "schedulers": {"LinearWithWarmupScheduler": {"last_epoch": 1}},
        "timestamp": {"Timestamp": {"batch": 70000, "total_wct": Call(Global("datetime", "timedelta"), 1, 2, 3)}},
        "run_name": "pretrain",
    }
    if config is not None:
        content = {"content": dict(config), "file_extension": ".json"}
        tokenizer = {"vocab.txt": {"content": vocabulary, "file_extension": ".txt"}} if vocabulary else {}
        state["integrations"] = {"huggingface": {"model": {"config": content}, "tokenizer": tokenizer}}
    dtype = Call(Global("numpy", "dtype"), "u4", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    numpy_state = Call(Global("numpy.core.multiarray", "_reconstruct"), Global("numpy", "ndarray"), (0,), b"b", state=(1, (2,), dtype, False, b"12345678"))
    return {"state": state, "rng": [{"python": (3, (1, 2), None), "numpy": ("MT19937", numpy_state, 0, 0, 0.0)}]}


def deit(weights, **settings):
    """What DeiT's training saves: the model under distributed training, its optimizer and the command line."""
    return {"model": prefixed(weights, "module."), "optimizer": adam(weights), "epoch": 299, "args": namespace(lr=5e-4, **settings)}


def vocabulary():
    """VOCABULARY words of a WordPiece vocabulary."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), "lion", "##s", "serve"]
    words = list(dict.fromkeys(words))
    return words + [f"w{i}" for i in range(VOCABULARY - len(words))]


def main(folder):
    """Small examples of what trainers write, for docs/models.md: text.pt, vocab.txt, image.pth."""
    folder.mkdir(parents=True, exist_ok=True)
    write_torch(folder / "text.pt", composer(text_weights("lion-s", head="mlm"), {"arch_type": "nova-inputdep"}))
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    write_torch(folder / "image.pth", deit(image_weights("Decay", "S"), input_size=SIZE))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
