# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Strangers: those who have no business here, or behave badly. Each is refused in clear words or left waiting, and after each of them those
who belong are served as before, bit for bit."""

import hashlib
import pathlib
import re
import resource
import socket
import ssl
import subprocess

import grpc
import pytest

from harness import HANG_SECONDS, ORACLE, Server, check_error, encoder_pb2_grpc, ids_input, pb, refused

MODEL = ORACLE / "text-lion-s-ln"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256", "--max_message_mib=2")
REQUEST = pb.EmbedRequest(inputs=[ids_input([1, 2, 3])])
KEY = [("authorization", "Bearer sesame")]
UNAVAILABLE, UNAUTHENTICATED, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED
HTTP2_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # the preface and empty SETTINGS
IDLE_CONNECTIONS = 10_000


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """An authority `ca`, what it signed (server, client; old-server and old-client, which have expired), and stranger, which is its own."""
    d = tmp_path_factory.mktemp("pki")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=d, check=True, capture_output=True)

    for own in ("ca", "stranger"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{own}.key", "-out", f"{own}.pem", "-days", "2", "-subj", f"/CN={own}")
    (d / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for who in ("server", "client", "old-server", "old-client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{who}.pem",
                "-days", "-1" if who.startswith("old") else "2", "-extfile", "names")
    return d


def credentials(pki, who=None):
    key, chain = ((pki / f"{who}.key").read_bytes(), (pki / f"{who}.pem").read_bytes()) if who else (None, None)
    return grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes(), key, chain)


def tls_flags(pki, who="server", client_ca=True):
    return [f"--tls_cert={pki / f'{who}.pem'}", f"--tls_key={pki / f'{who}.key'}", *([f"--tls_client_ca={pki / 'ca.pem'}"] if client_ca else [])]


class Closed:
    """A server with everything that keeps strangers out: TLS, client certificates, keys. And one who belongs."""

    def __init__(self, server):
        self.server = server
        self.vector = self.embed()

    def embed(self):
        return self.server.stub.Embed(REQUEST, timeout=HANG_SECONDS, metadata=KEY).results[0].vectors[0].values

    def check_unharmed(self):
        assert self.embed() == self.vector
        assert self.server.health() == "SERVING"
        assert self.server.process.poll() is None


@pytest.fixture(scope="module")
def closed(pki, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"ann {hashlib.sha256(b'sesame').hexdigest()}\n")
    with Server([MODEL], *QUICK, *tls_flags(pki), f"--api_key_file={keys}", credentials=credentials(pki, "client")) as server:
        yield Closed(server)


def call(channel, metadata=KEY):
    return encoder_pb2_grpc.EncoderServiceStub(channel).Embed(REQUEST, timeout=HANG_SECONDS, metadata=metadata)


# What each sees. grpc's words for a handshake that failed depend on who noticed first, so they are asked for loosely.
HANDSHAKE = re.compile(r"handshake|SSL|ssl|connect|Socket closed|recvmsg|reset|unavailable|Broken pipe|CERTIFICATE", re.S)


def test_plaintext_to_the_tls_port(closed):
    with grpc.insecure_channel(closed.server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        call(channel)
    assert error.value.code() == UNAVAILABLE and error.value.details()
    # And what speaks no HTTP/2 at all: the connection is ended, no byte of the service is told.
    host, port = closed.server.grpc.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=HANG_SECONDS) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: lion\r\n\r\n")
        said = b""
        try:
            while data := plain.recv(4096):
                said += data
        except ConnectionResetError:
            pass
        assert b"HTTP" not in said
    closed.check_unharmed()


@pytest.mark.parametrize("who", [None, "stranger", "old-client"])
def test_a_wrong_client_certificate(closed, pki, who):
    with grpc.secure_channel(closed.server.grpc, credentials(pki, who)) as channel, pytest.raises(grpc.RpcError) as error:
        call(channel)
    assert error.value.code() == UNAVAILABLE and HANDSHAKE.search(error.value.details()), error.value.details()
    closed.check_unharmed()


def test_an_expired_client_certificate_hears_nothing(closed, pki):
    """Down at TLS: with TLS 1.3 the client is done before the server has judged it, and must not hear a byte of HTTP/2 then."""
    context = ssl.create_default_context(cafile=pki / "ca.pem")
    context.load_cert_chain(pki / "old-client.pem", pki / "old-client.key")
    context.set_alpn_protocols(["h2"])
    host, port = closed.server.grpc.rsplit(":", 1)
    heard = b""
    with socket.create_connection((host, int(port)), timeout=HANG_SECONDS) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                secured.sendall(HTTP2_OPENING)
                heard = secured.recv(1)
        except (ssl.SSLError, OSError):
            pass  # an alert or a reset, as good
    assert heard == b""
    closed.check_unharmed()


def test_a_server_whose_certificate_has_expired_is_not_trusted(pki):
    """The client's side of it; and the server serves on, for it does not judge its own."""
    with Server([MODEL], *QUICK, *tls_flags(pki, "old-server", client_ca=False), ready=False) as server:
        server.wait_for_ready()
        with grpc.secure_channel(server.grpc, credentials(pki)) as channel, pytest.raises(grpc.RpcError) as error:
            call(channel)
        assert error.value.code() == UNAVAILABLE and HANDSHAKE.search(error.value.details()), error.value.details()
        # Who does not look at the certificate is served.
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        host, port = server.grpc.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=HANG_SECONDS) as plain, context.wrap_socket(plain) as secured:
            secured.sendall(HTTP2_OPENING)
            assert len(secured.recv(9)) > 0
        assert server.process.poll() is None


@pytest.mark.parametrize("metadata", [[], [("authorization", "Bearer open")], [("authorization", "Basic sesame")]], ids=["none", "wrong", "basic"])
def test_a_wrong_key(closed, pki, metadata):
    with grpc.secure_channel(closed.server.grpc, credentials(pki, "client")) as channel, refused(UNAUTHENTICATED, begins="authorization: "):
        call(channel, metadata)
    closed.check_unharmed()


def test_an_oversized_message(closed):
    request = pb.EmbedRequest(inputs=[pb.Input(text="x" * (3 << 20))])
    with pytest.raises(grpc.RpcError) as error:
        closed.server.stub.Embed(request, timeout=HANG_SECONDS, metadata=KEY)
    check_error(error.value.code(), error.value.details(), EXHAUSTED, 2 << 20)
    closed.check_unharmed()


def test_slow_readers(closed):
    """Twenty who ask for megabytes and read none of it: what waits for them is bounded, and others do not notice."""
    request = pb.EmbedRequest(inputs=[ids_input([1] * 2000)], pooling=pb.POOLING_TOKENS)
    before = closed.server.memory_bytes()
    channels = [closed.server.channel() for _ in range(20)]
    calls = [encoder_pb2_grpc.EncoderServiceStub(c).EmbedStream(iter([request] * 100), timeout=HANG_SECONDS, metadata=KEY) for c in channels]
    first = [next(c) for c in calls]  # so all of them are being answered
    for _ in range(20):
        closed.check_unharmed()
    assert all(f.results[0].token_count == 2000 for f in first)
    grown = closed.server.memory_bytes() - before
    # 2,000 answers, held for nobody, would be several times as much.
    answer = first[0].ByteSize()
    assert grown < 20 * 40 * answer, f"{grown} bytes for answers of {answer}"
    for c in calls:
        c.cancel()
    for channel in channels:
        channel.close()
    closed.check_unharmed()


def open_files(server):
    return len(list(pathlib.Path(f"/proc/{server.pid}/fd").iterdir()))


def test_idle_connections():
    """Ten thousand (or as many as this machine's limit on open files lets be) say hello and nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(IDLE_CONNECTIONS, hard - 500)
    with Server([MODEL], *QUICK) as server:
        vector = server.call("Embed", REQUEST).results[0].vectors
        host, port = server.grpc.rsplit(":", 1)
        connections = []
        try:
            for _ in range(count):
                connections.append(socket.create_connection((host, int(port)), timeout=HANG_SECONDS))
                connections[-1].sendall(HTTP2_OPENING)
            for connection in connections:
                assert connection.recv(9)  # the server's own SETTINGS: it was taken
            assert open_files(server) > count
            # Old callers and new ones are served beside them.
            for _ in range(10):
                assert server.call("Embed", REQUEST).results[0].vectors == vector
                with server.channel() as channel:
                    assert call(channel).results[0].vectors == vector
            assert server.health() == "SERVING"
        finally:
            for connection in connections:
                connection.close()
        while open_files(server) > count // 10:  # they are let go, too
            assert server.call("Embed", REQUEST).results[0].vectors == vector
        server.signal()
        assert server.wait_exit() == 0
