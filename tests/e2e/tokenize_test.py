# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenize equals the crate's own Python binding: the demo's texts, unicode, the empty text, 100 kB, control characters."""

import json

import pytest
import tokenizers

import models
from harness import DEMO, Server, pair_input, pb, text_input

STRANGE = [
    "", " ", "\n", "a", "\0", "a\0b", "\x01\x02\x1f\x7f", "tab\tnew\r\nline", "\u00a0\u2003\u3000", "\u200b\u200d\ufeff", "\u202e reversed",
    "é", "e\u0301", "ﬁ ligature", "İstanbul", "ß ẞ", "日本語のテキスト", "한국어", "हिन्दी", "العربية", "עברית", "ไทย", "🙂👩‍👩‍👧‍👦🏳️‍🌈", "\U0001f9ff",
    "\U0010ffff", "\ufffd", "\ud7ff\ue000", "[CLS] [SEP] [MASK] [PAD] [UNK]", "[CLS", "##ing", "a##b", "don't we'll e-mail x@y.z", "1,234.56 €/kg",
    "supercalifragilistic" * 20, "x" * 300, "word " * 2000, ". " * 500, "\\n \\u0041 &amp; <b>", "C:\\path\\file", "Zürich–Genève…", "“quotes” ‘and’ «more»",
]
LARGE = ["lion " * 20000, "獅" * 33000, "a" * 100000, "é🙂 " * 14000, "".join(chr(33 + i % 90) for i in range(100000))]


def demo_texts():
    texts = (DEMO / "texts/sentences.txt").read_text().splitlines() + [(DEMO / "texts/long.txt").read_text()]
    return texts + [json.loads(line)["text"] for line in (DEMO / "texts/packages.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=["small", "demo"])
def pair(request, made):
    """(server, Python's tokenizer of the same file)."""
    directory = made["text"] if request.param == "small" else DEMO / "model"
    with Server([directory], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256") as server:
        reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        reference.no_truncation()
        reference.no_padding()
        yield server, reference


def in_bytes(texts, encoding):
    """Python counts characters; the wire counts bytes, and gives special tokens 0, 0."""
    starts = [[0] for _ in texts]
    for text, places in zip(texts, starts):
        for c in text:
            places.append(places[-1] + len(c.encode()))
    spans = []
    for (start, end), sequence in zip(encoding.offsets, encoding.sequence_ids):
        spans.append((0, 0) if sequence is None else (starts[sequence][start], starts[sequence][end]))
    return spans


def check(result, encoding, texts):
    assert not result.HasField("error"), result.error.message
    assert list(result.ids) == encoding.ids
    assert list(result.tokens) == encoding.tokens
    assert list(result.type_ids) == encoding.type_ids
    assert [(s.start_byte, s.end_byte) for s in result.spans] == in_bytes(texts, encoding)
    assert [(s.start_token, s.end_token) for s in result.spans] == [(i, i + 1) for i in range(len(encoding.ids))]


def test_texts(pair):
    server, reference = pair
    texts = STRANGE + demo_texts()
    answer = server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(t) for t in texts]))
    for text, result in zip(texts, answer.results, strict=True):
        check(result, reference.encode(text), [text])


@pytest.mark.parametrize("text", LARGE, ids=["words", "ideographs", "one-word", "mixed", "marks"])
def test_100_kilobytes(pair, text):
    server, reference = pair
    check(server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(text)])).results[0], reference.encode(text), [text])


def test_pairs(pair):
    server, reference = pair
    pairs = [(a, b) for a in STRANGE[::3] for b in STRANGE[1::7]]
    answer = server.call("Tokenize", pb.TokenizeRequest(inputs=[pair_input(*p) for p in pairs]))
    for p, result in zip(pairs, answer.results, strict=True):
        check(result, reference.encode(*p), p)


def test_tokenize_gives_what_embed_runs(pair):
    server, _ = pair
    texts = [t for t in STRANGE if len(t) < 2000]
    ids = server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(t) for t in texts])).results
    by_text = server.call("Embed", pb.EmbedRequest(inputs=[text_input(t) for t in texts])).results
    by_ids = server.call("Embed", pb.EmbedRequest(inputs=[pb.Input(token_ids=pb.TokenIds(ids=r.ids, type_ids=r.type_ids)) for r in ids])).results
    assert [r.token_count for r in by_text] == [len(r.ids) for r in ids]
    assert [r.vectors[0].values for r in by_text] == [r.vectors[0].values for r in by_ids]


def test_truncation_in_the_file_is_not_ours(tmp_path):
    """A tokenizer.json that truncates and pads by itself: limits are the server's."""
    directory = models.with_tokenizer(tmp_path / "model")
    tokenizer = models.small_tokenizer()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(directory / "tokenizer.json"))
    with Server([directory], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256") as server:
        answer = server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input("the lion is in the lion and of"), text_input("the")]))
        assert [len(r.ids) for r in answer.results] == [10, 3]
