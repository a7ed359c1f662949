# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Streams: one answer a message, in order, pipelined; a full queue slows the sender down; the deadline and the caller may end them."""

import queue

import grpc
import numpy as np
import pytest

from harness import HANG_SECONDS, ORACLE, STREAMS, Server, ids_input, pb, refused


def messages(method, count, seed=1, model=""):
    random = np.random.default_rng(seed)
    return [STREAMS[method](model=model, inputs=[ids_input(random.integers(0, 211, random.integers(1, 90)))]) for _ in range(count)]


@pytest.mark.parametrize("method", list(STREAMS))
@pytest.mark.parametrize("count", [0, 1, 500])
def test_one_answer_a_message_in_order(server, method, count):
    sent = messages(method, count)
    answers = list(getattr(server.stub, method)(iter(sent), timeout=HANG_SECONDS))
    assert len(answers) == count
    for message, answer in zip(sent, answers):
        assert not answer.HasField("error")
        assert answer.results[0].token_count == len(message.inputs[0].token_ids.ids)
    for i in range(0, count, 97):  # the same bits as alone
        assert server.call(method.removesuffix("Stream"), sent[i]).results[0] == answers[i].results[0]


@pytest.mark.parametrize("method", list(STREAMS))
def test_an_answer_comes_before_the_next_message(server, method):
    """Nothing waits for the sender to close: a conversation works."""
    outbox = queue.Queue()
    answers = getattr(server.stub, method)(iter(outbox.get, None), timeout=HANG_SECONDS)
    for message in messages(method, 5):
        outbox.put(message)
        assert next(answers).results[0].token_count == len(message.inputs[0].token_ids.ids)
    outbox.put(None)
    assert list(answers) == []


def test_models_may_change_from_message_to_message(server):
    names = ["text-lion-d-noln", "", "nobody", "text-lion-lit-ln"]
    answers = list(server.stub.EmbedStream(iter([pb.EmbedRequest(model=n, inputs=[ids_input([5, 6])]) for n in names]), timeout=HANG_SECONDS))
    assert [a.model for a in answers if not a.HasField("error")] == ["text-lion-d-noln", "text-lion-s-ln", "text-lion-lit-ln"]
    assert answers[2].error.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_message_with_good_and_bad_rows(server):
    answers = list(server.stub.EmbedStream(iter([pb.EmbedRequest(inputs=[ids_input([1]), pb.Input(), ids_input([2])])]), timeout=HANG_SECONDS))
    assert len(answers) == 1 and not answers[0].HasField("error")
    assert [r.HasField("error") for r in answers[0].results] == [False, True, False]


def test_a_full_queue_slows_a_stream_down():
    """40 messages of 150 tokens through a queue of 200: none is refused."""
    with Server([ORACLE / "text-lion-s-ln"], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256", "--max_queue_tokens=200",
                "--max_sequence_tokens=200") as server:
        sent = [pb.EmbedRequest(inputs=[ids_input([i] * 150)]) for i in range(40)]
        answers = list(server.stub.EmbedStream(iter(sent), timeout=HANG_SECONDS))
        assert [a.HasField("error") for a in answers] == [False] * 40
        assert server.metrics()['lion_rejected_total{reason="queue_full"}'] == 0


def test_a_message_that_can_never_fit_is_answered_in_its_turn(small):
    sent = [pb.EmbedRequest(model="ids", inputs=[ids_input([1] * 60)] * n) for n in (1, 4, 1)]
    answers = list(small.stub.EmbedStream(iter(sent), timeout=HANG_SECONDS))
    assert [a.HasField("error") for a in answers] == [False, True, False]
    assert answers[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_the_deadline_ends_a_stream(server):
    never = queue.Queue()
    answers = server.stub.EmbedStream(iter(never.get, None), timeout=0.5)
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        next(answers)
    never.put(None)
    assert server.health() == "SERVING"


def test_a_caller_that_goes_away(server):
    """Cancelled in the middle: the others do not notice."""
    for _ in range(10):
        answers = server.stub.EmbedStream(iter(messages("EmbedStream", 200)), timeout=HANG_SECONDS)
        next(answers)
        answers.cancel()
    call = server.stub.Embed.future(pb.EmbedRequest(inputs=[ids_input([1] * 100)] * 50), timeout=HANG_SECONDS)
    call.cancel()
    assert server.call("Embed", pb.EmbedRequest(inputs=[ids_input([1, 2, 3])])).results[0].token_count == 3
    assert server.health() == "SERVING"
