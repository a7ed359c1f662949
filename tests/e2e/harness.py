# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests stand on: the wire's stubs, a server process, its metrics, the oracle's numbers.

Everything here speaks to a real lion-server as any user would: by its command line, its ready line, its ports and its exit
code. A Server is ended by its pid. Waiting is always for an event (a line, a status, an exit) with a generous limit that
only a hang reaches.

    with Server([ORACLE / "text-lion-s-ln"]) as server:
        answer = server.stub.Embed(pb.EmbedRequest(inputs=[ids_input([1, 2, 3])]))
"""

import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request

import grpc
import grpc_tools
import numpy as np
import safetensors.numpy
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORACLE = ROOT / "tests/oracle"
DEMO = ROOT / "demo"
BINARY = ROOT / "build/release/bin/lion-server"
SERVICE = "lion.v1.EncoderService"
HANG_SECONDS = 120  # no test waits this long unless something hangs


def _generate_stubs():
    """Into build/e2e/stubs, file by file whole: others may import them at this moment (the callers of bench/soak.py do)."""
    out = ROOT / "build/e2e/stubs"
    out.mkdir(parents=True, exist_ok=True)
    google = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory(dir=out.parent) as made:
        failed = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{google}", f"--python_out={made}", f"--grpc_python_out={made}", "lion/v1/encoder.proto"])
        assert not failed, "protoc refused proto/lion/v1/encoder.proto"
        for file in list(pathlib.Path(made).rglob("*.py")):
            target = out / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    sys.path.insert(0, str(out))


_generate_stubs()
from lion.v1 import encoder_pb2 as pb  # noqa: E402
from lion.v1 import encoder_pb2_grpc  # noqa: E402

UNARY = {"Embed": pb.EmbedRequest, "Classify": pb.ClassifyRequest, "Tokenize": pb.TokenizeRequest, "ListModels": pb.ListModelsRequest}
STREAMS = {"EmbedStream": pb.EmbedRequest, "ClassifyStream": pb.ClassifyRequest}


# ---------------------------------------------------------------------------------------------------------------- server


class Server:
    """A lion-server process on free ports of 127.0.0.1, ready when `with` is entered and gone when it is left.

    models are directories or "NAME=DIR"; flags come after the harness's own, so they win. Its precision is float32, unless flags say otherwise.
    """

    def __init__(self, models, *flags, ready=True, metadata=(), credentials=None):
        self._command = [str(BINARY), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", "--dtype=float32", *flags, *map(str, models)]
        self._wait_ready = ready
        self._metadata, self._credentials = metadata, credentials
        self._changed = threading.Condition()
        self._ended_reading = False
        self.log = []
        self.grpc = self.metrics_address = self.models = None

    def __enter__(self):
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._wait_ready:
            self.wait_for_ready()
        return self

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended_reading = True
            self._changed.notify_all()

    def wait_for_line(self, pattern, since=0):
        """The first match of pattern in the log from line `since` on, waiting for it; fails if the server ends or hangs before."""
        with self._changed:
            seen = since

            def found():
                nonlocal seen
                for line in self.log[seen:]:
                    seen += 1
                    if match := re.search(pattern, line):
                        return match
                return self._ended_reading

            match = self._changed.wait_for(found, HANG_SECONDS)
        assert isinstance(match, re.Match), f"no line like {pattern!r}; the server said:\n" + "\n".join(self.log)
        return match

    def wait_for_ready(self):
        self.grpc, self.metrics_address, self.models = self.wait_for_line(r"ready grpc=(\S+) metrics=(\S+) models=([A-Za-z0-9._,-]+)").groups()

    @property
    def pid(self):
        return self.process.pid

    def channel(self, **options):
        options = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1, "grpc.use_local_subchannel_pool": 1, **options}
        if self._credentials is not None:
            return grpc.secure_channel(self.grpc, self._credentials, list(options.items()))
        return grpc.insecure_channel(self.grpc, list(options.items()))

    @property
    def stub(self):
        """The service on one channel, opened at first use."""
        if not hasattr(self, "_channel"):
            self._channel = self.channel()
        return encoder_pb2_grpc.EncoderServiceStub(self._channel)

    def call(self, method, request, **options):
        """One unary call on the server's own channel."""
        return getattr(self.stub, method)(request, timeout=HANG_SECONDS, metadata=self._metadata or None, **options)

    def raw(self, method, stream=False):
        """The method as bytes -> bytes, for what no stub would send."""
        self.stub
        kind = self._channel.stream_stream if stream else self._channel.unary_unary
        return kind(f"/{SERVICE}/{method}", request_serializer=lambda b: b, response_deserializer=lambda b: b)

    def health(self, service=SERVICE):
        self.stub
        answer = health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=HANG_SECONDS)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def watch_health(self, service=SERVICE):
        """Yields the names of the statuses that the server reports, each as it changes."""
        self.stub
        for answer in health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=HANG_SECONDS):
            yield health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def metrics_text(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=HANG_SECONDS) as answer:
            return answer.read().decode()

    def metrics(self, prefix="lion_"):
        """Every sample whose name starts so: {'name{label="value",…}': number}, labels sorted."""
        samples = {}
        for line in self.metrics_text().split("\n"):
            if line.startswith(prefix):
                name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)(?: \d+)?", line).groups()
                pairs = sorted(re.findall(r'(\w+)="((?:\\.|[^"\\])*)"', labels or ""))
                key = name + ("{" + ",".join(f'{k}="{v}"' for k, v in pairs) + "}" if pairs else "")
                samples[key] = float(value)
        return samples

    def memory_bytes(self, peak=False):
        """Resident memory now, or at its highest since reset_peak."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB" if peak else r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def reset_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_seconds(self):
        """Processor time of all its threads that still run."""
        return sum(int(p.read_text().split()[0]) for p in pathlib.Path(f"/proc/{self.pid}/task").glob("*/schedstat")) / 1e9

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self):
        """The exit code, waiting for the end; everything said is in .log then."""
        code = self.process.wait(HANG_SECONDS)
        self._reader.join(HANG_SECONDS)
        return code

    def __exit__(self, *_):
        if hasattr(self, "_channel"):
            self._channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(HANG_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self._reader.join(HANG_SECONDS)
        self.process.stderr.close()


def run_server(*args, timeout=HANG_SECONDS):
    """Runs a server that should end by itself: (exit code, stdout and stderr lines)."""
    run = subprocess.run([str(BINARY), *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout)
    return run.returncode, (run.stdout + run.stderr).splitlines()


@contextlib.contextmanager
def refused(code, *words, begins=""):
    """The call inside fails with this code and a message that begins so and has all the words."""
    try:
        yield
    except grpc.RpcError as error:
        check_error(error.code(), error.details(), code, *words, begins=begins)
    else:
        raise AssertionError(f"answered OK instead of {code}")


def check_error(code, message, wanted, *words, begins=""):
    """code and wanted: grpc.StatusCode, or the number of one."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    assert number == wanted.value[0], f"{code} instead of {wanted}: {message}"
    assert message.startswith(begins), f"the message does not begin with {begins!r}: {message}"
    for word in words:
        assert str(word) in message, f"the message does not name {word!r}: {message}"


# ---------------------------------------------------------------------------------------------------------------- inputs


def text_input(text):
    return pb.Input(text=text)


def pair_input(first, second):
    return pb.Input(text_pair=pb.TextPair(first=first, second=second))


def ids_input(ids, type_ids=()):
    return pb.Input(token_ids=pb.TokenIds(ids=[int(i) for i in ids], type_ids=[int(t) for t in type_ids]))


def values(vector):
    return np.array(vector.values, dtype=np.float32)


class Oracle:
    """An oracle model's inputs and what the reference made of them."""

    NAMES = ("text-lion-lit-ln", "text-lion-d-noln", "text-lion-s-ln", "text-lion-s-noln")

    def __init__(self, name):
        self.name, self.directory = name, ORACLE / name
        data = safetensors.numpy.load_file(self.directory / "expected.safetensors")
        self.lengths = [int(n) for n in data["lengths"]]
        rows = range(len(self.lengths))
        self.ids = [data[f"input_ids.{i}"] for i in rows]
        self.type_ids = [data[f"token_type_ids.{i}"] for i in rows]
        self.hidden = [data[f"last_hidden_state.{i}"] for i in rows]
        self.logits = data["logits"]

    def inputs(self):
        return [ids_input(i, t) for i, t in zip(self.ids, self.type_ids)]


TOLERANCE = 1e-4  # fp32 against the reference, absolute: what the project promises


def assert_close(got, want, tolerance=TOLERANCE):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    error = np.abs(got - want).max()
    assert error <= tolerance, f"largest error {error:.3g}, allowed {tolerance:.3g}"
