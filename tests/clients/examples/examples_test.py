# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every language's example against the real server: the same answers, the same errors, the same patience."""

import json
import re

import pytest
from conftest import ROOT
from harness import Server, pb, text_input, values
from puppet_server import PuppetServer
from servers import MODEL, QUICK

TEXTS = ["a compiler for the C language", "play chess against the computer", "naïve café"]
TOO_LONG = "word " * 100


def same(code):
    """Codes are INVALID_ARGUMENT here, InvalidArgument there."""
    return code.replace("_", "").upper()


def code_of(run):
    """The code of the error that it ended with."""
    return same(run.err.strip().splitlines()[-1].split(":")[0])


def test_it_says_what_the_wire_says(example, server):
    run = example(server.grpc, *TEXTS)
    assert run.code == 0, run.err
    embedded = server.call("Embed", pb.EmbedRequest(inputs=[text_input(t) for t in TEXTS])).results
    classified = server.call("Classify", pb.ClassifyRequest(inputs=[text_input(t) for t in TEXTS], top_k=1)).results
    assert run.out[0] == "health: SERVING" and len(run.out) == 1 + 2 * len(TEXTS)
    for i, result in enumerate(embedded):
        shown = re.fullmatch(rf"embed {i}: (\d+) numbers from (\d+) tokens: \[?(\S+?),? (\S+?)\]? …", run.out[1 + i])
        vector = values(result.vectors[0])
        assert [int(shown[1]), int(shown[2])] == [len(vector), result.token_count]
        assert [float(shown[3]), float(shown[4])] == pytest.approx(vector[:2].tolist(), abs=6e-7)
    for i, result in enumerate(classified):
        label, score = re.fullmatch(rf"classify {i}: (\S+) (\d\.\d{{4}})", run.out[1 + len(TEXTS) + i]).groups()
        assert label == result.scores[0].label and float(score) == pytest.approx(result.scores[0].score, abs=6e-5)


def test_a_row_that_fails_leaves_the_others(example, server):
    run = example(server.grpc, "a", TOO_LONG, "b")
    assert run.code == 0, run.err
    assert run.out[1].startswith("embed 0: 384 numbers") and run.out[3].startswith("embed 2: 384 numbers")
    code, message = re.fullmatch(r"embed 1: (\w+): (.*)", run.out[2]).groups()
    assert same(code) == "INVALIDARGUMENT" and message.startswith("inputs[1].text: ") and "64" in message
    assert [line.split(":")[0] for line in run.out[4:]] == ["classify 0", "classify 2"]


@pytest.mark.parametrize("args, code, words", [(["--model", "nobody", "x"], "NOTFOUND", "no model 'nobody'; this server has demo"),
                                               ([TOO_LONG], "INVALIDARGUMENT", "inputs[0].text"), ([], "INVALIDARGUMENT", "inputs: none given")])
def test_a_call_that_fails(example, server, args, code, words):
    run = example(server.grpc, *args)
    assert run.code == 1 and code_of(run) == code and words in run.err


def test_tls_and_a_key(example, locked):
    run = example(locked.grpc, "a chess game", tls_ca=locked.ca, api_key="sesame")
    assert run.code == 0 and run.out[0] == "health: SERVING" and run.out[2].startswith("classify 0: games "), run.err
    for key in (None, "wrong"):
        run = example(locked.grpc, "x", tls_ca=locked.ca, api_key=key)
        assert run.code == 1 and run.out == ["health: SERVING"] and code_of(run) == "UNAUTHENTICATED"


def test_without_tls_where_it_is_asked_for(example, locked):
    run = example(locked.grpc, "x", api_key="sesame")
    assert run.code == 1 and code_of(run) in ("UNAVAILABLE", "CANCELLED", "UNKNOWN"), run.err  # tonic says any of them


def test_a_ca_file_that_is_not_there(example, locked, tmp_path):
    run = example(locked.grpc, "x", tls_ca=tmp_path / "none.pem")
    assert run.code == 1 and run.err


def test_a_refused_call_waits_as_long_as_the_server_asks(example):
    with PuppetServer([("RESOURCE_EXHAUSTED", "700"), ("UNAVAILABLE", "700")]) as puppet:
        run = example(puppet.grpc, "x", api_key="sesame")
        assert run.code == 0, run.err
        assert re.fullmatch(r"embed 0: 2 numbers from 1 tokens: \[?1\.000000,? 2\.000000\]? …", run.out[1])
        assert [c.method for c in puppet.calls] == ["Embed"] * 3 + ["Classify"]
        times = [c.time for c in puppet.calls[:3]]
        assert all(later - earlier >= 0.69 for earlier, later in zip(times, times[1:]))
        assert [c.metadata.get("authorization") for c in puppet.calls] == ["Bearer sesame"] * 4


@pytest.mark.parametrize("refusal, attempts", [(("RESOURCE_EXHAUSTED", "-1"), 1), (("INVALID_ARGUMENT", None), 1), (("UNAVAILABLE", "1"), 4)])
def test_when_it_gives_up(example, refusal, attempts):
    with PuppetServer([refusal] * 9) as puppet:
        run = example(puppet.grpc, "x")
        assert run.code == 1 and code_of(run) == same(refusal[0]) and len(puppet.calls) == attempts


def test_a_server_that_is_not_ready_is_told_as_such(example):
    with Server([MODEL], *QUICK, "--drain_delay=600s") as server:
        server.signal()
        assert "NOT_SERVING" in server.watch_health()
        assert example(server.grpc, "x").out[0] == "health: NOT_SERVING"
        server.signal()  # a second one ends it at once


def published():
    page = (ROOT / "docs/client.md").read_text()
    return json.loads(re.search(r"```json\n(\{\n  \"loadBalancingConfig.*?)```", page, re.S)[1])


def test_the_service_config_of_go_is_the_published_one():
    source = (ROOT / "client/go/main.go").read_text()
    assert json.loads(re.search(r"const serviceConfig = `(.*?)`", source, re.S)[1]) == published()


def test_the_service_config_of_node_is_the_published_one():
    source = re.search(r"const SERVICE_CONFIG = (\{.*?\n\});", (ROOT / "client/node/main.js").read_text(), re.S)[1]
    as_json = re.sub(r"(\w+):(?=\s*[\[{\"\d])", r'"\1":', re.sub(r",(?=\s*[\]}])", "", source))
    assert json.loads(as_json) == published()
