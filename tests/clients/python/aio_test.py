# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The asyncio client against a real server: the same answers as the blocking one, and what only a loop can do."""

import asyncio
import inspect

import grpc
import numpy as np
import pytest
from lion_serve import AsyncClient, Client, LionError, RowsFailed

BAD = [1, 1 << 20]
TEXTS = [f"{i % 97} words " * (1 + i % 5) for i in range(400)]


@pytest.fixture(scope="module")
def run(server):
    """Runs an async function of a client."""

    def run(function, target=server.grpc, **options):
        async def inside():
            async with AsyncClient(target, **options) as client:
                return await function(client)

        return asyncio.run(asyncio.wait_for(inside(), 120))

    return run


@pytest.fixture(scope="module")
def blocking(server):
    with Client(server.grpc) as client:
        yield client


def test_the_two_clients_have_the_same_calls():
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        ours, theirs = inspect.signature(getattr(AsyncClient, name)), inspect.signature(method)
        assert list(ours.parameters) == list(theirs.parameters), name
        assert [p.default for p in ours.parameters.values()] == [p.default for p in theirs.parameters.values()], name


def test_every_call_answers_as_the_blocking_one(run, blocking):
    async def calls(client):
        return (await client.embed(TEXTS), await client.classify(TEXTS[:3], top_k=2), await client.tokenize(TEXTS[:3]), await client.embed_tokens(TEXTS[:3]),
                await client.list_models(), await client.health(), await client.health(""))

    found, classes, tokens, per_token, models, ready, alive = run(calls)
    assert (found.vectors == blocking.embed(TEXTS).vectors).all() and found.model_version == models[0].version
    assert classes == blocking.classify(TEXTS[:3], top_k=2) and models == blocking.list_models() and ready == alive == "SERVING"
    assert all((a.ids == b.ids).all() for a, b in zip(tokens, blocking.tokenize(TEXTS[:3])))
    assert all((a.vectors == b.vectors).all() for a, b in zip(per_token, blocking.embed_tokens(TEXTS[:3])))


def test_progress(run):
    seen = []
    run(lambda client: client.embed(TEXTS, progress=lambda done, total: seen.append((done, total))))
    assert seen[-1] == (400, 400) and len(seen) == 7


def test_failed_rows(run):
    found = run(lambda client: client.embed(["a", BAD, "\ud800"], on_error="return"))
    assert [e.index for e in found.errors] == [1, 2] and np.isnan(found.vectors[1:]).all()
    with pytest.raises(RowsFailed, match="inputs\\[1\\]"):
        run(lambda client: client.embed(["a", BAD]))
    with pytest.raises(LionError, match="NOT_FOUND"):
        run(lambda client: client.classify(["a"] * 1000, model="nobody"))


def test_a_full_queue_is_waited_for(run, small):
    async def many(client):
        return await asyncio.gather(*(client.embed(["server " * 20] * 50) for _ in range(3)))

    found = run(many, target=small.grpc, batch_size=4, max_in_flight=2)
    assert all(f.token_counts.tolist() == [22] * 50 for f in found)


async def gather(rows):
    return [row async for row in rows]


def test_stream(run, blocking):
    async def texts():
        for text in TEXTS:
            yield text

    want = blocking.embed(TEXTS).vectors
    for inputs in (lambda: texts(), lambda: TEXTS, lambda: (t for t in TEXTS)):
        found = run(lambda client: gather(client.embed_stream(inputs())))
        assert [f.index for f in found] == list(range(400)) and (np.stack([f.vector for f in found]) == want).all()


def test_a_streams_failed_rows(run):
    found = run(lambda client: gather(client.embed_stream(["a", BAD, "\ud800", "b"], on_error="return")))
    assert [f.error is None for f in found] == [True, False, False, True]
    only = run(lambda client: gather(client.embed_stream([BAD, [], "\ud800"], on_error="return")))
    assert ["ids[1]" in only[0].error.message, "is empty" in only[1].error.message, "surrogates" in only[2].error.message] == [True] * 3
    assert len(run(lambda client: gather(client.embed_stream(["\ud800"], on_error="return")))) == 1
    with pytest.raises(RowsFailed, match="inputs\\[1\\]"):
        run(lambda client: gather(client.embed_stream(["a", BAD])))
    with pytest.raises(LionError, match="NOT_FOUND"):
        run(lambda client: gather(client.embed_stream(["a"], model="nobody")))
    with pytest.raises(LionError, match="DEADLINE_EXCEEDED"):
        run(lambda client: gather(client.embed_stream(["word " * 1000] * 1000, deadline=0.05)))


def test_what_a_streams_inputs_raise_is_raised(run):
    async def inputs():
        yield "x"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(lambda client: gather(client.embed_stream(inputs())))
    with pytest.raises(TypeError, match="inputs\\[1\\]"):
        run(lambda client: gather(client.embed_stream(["x", 7])))


def test_a_stream_that_is_left_reads_no_further(run):
    read = []

    async def some(client):
        async for row in client.embed_stream(read.append(i) or "word" for i in range(10_000)):
            if row.index == 2:
                break
        return await client.health()

    assert run(some, batch_size=1) == "SERVING" and len(read) <= 10


def test_a_cancelled_call_takes_its_own_with_it(run, server):
    async def cancelled(client):
        task = asyncio.create_task(client.embed(["word " * 2000] * 2000))
        while not (await asyncio.to_thread(server.metrics)).get('lion_rpc_in_flight{rpc="Embed"}'):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await asyncio.to_thread(server.metrics))['lion_rpc_in_flight{rpc="Embed"}']:
            pass
        return await client.embed(["x"])

    assert len(run(cancelled)) == 1


def test_nobody_there(run):
    async def calls(client):
        with pytest.raises(LionError) as caught:
            await client.list_models()
        with pytest.raises(TimeoutError, match="is not ready after 0.2 s"):
            await client.wait_until_ready(0.2)
        return caught.value.code

    assert run(calls, target="127.0.0.1:1", deadline=60) == grpc.StatusCode.UNAVAILABLE
    assert run(lambda client: client.wait_until_ready(30)) is None
