# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Broken model directories: exit 2, one clear line naming what is wrong, before any port is opened."""

import json
import socket

import numpy as np
import pytest
import safetensors.numpy

import models
from harness import Server, ids_input, pb, run_server

WORD = "bert.embeddings.word_embeddings.weight"


def write(part, content):
    def breaks(d):
        (d / part).parent.mkdir(exist_ok=True)
        (d / part).write_bytes(content if isinstance(content, bytes) else content.encode())

    return breaks


def config(**fields):
    return lambda d: models.edit_config(d, **fields)


def remove(part):
    return lambda d: (d / part).unlink()


def cut(part, size):
    def breaks(d):
        data = (d / part).read_bytes()
        (d / part).write_bytes(data[: size if size >= 0 else len(data) + size])

    return breaks


def drop_tensor(name):
    return lambda d: models.edit_weights(d, lambda t: t.pop(name))


def reshape(name, shape):
    def change(t):
        t[name] = np.zeros(shape, np.float32)

    return lambda d: models.edit_weights(d, change)


def retype(name, dtype):
    def change(t):
        t[name] = t[name].astype(dtype)

    return lambda d: models.edit_weights(d, change)


def weights(header, data=b""):
    return write("model.safetensors", models.raw_safetensors(header, data))


def tensor(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def shards(change):
    def breaks(d):
        models.sharded(d)
        index = json.loads((d / "model.safetensors.index.json").read_text())
        change(d, index)
        (d / "model.safetensors.index.json").write_text(json.dumps(index))

    return breaks


def place(name, file):
    return shards(lambda d, index: index["weight_map"].__setitem__(name, file))


def pipeline(part, **fields):
    """A whole pipeline with one file of it edited."""

    def breaks(d):
        models.with_pipeline(d)
        path = d / part
        content = json.loads(path.read_text())
        content.update(fields)
        path.write_text(json.dumps(content))

    return breaks


def pipeline_module(kind):
    def breaks(d):
        models.with_pipeline(d)
        path = d / "modules.json"
        path.write_text(path.read_text().replace("models.Dense", f"models.{kind}"))

    return breaks


def dense(shape):
    def breaks(d):
        models.with_pipeline(d)
        safetensors.numpy.save_file({"linear.weight": np.zeros(shape, np.float32), "linear.bias": np.zeros(32, np.float32)},
                                    d / "2_Dense/model.safetensors")

    return breaks


HUGE_HEADER = (1 << 63).to_bytes(8, "little") + b"{}"
LONG_HEADER = (10 << 30).to_bytes(8, "little") + b"{}"

# name, what breaks a good directory, what the line names.
CASES = [
    # Missing.
    ("no-config", remove("config.json"), ["config.json"]),
    ("no-weights", remove("model.safetensors"), ["model.safetensors"]),
    # config.json.
    ("config-empty", write("config.json", ""), ["config.json"]),
    ("config-not-json", write("config.json", "{not json"), ["config.json"]),
    ("config-not-an-object", write("config.json", "[1, 2]"), ["config.json"]),
    ("config-deep", write("config.json", "[" * 100000), ["config.json"]),
    ("config-binary", write("config.json", b"\xff\xfe\x00\x01"), ["config.json"]),
    *((f"config-without-{field}", config(**{field: None}), [field])
      for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "arch_type")),
    *((f"config-{field}-{bad}", config(**{field: bad}), [field])
      for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
      for bad in (0, -1, "many", 1.5, [48], 10**30)),
    ("config-heads-do-not-divide", config(num_attention_heads=5), ["num_attention_heads", 5, 48]),
    ("config-arch_type", config(arch_type="transformer"), ["arch_type", "transformer"]),
    ("config-arch_type-number", config(arch_type=7), ["arch_type"]),
    ("config-model_type", config(model_type="gpt2"), ["model_type", "gpt2"]),
    ("config-hidden_act", config(hidden_act="relu"), ["hidden_act", "relu"]),
    ("config-layer_norm_eps", config(layer_norm_eps=-1), ["layer_norm_eps"]),
    ("config-layer_norm_after", config(layer_norm_after="yes"), ["layer_norm_after"]),
    ("config-position_embedding_type", config(position_embedding_type=3), ["position_embedding_type"]),
    ("config-absolute-without-positions", config(position_embedding_type="absolute", max_position_embeddings=0), ["max_position_embeddings"]),
    ("config-id2label-short", config(id2label={"0": "a"}), ["id2label"]),
    ("config-id2label-strange", config(id2label=["a", "b", "c", "d", "e"]), ["id2label"]),
    ("config-problem_type", config(problem_type=5), ["problem_type"]),
    # What config.json says and the weights do not.
    ("config-vocab_size-differs", config(vocab_size=10**7), [WORD, 10**7, 211]),
    ("config-layers-missing", config(num_hidden_layers=3), ["bert.encoder.layer.2."]),
    # Sizes that no file holds: asked of the file before memory is.
    ("config-positions-huge", config(position_embedding_type="absolute", max_position_embeddings=2**24), ["position_embeddings", 2**24]),
    ("config-width-huge", config(hidden_size=2**16, num_attention_heads=2**10), [WORD, 2**16]),
    ("config-width-differs", config(intermediate_size=97), ["intermediate.dense", 97, 96]),
    # Tensors.
    ("tensor-missing", drop_tensor(WORD), ["embeddings.word_embeddings.weight"]),
    ("tensor-missing-gate", drop_tensor("bert.encoder.layer.1.attention.self.Wa_i.bias"), ["bert.encoder.layer.1.attention.self.Wa_i.bias"]),
    ("tensor-half-a-head", drop_tensor("classifier.bias"), ["classifier.bias"]),
    ("tensor-head-without-pooler", drop_tensor("bert.pooler.dense.weight"), ["bert.pooler.dense.weight"]),
    ("tensor-shape", reshape("bert.encoder.layer.0.attention.self.query.weight", (48, 47)), ["layer.0.attention.self.query.weight", 47, 48]),
    ("tensor-rank", reshape("bert.encoder.layer.0.attention.self.query.weight", (48 * 48,)), ["layer.0.attention.self.query.weight", 2304, 48]),
    ("tensor-head-empty", reshape("classifier.weight", (0, 48)), ["classifier.weight"]),
    ("tensor-head-width", reshape("classifier.weight", (5, 47)), ["classifier.weight", 47, 48]),
    ("tensor-type", retype("bert.encoder.layer.0.output.dense.weight", np.int64), ["layer.0.output.dense.weight", "I64"]),
    # The file itself.
    ("weights-empty", write("model.safetensors", b""), ["model.safetensors"]),
    ("weights-4-bytes", cut("model.safetensors", 4), ["model.safetensors"]),
    ("weights-header-alone", cut("model.safetensors", 8), ["model.safetensors"]),
    ("weights-half", cut("model.safetensors", 150000), ["model.safetensors"]),
    ("weights-one-byte-short", cut("model.safetensors", -1), ["model.safetensors"]),
    ("weights-text", write("model.safetensors", "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n"), ["model.safetensors"]),
    ("weights-pickle", write("model.safetensors", b"\x80\x02}q\x00." + b"\0" * 64), ["model.safetensors"]),
    # Hostile headers.
    ("header-2-to-63", write("model.safetensors", HUGE_HEADER), ["model.safetensors"]),
    ("header-10-gib", write("model.safetensors", LONG_HEADER), ["model.safetensors"]),
    ("header-not-json", weights("not json at all"), ["model.safetensors"]),
    ("header-not-utf8", weights(b"\xff" * 16), ["model.safetensors"]),
    ("header-a-list", weights([1, 2]), ["model.safetensors"]),
    ("header-deep", weights("[" * 200000), ["model.safetensors"]),
    ("header-beyond-the-file", weights({WORD: tensor(0, 8000)}, b"\0" * 8), ["model.safetensors"]),
    ("header-2-to-64", weights({WORD: tensor(0, 2**64 - 1)}, b"\0" * 8), ["model.safetensors"]),
    ("header-negative", weights({WORD: tensor(-8, 0)}, b"\0" * 8), ["model.safetensors"]),
    ("header-backwards", weights({WORD: tensor(8, 0)}, b"\0" * 8), ["model.safetensors"]),
    ("header-shape-lies", weights({WORD: tensor(0, 8, (3,))}, b"\0" * 8), ["model.safetensors"]),
    ("header-shape-overflows", weights({WORD: tensor(0, 8, (2**32, 2**32, 2**32))}, b"\0" * 8), ["model.safetensors"]),
    ("header-overlap", weights({"a": tensor(0, 8), "b": tensor(4, 12)}, b"\0" * 12), ["model.safetensors"]),
    ("header-hole", weights({"a": tensor(0, 8), "b": tensor(16, 24)}, b"\0" * 24), ["model.safetensors"]),
    ("header-trailing-data", weights({"a": tensor(0, 8)}, b"\0" * 24), ["model.safetensors"]),
    ("header-type", weights({WORD: tensor(0, 8, dtype="F99")}, b"\0" * 8), ["model.safetensors"]),
    ("header-no-tensors", weights({}), ["embeddings.word_embeddings.weight"]),
    # Shards.
    ("shard-missing", shards(lambda d, index: (d / "model-00002-of-00002.safetensors").unlink()), ["model-00002-of-00002.safetensors"]),
    ("shard-broken", shards(lambda d, index: (d / "model-00002-of-00002.safetensors").write_bytes(b"x")), ["model-00002-of-00002.safetensors"]),
    ("shard-outside", place(WORD, "../model.safetensors"), ["../model.safetensors"]),
    ("shard-absolute", place(WORD, "/etc/passwd"), ["/etc/passwd"]),
    ("shard-that-lacks-it", place("no.such.tensor", "model-00001-of-00002.safetensors"), ["no.such.tensor"]),
    ("shard-number", shards(lambda d, index: index["weight_map"].__setitem__(WORD, 5)), ["model.safetensors.index.json"]),
    ("shard-index-without-map", shards(lambda d, index: index.pop("weight_map")), ["model.safetensors.index.json", "weight_map"]),
    # Tokenizer.
    ("tokenizer-empty", write("tokenizer.json", ""), ["tokenizer.json"]),
    ("tokenizer-not-json", write("tokenizer.json", "nonsense"), ["tokenizer.json"]),
    ("tokenizer-no-model", write("tokenizer.json", "{}"), ["tokenizer.json"]),
    # Pipeline.
    ("modules-not-json", write("modules.json", "{"), ["modules.json"]),
    ("modules-not-a-list", write("modules.json", "{}"), ["modules.json"]),
    ("modules-unknown-kind", pipeline_module("WordWeights"), ["modules.json", "WordWeights"]),
    ("pooling-missing", lambda d: (models.with_pipeline(d)[0] / "1_Pooling/config.json").unlink(), ["1_Pooling"]),
    ("pooling-none", pipeline("1_Pooling/config.json", pooling_mode_mean_tokens=False), ["1_Pooling"]),
    ("pooling-max", pipeline("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True), ["1_Pooling", "pooling_mode_max_tokens"]),
    ("dense-missing", lambda d: (models.with_pipeline(d)[0] / "2_Dense/model.safetensors").unlink(), ["2_Dense"]),
    ("dense-activation", pipeline("2_Dense/config.json", activation_function="torch.nn.modules.activation.Hardswish"), ["2_Dense", "Hardswish"]),
    ("dense-in_features", pipeline("2_Dense/config.json", in_features=47), ["2_Dense", 47, 48]),
    ("dense-shape", dense((32, 47)), ["2_Dense", "linear.weight", 47, 48]),
]


@pytest.fixture(scope="module")
def taken_port():
    """A port that somebody listens on: a server that opened ports first would exit 1 for it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def check_refusal(code, lines, words):
    """The last line says it all, in one line of a reasonable length; lines before it may tell what was being loaded."""
    said = "\n".join(lines)
    assert code == 2, f"exit {code}:\n{said}"
    assert not any("ready grpc=" in line for line in lines)
    assert lines and all(str(w) in lines[-1] for w in words), f"the last line does not name {words}:\n{said}"
    assert len(lines[-1]) < 2000


@pytest.mark.parametrize("breaks, words", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_broken_directory(tmp_path, taken_port, breaks, words):
    directory = models.copy_of(models.BASE, tmp_path / "broken")
    breaks(directory)
    address = f"127.0.0.1:{taken_port}"
    code, lines = run_server(f"--listen={address}", f"--metrics_listen={address}", directory)
    check_refusal(code, lines, words)


def test_no_such_directory(tmp_path):
    check_refusal(*run_server(tmp_path / "nowhere"), ["nowhere"])


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    check_refusal(*run_server(tmp_path / "file"), ["file"])


def test_the_second_model_may_be_the_broken_one(tmp_path):
    good = models.copy_of(models.BASE, tmp_path / "good")
    broken = models.copy_of(models.BASE, tmp_path / "broken")
    (broken / "config.json").unlink()
    check_refusal(*run_server(good, broken), ["broken/config.json"])


def test_unknown_tensors_are_a_warning(tmp_path):
    def add(tensors):
        tensors["cls.predictions.bias"] = np.zeros(211, np.float32)
        tensors["a.stranger"] = np.zeros(3, np.float32)

    directory = models.edit_weights(models.copy_of(models.BASE, tmp_path / "more"), add)
    with Server([directory], "--max_batch_tokens=64", "--parallel_max_tokens=64") as server:
        assert any("a.stranger" in line for line in server.log)
        assert server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1])])).results[0].token_count == 1
