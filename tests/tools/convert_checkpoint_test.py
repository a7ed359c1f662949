# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tools/convert_checkpoint: what is written, what is refused, and that nothing of a pickle runs. No torch in here."""

import collections
import json
import pathlib
import pickle
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tools"), str(ROOT / "tools/convert_checkpoint"), str(pathlib.Path(__file__).parent)]

import checkpoint  # noqa: E402
import checkpoints  # noqa: E402
from checkpoints import Call, Global, composer, deit, image_weights, prefixed, text_weights, write_torch  # noqa: E402
from model_directory import weights  # noqa: E402

CONVERT = ROOT / "tools/convert_checkpoint/convert.py"


def convert(tmp, tree, *flags, out="out"):
    """(exit code, standard output, standard error, the directory)."""
    path = tree if isinstance(tree, pathlib.Path) else write_torch(tmp / "checkpoint.pt", tree)
    command = [sys.executable, str(CONVERT), str(path), f"--out={tmp / out}", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr, tmp / out


def converted(tmp, tree, *flags, out="out"):
    """(config.json, {name: array}, standard output) of a conversion that must succeed."""
    code, said, error, directory = convert(tmp, tree, *flags, out=out)
    assert code == 0, error
    tensors = {name: t.values(np.float32) for name, t in weights.read_model_weights(directory).items()}
    return json.loads((directory / "config.json").read_text()), tensors, said


def refused(tmp, tree, *flags):
    """The complaint of a conversion that must fail and leave nothing."""
    code, _, error, directory = convert(tmp, tree, *flags)
    assert code == 1, error
    assert "Traceback" not in error
    assert not directory.exists() and not [p for p in tmp.iterdir() if p.name.startswith(".")]
    return error


def assert_same(tensors, original, without=()):
    wanted = {k: v for k, v in original.items() if not k.startswith(tuple(without))} if without else dict(original)
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(tensors[name], tensor)


UNSERVED = ("bert.embeddings.position", "cls.")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("variant, config", [("lion-d", {"arch_type": "nova"}), ("lion-s", {"arch_type": "nova-inputdep"})])
def test_composer(tmp_path, variant, config, after):
    original = text_weights(variant, after, "mlm")
    config, tensors, said = converted(tmp_path, composer(original, config))
    assert_same(tensors, original, UNSERVED)
    assert (config["arch_type"], config["layer_norm_after"], config["num_attention_heads"]) == (variant, after, checkpoints.HEADS)
    assert config["position_embedding_type"] != "absolute"
    assert "tensors under 'state.optimizers'" in said
    assert "masked-LM" in said and "positions: none taken, as published" in said


def test_lit_keeps_its_positions(tmp_path):
    original = text_weights("lion-lit", True, "classifier")
    config, tensors, said = converted(tmp_path, original, "--num_heads=4")
    assert_same(tensors, original, ["bert.embeddings.position_ids"])
    assert (config["arch_type"], config["position_embedding_type"], config["max_position_embeddings"]) == ("lion-lit", "absolute", 512)
    assert "BERT with softmax looks the same" in said
    assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(checkpoints.CLASSES)}


@pytest.mark.parametrize("wrap", [
    lambda w: prefixed(w, "module."),
    lambda w: prefixed(w, "state.model.model."),
    lambda w: {"state_dict": prefixed(w, "model.module."), "epoch": 3},
    lambda w: {"model": prefixed(w, "_orig_mod."), "lr_scheduler": {"last": 1.5}},
    lambda w: collections.OrderedDict((k.removeprefix("bert."), v) for k, v in w.items()),
], ids=["module", "state.model.model", "state_dict", "compiled", "bare"])  # fmt: skip
def test_any_wrapper(tmp_path, wrap):
    original = text_weights("lion-s")
    _, tensors, _ = converted(tmp_path, wrap(original))
    assert_same(tensors, original, UNSERVED)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("order", ["Normal", "S"])
@pytest.mark.parametrize("mask_type", ["Lit", "Decay", "Selective"])
def test_deit(tmp_path, mask_type, order, positions):
    original = image_weights(mask_type, order, positions)
    config, tensors, said = converted(tmp_path, deit(original), "--pooling=mean", "--num_heads=3", "--image_size=32")
    assert_same(tensors, original)
    wanted = {"model_type": "lion-vision", "mask_type": mask_type, "order": "Normal" if mask_type == "Lit" else order, "pos_emb": positions,
              "cls_tok": False, "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7, "mlp_ratio": 4}
    assert {k: config[k] for k in wanted} == wanted
    pixels = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert (pixels["size"], pixels["crop_size"], pixels["resample"]) == ({"shortest_edge": 36}, {"height": 32, "width": 32}, 3)
    assert "under 'optimizer.state'" in said


def test_settings_of_the_run_are_read(tmp_path):
    config, _, _ = converted(tmp_path, deit(image_weights("Lit"), num_heads=6, cls_tok=True, input_size=40))
    assert (config["num_heads"], config["cls_tok"], config["img_size"]) == (6, True, 40)


def test_several_weights_ask_for_a_choice(tmp_path):
    first, second = image_weights("Decay", seed=1), image_weights("Decay", seed=2)
    tree = {"model": first, "model_ema": second}
    assert "--weights: 'model', 'model_ema'" in refused(tmp_path, tree, "--pooling=cls")
    assert "'model', 'model_ema'" in refused(tmp_path, tree, "--pooling=cls", "--weights=other")
    assert_same(converted(tmp_path, tree, "--pooling=cls", "--weights=model_ema")[1], second)


def test_types_and_strides(tmp_path):
    """A transposed view, halves, doubles; and bfloat16, which numpy has no name for."""
    original = text_weights("lion-s")
    name = "bert.pooler.dense.weight"
    stored = original | {name: original[name].T, "bert.pooler.dense.bias": original["bert.pooler.dense.bias"].astype(np.float64)}
    stored["bert.embeddings.LayerNorm.bias"] = weights.bfloat16_bits(original["bert.embeddings.LayerNorm.bias"])
    _, tensors, _ = converted(tmp_path, stored)
    np.testing.assert_array_equal(tensors[name], original[name].T)
    np.testing.assert_array_equal(tensors["bert.pooler.dense.bias"], original["bert.pooler.dense.bias"])
    np.testing.assert_allclose(tensors["bert.embeddings.LayerNorm.bias"], original["bert.embeddings.LayerNorm.bias"], rtol=2**-8)
    for dtype, error in (("float16", 2**-11), ("bfloat16", 2**-8)):
        _, tensors, _ = converted(tmp_path, original, f"--dtype={dtype}", out=dtype)
        np.testing.assert_allclose(tensors[name], original[name], rtol=error, atol=1e-7)


def test_from_safetensors(tmp_path):
    original = text_weights("lion-d", head="classifier")
    del original["bert.embeddings.position_ids"]
    path = tmp_path / "model.safetensors"
    weights.write_safetensors(path, {k: weights.of_array(v) for k, v in original.items()})
    _, tensors, _ = converted(tmp_path, path)
    assert_same(tensors, original, UNSERVED)


def test_other_readers_read_what_is_written(tmp_path):
    """The library's own reader takes the file, and finds the numbers where we say they are."""
    original = text_weights("lion-s")
    converted(tmp_path, original, "--dtype=float16")
    for name, tensor in safetensors.numpy.load_file(tmp_path / "out/model.safetensors").items():
        np.testing.assert_array_equal(tensor, original[name].astype(np.float16))


# ------------------------------------------------------------------------------------------------------------- tokenizer


def test_vocab(tmp_path):
    words = checkpoints.vocabulary()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    converted(tmp_path, text_weights("lion-s"), f"--vocab={tmp_path / 'vocab.txt'}")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    encoded = tokenizer.encode("LIONS", "serve")
    assert encoded.tokens == ["[CLS]", "lion", "##s", "[SEP]", "serve", "[SEP]"]
    assert encoded.type_ids == [0, 0, 0, 0, 1, 1]
    assert encoded.ids == [words.index(t) for t in encoded.tokens]


@pytest.mark.parametrize("words, complaint", [
    (lambda w: w + [f"more{i}" for i in range(9)], "word embeddings have 211 rows"),
    (lambda w: [x for x in w if x != "[SEP]"], "no [SEP]"),
    (lambda w: w[:-1] + ["lion"], "'lion' twice"),
])  # fmt: skip
def test_a_vocabulary_that_is_not_the_models(tmp_path, words, complaint):
    (tmp_path / "vocab.txt").write_text("\n".join(words(checkpoints.vocabulary())) + "\n")
    assert complaint in refused(tmp_path, text_weights("lion-s"), f"--vocab={tmp_path / 'vocab.txt'}")


def test_pipeline(tmp_path):
    converted(tmp_path, text_weights("lion-s"), "--pooling=cls", "--normalize")
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [m["type"].rsplit(".", 1)[-1] for m in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((tmp_path / "out/1_Pooling/config.json").read_text())["pooling_mode_cls_token"] is True


# ------------------------------------------------------------------------------------------------------ half conversions


def test_all_that_is_missing_unknown_or_misshapen_is_listed(tmp_path):
    tensors = text_weights("lion-s", True, "classifier")
    del tensors["bert.encoder.layer.1.attention.self.Wa_i.bias"], tensors["bert.pooler.dense.bias"]
    tensors["bert.encoder.layer.1.output.dense.weight"] = tensors["bert.encoder.layer.1.output.dense.weight"].T
    tensors["bert.encoder.layer.0.adapter.weight"] = np.zeros((3, 4), np.float32)
    error = refused(tmp_path, tensors)
    assert "4 things" in error
    for line in ("missing   bert.encoder.layer.1.attention.self.Wa_i.bias [4]", "missing   bert.pooler.dense.bias [48]",
                 "misshapen bert.encoder.layer.1.output.dense.weight [96, 48]", "unknown   bert.encoder.layer.0.adapter.weight [3, 4]"):
        assert line in error
    assert "3 things" in refused(tmp_path, tensors, r"--drop=.*\.adapter\..*")


def test_one_layer_of_another_kind(tmp_path):
    tensors = text_weights("lion-s", True)
    del tensors["bert.encoder.layer.1.attention.self.layer_norm.weight"]
    assert "missing   bert.encoder.layer.1.attention.self.layer_norm.weight" in refused(tmp_path, tensors)


@pytest.mark.parametrize("config, complaint", [
    ({"arch_type": "nova"}, "disagrees arch_type: nova by its configuration, lion-s by its tensors"),
    ({"arch_type": "lion-s", "num_attention_heads": 8}, "disagrees num_attention_heads: 8"),
    ({"arch_type": "lion-s", "layer_norm_after": True}, "disagrees layer_norm_after: True"),
    ({"arch_type": "lion-s", "hidden_act": "relu"}, "only 'gelu' is served"),
])  # fmt: skip
def test_a_configuration_that_contradicts_the_tensors(tmp_path, config, complaint):
    assert complaint in refused(tmp_path, composer(text_weights("lion-s"), config))


def test_values_that_are_not_finite(tmp_path):
    tensors = text_weights("lion-s")
    tensors["bert.embeddings.LayerNorm.weight"][3] = np.nan
    assert "'bert.embeddings.LayerNorm.weight' has 1 values that are not finite" in refused(tmp_path, tensors)
    tensors["bert.embeddings.LayerNorm.weight"][3] = 1e6
    assert "not finite as F16" in refused(tmp_path, tensors, "--dtype=float16")


def test_what_is_no_lion_encoder(tmp_path):
    assert "no LION encoder" in refused(tmp_path, {"model": {"conv.weight": np.zeros((3, 3), np.float32)}})
    (tmp_path / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    assert "is not a zip archive" in refused(tmp_path, tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    assert "without one data.pkl" in refused(tmp_path, tmp_path / "other.zip")


def test_a_directory_that_exists_stays_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    code, _, error, directory = convert(tmp_path, text_weights("lion-s"))
    assert code == 1 and "exists already" in error
    assert [p.name for p in directory.iterdir()] == ["mine"]


# --------------------------------------------------------------------------------------------------------------- pickles


def test_no_function_of_a_pickle_runs(tmp_path):
    touched = tmp_path / "touched"
    for name, function, argument in (("os.system", Global("os", "system"), f"touch {touched}"),
                                     ("builtins.eval", Global("builtins", "eval"), f"open({str(touched)!r}, 'w')"),
                                     ("torch.serialization.load", Global("torch.serialization", "load"), "x.pt")):
        tree = {"model": text_weights("lion-s"), "hook": Call(function, argument)}
        assert f"the pickle asks for {name}" in refused(tmp_path, tree)
        code, said, error, _ = convert(tmp_path, tree, "--skip_objects", out=name)
        assert code == 0, error
        assert f"1 x {name}, not made" in said
    assert not touched.exists()


def test_a_tensor_that_reaches_beyond_its_numbers(tmp_path):
    path = write_torch(tmp_path / "whole.pt", text_weights("lion-s"))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "cut.pt", "w") as cut:
        for entry in whole.namelist():
            data = whole.read(entry)
            cut.writestr(entry, data[:-4] if entry == "archive/data/5" else data)
    assert "the file is cut" in refused(tmp_path, tmp_path / "cut.pt")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "empty.pt", "w") as cut:
        for entry in whole.namelist():
            if entry != "archive/data/5":
                cut.writestr(entry, whole.read(entry))
    assert "has no numbers for storage 5" in refused(tmp_path, tmp_path / "empty.pt")


@pytest.mark.parametrize("tree", [
    [Call(Global("collections", "OrderedDict"), state=(None, {"__class__": 1}))],
    [Call(Global("torch._utils", "_rebuild_tensor_v2"), 1, 2, 3)],
    [Call(Global("torch._utils", "_rebuild_tensor_v2"), "x", 0, (1,), (-1,))],
    [Call(1)],
])  # fmt: skip
def test_broken_pickles_end_in_one_line(tmp_path, tree):
    error = refused(tmp_path, tree)
    assert error.startswith("convert.py: ") and error.count("\n") == 1


def rewritten(path, to, pickled):
    """A copy of the archive with another pickle."""
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(to, "w") as other:
        for entry in whole.namelist():
            other.writestr(entry, pickled if entry == "archive/data.pkl" else whole.read(entry))
    return to


def test_a_pickle_that_asks_for_memory(tmp_path):
    """LONG_BINPUT with an index of 4 billion: the unpickler's table would be as long."""
    path = write_torch(tmp_path / "whole.pt", {"model": {}})
    bomb = b"\x80\x02}" + pickle.LONG_BINPUT + b"\xff\xff\xff\xff."
    assert "object 4294967295 of a pickle of 9 bytes" in refused(tmp_path, rewritten(path, tmp_path / "bomb.pt", bomb))


def test_lists_that_hold_themselves_and_each_other_are_walked_once(tmp_path):
    loop = []
    loop.append(loop)
    for _ in range(40):  # 2^40 paths through 40 lists
        loop = [loop, loop]
    weights = text_weights("lion-s")
    found = checkpoint.open_checkpoint(str(write_torch(tmp_path / "loop.pt", {"hooks": loop, "model": weights})))
    assert found.where == "model" and len(found.tensors) == len(weights)


def test_mutated_pickles_are_refused_or_read(tmp_path):
    rng = random.Random(1)
    path = write_torch(tmp_path / "whole.pt", deit(image_weights("Decay", "S"), input_size=32))
    with zipfile.ZipFile(path) as whole:
        pickled = whole.read("archive/data.pkl")
    for _ in range(100):
        broken = bytearray(pickled)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(broken))
            if rng.random() < 0.7:
                broken[at] = rng.randrange(256)
            else:
                del broken[at : at + rng.randint(1, 20)]
        try:
            checkpoint.open_checkpoint(str(rewritten(path, tmp_path / "broken.pt", bytes(broken))), skip_objects=rng.random() < 0.5)
        except ValueError:
            pass
