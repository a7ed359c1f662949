# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: every accepted call is answered, in the order the contract gives, exit 0. A second signal exits 1."""

import collections
import queue
import signal
import threading

import grpc
import pytest

from harness import HANG_SECONDS, ORACLE, Server, encoder_pb2_grpc, ids_input, pb, refused

MODEL = ORACLE / "text-lion-s-ln"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=1024")
REQUEST = pb.EmbedRequest(inputs=[ids_input([3] * 200)] * 4)


class Load:
    """Threads that call until the server says UNAVAILABLE; every call's outcome is counted, an answer's rows too."""

    def __init__(self, server, unary=6, streams=4):
        self._server = server
        self.outcomes = collections.Counter()
        self.first_answers = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(self._call,)) for _ in range(unary)]
        self._threads += [threading.Thread(target=self._run, args=(self._stream,)) for _ in range(streams)]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:  # under way: each has had an answer
            assert self.first_answers.acquire(timeout=HANG_SECONDS)

    def _run(self, kind):
        with self._server.channel() as channel:
            kind(encoder_pb2_grpc.EncoderServiceStub(channel))

    def _note(self, outcome):
        with self._lock:
            self.outcomes[outcome] += 1
        self.first_answers.release()

    def _call(self, stub):
        while True:
            try:
                answer = stub.Embed(REQUEST, timeout=HANG_SECONDS)
                self._note("OK" if [r.token_count for r in answer.results] == [200] * 4 else "half an answer")
            except grpc.RpcError as error:
                self._note(f"unary {error.code().name}")
                return

    def _stream(self, stub):
        """Sends as fast as answers come, eight ahead; the stream ends by UNAVAILABLE, never by OK."""
        outbox = queue.Queue()
        answers = stub.EmbedStream(iter(outbox.get, None), timeout=HANG_SECONDS)
        for _ in range(8):
            outbox.put(REQUEST)
        try:
            for answer in answers:
                if answer.HasField("error"):
                    self._note(f"message {answer.error.code}")
                else:
                    self._note("OK" if [r.token_count for r in answer.results] == [200] * 4 else "half an answer")
                outbox.put(REQUEST)
            self._note("stream ended OK")
        except grpc.RpcError as error:
            self._note(f"stream {error.code().name}")
        finally:
            outbox.put(None)

    def join(self):
        for thread in self._threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "a call hangs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_under_load(number):
    with Server([MODEL], *QUICK) as server:
        load = Load(server)
        server.signal(number)
        load.join()
        assert server.wait_exit() == 0
    assert set(load.outcomes) <= {"OK", "unary UNAVAILABLE", "stream UNAVAILABLE"}, load.outcomes
    assert load.outcomes["unary UNAVAILABLE"] == 6 and load.outcomes["stream UNAVAILABLE"] == 4, load.outcomes
    assert load.outcomes["OK"] >= 10


def test_what_was_accepted_is_finished():
    """Calls that are in when the signal comes are answered OK, however many wait."""
    with Server([MODEL], *QUICK) as server:
        before = server.metrics()
        calls = [server.stub.Embed.future(pb.EmbedRequest(inputs=[ids_input([5] * 4000)], options=pb.EncodeOptions(mode=pb.COMPUTE_MODE_RECURRENT)),
                                          timeout=HANG_SECONDS) for _ in range(12)]

        def accepted():
            now = server.metrics()
            done = sum(v - before.get(k, 0) for k, v in now.items() if k.startswith("lion_queue_duration_seconds_count"))
            return done + sum(v for k, v in now.items() if k.startswith("lion_queue_sequences")) >= 12

        while not accepted():
            pass
        server.signal()
        assert [c.code() for c in calls] == [grpc.StatusCode.OK] * 12
        assert server.wait_exit() == 0


def test_an_idle_server_and_an_open_stream():
    """A stream that only waits does not hold the server up: it ends UNAVAILABLE."""
    with Server([MODEL], *QUICK) as server:
        outbox = queue.Queue()
        answers = server.stub.EmbedStream(iter(outbox.get, None), timeout=HANG_SECONDS)
        outbox.put(REQUEST)
        assert len(next(answers).results) == 4
        server.signal()
        with refused(grpc.StatusCode.UNAVAILABLE):
            next(answers)
        outbox.put(None)
        assert server.wait_exit() == 0


def test_the_order():
    """Named services turn NOT_SERVING, "" stays; calls go on for drain_delay; then UNAVAILABLE, counted; then the end."""
    with Server([MODEL], *QUICK, "--drain_delay=3s", f"--drain_timeout={HANG_SECONDS}s") as server:
        # A stream whose answers nobody takes keeps the server refusing for as long as we look.
        answers = [pb.EmbedRequest(inputs=[ids_input([1] * 2000)], pooling=pb.POOLING_TOKENS)] * 100
        held = server.stub.EmbedStream(iter(answers), timeout=HANG_SECONDS)
        next(held)
        watched = server.watch_health()
        assert next(watched) == "SERVING"
        server.signal()
        assert next(watched) == "NOT_SERVING"
        assert server.health("") == "SERVING"
        assert server.health() == "NOT_SERVING"
        served = 0
        rejected = 'lion_rejected_total{reason="draining"}'
        try:
            while True:
                server.call("Embed", REQUEST)
                served += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert served >= 1
        assert server.metrics()[rejected] == 1
        assert server.health("") == "SERVING"
        held.cancel()
        assert server.wait_exit() == 0


def test_the_timeout_cuts_what_is_left():
    """Work for longer than drain_timeout: what is cut gets UNAVAILABLE, and the exit code is still 0."""
    with Server([MODEL], *QUICK, "--drain_timeout=1s", "--max_queue_tokens=10000000") as server:
        calls = [server.stub.Embed.future(pb.EmbedRequest(inputs=[ids_input([5] * 60000)], options=pb.EncodeOptions(mode=pb.COMPUTE_MODE_RECURRENT)),
                                          timeout=HANG_SECONDS) for _ in range(40)]
        while not any(v >= 20 for k, v in server.metrics().items() if k.startswith("lion_queue_sequences")):
            pass
        server.signal()
        codes = collections.Counter(c.code().name for c in calls)
        assert set(codes) <= {"OK", "UNAVAILABLE"} and codes["UNAVAILABLE"] >= 1, codes
        assert server.wait_exit() == 0


def test_a_second_signal_exits_1():
    with Server([MODEL], *QUICK, "--drain_delay=100s", "--drain_timeout=200s") as server:
        watched = server.watch_health()
        assert next(watched) == "SERVING"
        server.signal()
        assert next(watched) == "NOT_SERVING"
        server.signal()
        assert server.wait_exit() == 1


def test_a_signal_while_loading():
    """Before ready: it ends, without ever having said that it was."""
    with Server([MODEL], "--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=262144", ready=False) as server:
        server.wait_for_line(".")
        server.signal()
        assert server.wait_exit() == 0
        assert not any("ready grpc=" in line for line in server.log)
