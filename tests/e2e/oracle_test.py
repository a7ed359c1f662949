# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The oracle's numbers over the wire: hidden states and logits of every variant, in every form, within 1e-4."""

import numpy as np
import pytest

from harness import Oracle, assert_close, ids_input, pb, values

FORMS = [(pb.COMPUTE_MODE_PARALLEL, 0), *((pb.COMPUTE_MODE_CHUNKED, c) for c in (1, 7, 16, 64)), (pb.COMPUTE_MODE_CHUNKED, 0), (pb.COMPUTE_MODE_RECURRENT, 0)]
FORM_IDS = ["parallel", "chunked-1", "chunked-7", "chunked-16", "chunked-64", "chunked-default", "recurrent"]


@pytest.mark.parametrize("form", FORMS, ids=FORM_IDS)
@pytest.mark.parametrize("name", Oracle.NAMES)
def test_hidden_states_and_logits(server, oracles, name, form):
    oracle = oracles[name]
    options = pb.EncodeOptions(mode=form[0], chunk_tokens=form[1])
    embedded = server.call("Embed", pb.EmbedRequest(model=name, inputs=oracle.inputs(), options=options, pooling=pb.POOLING_TOKENS))
    assert len(embedded.results) == len(oracle.lengths)
    for result, hidden, length in zip(embedded.results, oracle.hidden, oracle.lengths):
        assert (result.token_count, result.truncated, result.mode) == (length, False, form[0])
        assert_close([v.values for v in result.vectors], hidden)

    classified = server.call("Classify", pb.ClassifyRequest(model=name, inputs=oracle.inputs(), options=options, raw_scores=True))
    for result, logits, length in zip(classified.results, oracle.logits, oracle.lengths):
        assert (result.token_count, result.truncated, result.mode) == (length, False, form[0])
        scores = {s.index: s.score for s in result.scores}
        assert_close([scores[i] for i in range(len(logits))], logits)


@pytest.mark.parametrize("name", Oracle.NAMES)
def test_pooled_vectors(server, oracles, name):
    oracle = oracles[name]
    for pooling, make in ((pb.POOLING_CLS, lambda h: h[0]), (pb.POOLING_MEAN, lambda h: h.mean(axis=0)),
                          (pb.POOLING_UNSPECIFIED, lambda h: h.mean(axis=0))):  # without modules.json: MEAN
        answer = server.call("Embed", pb.EmbedRequest(model=name, inputs=oracle.inputs(), pooling=pooling))
        for result, hidden in zip(answer.results, oracle.hidden):
            assert len(result.vectors) == 1
            assert_close(values(result.vectors[0]), make(hidden))


@pytest.mark.parametrize("other, same", [("sharded", "text-lion-s-ln"), ("F16", "F16-as-F32"), ("BF16", "BF16-as-F32")])
def test_weights_in_other_files(server, oracles, other, same):
    """Shards, and halves on disk, hold the same numbers: the same bits come out."""
    inputs = oracles["text-lion-s-ln"].inputs()
    got, want = (server.call("Embed", pb.EmbedRequest(model=m, inputs=inputs)).results for m in (other, same))
    assert [r.vectors[0].values for r in got] == [r.vectors[0].values for r in want]


def test_auto_follows_length_alone(server, oracles):
    limit = next(m for m in server.call("ListModels", pb.ListModelsRequest()).models if m.name == "text-lion-s-ln").parallel_max_tokens
    assert limit == 64
    ids = [int(i) % 211 for i in range(3, 203)]
    for mode in (pb.COMPUTE_MODE_UNSPECIFIED, pb.COMPUTE_MODE_AUTO):
        answer = server.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids[:n]) for n in (1, limit, limit + 1, 200)], options=pb.EncodeOptions(mode=mode)))
        assert [r.mode for r in answer.results] == [pb.COMPUTE_MODE_PARALLEL] * 2 + [pb.COMPUTE_MODE_CHUNKED] * 2


def test_same_bits_alone_and_in_any_batch(server, oracles):
    random = np.random.default_rng(3)
    rows = [ids_input(random.integers(0, 211, n)) for n in (1, 2, 15, 16, 17, 31, 63, 64, 65, 100, 200)]
    together = server.call("Embed", pb.EmbedRequest(inputs=rows)).results
    backwards = server.call("Embed", pb.EmbedRequest(inputs=rows[::-1])).results[::-1]
    for row, a, b in zip(rows, together, backwards):
        alone = server.call("Embed", pb.EmbedRequest(inputs=[row])).results[0]
        assert a.vectors[0].values == alone.vectors[0].values
        assert b.vectors[0].values == alone.vectors[0].values
