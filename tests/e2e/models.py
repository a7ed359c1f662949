# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Model directories made for a test out of an oracle model: with a tokenizer, with a pipeline, without a head, broken.

Each function writes a directory and returns its path; numbers that a test needs (the Dense weights) come back with it.
"""

import json
import shutil
import string

import numpy as np
import safetensors.numpy
import tokenizers

from harness import ORACLE

BASE = "text-lion-s-ln"
VOCAB_SIZE = 211  # of every oracle model
WIDTH = 48


def copy_of(name, target):
    """A copy that may be changed."""
    target.mkdir(parents=True, exist_ok=True)
    for part in ("config.json", "model.safetensors"):
        shutil.copy(ORACLE / name / part, target / part)
    return target


def edit_config(directory, **fields):
    """Sets fields of config.json; a field of None is removed."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(fields)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return directory


def edit_weights(directory, change):
    """change(dict of arrays) edits the tensors in place."""
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)
    return directory


def without_head(target):
    def drop(tensors):
        del tensors["classifier.weight"], tensors["classifier.bias"]

    return edit_weights(copy_of(BASE, target), drop)


def small_tokenizer():
    """A WordPiece tokenizer with exactly the oracle's vocabulary: letters, digits, marks and a few words, with [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += list(string.ascii_lowercase + string.digits) + [f"##{c}" for c in string.ascii_lowercase + string.digits]
    words += list(string.punctuation) + ["é", "##é", "ü", "日", "本", "語", "🙂"]
    words += ["the", "lion", "serve", "is", "an", "of", "and", "to", "in", "##ing", "##ed"]
    words += [f"w{i}" for i in range(VOCAB_SIZE - len(words))]
    assert len(words) == len(set(words)) == VOCAB_SIZE
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(words[:5])
    return tokenizer


def with_tokenizer(target, base=BASE):
    copy_of(base, target)
    small_tokenizer().save(str(target / "tokenizer.json"))
    return target


def with_pipeline(target, pooling="mean", dense_width=32, activation="torch.nn.modules.activation.Tanh", normalize=True):
    """A sentence-transformers layout: Pooling, Dense where dense_width is not 0, Normalize. Returns (directory, W, b)."""
    with_tokenizer(target)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (target / "1_Pooling").mkdir()
    pooling_config = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean",
                      "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}
    (target / "1_Pooling/config.json").write_text(json.dumps(pooling_config))
    weight = bias = None
    if dense_width:
        modules.append(("2_Dense", "Dense"))
        random = np.random.default_rng(7)
        weight = random.standard_normal((dense_width, WIDTH)).astype(np.float32) / 7
        bias = random.standard_normal(dense_width).astype(np.float32) / 7
        (target / "2_Dense").mkdir()
        safetensors.numpy.save_file({"linear.weight": weight, "linear.bias": bias}, target / "2_Dense/model.safetensors")
        dense_config = {"in_features": WIDTH, "out_features": dense_width, "bias": True, "activation_function": activation}
        (target / "2_Dense/config.json").write_text(json.dumps(dense_config))
    if normalize:
        modules.append(("3_Normalize", "Normalize"))
    listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(modules)]
    (target / "modules.json").write_text(json.dumps(listed))
    return target, weight, bias


def sharded(target):
    """The same weights in two files under an index."""
    copy_of(BASE, target)
    tensors = safetensors.numpy.load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        safetensors.numpy.save_file({n: tensors[n] for n in part}, target / file)
    index = {"metadata": {}, "weight_map": {n: file for file, part in files.items() for n in part}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def stored_in(target, dtype):
    """(directory stored as dtype "F16" or "BF16", directory with the very same numbers as F32)."""
    narrow, wide = copy_of(BASE, target / "narrow"), copy_of(BASE, target / "wide")
    header, data = {}, b""
    rounded = {}
    for name, tensor in safetensors.numpy.load_file(ORACLE / BASE / "model.safetensors").items():
        if dtype == "F16":
            bits = tensor.astype(np.float16)
            rounded[name] = bits.astype(np.float32)
        else:  # the upper half of a float32
            bits = (tensor.view(np.uint32) >> 16).astype(np.uint16)
            rounded[name] = (bits.astype(np.uint32) << 16).view(np.float32)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + bits.nbytes]}
        data += bits.tobytes()
    (narrow / "model.safetensors").write_bytes(raw_safetensors(header, data))
    safetensors.numpy.save_file(rounded, wide / "model.safetensors")
    return narrow, wide


def raw_safetensors(header, data=b""):
    """A file with any header, true or not (str, bytes or what JSON can hold)."""
    text = header if isinstance(header, bytes) else header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
