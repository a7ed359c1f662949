# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The published service config at work: what is tried again, when, and what is given up at once."""

import asyncio
import json
import re
import threading

import grpc
import numpy as np
import pytest
from conftest import ROOT
from harness import Server
from lion_serve import AsyncClient, Client, LionError, _work
from lion_serve._channel import SERVICE_CONFIG
from lion_serve._work import Work
from puppet_server import PuppetServer


def embed(target, inputs=("x",), **options):
    with Client(target, **options) as client:
        return client.embed(inputs).vectors


def embed_async(target, inputs=("x",), **options):
    async def run():
        async with AsyncClient(target, **options) as client:
            return (await client.embed(inputs)).vectors

    return asyncio.run(run())


both = pytest.mark.parametrize("call", [embed, embed_async])


def test_the_service_config_is_the_published_one():
    for page in ("docs/client.md", "docs/api.md"):
        published, = re.findall(r"```json\n(\{\n  \"loadBalancingConfig.*?)```", (ROOT / page).read_text(), re.S)
        assert json.loads(published) == json.loads(SERVICE_CONFIG)


@both
def test_a_refused_call_waits_as_long_as_the_server_asks(call):
    with PuppetServer([("RESOURCE_EXHAUSTED", "700"), ("UNAVAILABLE", "700")]) as puppet:
        assert (call(puppet.grpc) == np.array([[1, 2]])).all()
        times = [c.time for c in puppet.calls]
        assert len(times) == 3 and all(later - earlier >= 0.69 for earlier, later in zip(times, times[1:]))


@both
def test_where_waiting_cannot_help_a_call_is_given_up_at_once(call):
    with PuppetServer([("RESOURCE_EXHAUSTED", "-1")] * 9) as puppet:
        with pytest.raises(LionError) as caught:
            call(puppet.grpc)
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED and not caught.value.retryable and len(puppet.calls) == 1


@both
def test_what_cannot_get_better_is_not_tried_again(call):
    with PuppetServer([("NOT_FOUND", None)] * 9) as puppet:
        with pytest.raises(LionError, match="NOT_FOUND: not now"):
            call(puppet.grpc)
        assert len(puppet.calls) == 1


@both
def test_the_deadline_bounds_the_retries(call):
    with PuppetServer([("UNAVAILABLE", "60000")] * 9) as puppet:
        with pytest.raises(LionError, match="DEADLINE_EXCEEDED|UNAVAILABLE"):
            call(puppet.grpc, deadline=5)  # long enough to arrive, much shorter than the wait
        assert len(puppet.calls) == 1


@both
def test_the_key_goes_with_every_call(call):
    with PuppetServer([("UNAVAILABLE", "1")]) as puppet:
        call(puppet.grpc, api_key="sesame")
        assert [c.metadata["authorization"] for c in puppet.calls] == ["Bearer sesame"] * 2


@both
def test_a_row_that_is_due_again_waits_for_a_free_call_without_spinning(call, monkeypatch):
    looks, pause = [], Work.pause
    monkeypatch.setattr(Work, "pause", lambda self, now: looks.append(now) or pause(self, now))
    monkeypatch.setattr(_work, "INITIAL_BACKOFF", 0.001)
    hold = threading.Event()
    with PuppetServer([("UNAVAILABLE", "1")] * 4, hold=hold) as puppet, Client(puppet.grpc) as other:
        found = []
        # One call at a time: the first row is given back after four attempts and soon due again; the second's is held.
        worker = threading.Thread(target=lambda: found.append(call(puppet.grpc, inputs=["a", "b"], batch_size=1, max_in_flight=1)))
        worker.start()
        while len(puppet.calls) < 5:
            other.health()
        for _ in range(100):
            other.health()
        hold.set()
        worker.join()
        assert len(found[0]) == 2 and len(puppet.calls) == 6 and len(looks) < 20


def test_a_server_that_restarts_is_found_again(server):
    """A client that knows two servers goes on when one is gone."""
    with Server([f"demo={ROOT / 'demo/model'}"], "--parallel_max_tokens=64", "--max_batch_tokens=256") as other:
        with Client(f"ipv4:{server.grpc},{other.grpc}") as client:
            want = client.embed(["x"]).vectors
            other.signal()
            assert other.wait_exit() == 0
            for _ in range(20):
                assert (client.embed(["x"]).vectors == want).all()
