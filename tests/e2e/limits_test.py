# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What one connection may take, as an operator sets it: calls at once, idle time, age, pings; and the limit on open files."""

import pathlib
import re
import resource
import socket
import struct

from harness import HANG_SECONDS, ORACLE, Server, encoder_pb2_grpc, ids_input, pb

MODEL = ORACLE / "text-lion-s-ln"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256")
REQUEST = pb.EmbedRequest(inputs=[ids_input([1, 2, 3])])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING, GOAWAY = 1, 4, 6, 7
END_HEADERS = 4
MAX_CONCURRENT_STREAMS = 3


def frame(kind, payload=b"", flags=0, stream=0):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(**fields):
    """A HEADERS frame that opens stream 1: fields as literals, _ in a name stands for -."""
    names = [":" + name if name in ("method", "scheme", "path", "authority") else name.replace("_", "-") for name in fields]
    block = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
                     for name, value in zip(names, fields.values()))
    return frame(HEADERS, block, END_HEADERS, stream=1)


class Http2:
    """A connection that speaks just enough HTTP/2 to see how the server ends it."""

    def __init__(self, server):
        host, port = server.grpc.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=HANG_SECONDS)
        self.socket.sendall(PREFACE + frame(SETTINGS))
        self._unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _read(self, count):
        while len(self._unread) < count:
            data = self.socket.recv(4096)
            if not data:
                raise EOFError
            self._unread += data
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def frames(self):
        """(kind, payload) until the server closes; its pings are answered."""
        try:
            while True:
                head = self._read(9)
                kind, is_answer, payload = head[3], head[4] & 1, self._read(int.from_bytes(head[:3], "big"))
                if kind == PING and not is_answer:
                    self.socket.sendall(frame(PING, payload, 1))
                yield kind, payload
        except (EOFError, ConnectionResetError):
            return

    def goaway(self):
        """The words of the first GOAWAY, None if the server closes without one."""
        return next((payload[8:] for kind, payload in self.frames() if kind == GOAWAY), None)


def test_calls_at_once_are_told_to_the_client():
    with Server([MODEL], *QUICK, "--max_connection_calls=7") as server, Http2(server) as http2:
        payload = next(payload for kind, payload in http2.frames() if kind == SETTINGS)
        settings = dict(struct.iter_unpack(">HI", payload))
        assert settings[MAX_CONCURRENT_STREAMS] == 7


def test_an_idle_connection_is_closed():
    with Server([MODEL], *QUICK, "--max_connection_idle=200ms") as server:
        with Http2(server) as http2:
            assert http2.goaway() is not None
        with server.channel() as channel:  # a client notices nothing
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            for _ in range(3):
                assert len(stub.Embed(REQUEST, timeout=HANG_SECONDS, wait_for_ready=True).results) == 1


def test_an_old_connection_is_ended_and_its_stream_finishes():
    with Server([MODEL], *QUICK, "--max_connection_age=300ms") as server:
        with Http2(server) as http2:
            assert http2.goaway() is not None
            answers = list(server.stub.EmbedStream(iter([REQUEST] * 500), timeout=HANG_SECONDS, wait_for_ready=True))
            assert len(answers) == 500
            for _ in http2.frames():  # until it is closed
                pass


def test_too_many_pings():
    with Server([MODEL], *QUICK, "--min_ping_interval=1h") as server, Http2(server) as http2:
        try:
            for _ in range(10):
                http2.socket.sendall(frame(PING, bytes(8)))
        except OSError:
            pass  # it was quicker
        assert http2.goaway() == b"too_many_pings"
        assert len(server.call("Embed", REQUEST).results) == 1


def test_a_silent_call_is_asked_for_a_sign_of_life():
    with Server([MODEL], *QUICK, "--keepalive_interval=1s") as server, Http2(server) as idle, Http2(server) as calling:
        calling.socket.sendall(headers(method="POST", scheme="http", path="/lion.v1.EncoderService/EmbedStream", authority="localhost",
                                       content_type="application/grpc", te="trailers"))
        asked = (kind for kind, _ in calling.frames() if kind == PING)
        assert [next(asked), next(asked), next(asked)] == [PING] * 3  # and who gives one stays
        # Who makes no call is not asked: a Python client would not answer, and lose its next call.
        idle.socket.sendall(frame(PING, b"answer.."))
        assert next(payload for kind, payload in idle.frames() if kind == PING) == b"answer.."


def test_listmodels_shows_the_limits():
    flags = ("--max_queue_mib=7", "--max_memory_mib=100", "--max_connection_calls=9", "--max_connection_idle=3m", "--max_connection_memory_mib=300",
             "--keepalive_interval=90s")
    with Server([MODEL], *QUICK, *flags) as server:
        model = server.call("ListModels", pb.ListModelsRequest()).models[0]
    assert (model.max_queue_bytes, model.max_memory_bytes) == (7 << 20, 100 << 20)
    limits = model.connection_limits
    assert (limits.max_calls, limits.max_memory_bytes, limits.max_idle.seconds, limits.keepalive_interval.seconds) == (9, 300 << 20, 180, 90)
    assert limits.HasField("min_ping_interval") and not limits.HasField("max_age") and not limits.HasField("max_age_grace")


def test_open_files_are_raised_to_the_hard_limit():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with Server([MODEL], *QUICK) as server:
            limits = pathlib.Path(f"/proc/{server.pid}/limits").read_text()
            soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()
            assert soft == hard == str(before[1])
            assert any(f"up to {hard} open files" in line for line in server.log)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
