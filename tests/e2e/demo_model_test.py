# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The demo model through the service, on texts that it was not trained on: as good as its card says."""

import gzip
import json

import numpy as np
import pytest

from harness import DEMO, Server, pb, text_input


def read(name):
    with gzip.open(DEMO / "texts" / name, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def demo():
    with Server([f"demo={DEMO / 'model'}"], "--parallel_max_tokens=128") as running:
        yield running


def in_calls(server, method, texts, **fields):
    """All results, in calls of 250."""
    request = {"Embed": pb.EmbedRequest, "Classify": pb.ClassifyRequest}[method]
    for start in range(0, len(texts), 250):
        answer = server.call(method, request(inputs=[text_input(t) for t in texts[start : start + 250]], **fields))
        for result in answer.results:
            assert not result.HasField("error"), result.error.message
            yield result


def test_retrieval(demo):
    """A synopsis finds its own description among 2,000, at least 0.97 times as often as the teacher's vectors do."""
    pairs = read("retrieval.jsonl.gz")
    synopses, descriptions = (np.array([r.vectors[0].values for r in in_calls(demo, "Embed", [p[part] for p in pairs])], np.float32)
                              for part in ("synopsis", "description"))
    assert np.allclose(np.linalg.norm(synopses, axis=1), 1, atol=1e-5)
    recall = np.mean((synopses @ descriptions.T).argmax(axis=1) == np.arange(len(pairs)))
    teacher = json.loads((DEMO / "texts/teacher.json").read_text())
    assert teacher["pairs"] == len(pairs) == 2000
    assert recall >= 0.97 * teacher["recall_at_1"], f"recall@1 {recall:.4f}, teacher {teacher['recall_at_1']:.4f}"


def test_sections(demo):
    """The archive section of a package, from its description, out of all of them: right three times in four."""
    packages = read("sections_heldout.jsonl.gz")
    results = list(in_calls(demo, "Classify", [p["text"] for p in packages], top_k=1))
    accuracy = np.mean([r.scores[0].label == p["section"] for r, p in zip(results, packages)])
    assert accuracy >= 0.75, f"accuracy {accuracy:.4f}"
    labels = set(demo.call("ListModels", pb.ListModelsRequest()).models[0].labels)
    assert {p["section"] for p in packages} <= labels


def test_the_three_forms_agree_on_a_long_text(demo):
    text = (DEMO / "texts/long.txt").read_text()

    def embed(mode):
        return demo.call("Embed", pb.EmbedRequest(inputs=[text_input(text)], options=pb.EncodeOptions(mode=mode))).results[0]

    chunked, recurrent, parallel = (embed(m) for m in (pb.COMPUTE_MODE_AUTO, pb.COMPUTE_MODE_RECURRENT, pb.COMPUTE_MODE_PARALLEL))
    assert (chunked.mode, recurrent.mode, parallel.mode) == (pb.COMPUTE_MODE_CHUNKED, pb.COMPUTE_MODE_RECURRENT, pb.COMPUTE_MODE_PARALLEL)
    assert chunked.token_count == recurrent.token_count == parallel.token_count > 4000
    a, b, c = (np.array(r.vectors[0].values) for r in (chunked, recurrent, parallel))
    # Vectors of length 1. Wide enough for a server in bfloat16 too, with three roundings to 8 bits on the way.
    assert min(a @ b, a @ c, b @ c) >= 1 - 3 * 2**-8
