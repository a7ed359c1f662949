# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion-server and lion-client as the benchmarks in Python use them: by their command lines, on this machine, nothing but the standard library.

    with Server(BIN / "lion-server", "demo/model", "--device=cuda") as server:
        client = Client(BIN / "lion-client", server)
        print(client.load(4, "--tokens=128", "--rows=64", "--concurrency=16", "--duration=4s")["tokens_per_second"])
"""

import contextlib
import json
import pathlib
import re
import statistics
import subprocess
import sys
import threading
import time

HANG_SECONDS = 120


class Server:
    """A lion-server on free ports of 127.0.0.1, ready when `with` is entered and gone when it is left."""

    def __init__(self, binary, model, *flags):
        self._command = [str(binary), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *flags, str(model)]
        self._log, self._ready = [], threading.Event()

    def __enter__(self):
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(HANG_SECONDS) or not hasattr(self, "address"):
            self.__exit__()
            sys.exit("lion-server did not become ready; it said:\n" + "\n".join(self._log))
        return self

    def _read(self):
        for line in self.process.stderr:
            self._log.append(line.rstrip("\n"))
            if match := re.search(r"ready grpc=(\S+)", line):
                self.address = match.group(1)
                self._ready.set()
        self._ready.set()

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(HANG_SECONDS)
        self._reader.join()
        self.process.stderr.close()


def cpu_seconds(pid):
    """Processor time of a process's threads that still run."""
    total = 0
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            fields = path.read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / 100


class Client:
    """lion-client, speaking to one server."""

    def __init__(self, binary, server):
        self._binary, self._server = str(binary), server

    def _run(self, command, *args):
        return subprocess.Popen([self._binary, command, f"--target={self._server.address}", *map(str, args)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def output(self, command, *args):
        process = self._run(command, *args)
        out, error = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == 0, error
        return out

    def vector(self, ids):
        """One row's vector, as the client prints it."""
        answer = json.loads(self.output("embed", "--ids", "--format=jsonl", "--quiet", ",".join(map(str, ids))))
        assert "error" not in answer, answer
        return answer["vector"]

    def load(self, processes, *args, during=lambda: None):
        """Runs so many `bench` processes at once, and during() beside them: their reports added up, and the cores that all kept busy."""
        clients = [self._run("bench", "--json", f"--seed={i + 1}", *args) for i in range(processes)]
        started, server_cpu = time.perf_counter(), cpu_seconds(self._server.process.pid)
        during()
        outputs = [c.communicate(timeout=HANG_SECONDS) for c in clients]
        wall, server_cpu = time.perf_counter() - started, cpu_seconds(self._server.process.pid) - server_cpu
        for client, (_, error) in zip(clients, outputs):
            assert client.returncode == 0, error
        reports = [json.loads(out) for out, _ in outputs]
        for report in reports:
            assert report["ok"] == report["requests"] > 0 and report["failed_rows"] == 0, report
        longest = max(reports, key=lambda r: r["latency_seconds"]["p99"])
        return {"tokens_per_second": sum(r["tokens_per_second"] for r in reports),
                "rows_per_second": sum(r["rows_per_second"] for r in reports),
                "p50_ms": 1e3 * statistics.median(r["latency_seconds"]["p50"] for r in reports),
                "p99_ms": 1e3 * longest["latency_seconds"]["p99"],
                "mean_tokens": sum(r["tokens"] for r in reports) / sum(r["rows"] for r in reports),
                "server_mean_ms": {k: 1e3 * v for k, v in longest["server_mean_seconds"].items()},
                "server_cores": server_cpu / wall}
