# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion_serve.sentence_transformers beside the real SentenceTransformer: the same arguments and kinds of results; its tools take ours."""

import inspect

import numpy as np
import pytest
import torch
from lion_serve.sentence_transformers import SentenceEncoder
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator


@pytest.fixture
def model(client):
    return SentenceEncoder(client)


def test_the_arguments_are_those_of_the_real_one():
    real = inspect.signature(inspect.unwrap(SentenceTransformer.encode)).parameters
    ours = inspect.signature(SentenceEncoder.encode).parameters
    theirs = [p for p in real.values() if p.kind != p.VAR_KEYWORD]
    assert list(ours) == [p.name for p in theirs] and [p.default for p in ours.values()] == [p.default for p in theirs]
    for name in ("encode_query", "encode_document", "similarity", "similarity_pairwise", "similarity_fn_name", "get_sentence_embedding_dimension"):
        assert hasattr(SentenceTransformer, name) and hasattr(SentenceEncoder, name)


def test_results_are_of_the_real_ones_kinds(client, model, packages):
    texts = list(packages)
    want = client.embed(texts).vectors
    many, one = model.encode(texts), model.encode(texts[0])
    assert isinstance(many, np.ndarray) and (many == want).all() and one.shape == (384,) and (one == want[0]).all()
    tensor = model.encode(texts, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (5, 384) and model.encode(texts[0], convert_to_tensor=True).shape == (384,)
    tensors = model.encode(texts, convert_to_numpy=False)
    assert isinstance(tensors, list) and len(tensors) == 5 and torch.equal(tensors[0], tensor[0])
    tokens = model.encode(texts[:2], output_value="token_embeddings")
    assert [t.shape[1] for t in tokens] == [256, 256] and model.encode("x", output_value="token_embeddings").shape == (3, 256)
    assert model.encode([]).shape[0] == 0 and model.encode(("a", "pair")).shape == (384,) and model.encode([("a", "pair")]).shape == (1, 384)


def test_options(client, model):
    assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 384
    assert model.encode("x", truncate_dim=16).shape == (16,) and SentenceEncoder(client, truncate_dim=8).encode("x").shape == (8,)
    assert SentenceEncoder(client, truncate_dim=8).get_embedding_dimension() == 8
    raw = SentenceEncoder(client, normalize=False)
    assert np.linalg.norm(raw.encode("x")) != pytest.approx(1, abs=1e-3) and np.linalg.norm(raw.encode("x", normalize_embeddings=True)) == pytest.approx(1, abs=1e-5)
    for wrong in ({"precision": "int8"}, {"output_value": "words"}, {"prompt_name": "none"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.encode("x", **wrong)


def test_prompts(client, model):
    prompted = SentenceEncoder(client, prompts={"query": "find: ", "other": "so: "})
    assert (prompted.encode_query("x") == model.encode("find: x")).all() and (prompted.encode_document("x") == model.encode("x")).all()
    assert (prompted.encode("x", prompt_name="other") == model.encode("so: x")).all() and (prompted.encode(["x"], prompt="y ")[0] == model.encode("y x")).all()


def test_a_bar(model, capsys):
    model.encode(["x"] * 200, show_progress_bar=True)
    assert "200/200" in capsys.readouterr().err


def test_its_tools_take_ours(model, packages):
    texts, kinds = list(packages), list(packages.values())
    assert torch.allclose(model.similarity(model.encode(texts), model.encode(texts)).diagonal(), torch.ones(5))
    assert torch.allclose(model.similarity_pairwise(model.encode(texts), model.encode(texts)), torch.ones(5))
    found = util.semantic_search(model.encode(["nginx web server"], convert_to_tensor=True), model.encode(texts, convert_to_tensor=True), top_k=1)
    assert kinds[found[0][0]["corpus_id"]] == "web"
    pairs = util.paraphrase_mining(model, [*texts, "an HTTP server, fast and small"], top_k=1)
    assert set(pairs[0][1:]) == {0, 5}


def test_its_evaluators_take_ours(model, packages):
    queries = {"q1": "nginx web server", "q2": "gcc, the GNU C compiler", "q3": "chess engine"}
    corpus = {kind: text for text, kind in packages.items()}
    wanted = {"q1": {"web"}, "q2": {"compiler"}, "q3": {"chess"}}
    scores = InformationRetrievalEvaluator(queries, corpus, wanted, mrr_at_k=[5], ndcg_at_k=[5], accuracy_at_k=[1], precision_recall_at_k=[1], map_at_k=[5])(model)
    assert scores["cosine_accuracy@1"] == 1
    near, far = "a small web server", "an alphabet game for children"
    scores = EmbeddingSimilarityEvaluator(["a web server"] * 3, [near, "a mail server", far], [0.9, 0.5, 0.1])(model)
    assert scores["spearman_cosine"] == pytest.approx(1)
