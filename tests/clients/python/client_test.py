# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The blocking client against a real server: every call, every option, failures row by row."""

import threading

import grpc
import numpy as np
import pytest
from harness import pb, text_input, values
from lion_serve import Client, LionError, RowsFailed, TokenIds, wire

TEXTS = ["the lion", "", "Serving é日本語", 'a "quoted", text', "x"]
BAD = [1, 1 << 20]  # an id beyond the vocabulary


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc) as made:
        yield made


def embedded(server, inputs, **fields):
    return server.call("Embed", pb.EmbedRequest(inputs=inputs, **fields)).results


def test_embed_is_what_the_wire_gives(server, client):
    found = client.embed(TEXTS)
    want = embedded(server, [text_input(t) for t in TEXTS])
    assert found.vectors.dtype == np.float32 and found.vectors.shape == (len(TEXTS), 384)
    assert (found.vectors == [values(r.vectors[0]) for r in want]).all()
    assert found.token_counts.tolist() == [r.token_count for r in want] and not found.truncated.any()
    assert found.modes == ("parallel",) * len(TEXTS) and found.errors == ()
    assert (found.model, found.model_version) == ("demo", client.list_models()[0].version)
    assert len(found) == len(TEXTS) and (np.asarray(found) == found.vectors).all() and (found[1] == found.vectors[1]).all()
    assert np.asarray(found, np.float64).dtype == np.float64 and [len(v) for v in found] == [384] * len(TEXTS)


def test_every_kind_of_input(server, client):
    ids = [2, 100, 3]
    found = client.embed(["a", ("a", "b"), ids, tuple(ids), np.array(ids), np.array(ids, np.uint16), TokenIds(ids), TokenIds(np.array(ids), [0, 0, 1])])
    assert found.token_counts.tolist() == [3, 5, 3, 3, 3, 3, 3, 3] and (found.vectors[2:7] == found.vectors[2]).all()
    with pytest.raises(RowsFailed, match="type_ids\\[2\\]: 9 is not below"):
        client.embed([TokenIds(ids, [0, 0, 9])])


@pytest.mark.parametrize("kind, error", [("float32", 0), ("float32_bytes", 0), ("float16_bytes", 2**-11), ("int8_bytes", 0.51 / 127)])
def test_vector_types_arrive_as_float32(client, kind, error):
    exact = client.embed(TEXTS).vectors
    found = client.embed(TEXTS, vector_type=kind).vectors
    assert found.dtype == np.float32 and (np.abs(found - exact) <= error * np.abs(exact).max(axis=1, keepdims=True)).all()


def test_options(server, client):
    def one(**options):
        return client.embed(["the lion in winter"], **options)

    plain = one()
    assert np.linalg.norm(plain[0]) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(one(normalize=False)[0]) != pytest.approx(1, abs=1e-3)
    assert one(dimensions=16).vectors.shape == (1, 16)
    assert (one(pooling="cls")[0] != plain[0]).any() and (one(pooling="mean")[0] == plain[0]).all()
    for mode in ("parallel", "chunked", "recurrent"):
        found = one(mode=mode)
        assert found.modes == (mode,) and np.abs(found[0] - plain[0]).max() <= 1e-4
    assert one(mode="chunked", chunk_tokens=2).modes == ("chunked",)


def test_truncation(small):
    with Client(small.grpc) as client:
        long = "word " * 100
        with pytest.raises(RowsFailed, match="INVALID_ARGUMENT: inputs\\[0\\].text: .*64"):
            client.embed([long])
        for side in ("right", "left"):
            found = client.embed([long, "x"], truncation=side)
            assert found.token_counts.tolist() == [64, 3] and found.truncated.tolist() == [True, False]


def test_many_inputs_keep_their_order(client):
    texts = [f"{i % 97} words " * (1 + i % 5) for i in range(1000)]
    seen = []
    found = client.embed(texts, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 16 and seen[-1] == (1000, 1000) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    for i in (0, 63, 64, 500, 999):
        assert (found[i] == client.embed([texts[i]])[0]).all()
    seen.clear()
    again = client.embed((t for t in texts), progress=lambda done, total: seen.append(total))  # a generator has no length
    assert (again.vectors == found.vectors).all() and set(seen) == {None}


def test_no_more_calls_than_max_in_flight(server):
    """What the server sees at once is bounded, and more than one."""
    peak = []
    with Client(server.grpc, batch_size=1, max_in_flight=3) as client:
        done = threading.Event()

        def watch():
            while not done.is_set():
                peak.append(server.metrics().get('lion_rpc_in_flight{rpc="Embed"}', 0))

        watcher = threading.Thread(target=watch)
        watcher.start()
        client.embed(["word " * 500] * 60)
        done.set()
        watcher.join()
    assert 1 < max(peak) <= 3


def test_no_inputs(client):
    assert client.embed([]).vectors.shape == (0, 0) and client.classify([]) == client.tokenize([]) == [] and list(client.embed_stream([])) == []


def test_a_failed_row_is_raised_or_returned(client):
    rows = ["a", BAD, "b", [], "\ud800", [-1], "c"]
    with pytest.raises(RowsFailed) as caught:
        client.embed(["a", BAD, "b"])
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT and [e.index for e in caught.value.errors] == [1]
    assert caught.value.errors[0].message.startswith("inputs[1].token_ids.ids[1]: ")
    found = client.embed(rows, on_error="return")
    assert [e.index for e in found.errors] == [1, 3, 4, 5]
    assert all(e.message.startswith(f"inputs[{e.index}].") and e.code == grpc.StatusCode.INVALID_ARGUMENT for e in found.errors)
    assert np.isnan(found.vectors).all(axis=1).tolist() == [False, True, False, True, True, True, False]
    assert found.token_counts[[1, 3, 4, 5]].tolist() == [0] * 4 and found.modes[1] == ""
    assert (found.vectors[6] == client.embed(["c"])[0]).all()


def test_only_failed_rows(client):
    found = client.embed([BAD, []], on_error="return")
    assert found.vectors.shape == (2, 0) and ["token_ids.ids[1]" in found.errors[0].message, "is empty" in found.errors[1].message] == [True, True]


def test_what_does_not_fit_one_call_is_cut(small):
    with Client(small.grpc, batch_size=64) as client:  # 64 rows and 64 * 22 tokens a call are both too many
        texts = ["server " * 19 + str(i % 10) for i in range(64)]
        found = client.embed(texts)
        assert found.token_counts.tolist() == [22] * 64 and (found[63] == client.embed(texts[63:])[0]).all()


def test_a_full_queue_is_waited_for(small):
    """Three clients at once want more than may wait: everything is answered all the same."""
    failures = []

    def work():
        with Client(small.grpc, batch_size=4) as client:
            try:
                assert client.embed(["server " * 20] * 100).token_counts.tolist() == [22] * 100
            except Exception as error:
                failures.append(error)

    before = small.metrics().get('lion_rejected_total{reason="queue_full"}', 0)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and small.metrics()['lion_rejected_total{reason="queue_full"}'] > before


def test_a_call_that_fails_as_a_whole(client):
    for call in (client.embed, client.classify, client.tokenize, client.embed_tokens):
        with pytest.raises(LionError, match="NOT_FOUND: model: no model 'nobody'; this server has demo"):
            call(["x"] * 1000, model="nobody", on_error="return")
    with pytest.raises(LionError, match="INVALID_ARGUMENT: dimensions"):
        client.embed(["x"], dimensions=1000)


def test_deadline(server):
    with Client(server.grpc, deadline=1e-3) as client:
        found = client.embed(["word " * 10000], on_error="return")
        assert [e.code for e in found.errors] == [grpc.StatusCode.DEADLINE_EXCEEDED]
        with pytest.raises(RowsFailed):
            client.embed(["word " * 10000])


@pytest.mark.parametrize("call", ["embed", "classify", "tokenize", "embed_tokens", "embed_stream"])
def test_one_input_instead_of_many_is_a_type_error(client, call):
    for one in ("a text", TokenIds([1]), np.array([1, 2])):
        with pytest.raises(TypeError, match="give a list"):
            getattr(client, call)(one)


@pytest.mark.parametrize("value", [7, None, 1.5, ["a", "list", "of", "text"], [1.5], np.zeros(3), np.zeros((2, 2), int)])
def test_what_is_no_input_is_a_type_error(client, value):
    with pytest.raises(TypeError, match="inputs\\[1\\]"):
        client.embed(["x", value])


@pytest.mark.parametrize("options", [{"pooling": "max"}, {"mode": "quick"}, {"truncation": "middle"}, {"vector_type": "float64"}, {"on_error": "ignore"}])
def test_an_unknown_option_value_is_a_value_error(client, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: .* is not one of"):
        client.embed(["x"], **options)


@pytest.mark.parametrize("options", [{"target": ""}, {"deadline": 0}, {"batch_size": 0}, {"max_in_flight": 0}, {"tls_cert": b"x"}, {"tls_key": b"x"}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Client(**options)


def test_classify(server, client):
    texts = ["a compiler for the C language", "a chess game", ("a web", "server")]
    found = client.classify(texts, top_k=3)
    want = server.call("Classify", pb.ClassifyRequest(inputs=[text_input(texts[0])], top_k=3)).results[0]
    assert [(s.label, s.score, s.index) for s in found[0].scores] == [(s.label, s.score, s.index) for s in want.scores]
    assert [f.label for f in found[:2]] == ["devel", "games"] and found[0].token_count == want.token_count and found[0].mode == "parallel"
    full = client.classify(texts[:1])[0].scores
    assert len(full) == 58 and sum(s.score for s in full) == pytest.approx(1, abs=1e-5)
    raw = client.classify(texts[:1], raw_scores=True)[0].scores
    assert [s.label for s in raw] == [s.label for s in full] and raw[0].score > 1
    failed = client.classify(["x", BAD], on_error="return")
    assert failed[0].error is None and failed[1].error.index == 1 and failed[1].label == ""
    with pytest.raises(RowsFailed):
        client.classify(["x", BAD])


def test_tokenize(client):
    found = client.tokenize(["naïve café", ("a", "b")])
    assert found[0].tokens == ("[CLS]", "naive", "ca", "##f", "##e", "[SEP]") and found[0].byte_spans.tolist()[1:3] == [[0, 6], [7, 9]]
    assert found[0].ids.dtype == np.int64 and found[1].type_ids.tolist() == [0, 0, 0, 1, 1]
    assert client.embed([found[0].ids]).token_counts[0] == len(found[0].ids)
    assert [t.error is None for t in client.tokenize(["x", [1, 2]], on_error="return")] == [True, False]


def test_embed_tokens(server, client):
    found = client.embed_tokens(["the lion", "x"])
    want = embedded(server, [text_input("the lion")], pooling=pb.POOLING_TOKENS)[0]
    assert (found[0].vectors == [values(v) for v in want.vectors]).all() and found[0].vectors.shape[0] == found[0].token_count == len(want.vectors)
    assert found[0].byte_spans.tolist() == [[v.span.start_byte, v.span.end_byte] for v in want.vectors]
    assert np.linalg.norm(client.embed_tokens(["x"], normalize=True)[0].vectors, axis=1) == pytest.approx(1, abs=1e-5)
    failed = client.embed_tokens(["x", BAD], on_error="return")[1]
    assert failed.error.index == 1 and failed.vectors.shape[0] == 0


def test_list_models(client):
    info, = client.list_models()
    assert (info.name, info.variant, info.input, info.embedding_dimensions) == ("demo", "lion-s", "text", 384)
    assert info.embeds and info.classifies and info.normalize and info.pooling == "mean" and len(info.labels) == 58 and info.max_inputs == 1024


def test_stream(client):
    texts = [f"{i % 97} words " * (1 + i % 5) for i in range(700)]
    want = client.embed(texts)
    found = list(client.embed_stream(t for t in texts))
    assert [f.index for f in found] == list(range(700)) and (np.stack([f.vector for f in found]) == want.vectors).all()
    assert [f.token_count for f in found] == want.token_counts.tolist() and found[0].mode == "parallel" and found[0].error is None


def test_a_streams_failed_rows(client):
    rows = ["a", BAD, "\ud800", "b", [-1]]
    found = list(client.embed_stream(rows, on_error="return"))
    assert [f.error is None for f in found] == [True, False, False, True, False]
    assert [f.error.index for f in found if f.error] == [1, 2, 4] and all(f.error.message.startswith(f"inputs[{f.index}].") for f in found if f.error)
    with pytest.raises(RowsFailed, match="inputs\\[1\\]"):
        list(client.embed_stream(rows))
    only = list(client.embed_stream([BAD, [], "\ud800"], on_error="return"))  # the message is refused as a whole: each has its own reason
    assert ["ids[1]" in only[0].error.message, "is empty" in only[1].error.message, "surrogates" in only[2].error.message] == [True] * 3
    assert [f.error.index for f in client.embed_stream(["\ud800"] * 3, on_error="return")] == [0, 1, 2]


def test_a_stream_reads_no_further_than_is_needed(server):
    read = []
    with Client(server.grpc, batch_size=1) as client:
        rows = client.embed_stream(read.append(i) or "word" for i in range(10_000))
        for _ in range(3):
            next(rows)
        rows.close()
    assert len(read) <= 10  # 4 messages without an answer, 3 answered, and what was being cut


def test_what_a_streams_inputs_raise_is_raised(client):
    def inputs():
        yield "x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(client.embed_stream(inputs()))
    with pytest.raises(TypeError, match="inputs\\[1\\]"):
        list(client.embed_stream(["x", 7]))


def test_a_stream_that_fails_as_a_whole(client):
    with pytest.raises(LionError, match="NOT_FOUND"):
        list(client.embed_stream(["x"], model="nobody", on_error="return"))
    with pytest.raises(LionError, match="DEADLINE_EXCEEDED"):
        list(client.embed_stream(["word " * 1000] * 1000, deadline=0.05))


def test_threads_share_a_client(client):
    want = client.embed(["a", "b"]).vectors
    wrong = []

    def work():
        for _ in range(20):
            if (client.embed(["a", "b"]).vectors != want).any():
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_an_exception_in_progress_cancels_what_is_in_flight(server, client):
    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    with pytest.raises(Stop):
        client.embed(["word " * 300] * 500, progress=stop)
    assert client.embed(["x"]).vectors.shape == (1, 384)


def test_nobody_there():
    with Client("127.0.0.1:1", deadline=60) as client:
        with pytest.raises(LionError) as caught:
            client.list_models()
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE and caught.value.retryable
        with pytest.raises(LionError):
            client.health()
        with pytest.raises(TimeoutError, match="127.0.0.1:1 is not ready after 0.2 s"):
            client.wait_until_ready(0.2)


def test_health(client):
    assert client.health() == client.health("") == "SERVING"
    client.wait_until_ready(10)
    with pytest.raises(LionError, match="NOT_FOUND"):
        client.health("no.such.Service")


def test_a_closed_client(server):
    client = Client(server.grpc)
    client.embed(["x"])
    client.health()
    client.close()
    with pytest.raises(ValueError):
        client.embed(["x"])


def test_the_wire_itself_is_at_hand(client):
    request = wire.EmbedRequest(inputs=[wire.Input(text="x")], pooling=wire.POOLING_MEAN)
    assert wire.EmbedRequest.FromString(request.SerializeToString()) == request and wire.Pooling.Name(request.pooling) == "POOLING_MEAN"
