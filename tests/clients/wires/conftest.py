# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What callers of other servers already have, against a real server with the demo model.

tritonclient and kserve each bring descriptors of the package inference, under different file names, so that one process can
load only one of them: run.sh runs each file of this folder by itself.
"""

import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import Server, pb, text_input, values  # noqa: E402
from pictures import S, png, vision_model  # noqa: E402
from servers import MODEL, QUICK  # noqa: E402

TEXTS = ["a compiler for the C language", "play chess against the computer", "naïve café", ""]


@pytest.fixture(scope="session")
def server():
    with Server([MODEL], *QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def vision(tmp_path_factory):
    """A server of an image model."""
    with Server([vision_model(tmp_path_factory.mktemp("models") / "vision")], *QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def pictures(vision):
    """Two pictures as files and as pixels, and what lion.v1 says of them: vectors, scores in the order of the labels."""
    shown = np.random.default_rng(5).integers(0, 256, (2, S, S, 3), dtype=np.uint8)

    class Pictures:
        files = [png(picture) for picture in shown]
        pixels = ((shown.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)
        inputs = [pb.Input(image=file) for file in files]
        vectors = [values(r.vectors[0]) for r in vision.call("Embed", pb.EmbedRequest(inputs=inputs)).results]
        rows = [sorted(r.scores, key=lambda s: s.index) for r in vision.call("Classify", pb.ClassifyRequest(inputs=inputs)).results]
        scores = [[s.score for s in row] for row in rows]

    return Pictures


@pytest.fixture(scope="session")
def expected(server):
    """What lion.v1 says of TEXTS: vectors, scores in the order of the labels, ids."""

    class Expected:
        vectors = [values(r.vectors[0]) for r in server.call("Embed", pb.EmbedRequest(inputs=map(text_input, TEXTS))).results]
        scores = [{s.label: s.score for s in r.scores} for r in server.call("Classify", pb.ClassifyRequest(inputs=map(text_input, TEXTS))).results]
        ids = [list(r.ids) for r in server.call("Tokenize", pb.TokenizeRequest(inputs=map(text_input, TEXTS))).results]
        model = server.stub.ListModels(pb.ListModelsRequest()).models[0]

    return Expected
