# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Round trip: a checkpoint as its trainer writes it, converted by the tool, served, equal to the plain implementation in every form.

plain.py reads the directory that the converter wrote; what the converter read is compared with it by tests/tools.
"""

import subprocess
import sys

import numpy as np
import pytest

from harness import BINARY, ROOT, Server, assert_close, ids_input, pb, text_input, values

for folder in ("tools", "tools/verify_model", "tests/tools"):
    sys.path.append(str(ROOT / folder))

import checkpoints  # noqa: E402
import plain  # noqa: E402

CONVERT = ROOT / "tools/convert_checkpoint/convert.py"
VERIFY = ROOT / "tools/verify_model/verify.py"
FORMS = (pb.COMPUTE_MODE_PARALLEL, pb.COMPUTE_MODE_CHUNKED, pb.COMPUTE_MODE_RECURRENT)
FORM_IDS = ("parallel", "chunked", "recurrent")

D_CONFIG = {"arch_type": "nova", "position_embedding_type": "relative_key_query", "layer_norm_eps": 1e-12, "num_attention_heads": 4}
LIT_CONFIG = {"arch_type": "linear_attention", "position_embedding_type": "absolute", "num_attention_heads": checkpoints.HEADS}

# name: (checkpoint, flags of the converter)
TEXTS = {
    "lit-mlm": (lambda: checkpoints.composer(checkpoints.text_weights("lion-lit", True, "mlm", 1), LIT_CONFIG, checkpoints.vocabulary()), ()),
    "lit-noln": (lambda: checkpoints.composer(checkpoints.text_weights("lion-lit", False, "mlm", 2)), ("--num_heads=4",)),
    "d-mlm": (lambda: checkpoints.composer(checkpoints.text_weights("lion-d", False, "mlm", 3), D_CONFIG), ("--pooling=cls", "--normalize")),
    "d-ln": (lambda: checkpoints.prefixed(checkpoints.text_weights("lion-d", True, "classifier", 4), "module."), ()),
    "s-mlm": (lambda: checkpoints.composer(checkpoints.text_weights("lion-s", False, "mlm", 5), vocabulary=checkpoints.vocabulary(), config={"arch_type": "nova-inputdep"}), ()),
    "s-ln": (lambda: {"state_dict": checkpoints.prefixed(checkpoints.text_weights("lion-s", True, "classifier", 6), "module.model.")}, ("--multi_label",)),
    "s-noln": (lambda: checkpoints.text_weights("lion-s", False, "classifier", 7), ("--dtype=float16",)),
}
CLASSIFIERS = ("d-ln", "s-ln", "s-noln")


def image(mask_type, order, positions, pooling, seed):
    """(checkpoint, flags) of an image encoder as DeiT's training leaves it."""
    tree = checkpoints.deit(checkpoints.image_weights(mask_type, order, positions, seed=seed), input_size=checkpoints.SIZE)
    return lambda: tree, (f"--pooling={pooling}", f"--num_heads={checkpoints.IMAGE_HEADS}")


IMAGES = {
    "lit": image("Lit", "Normal", True, "cls", 11),
    "lit-nopos": image("Lit", "Normal", False, "mean", 12),
    "decay": image("Decay", "Normal", True, "mean", 13),
    "decay-natural": image("Decay", "S", False, "cls", 14),
    "selective": image("Selective", "Normal", False, "cls", 15),
    "selective-natural": image("Selective", "S", False, "mean", 16),
    "selective-natural-pos": image("Selective", "S", True, "cls", 17),
}


def convert(tmp, name, tree, *flags):
    path = checkpoints.write_torch(tmp / f"{name}.pt", tree)
    done = subprocess.run([sys.executable, CONVERT, path, "--out", tmp / name, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tmp / name


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("converted")
    return {name: convert(tmp, name, make(), *flags) for name, (make, flags) in (TEXTS | IMAGES).items()}


@pytest.fixture(scope="module")
def serving(converted):
    with Server([f"{name}={path}" for name, path in converted.items()], "--parallel_max_tokens=64", "--max_batch_tokens=4096") as running:
        yield running


@pytest.mark.parametrize("mode", FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", TEXTS)
def test_text(serving, converted, name, mode):
    model = plain.load(converted[name])
    rng = np.random.default_rng(len(name))
    rows = [model.random_row(length, rng) for length in (1, 2, 33, 150)]
    wanted = [model.run(row) for row in rows]
    inputs = [ids_input(*row) for row in rows]
    options = pb.EncodeOptions(mode=mode, chunk_tokens=16 if mode == pb.COMPUTE_MODE_CHUNKED else 0)
    hidden = serving.call("Embed", pb.EmbedRequest(model=name, inputs=inputs, options=options, pooling=pb.POOLING_TOKENS)).results
    own = serving.call("Embed", pb.EmbedRequest(model=name, inputs=inputs, options=options)).results
    for want, tokens, vector in zip(wanted, hidden, own, strict=True):
        assert tokens.mode == mode
        assert_close([v.values for v in tokens.vectors], want["hidden"])
        assert_close(values(vector.vectors[0]), want["vector"])
    assert ("logits" in wanted[0]) == (name in CLASSIFIERS)
    if "logits" in wanted[0]:
        for want, result in zip(wanted, serving.call("Classify", pb.ClassifyRequest(model=name, inputs=inputs, options=options, raw_scores=True)).results):
            assert_close([s.score for s in sorted(result.scores, key=lambda s: s.index)], want["logits"])


@pytest.mark.parametrize("mode", FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", IMAGES)
def test_image(serving, converted, name, mode):
    model = plain.load(converted[name])
    rng = np.random.default_rng(len(name))
    rows = [model.random_row(size, rng) for size in ((32, 32) if model.absolute else (32, 8, 56))]
    wanted = [model.run(row) for row in rows]
    inputs = [pb.Input(pixels=pb.PixelTensor(data=row.astype("<f4").tobytes())) for row in rows]
    options = pb.EncodeOptions(mode=mode, chunk_tokens=8 if mode == pb.COMPUTE_MODE_CHUNKED else 0)
    hidden = serving.call("Embed", pb.EmbedRequest(model=name, inputs=inputs, options=options, pooling=pb.POOLING_TOKENS)).results
    own = serving.call("Embed", pb.EmbedRequest(model=name, inputs=inputs, options=options)).results
    classified = serving.call("Classify", pb.ClassifyRequest(model=name, inputs=inputs, options=options, raw_scores=True)).results
    for want, tokens, vector, scores in zip(wanted, hidden, own, classified, strict=True):
        assert tokens.mode == mode
        assert_close([v.values for v in tokens.vectors], want["hidden"])
        assert_close(values(vector.vectors[0]), want["vector"])
        assert_close([s.score for s in sorted(scores.scores, key=lambda s: s.index)], want["logits"])


def test_the_vocabulary_of_the_checkpoint_reads_text(serving, converted):
    answer = serving.call("Tokenize", pb.TokenizeRequest(model="s-mlm", inputs=[text_input("Lions serve")]))
    words = checkpoints.vocabulary()
    assert list(answer.results[0].ids) == [words.index(w) for w in ("[CLS]", "lion", "##s", "serve", "[SEP]")]


def verify(*arguments):
    return subprocess.run([sys.executable, VERIFY, *map(str, arguments), "--lengths=1,70"], capture_output=True, text=True)


def test_verify_tells_equal_from_not_equal(converted, tmp_path):
    good = verify(converted["s-ln"], f"--server={BINARY}", "--dtype=float32,bfloat16")
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.count(" ok") == 18 and "TOO FAR" not in good.stdout

    image = verify(converted["decay-natural"], f"--server={BINARY}", "--sizes=32,16")
    assert image.returncode == 0 and image.stdout.count(" ok") == 9, image.stdout + image.stderr

    strict = verify(converted["s-ln"], f"--server={BINARY}", "--tolerance=1e-12", "--forms=parallel")
    assert strict.returncode == 1 and "TOO FAR" in strict.stdout

    refused = verify(converted["s-ln"], f"--server={BINARY}", "--dtype=fp8")
    assert refused.returncode == 2 and "the server did not start" in refused.stderr and "fp8" in refused.stderr
