# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A rolling restart on one machine: two servers, restarted in turn again and again under load. Clients with the published service config
and clients behind deploy/envoy.yaml see no failed call; what clients without either see is reported."""

import collections
import json
import re
import subprocess
import threading
import urllib.request

import grpc
import pytest
import yaml

from harness import DEMO, HANG_SECONDS, ROOT, Server, encoder_pb2_grpc, pb, text_input
from tools import CLIENT, DEPLOY, ENVOY, Program, free_port, run, until

RESTARTS = 6
TEXTS = [line for line in (DEMO / "texts/sentences.txt").read_text().splitlines() if line]


def service_config():
    """The one that docs/client.md publishes."""
    (block,) = re.findall(r"```json\n(\{.*?\})\n```", (ROOT / "docs/client.md").read_text(), re.S)
    return block


class Caller:
    """Calls Embed over a channel, one after the other on two threads, until told to stop; keeps what failed."""

    def __init__(self, target, config=None):
        options = [("grpc.service_config", config)] if config else []
        # As our clients: a server that restarts is found again within seconds.
        options += [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.insecure_channel(target, options + [("grpc.use_local_subchannel_pool", 1)])
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(2)]
        self.calls, self.failed = 0, []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(HANG_SECONDS)
        self._channel.close()

    def _work(self):
        request = pb.EmbedRequest(inputs=[text_input(t) for t in TEXTS[:4]])
        while not self._stop.is_set():
            try:
                assert len(self._stub.Embed(request, timeout=HANG_SECONDS).results) == 4
            except grpc.RpcError as error:
                self.failed.append(f"{error.code().name}: {error.details()}")
                self._stop.wait(0.02)  # or one that fails at once would fail most often
            self.calls += 1


class Replica:
    """A server on a port of its own that can be restarted."""

    def __init__(self):
        self.port = free_port()
        self._server = None

    def start(self):
        self._server = Server([f"demo={DEMO / 'model'}"], f"--listen=127.0.0.1:{self.port}", "--parallel_max_tokens=128", "--max_batch_tokens=1024",
                              "--compute_threads=1", "--drain_delay=2s")
        self._server.__enter__()

    def stop(self):
        self._server.signal()
        assert self._server.wait_exit() == 0, self._server.log
        self._server.__exit__(None, None, None)
        return self._server.log

    def served(self):
        """Calls answered since its start."""
        return sum(v for k, v in self._server.metrics("lion_rpc_requests_total").items() if 'rpc="Embed"' in k and 'code="OK"' in k)


@pytest.fixture
def replicas():
    pair = [Replica(), Replica()]
    for replica in pair:
        replica.start()
    yield pair
    for replica in pair:
        replica.stop()


@pytest.fixture
def envoy(replicas, tmp_path):
    """deploy/envoy.yaml as it is, but for its port and the two addresses that DNS would give it. Yields its port, and the number of servers
    that it believes to be healthy."""
    config = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]
    port, admin = free_port(), free_port()
    config["listeners"][0]["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    config["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": r.port}}}} for r in replicas]
    (tmp_path / "envoy.yaml").write_text(json.dumps({
        "static_resources": config, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}}))

    def healthy():
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=membership_healthy", timeout=HANG_SECONDS) as answer:
            return int(answer.read().split()[-1])

    with Program([ENVOY, "-c", tmp_path / "envoy.yaml", "--concurrency", "1", "--log-level", "warning"], tmp_path / "envoy.log") as program:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)

            def answers():
                program.alive()
                try:
                    return stub.ListModels(pb.ListModelsRequest(), timeout=HANG_SECONDS, wait_for_ready=True).models
                except grpc.RpcError:
                    return None

            until(answers, "Envoy")
        yield port, healthy


def test_the_example_is_valid_for_envoy():
    assert "OK" in run(ENVOY, "--mode", "validate", "-c", DEPLOY / "envoy.yaml")


def test_no_call_fails_while_servers_restart(replicas, envoy, tmp_path, record_property, capsys):
    port, healthy = envoy
    both = "ipv4:" + ",".join(f"127.0.0.1:{r.port}" for r in replicas)
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{i} {TEXTS[i % len(TEXTS)]}\n" for i in range(4000)))
    client = [CLIENT, "embed", f"--target={both}", f"--file={texts}", "--batch_size=4", "--in_flight=2", "--format=jsonl", "--quiet"]
    with (Caller(both, service_config()) as published, Caller(f"127.0.0.1:{port}") as proxied, Caller(both) as plain,
          Caller(f"127.0.0.1:{replicas[0].port}") as alone,
          open(tmp_path / "rows.jsonl", "w") as rows, subprocess.Popen([str(c) for c in client], stdout=rows, stderr=subprocess.PIPE, text=True) as ours):
        for i in range(RESTARTS):
            replica = replicas[i % 2]
            log = replica.stop()
            assert "every call was answered" in log[-1], log
            replica.start()
            # What minReadySeconds is for in a rollout: everybody has seen the new one before the next one goes.
            until(replica.served, "calls to come back to a server that has restarted")
            until(lambda: healthy() == 2, "Envoy to see both servers")
        assert ours.wait(HANG_SECONDS) == 0, ours.stderr.read()
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == 4000 and all("vector" in line for line in lines)
    assert published.calls > 100 and published.failed == []
    assert proxied.calls > 100 and proxied.failed == []
    report = {name: f"{len(c.failed)} of {c.calls} calls failed" for name, c in (
        ("published service config", published), ("behind Envoy", proxied), ("no config, both addresses", plain), ("no config, one address", alone))}
    report["lion-client"] = f"0 of {len(lines)} rows failed"
    for name, outcome in report.items():
        record_property(name, outcome)
    with capsys.disabled():
        print(f"\n{RESTARTS} restarts: " + "; ".join(f"{k}: {v}" for k, v in report.items()))
    # Why the config is worth having: without it a caller sees each restart. CANCELLED is what gRPC makes of a call that crosses the end of
    # its connection.
    assert alone.failed and {f.partition(":")[0] for f in alone.failed} <= {"UNAVAILABLE", "CANCELLED"}, collections.Counter(alone.failed)
