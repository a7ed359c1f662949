# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the log says of calls that failed: one line each, the caller's trace, nothing of the caller's text, no flood."""

import json

import grpc
import pytest

from harness import HANG_SECONDS, ORACLE, Server, ids_input, pb, refused

MODEL = ORACLE / "text-lion-s-ln"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")
SECRET = "a-text-of-mine"


def lines(server):
    """The lines about calls, once the server has ended."""
    return [line for line in map(json.loads, server.log) if line["message"] == "call failed"]


def ended(server):
    server.signal()
    assert server.wait_exit() == 0
    return lines(server)


def test_a_line_says_what_failed():
    with Server([MODEL], *QUICK, "--log_format=json") as server:
        server.stub.Embed(pb.EmbedRequest(inputs=[ids_input([1])]), timeout=HANG_SECONDS, metadata=[TRACEPARENT])  # OK: no line
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            server.stub.Embed(pb.EmbedRequest(inputs=[ids_input([10**6])]), timeout=HANG_SECONDS, metadata=[TRACEPARENT])
        with refused(grpc.StatusCode.NOT_FOUND):
            server.stub.Classify(pb.ClassifyRequest(model=SECRET, inputs=[pb.Input(text=SECRET)]), timeout=HANG_SECONDS, metadata=[("traceparent", SECRET)])
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            list(server.raw("EmbedStream", stream=True)(iter([b"\xff\xff"]), timeout=HANG_SECONDS, metadata=[TRACEPARENT]))
        said = ended(server)
    assert [(s["rpc"], s["model"], s["code"]) for s in said] == [
        ("Embed", "text-lion-s-ln", "INVALID_ARGUMENT"), ("Classify", "unknown", "NOT_FOUND"), ("EmbedStream", "unknown", "INVALID_ARGUMENT")]
    assert said[0]["field"].startswith("inputs[0]")
    assert (said[0]["trace_id"], said[0]["parent_id"]) == (said[2]["trace_id"], said[2]["parent_id"]) == (TRACE, SPAN)
    assert "trace_id" not in said[1]
    assert all(isinstance(s["duration_ms"], float) and s["level"] == "info" for s in said)
    assert SECRET not in "\n".join(server.log)


@pytest.mark.parametrize("calls", [300])
def test_a_flood_is_thinned(calls):
    """Every refusal is counted, few are written, and a fault among them is not hidden."""
    with Server([MODEL], *QUICK, "--log_format=json") as server:
        for _ in range(calls):
            with refused(grpc.StatusCode.NOT_FOUND):
                server.call("Embed", pb.EmbedRequest(model="none"))
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            server.call("Embed", pb.EmbedRequest())
        metrics = server.metrics()
        said = ended(server)
    refusals = [s for s in said if s["code"] == "NOT_FOUND"]
    left_out = metrics["lion_log_suppressed_total"]
    assert metrics['lion_rpc_requests_total{code="NOT_FOUND",model="unknown",rpc="Embed"}'] == calls
    assert len(refusals) + left_out == calls and left_out > 0
    assert sum(s.get("suppressed", 0) for s in refusals) <= left_out
    assert [s["code"] for s in said if s not in refusals] == ["INVALID_ARGUMENT"]
