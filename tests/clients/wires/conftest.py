# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What callers of other servers already have, against a real server with the demo model.

tritonclient and kserve each bring descriptors of the package inference, under different file names, so that one process can
load only one of them: run.sh runs each file of this folder by itself.
"""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import Server, pb, text_input, values  # noqa: E402
from servers import MODEL, QUICK  # noqa: E402

TEXTS = ["a compiler for the C language", "play chess against the computer", "naïve café", ""]


@pytest.fixture(scope="session")
def server():
    with Server([MODEL], *QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def expected(server):
    """What lion.v1 says of TEXTS: vectors, scores in the order of the labels, ids."""

    class Expected:
        vectors = [values(r.vectors[0]) for r in server.call("Embed", pb.EmbedRequest(inputs=map(text_input, TEXTS))).results]
        scores = [{s.label: s.score for s in r.scores} for r in server.call("Classify", pb.ClassifyRequest(inputs=map(text_input, TEXTS))).results]
        ids = [list(r.ids) for r in server.call("Tokenize", pb.TokenizeRequest(inputs=map(text_input, TEXTS))).results]
        model = server.stub.ListModels(pb.ListModelsRequest()).models[0]

    return Expected
