# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Keys, certificates and models replaced while the server serves: the new ones count, and bad ones change nothing."""

import hashlib
import os
import queue
import shutil
import signal
import subprocess
import threading

import grpc
import numpy as np
import pytest

from harness import HANG_SECONDS, ORACLE, Server, encoder_pb2_grpc, ids_input, pb, refused
from models import BASE, copy_of, edit_weights

MODEL = ORACLE / BASE
QUICK = ("--dtype=float32", "--parallel_max_tokens=64", "--max_batch_tokens=256", "--reload_interval=100h")
REQUEST = pb.EmbedRequest(inputs=[ids_input([1, 2, 3])])


def reloads(server, what, result):
    return server.metrics()[f'lion_reloads_total{{result="{result}",what="{what}"}}']


def reload(server, what, result, line):
    """SIGHUP; then the line, and the outcome counted."""
    before, said = reloads(server, what, result), len(server.log)
    server.signal(signal.SIGHUP)
    server.wait_for_line(line, since=said)
    assert reloads(server, what, result) == before + 1


def version(server):
    return server.call("ListModels", pb.ListModelsRequest()).models[0].version


def twice(tensors):
    tensors["classifier.weight"] *= 2


def renamed_into(directory, source):
    """As docs/operations.md says: new files take the old ones' names, never their places."""
    for part in source.iterdir():
        shutil.copy(part, directory / (part.name + ".new"))
        os.replace(directory / (part.name + ".new"), directory / part.name)


# ------------------------------------------------------------------------------------------------------------------ keys


def key_line(name, key):
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


def may_call(server, key):
    try:
        server.stub.Embed(REQUEST, timeout=HANG_SECONDS, metadata=[("authorization", f"Bearer {key}")])
        return True
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        return False


def test_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(key_line("ann", "old"))
    with Server([MODEL], *QUICK, f"--api_key_file={keys}") as server:
        assert may_call(server, "old") and not may_call(server, "new")
        keys.write_text(key_line("ann", "new") + key_line("bob", "k2"))
        reload(server, "api_keys", "ok", "read again, 2 keys")
        assert may_call(server, "new") and may_call(server, "k2") and not may_call(server, "old")
        keys.write_text(key_line("ann", "other") + "nonsense\n")
        reload(server, "api_keys", "refused", r"keys: line 2: .*stay in force")
        assert may_call(server, "new") and not may_call(server, "other")
        keys.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_line("cannot be read; the keys before stay in force")
        assert may_call(server, "new")
        assert reloads(server, "api_keys", "refused") == 2


def test_keys_are_looked_at_without_a_signal(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(key_line("ann", "old"))
    with Server([MODEL], *QUICK, f"--api_key_file={keys}", "--reload_interval=50ms") as server:
        (tmp_path / "next").write_text(key_line("ann", "brand-new"))
        os.replace(tmp_path / "next", keys)
        server.wait_for_line("read again, 1 keys")
        assert may_call(server, "brand-new") and not may_call(server, "old")


# ----------------------------------------------------------------------------------------------------------- certificates


class Authority:
    """A certificate authority of its own; sign(name) writes name.key and name.pem into the directory."""

    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.directory, check=True, capture_output=True)

    def sign(self, name, days=2):
        (self.directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key", "-CAcreateserial", "-out",
                      f"{name}.pem", "-days", str(days), "-extfile", "names")

    def credentials(self, client=None):
        read = lambda name: (self.directory / name).read_bytes()  # noqa: E731
        return grpc.ssl_channel_credentials(read(f"{self.name}.pem"), *((read(f"{client}.key"), read(f"{client}.pem")) if client else ()))


def trusts(server, credentials):
    """Whether a new connection with these credentials serves a call."""
    with grpc.secure_channel(server.grpc, credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return len(encoder_pb2_grpc.EncoderServiceStub(channel).Embed(REQUEST, timeout=HANG_SECONDS).results) == 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return False


def install(directory, name):
    for part in ("pem", "key"):
        shutil.copy(directory / f"{name}.{part}", directory / f"served.{part}")


def test_certificates(tmp_path):
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    old.sign("first")
    new.sign("second")
    new.sign("late", days=-1)
    install(tmp_path, "first")
    flags = [f"--tls_cert={tmp_path}/served.pem", f"--tls_key={tmp_path}/served.key"]
    with Server([MODEL], *QUICK, *flags, credentials=old.credentials()) as server:
        server.call("Embed", REQUEST)
        install(tmp_path, "second")
        reload(server, "tls", "ok", "read again")
        assert trusts(server, new.credentials()) and not trusts(server, old.credentials())
        server.call("Embed", REQUEST)  # on the connection that was open
        shutil.copy(tmp_path / "first.pem", tmp_path / "served.pem")  # with second's key
        reload(server, "tls", "refused", "is not the key of the certificate.*stays in force")
        assert trusts(server, new.credentials()) and not trusts(server, old.credentials())
        install(tmp_path, "late")
        reload(server, "tls", "refused", "the certificate expired on .*stays in force")
        assert trusts(server, new.credentials())


def test_the_authority_of_client_certificates(tmp_path):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    ours.sign("served")
    ours.sign("ann")
    other.sign("bob")
    shutil.copy(tmp_path / "ours.pem", tmp_path / "clients.pem")
    flags = [f"--tls_cert={tmp_path}/served.pem", f"--tls_key={tmp_path}/served.key", f"--tls_client_ca={tmp_path}/clients.pem"]
    with Server([MODEL], *QUICK, *flags) as server:
        assert trusts(server, ours.credentials("ann")) and not trusts(server, ours.credentials("bob"))
        shutil.copy(tmp_path / "other.pem", tmp_path / "clients.pem")
        reload(server, "tls", "ok", "read again")
        assert trusts(server, ours.credentials("bob")) and not trusts(server, ours.credentials("ann"))


# ----------------------------------------------------------------------------------------------------------------- models


def scores(server, request=pb.ClassifyRequest(inputs=REQUEST.inputs, raw_scores=True)):
    answer = server.call("Classify", request)
    by_label = {s.label: s.score for s in answer.results[0].scores}
    return answer.model_version, np.array([by_label[label] for label in sorted(by_label)])


def test_a_model(tmp_path):
    served = copy_of(BASE, tmp_path / "served")
    next_one = edit_weights(copy_of(BASE, tmp_path / "next"), twice)
    with Server([served], *QUICK) as server, Server([next_one], *QUICK) as judge:
        first, before = scores(server)
        renamed_into(served, next_one)
        reload(server, "model", "ok", "serves in place of")
        second, after = scores(server)
        assert (second, list(after)) == (scores(judge)[0], list(scores(judge)[1]))
        assert first != second and not np.allclose(before, after)
        assert version(server) == second
        info = [k for k in server.metrics() if k.startswith("lion_model_info")]
        assert len(info) == 1 and f'version="{second}"' in info[0]
        renamed_into(served, MODEL)  # and back, into the place that the first one had
        reload(server, "model", "ok", f"version {first} serves in place of {second}")
        again, once_more = scores(server)
        assert again == first and list(once_more) == list(before)
        server.signal()
        assert server.wait_exit() == 0
        assert sum("loading it again" in line for line in server.log) == 2


@pytest.mark.parametrize("what", ["config", "weights", "missing"])
def test_a_bad_model_changes_nothing(tmp_path, what):
    served = copy_of(BASE, tmp_path / "served")
    with Server([served], *QUICK) as server:
        before = scores(server)
        if what == "config":
            (tmp_path / "new").write_text("{")
            os.replace(tmp_path / "new", served / "config.json")
        elif what == "weights":
            (tmp_path / "new").write_bytes((served / "model.safetensors").read_bytes()[:1000])
            os.replace(tmp_path / "new", served / "model.safetensors")
        else:
            (served / "model.safetensors").unlink()
        name = "config.json" if what == "config" else "model.safetensors"
        reload(server, "model", "refused", rf"{name}.*; version {before[0]} of model served serves on")
        after = scores(server)
        assert after[0] == before[0] and list(after[1]) == list(before[1])
        assert server.health() == "SERVING"
        renamed_into(served, MODEL)
        reload(server, "model", "ok", "serves in place of")


def test_a_folder_is_watched(tmp_path):
    served = copy_of(BASE, tmp_path / "served")
    next_one = edit_weights(copy_of(BASE, tmp_path / "next"), twice)
    with Server([served], *QUICK, "--reload_interval=50ms", "--watch_models") as server:
        first = version(server)
        renamed_into(served, next_one)
        server.wait_for_line("serves in place of")
        assert version(server) != first


def test_calls_that_run_end_on_the_old_version(tmp_path):
    """Load of both kinds through four reloads: every call is answered, by a version that was whole."""
    served = copy_of(BASE, tmp_path / "served")
    next_one = edit_weights(copy_of(BASE, tmp_path / "next"), twice)
    request = pb.ClassifyRequest(inputs=[ids_input([7, 8, 9] * 20)] * 3, raw_scores=True)
    with Server([next_one], *QUICK) as judge:
        known = dict([(v, list(s)) for v, s in [scores(judge, request)]])
    with Server([served], *QUICK) as server:
        known.update([(v, list(s)) for v, s in [scores(server, request)]])
        assert len(known) == 2
        seen, failures, ended = set(), [], threading.Event()

        def check(answer):
            for result in answer.results:
                by_label = {s.label: s.score for s in result.scores}
                assert [by_label[label] for label in sorted(by_label)] == known[answer.model_version]
            seen.add(answer.model_version)

        def unary():
            while not ended.is_set():
                check(server.stub.Classify(request, timeout=HANG_SECONDS))

        def stream():
            outbox = queue.Queue()
            answers = server.stub.ClassifyStream(iter(outbox.get, None), timeout=HANG_SECONDS)
            for _ in range(8):
                outbox.put(request)
            while not ended.is_set():
                check(next(answers))
                outbox.put(request)
            outbox.put(None)
            for answer in answers:
                check(answer)

        def guarded(work):
            try:
                work()
            except Exception as error:  # noqa: BLE001: whatever it is, the test fails by it
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(work,)) for work in (unary, unary, stream, stream)]
        for thread in threads:
            thread.start()
        for source in (next_one, MODEL, next_one, MODEL):
            renamed_into(served, source)
            reload(server, "model", "ok", "serves in place of")
        ended.set()
        for thread in threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "a call hangs"
        assert not failures
        assert seen == set(known)
        after = server.metrics()
        assert sum(v for k, v in after.items() if k.startswith(("lion_queue_sequences", "lion_rpc_in_flight", "lion_dropped_total"))) == 0


def test_one_of_two_models(tmp_path):
    """The other is not loaded again, and names and order stay."""
    a, b = copy_of(BASE, tmp_path / "a"), copy_of("text-lion-lit-ln", tmp_path / "b")
    with Server([a, b], *QUICK) as server:
        before = {m.name: m.version for m in server.call("ListModels", pb.ListModelsRequest()).models}
        edit_weights(b, lambda tensors: tensors.update({"classifier.weight": tensors["classifier.weight"] * 3}))
        reload(server, "model", "ok", "model b: version .* serves in place of")
        after = {m.name: m.version for m in server.call("ListModels", pb.ListModelsRequest()).models}
        assert list(after) == ["a", "b"] and after["a"] == before["a"] and after["b"] != before["b"]
        assert server.call("Embed", pb.EmbedRequest(model="b", inputs=REQUEST.inputs)).model_version == after["b"]
        with refused(grpc.StatusCode.NOT_FOUND):
            server.call("Embed", pb.EmbedRequest(model="c", inputs=REQUEST.inputs))
