# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every option of Embed and Classify: pooling, Dense and Normalize, dimensions, vector types, truncation, top_k, raw scores."""

import numpy as np
import pytest

import models
from harness import Server, assert_close, ids_input, pair_input, pb, text_input, values

TEXT = "the lion serves texts of any length, and the second half of this one is here only to be cut away again and again"


def unit(v):
    return v / np.linalg.norm(v)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """name -> (W, b, activation): models with sentence-transformers pipelines, and the server that has them."""
    root = tmp_path_factory.mktemp("pipelines")
    kinds = {
        "mean-dense-norm": dict(),
        "cls-dense-plain": dict(pooling="cls", activation="torch.nn.modules.linear.Identity", normalize=False),
        "mean-norm": dict(dense_width=0),
    }
    made = {name: models.with_pipeline(root / name, **kind) for name, kind in kinds.items()}
    with Server([f"{name}={m[0]}" for name, m in made.items()], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=1024") as running:
        yield running, {name: (m[1], m[2]) for name, m in made.items()}


def embed_oracle(server, oracle, **fields):
    answer = server.call("Embed", pb.EmbedRequest(inputs=oracle.inputs(), **fields))
    return [values(r.vectors[0]) for r in answer.results]


def test_pipelines(pipelines, oracles):
    server, weights = pipelines
    oracle = oracles["text-lion-s-ln"]
    w, b = weights["mean-dense-norm"]
    for got, hidden in zip(embed_oracle(server, oracle, model="mean-dense-norm"), oracle.hidden):
        assert_close(got, unit(np.tanh(w @ hidden.mean(axis=0) + b)))
    for got, hidden in zip(embed_oracle(server, oracle, model="mean-dense-norm", normalize=False), oracle.hidden):
        assert_close(got, np.tanh(w @ hidden.mean(axis=0) + b))
    for got, hidden in zip(embed_oracle(server, oracle, model="mean-dense-norm", pooling=pb.POOLING_CLS), oracle.hidden):
        assert_close(got, unit(np.tanh(w @ hidden[0] + b)))
    w, b = weights["cls-dense-plain"]
    for got, hidden in zip(embed_oracle(server, oracle, model="cls-dense-plain"), oracle.hidden):
        assert_close(got, w @ hidden[0] + b)
    for got, hidden in zip(embed_oracle(server, oracle, model="cls-dense-plain", normalize=True), oracle.hidden):
        assert_close(got, unit(w @ hidden[0] + b))
    for got, hidden in zip(embed_oracle(server, oracle, model="mean-norm"), oracle.hidden):
        assert_close(got, unit(hidden.mean(axis=0)))


def test_tokens_never_pass_dense_and_are_normalised_only_on_request(pipelines, oracles):
    server, _ = pipelines
    oracle = oracles["text-lion-s-ln"]
    for normalize, make in ((None, lambda h: h), (False, lambda h: h), (True, lambda h: h / np.linalg.norm(h, axis=1, keepdims=True))):
        answer = server.call("Embed", pb.EmbedRequest(model="mean-dense-norm", inputs=oracle.inputs(), pooling=pb.POOLING_TOKENS, normalize=normalize))
        for result, hidden in zip(answer.results, oracle.hidden):
            assert_close([v.values for v in result.vectors], make(hidden))
            assert [(v.span.start_token, v.span.end_token) for v in result.vectors] == [(i, i + 1) for i in range(len(hidden))]
            assert all((v.span.start_byte, v.span.end_byte) == (0, 0) for v in result.vectors)  # ids have no bytes


def test_token_spans_are_bytes_of_the_text_given(server):
    first, second = "Serving é日本語 lions", "x 🙂 y"
    tokenizer = models.small_tokenizer()
    for given, encoding, texts in ((text_input(first), tokenizer.encode(first), [first]),
                                   (pair_input(first, second), tokenizer.encode(first, second), [first, second])):
        result = server.call("Embed", pb.EmbedRequest(model="text", inputs=[given], pooling=pb.POOLING_TOKENS)).results[0]
        assert result.token_count == len(encoding.ids) == len(result.vectors)
        for vector, (start, end), sequence in zip(result.vectors, encoding.offsets, encoding.sequence_ids):
            text = texts[sequence] if sequence is not None else ""
            want = (len(text[:start].encode()), len(text[:end].encode())) if sequence is not None else (0, 0)
            assert (vector.span.start_byte, vector.span.end_byte) == want


def test_list_models_shows_the_pipeline(pipelines):
    server, _ = pipelines
    shown = {m.name: (m.embedding_dimensions, m.pooling, m.normalize) for m in server.call("ListModels", pb.ListModelsRequest()).models}
    assert shown == {"mean-dense-norm": (32, pb.POOLING_MEAN, True), "cls-dense-plain": (32, pb.POOLING_CLS, False),
                     "mean-norm": (48, pb.POOLING_MEAN, True)}


@pytest.mark.parametrize("dimensions", [1, 5, 31, 32])
def test_dimensions_keep_the_first_and_normalise_again(pipelines, oracles, dimensions):
    server, _ = pipelines
    oracle = oracles["text-lion-s-ln"]
    full = embed_oracle(server, oracle, model="mean-dense-norm", normalize=False)
    for got, whole in zip(embed_oracle(server, oracle, model="mean-dense-norm", dimensions=dimensions), full):
        assert_close(got, unit(whole[:dimensions]))
    for got, whole in zip(embed_oracle(server, oracle, model="mean-dense-norm", dimensions=dimensions, normalize=False), full):
        assert (got == whole[:dimensions]).all()
    answer = server.call("Embed", pb.EmbedRequest(model="mean-dense-norm", inputs=oracle.inputs(), pooling=pb.POOLING_TOKENS, dimensions=dimensions))
    for result, hidden in zip(answer.results, oracle.hidden):
        assert_close([v.values for v in result.vectors], hidden[:, :dimensions])


def test_vector_types_carry_the_same_vector(server, oracles):
    inputs = oracles["text-lion-s-ln"].inputs()

    def embed(kind, **fields):
        return [v for r in server.call("Embed", pb.EmbedRequest(inputs=inputs, vector_type=kind, **fields)).results for v in r.vectors]

    for fields in ({}, {"pooling": pb.POOLING_TOKENS}, {"normalize": True, "dimensions": 7}):
        plain = embed(pb.VECTOR_TYPE_UNSPECIFIED, **fields)
        assert [v.values for v in embed(pb.VECTOR_TYPE_FLOAT32, **fields)] == [v.values for v in plain]
        as_bytes, halves, int8 = (embed(t, **fields) for t in (pb.VECTOR_TYPE_FLOAT32_BYTES, pb.VECTOR_TYPE_FLOAT16_BYTES, pb.VECTOR_TYPE_INT8_BYTES))
        assert len(plain) == len(as_bytes) == len(halves) == len(int8)
        for want, f32, f16, i8 in zip(plain, as_bytes, halves, int8):
            v = values(want)
            assert not (f32.values or f16.values or i8.values or want.data)
            assert want.scale == f32.scale == f16.scale == 0
            assert (np.frombuffer(f32.data, "<f4") == v).all()
            assert (np.frombuffer(f16.data, "<f2") == v.astype(np.float16)).all()
            scale = np.abs(v).max() / np.float32(127)
            assert abs(i8.scale - scale) <= 1e-6 * scale
            back = np.frombuffer(i8.data, "i1").astype(np.float32) * i8.scale
            assert len(back) == len(v)
            assert np.abs(back - v).max() <= 0.5001 * i8.scale  # half a step, and the rounding of the scale


def expected_ids(text, pair, limit, direction):
    tokenizer = models.small_tokenizer()
    tokenizer.enable_truncation(limit, strategy="longest_first", direction=direction)
    encoding = tokenizer.encode(text, pair) if pair is not None else tokenizer.encode(text)
    return encoding.ids, encoding.type_ids


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("pair", [None, "short", TEXT[::-1], TEXT + TEXT], ids=["text", "pair-short", "pair-even", "pair-longer"])
def test_truncated_text_runs_the_ids_that_the_tokenizer_would_keep(small, direction, pair):
    """Special tokens stay, a pair loses from the longer text first; the same bits as those ids sent by hand."""
    truncation = pb.TRUNCATION_RIGHT if direction == "right" else pb.TRUNCATION_LEFT
    given = text_input(TEXT) if pair is None else pair_input(TEXT, pair)
    options = pb.EncodeOptions(truncation=truncation)
    got = small.call("Embed", pb.EmbedRequest(model="text", inputs=[given], options=options, pooling=pb.POOLING_TOKENS)).results[0]
    ids, type_ids = expected_ids(TEXT, pair, 64, direction)
    assert (got.token_count, got.truncated, len(ids)) == (64, True, 64)
    want = small.call("Embed", pb.EmbedRequest(model="ids", inputs=[ids_input(ids, type_ids)], pooling=pb.POOLING_TOKENS)).results[0]
    assert not want.truncated
    assert [v.values for v in got.vectors] == [v.values for v in want.vectors]


@pytest.mark.parametrize("truncation, kept", [(pb.TRUNCATION_RIGHT, slice(0, 64)), (pb.TRUNCATION_LEFT, slice(36, 100))])
def test_truncated_ids_are_cut_plainly(small, truncation, kept):
    ids, type_ids = list(range(100, 200)), [0] * 50 + [1] * 50
    options = pb.EncodeOptions(truncation=truncation)
    got = small.call("Embed", pb.EmbedRequest(model="ids", inputs=[ids_input(ids, type_ids)], options=options)).results[0]
    want = small.call("Embed", pb.EmbedRequest(model="ids", inputs=[ids_input(ids[kept], type_ids[kept])])).results[0]
    assert (got.token_count, got.truncated) == (64, True)
    assert (want.token_count, want.truncated) == (64, False)
    assert got.vectors[0].values == want.vectors[0].values


def test_what_fits_is_not_truncated(small):
    for truncation in (pb.TRUNCATION_UNSPECIFIED, pb.TRUNCATION_ERROR, pb.TRUNCATION_RIGHT, pb.TRUNCATION_LEFT):
        answer = small.call("Embed", pb.EmbedRequest(inputs=[text_input(""), text_input("the lion")], options=pb.EncodeOptions(truncation=truncation)))
        assert [(r.token_count, r.truncated) for r in answer.results] == [(2, False), (4, False)]


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


@pytest.mark.parametrize("model, make", [("text-lion-s-ln", softmax), ("sigmoid", lambda z: 1 / (1 + np.exp(-z)))])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("top_k", [0, 1, 3, 5, 6, 2**32 - 1])
def test_scores(server, oracles, model, make, raw, top_k):
    oracle = oracles["text-lion-s-ln"]
    answer = server.call("Classify", pb.ClassifyRequest(model=model, inputs=oracle.inputs(), top_k=top_k, raw_scores=raw))
    for result, logits in zip(answer.results, oracle.logits):
        logits = logits.astype(np.float64)
        order = np.argsort(-logits, kind="stable")[: top_k or 5]
        assert [s.index for s in result.scores] == list(order)
        assert [s.label for s in result.scores] == [f"label-{i}" for i in order]
        assert_close([s.score for s in result.scores], (logits if raw else make(logits))[order])


def test_answer_names_the_model_and_its_version(server):
    shown = {m.name: m.version for m in server.call("ListModels", pb.ListModelsRequest()).models}
    for method, request in (("Embed", pb.EmbedRequest), ("Classify", pb.ClassifyRequest)):
        for asked, served in (("", "text-lion-s-ln"), ("text-lion-d-noln", "text-lion-d-noln")):
            answer = server.call(method, request(model=asked, inputs=[ids_input([1, 2, 3])]))
            assert (answer.model, answer.model_version) == (served, shown[served])
            parts = [answer.timings.tokenize, answer.timings.queue, answer.timings.compute, answer.timings.total]
            assert all(p.ToNanoseconds() >= 0 for p in parts) and parts[3].ToNanoseconds() > 0
