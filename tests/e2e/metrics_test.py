# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics are exact after a known set of calls, failed ones included, and nothing a caller sends becomes a label."""

import re
import signal
import threading
import time

import grpc
import pytest

from harness import HANG_SECONDS, ORACLE, Server, ids_input, pb, text_input

LONG = pb.EncodeOptions(mode=pb.COMPUTE_MODE_RECURRENT)
LATE_SECONDS = 5
SLOW = pb.EncodeOptions(mode=pb.COMPUTE_MODE_PARALLEL)  # quadratic: a row of thousands of tokens takes tenths of a second

# Every name of the contract, with its labels.
CONTRACT = {
    "lion_rpc_requests_total": ("code", "model", "rpc"),
    "lion_rpc_duration_seconds": ("model", "rpc"),
    "lion_rpc_in_flight": ("rpc",),
    "lion_sequences_total": ("mode", "model"),
    "lion_tokens_total": ("mode", "model"),
    "lion_sequence_tokens": ("model",),
    "lion_queue_sequences": ("model",),
    "lion_queue_tokens": ("model",),
    "lion_queue_duration_seconds": ("model",),
    "lion_tokenize_duration_seconds": ("model",),
    "lion_compute_duration_seconds": ("model",),
    "lion_batch_tokens": ("model",),
    "lion_batch_sequences": ("model",),
    "lion_rejected_total": ("reason",),
    "lion_dropped_total": ("reason",),
    "lion_bad_rows_total": ("model",),
    "lion_model_info": ("device", "dtype", "model", "variant", "version"),
    "lion_build_info": ("commit", "version"),
    "lion_device_memory_bytes": ("device", "kind"),
    "lion_device_up": ("device",),
    "lion_batch_retries_total": (),
    "lion_reloads_total": ("result", "what"),
    "lion_log_suppressed_total": (),
}
LABEL_VALUES = {
    "rpc": {"Embed", "EmbedStream", "Classify", "ClassifyStream", "Tokenize", "ListModels", "EmbedDocument"} | {f"http.{name}" for name in ("Embeddings", "Classify", "Models")}
    | {f"tei.{name}" for name in ("Info", "Embed", "EmbedStream", "EmbedSparse", "EmbedSparseStream", "EmbedAll", "EmbedAllStream", "Predict", "PredictStream",
                                  "PredictPair", "PredictPairStream", "Rerank", "Tokenize", "TokenizeStream", "Decode", "DecodeStream")}
    | {f"kserve.{name}" for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer",
                                     "RepositoryIndex")},
    "model": {"a", "b", "text", "unknown"},
    "mode": {"parallel", "chunked", "recurrent"},
    "code": {c.name for c in grpc.StatusCode},
}
REASONS = {"lion_rejected_total": {"queue_full", "deadline", "memory", "draining", "unauthenticated"},
           "lion_dropped_total": {"cancelled", "deadline", "drain"}}


@pytest.fixture
def fresh(made):
    """A server of its own, so that every count is this test's."""
    with Server([f"a={ORACLE / 'text-lion-s-ln'}", f"b={made['headless']}", f"text={made['text']}"], "--dtype=float32", "--parallel_max_tokens=64",
                "--max_batch_tokens=1024", "--max_sequence_tokens=16384", "--max_queue_tokens=20000") as running:
        yield running


def split(key):
    name, _, labels = key.partition("{")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', labels))


def family(name):
    return re.sub(r"_(?:bucket|sum|count)$", "", name) if re.sub(r"_(?:bucket|sum|count)$", "", name) in CONTRACT else name


def changes(before, after):
    """What counts: every sample that changed, durations by their number of observations alone."""
    changed = {}
    for key, value in after.items():
        name, _ = split(key)
        if name.startswith("lion_device_memory_bytes") or name.endswith(("_seconds_sum", "_bucket")):
            continue
        if value != before.get(key, 0):
            changed[key] = value - before.get(key, 0)
    return changed


def settle(server, wanted, before):
    """Metrics once they show what is wanted, or as they stand when they never do (the comparison then says how)."""
    end = time.monotonic() + HANG_SECONDS
    while True:
        changed = changes(before, server.metrics())
        if changed == wanted or time.monotonic() > end:
            return changed


def test_every_name_is_there_with_its_labels(fresh):
    server = fresh
    server.call("Embed", pb.EmbedRequest(model="text", inputs=[text_input("the lion")]))
    shown = server.metrics()
    seen = {}
    for key in shown:
        name, labels = split(key)
        seen.setdefault(family(name), set()).add(tuple(sorted(k for k in labels if k != "le")))
    assert {name: {labels} for name, labels in CONTRACT.items()} == seen
    for line in server.metrics_text().split("\n"):
        assert re.match(r"$|# (?:HELP|TYPE) |lion_|process_|exposer_", line), line
    for key, value in shown.items():
        name, labels = split(key)
        for label, allowed in LABEL_VALUES.items():
            assert label not in labels or labels[label] in allowed, key
    for name, reasons in REASONS.items():
        assert {split(k)[1]["reason"]: v for k, v in shown.items() if split(k)[0] == name} == dict.fromkeys(reasons, 0)
    assert sum(v for k, v in shown.items() if split(k)[0] == "lion_build_info") == 1
    infos = [split(k)[1] for k, v in shown.items() if split(k)[0] == "lion_model_info" and v == 1]
    assert sorted((i["model"], i["variant"], i["dtype"], i["device"]) for i in infos) == [(m, "lion-s", "float32", "cpu") for m in ("a", "b", "text")]
    assert re.search(r"^process_resident_memory_bytes \S+$", server.metrics_text(), re.M)
    # Histograms are whole: buckets rise to +Inf, which is the count.
    for name, labels in CONTRACT.items():
        buckets = {k: v for k, v in shown.items() if split(k)[0] == f"{name}_bucket"}
        for key, value in shown.items():
            if split(key)[0] == f"{name}_count":
                own = [(float(split(k)[1]["le"]), v) for k, v in buckets.items() if {**split(k)[1], "le": ""} == {**split(key)[1], "le": ""}]
                own.sort()
                assert [v for _, v in own] == sorted(v for _, v in own) and own[-1] == (float("inf"), value)


def test_exact_after_known_calls(fresh):
    server = fresh
    before = server.metrics()
    wanted = {}

    def expect(key, amount):
        wanted[key] = wanted.get(key, 0) + amount

    def rpc(name, model, code="OK"):
        expect(f'lion_rpc_requests_total{{code="{code}",model="{model}",rpc="{name}"}}', 1)
        expect(f'lion_rpc_duration_seconds_count{{model="{model}",rpc="{name}"}}', 1)

    def rows(model, mode, *lengths):
        expect(f'lion_sequences_total{{mode="{mode}",model="{model}"}}', len(lengths))
        expect(f'lion_tokens_total{{mode="{mode}",model="{model}"}}', sum(lengths))
        expect(f'lion_sequence_tokens_count{{model="{model}"}}', len(lengths))
        expect(f'lion_sequence_tokens_sum{{model="{model}"}}', sum(lengths))
        expect(f'lion_queue_duration_seconds_count{{model="{model}"}}', len(lengths))

    def batch(model, *lengths):
        expect(f'lion_compute_duration_seconds_count{{model="{model}"}}', 1)
        expect(f'lion_batch_tokens_count{{model="{model}"}}', 1)
        expect(f'lion_batch_tokens_sum{{model="{model}"}}', sum(lengths))
        expect(f'lion_batch_sequences_count{{model="{model}"}}', 1)
        expect(f'lion_batch_sequences_sum{{model="{model}"}}', len(lengths))

    def tokenized(model, number):
        expect(f'lion_tokenize_duration_seconds_count{{model="{model}"}}', number)

    def call(method, request, code=None):
        try:
            server.call(method, request)
            assert code is None
        except grpc.RpcError as error:
            assert error.code().name == code, error.details()

    # Good ones, one at a time: each call's rows are one batch.
    call("Embed", pb.EmbedRequest(inputs=[ids_input([1] * 3), ids_input([2] * 100)]))  # model left empty: counted as a
    rpc("Embed", "a"), rows("a", "parallel", 3), rows("a", "chunked", 100), batch("a", 3, 100)
    call("Classify", pb.ClassifyRequest(model="a", inputs=[ids_input([1] * 5)], options=LONG))
    rpc("Classify", "a"), rows("a", "recurrent", 5), batch("a", 5)
    call("Embed", pb.EmbedRequest(model="text", inputs=[text_input("the lion"), text_input("")]))
    rpc("Embed", "text"), rows("text", "parallel", 4, 2), batch("text", 4, 2), tokenized("text", 2)
    call("Tokenize", pb.TokenizeRequest(model="text", inputs=[text_input("the")] * 3))
    rpc("Tokenize", "text"), tokenized("text", 3)
    call("ListModels", pb.ListModelsRequest())
    rpc("ListModels", "unknown")

    # Failed ones.
    call("Embed", pb.EmbedRequest(model="nobody", inputs=[ids_input([1])]), "NOT_FOUND")
    rpc("Embed", "unknown", "NOT_FOUND")
    call("Classify", pb.ClassifyRequest(model="b", inputs=[ids_input([1])]), "UNIMPLEMENTED")
    rpc("Classify", "b", "UNIMPLEMENTED")
    call("Embed", pb.EmbedRequest(model="a", inputs=[ids_input([1])], pooling=9), "INVALID_ARGUMENT")
    rpc("Embed", "a", "INVALID_ARGUMENT")
    call("Embed", pb.EmbedRequest(model="b", inputs=[ids_input([211])]), "INVALID_ARGUMENT")
    rpc("Embed", "b", "INVALID_ARGUMENT")
    call("Tokenize", pb.TokenizeRequest(model="a", inputs=[text_input("x")]), "INVALID_ARGUMENT")
    rpc("Tokenize", "a", "INVALID_ARGUMENT")  # without a tokenizer nothing is tokenized
    try:
        server.raw("Embed")(b"\xff", timeout=60)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    rpc("Embed", "unknown", "INVALID_ARGUMENT")

    # A call with a bad row beside a good one is OK, and the bad row ran nowhere.
    call("Embed", pb.EmbedRequest(model="b", inputs=[ids_input([211]), ids_input([1] * 7)]))
    rpc("Embed", "b"), rows("b", "parallel", 7), batch("b", 7)

    # A stream counts once, at its end, under its first message's model; messages one after the other.
    answers = list(server.stub.EmbedStream(iter([pb.EmbedRequest(model="b", inputs=[ids_input([1] * 9)])]), timeout=60))
    assert len(answers) == 1
    rpc("EmbedStream", "b"), rows("b", "parallel", 9), batch("b", 9)
    try:
        list(server.raw("ClassifyStream", stream=True)(iter([b"\xff"]), timeout=60))
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    rpc("ClassifyStream", "unknown", "INVALID_ARGUMENT")

    # Counted before the answer leaves: no waiting.
    assert changes(before, server.metrics()) == wanted


def test_a_refusal_by_a_full_queue_is_counted(fresh):
    """Sixteen long rows at once into a queue of 20,000 tokens: each is answered or refused at once, with the wait to expect."""
    server = fresh
    before = server.metrics()
    request = pb.EmbedRequest(model="a", inputs=[ids_input([7] * 16000)], options=LONG)
    calls = [server.stub.Embed.future(request, timeout=HANG_SECONDS) for _ in range(16)]
    codes = [c.code() for c in calls]
    served, full = codes.count(grpc.StatusCode.OK), codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert served + full == 16 and served >= 1 and full >= 1
    for call in calls:
        if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert "20000" in call.details()
            assert int(dict(call.trailing_metadata())["grpc-retry-pushback-ms"]) >= 0
    changed = changes(before, server.metrics())
    assert changed['lion_rejected_total{reason="queue_full"}'] == full
    assert changed['lion_rpc_requests_total{code="OK",model="a",rpc="Embed"}'] == served
    assert changed['lion_rpc_requests_total{code="RESOURCE_EXHAUSTED",model="a",rpc="Embed"}'] == full
    assert changed['lion_rpc_duration_seconds_count{model="a",rpc="Embed"}'] == 16
    assert changed['lion_tokens_total{mode="recurrent",model="a"}'] == 16000 * served
    assert not any(split(k)[0] in ("lion_queue_tokens", "lion_queue_sequences", "lion_rpc_in_flight") for k in changed)


def test_rows_dropped_for_their_deadline_or_their_caller(fresh):
    """Two calls wait behind a long row, their own too long to go between its steps; one is past its deadline, the other cancelled, before it ends."""
    server = fresh
    before = server.metrics()
    long = server.stub.Embed.future(pb.EmbedRequest(model="a", inputs=[ids_input([7] * 16000)] * 1, options=SLOW), timeout=HANG_SECONDS)
    while changes(before, server.metrics()).get('lion_queue_duration_seconds_count{model="a"}') != 1:
        pass  # until the long row has left the queue
    late = server.stub.Embed.future(pb.EmbedRequest(model="a", inputs=[ids_input([1] * 2100)] * 3), timeout=LATE_SECONDS)
    gone = server.stub.Embed.future(pb.EmbedRequest(model="a", inputs=[ids_input([1] * 2200)] * 2), timeout=HANG_SECONDS)
    while changes(before, server.metrics()).get('lion_queue_sequences{model="a"}') != 5:
        pass  # until both wait
    # The long row must not end first, on any machine: the server stands still until the deadline has passed for it too.
    server.signal(signal.SIGSTOP)
    threading.Event().wait(1.1 * LATE_SECONDS)
    server.signal(signal.SIGCONT)
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    gone.cancel()
    assert long.code() == grpc.StatusCode.OK
    rows = {'lion_sequences_total{mode="parallel",model="a"}': 1, 'lion_tokens_total{mode="parallel",model="a"}': 16000,
            'lion_sequence_tokens_count{model="a"}': 1, 'lion_sequence_tokens_sum{model="a"}': 16000,
            'lion_compute_duration_seconds_count{model="a"}': 1, 'lion_batch_tokens_count{model="a"}': 1, 'lion_batch_tokens_sum{model="a"}': 16000,
            'lion_batch_sequences_count{model="a"}': 1, 'lion_batch_sequences_sum{model="a"}': 1}
    wanted = {**rows, 'lion_dropped_total{reason="deadline"}': 3, 'lion_dropped_total{reason="cancelled"}': 2,
              'lion_rpc_requests_total{code="OK",model="a",rpc="Embed"}': 1,
              'lion_rpc_requests_total{code="DEADLINE_EXCEEDED",model="a",rpc="Embed"}': 1,
              'lion_rpc_requests_total{code="CANCELLED",model="a",rpc="Embed"}': 1,
              'lion_rpc_duration_seconds_count{model="a",rpc="Embed"}': 3,
              'lion_queue_duration_seconds_count{model="a"}': 1}
    assert settle(server, wanted, before) == wanted


def test_no_label_carries_what_a_caller_sends(fresh):
    server = fresh
    odd = ["lamb", 'x"} 1\nlion_evil{a="', "a\\", "A", "unknown", "\u2028", "a" * 10000, "../a"]
    for name in odd:
        for method, request in (("Embed", pb.EmbedRequest), ("Classify", pb.ClassifyRequest), ("Tokenize", pb.TokenizeRequest)):
            try:
                server.call(method, request(model=name, inputs=[ids_input([1])]))
                raise AssertionError(f"{name!r} is a model?")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND
        assert all(a.HasField("error") for a in server.stub.EmbedStream(iter([pb.EmbedRequest(model=name)]), timeout=60))
    try:
        server.raw("Evil{}")(b"", timeout=60)
    except grpc.RpcError:
        pass
    for key in server.metrics():
        name, labels = split(key)
        assert family(name) in CONTRACT
        assert labels.get("model", "a") in LABEL_VALUES["model"] and labels.get("rpc", "Embed") in LABEL_VALUES["rpc"]
    assert "evil" not in server.metrics_text().lower() and "lamb" not in server.metrics_text()
