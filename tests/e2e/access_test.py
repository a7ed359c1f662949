# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Who may call: API keys, TLS, client certificates. Health and reflection stay open."""

import hashlib
import subprocess

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import ORACLE, ROOT, SERVICE, Server, ids_input, pb, refused, run_server

MODEL = ORACLE / "text-lion-s-ln"
CLIENT = ROOT / "build/release/bin/lion-client"
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256")
REQUEST = pb.EmbedRequest(inputs=[ids_input([1, 2])])
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    lines = ["# who, and the SHA-256 of the key", "", *(f"{name} {hashlib.sha256(key.encode()).hexdigest()}" for name, key in (("ann", "sesame"), ("bob", "k2")))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def locked(keys):
    with Server([MODEL], *QUICK, f"--api_key_file={keys}") as server:
        yield server


@pytest.mark.parametrize("value", ["Bearer sesame", "Bearer k2"])
def test_a_good_key(locked, value):
    assert len(locked.stub.Embed(REQUEST, timeout=60, metadata=[("authorization", value)]).results) == 1
    assert len(list(locked.stub.EmbedStream(iter([REQUEST]), timeout=60, metadata=[("authorization", value)]))) == 1


BAD_KEYS = [[], [("authorization", "")], [("authorization", "Bearer")], [("authorization", "Bearer ")], [("authorization", "Bearer Sesame")],
            [("authorization", "sesame")], [("authorization", "Basic sesame")], [("authorization", "Bearer sesame ")],
            [("authorization", "Bearer " + hashlib.sha256(b"sesame").hexdigest())], [("authorization", "Bearer ann")], [("x-api-key", "sesame")],
            [("authorization", "Bearer " + "x" * 5000)]]


@pytest.mark.parametrize("metadata", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_bad_key(locked, metadata):
    stub = locked.stub
    unary = {"Embed": REQUEST, "Classify": pb.ClassifyRequest(inputs=REQUEST.inputs), "Tokenize": pb.TokenizeRequest(), "ListModels": pb.ListModelsRequest()}
    for method, request in unary.items():
        with refused(UNAUTHENTICATED):
            getattr(stub, method)(request, timeout=60, metadata=metadata)
    for method, request in (("EmbedStream", unary["Embed"]), ("ClassifyStream", unary["Classify"])):
        with refused(UNAUTHENTICATED):
            list(getattr(stub, method)(iter([request]), timeout=60, metadata=metadata))


def test_refusals_are_counted_and_tell_nothing(locked):
    before = locked.metrics()
    with refused(UNAUTHENTICATED):
        locked.stub.Embed(pb.EmbedRequest(model="text-lion-s-ln"), timeout=60)
    after = locked.metrics()
    key = 'lion_rejected_total{reason="unauthenticated"}'
    assert after[key] - before[key] == 1
    assert "sesame" not in "\n".join(locked.log)


def test_health_and_reflection_stay_open(locked):
    assert locked.health() == locked.health("") == "SERVING"
    assert SERVICE in ProtoReflectionDescriptorDatabase(locked.channel()).get_services()


def test_keys_without_tls_are_a_warning(locked):
    assert any("TLS" in line for line in locked.log)


@pytest.mark.parametrize("line, words", [
    ("ann", ["keys", "1"]), ("ann 1234", ["keys", "1"]), (f"ann {'g' * 64}", ["keys", "1"]), (f"ann {'0' * 64} more", ["keys", "1"]),
    (f"# fine\nann {'0' * 63}", ["keys", "2"]), ("", ["keys"]),
])
def test_a_key_file_that_we_refuse(tmp_path, line, words):
    (tmp_path / "keys").write_text(line + "\n")
    code, lines = run_server(*QUICK, f"--api_key_file={tmp_path / 'keys'}", MODEL)
    assert code == 2 and all(w in lines[-1] for w in words), lines
    assert "0" * 63 not in lines[-1] and "g" * 64 not in lines[-1]  # what might be a secret is not logged


def openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """A certificate authority and what it signed: server.{key,pem} for localhost, service.{key,pem} for a service's name,
    client.{key,pem}; stranger.{key,pem} is its own."""
    d = tmp_path_factory.mktemp("pki")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA", cwd=d)
    for who in ("server", "client", "service"):
        (d / "names").write_text("subjectAltName=" + ("DNS:lion-serve.default.svc" if who == "service" else "DNS:localhost,IP:127.0.0.1") + "\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}", cwd=d)
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{who}.pem", "-days", "2",
                "-extfile", "names", cwd=d)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "stranger.key", "-out", "stranger.pem", "-days", "2", "-subj", "/CN=client", cwd=d)
    return d


def credentials(pki, who=None):
    key, chain = ((pki / f"{who}.key").read_bytes(), (pki / f"{who}.pem").read_bytes()) if who else (None, None)
    return grpc.ssl_channel_credentials((pki / "ca.pem").read_bytes(), key, chain)


def test_tls(pki, keys):
    with Server([MODEL], *QUICK, f"--tls_cert={pki / 'server.pem'}", f"--tls_key={pki / 'server.key'}", f"--api_key_file={keys}",
                credentials=credentials(pki), metadata=[("authorization", "Bearer sesame")]) as server:
        assert len(server.call("Embed", REQUEST).results) == 1
        assert server.health() == "SERVING"
        with refused(UNAUTHENTICATED):
            server.stub.Embed(REQUEST, timeout=60)
        with grpc.insecure_channel(server.grpc) as plain, refused(grpc.StatusCode.UNAVAILABLE):
            plain.unary_unary(f"/{SERVICE}/Embed")(REQUEST.SerializeToString(), timeout=60)


def test_a_probe_inside_the_pod(pki):
    """A certificate for the service's name alone, asked on 127.0.0.1, as probes are."""
    with Server([MODEL], *QUICK, f"--tls_cert={pki / 'service.pem'}", f"--tls_key={pki / 'service.key'}", ready=False) as server:
        server.wait_for_ready()

        def health(*flags):
            return subprocess.run([CLIENT, "health", SERVICE, f"--target={server.grpc}", f"--tls_ca={pki / 'ca.pem'}", *flags], capture_output=True).returncode

        assert health("--tls_server_name=lion-serve.default.svc") == 0
        assert health() == health("--tls_server_name=other.default.svc") == 1


def test_client_certificates(pki):
    flags = (f"--tls_cert={pki / 'server.pem'}", f"--tls_key={pki / 'server.key'}", f"--tls_client_ca={pki / 'ca.pem'}")
    with Server([MODEL], *QUICK, *flags, credentials=credentials(pki, "client")) as server:
        assert len(server.call("Embed", REQUEST).results) == 1
        for who in (None, "stranger"):
            with grpc.secure_channel(server.grpc, credentials(pki, who)) as channel, refused(grpc.StatusCode.UNAVAILABLE):
                channel.unary_unary(f"/{SERVICE}/Embed")(REQUEST.SerializeToString(), timeout=60)


@pytest.mark.parametrize("broken", ["cert", "key", "client_ca", "key-of-another"])
def test_certificates_that_we_refuse(pki, tmp_path, broken):
    files = {"cert": pki / "server.pem", "key": pki / "server.key", "client_ca": pki / "ca.pem"}
    if broken == "key-of-another":
        files["key"] = pki / "client.key"
    else:
        files[broken] = tmp_path / "nonsense.pem"
        files[broken].write_text("nonsense\n")
    code, lines = run_server("--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *QUICK, *(f"--tls_{k}={v}" for k, v in files.items()), MODEL)
    assert code == 2, lines
    assert f"tls_{'key' if broken == 'key-of-another' else broken}" in lines[-1] or str(files.get(broken, files["key"])) in lines[-1], lines
