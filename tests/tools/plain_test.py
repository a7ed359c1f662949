# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tools/verify_model/plain.py against the oracle: what models are verified with is itself right, and judges as it says."""

import pathlib
import sys

import numpy as np
import pytest
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tools"), str(ROOT / "tools/verify_model")]

import plain  # noqa: E402
import verify  # noqa: E402

ORACLES = sorted(p.parent for p in (ROOT / "tests/oracle").glob("*/expected.safetensors"))
# The reference computes in float32: its own error.
TOLERANCE = 1e-4


@pytest.mark.parametrize("directory", ORACLES, ids=lambda d: d.name)
def test_oracle(directory):
    model = plain.load(directory)
    expected = safetensors.numpy.load_file(directory / "expected.safetensors")
    if model.kind == "text":
        rows = [(expected[f"input_ids.{b}"], expected[f"token_type_ids.{b}"]) for b in range(len(expected["lengths"]))]
    else:
        rows = list(expected["pixel_values"])
    for b, row in enumerate(rows):
        outputs = model.run(row)
        np.testing.assert_allclose(outputs["logits"], expected["logits"][b], rtol=0, atol=TOLERANCE)
        if model.kind == "text":
            np.testing.assert_allclose(outputs["hidden"], expected[f"last_hidden_state.{b}"], rtol=0, atol=TOLERANCE)
        else:
            np.testing.assert_allclose(outputs["vector"], expected["features"][b], rtol=0, atol=TOLERANCE)


def test_the_mask_is_the_products_that_define_it():
    a = np.random.default_rng(1).uniform(0.1, 1, (2, 7))
    got = plain.decay_mask(np.log(a))
    for h in range(2):
        for i in range(7):
            for j in range(7):
                walk = a[h, j:i] if j < i else a[h, i + 1 : j + 1]
                assert got[h, i, j] == pytest.approx(walk.prod(), rel=1e-12)


def test_precisions_lose_what_their_step_says():
    directory = ROOT / "tests/oracle/text-lion-d-noln"
    row = plain.load(directory).random_row(20, np.random.default_rng(2))
    exact = plain.load(directory).run(row)["hidden"]
    errors = {p: np.abs(plain.load(directory, p).run(row)["hidden"] - exact).max() for p in plain.PRECISIONS}
    assert errors["float64"] == 0
    assert 0 < errors["float32"] < 1e-4 < errors["float16"] < errors["bfloat16"] < 0.5


def test_what_is_allowed():
    wanted, yardstick = [{"logits": np.array([0.5, -3.0])}], [{"logits": np.array([0.5, -3.1])}]
    close = [{"logits": np.array([0.5, -3.00001])}]
    assert verify.allowed("logits", "float32", wanted, close, None) == pytest.approx(3e-4)  # the least
    assert verify.allowed("logits", "float32", wanted, yardstick, None) == pytest.approx(2 * 0.1 + 2 * 2.0**-23)
    assert verify.allowed("logits", "bfloat16", wanted, yardstick, None) == pytest.approx(2 * 0.1 + 2 * 2.0**-7)
    assert verify.allowed("logits", "int8", wanted, None, None) is None
    assert verify.allowed("logits", "int8", wanted, None, 0.25) == 0.25
