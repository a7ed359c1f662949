# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""A server under everything at once, for minutes: does it lose an answer, give a wrong one, or grow?

    ./dev soak --minutes=20                                      the demo model on this machine's CPU
    build/venv/bin/python bench/soak.py --minutes=20 --load=0.6 --json=soak.json

Starts lion-server and caller processes (bench/soak_caller.py) that send, open loop, a stated share of what the machine can compute: rows
of 1 to 32,768 ids and texts, one to four a call; streams, slow readers among them; cancellations at random moments; deadlines too short to
keep; bad requests of nine kinds. Meanwhile callers are killed (SIGKILL) and replaced, and the model's config.json is changed in a way that
changes no vector, and the server told so (SIGHUP): it loads the new version and goes over to it. At last so many connections stand open and idle beside one that calls.
Checked: every vector has the bits that its row had alone, before the load, and every status is one that the call may get; resident memory
does not grow (slope of the samples after the first quarter, by Theil and Sen); then every gauge is 0 and SIGTERM ends the server with 0.
Exits 1 otherwise. Prints what it found, and writes it to --json.
"""

import argparse
import collections
import json
import pathlib
import pickle
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/e2e"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness  # noqa: E402
import soak_caller  # noqa: E402
from harness import DEMO, Server, ids_input, pb, text_input  # noqa: E402

MAX_GROWTH = 0.05  # of resident memory, over the samples that count
MIN_GROWTH_BYTES = 32 << 20  # what an allocator may keep more or less, and so does not count as growth
HTTP2_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # the preface and empty SETTINGS


class CallerProcess:
    """A running soak_caller.py; its last word is kept, also when it is killed."""

    def __init__(self, address, known, rate, seed):
        command = [sys.executable, soak_caller.__file__, address, str(known), str(rate), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last = {"counts": {}, "samples": []}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.last = json.loads(line)
            except json.JSONDecodeError:
                pass  # it was killed while it wrote

    def kill(self):
        self.process.kill()
        self._end()

    def stop(self):
        """Lets it see its calls end."""
        self.process.stdin.close()
        self._end()
        assert self.process.returncode == 0, f"a caller failed with {self.process.returncode}"

    def _end(self):
        self.process.wait(harness.HANG_SECONDS + soak_caller.HANG_SECONDS)
        self._reader.join()
        self.process.stdout.close()


def know(server, longest):
    """What every row's vector is, alone; and what the texts' ids are."""
    model = server.call("ListModels", pb.ListModelsRequest()).models[0]
    vocab = json.loads((server.model / "config.json").read_text())["vocab_size"]
    rows = []
    for row, weight in soak_caller.inputs(vocab, min(longest, model.max_sequence_tokens)):
        result = server.call("Embed", soak_caller.embed_request([row])).results[0]
        rows.append((row, weight, result.vectors[0].data, result.token_count))
    ids = {t: list(server.call("Tokenize", pb.TokenizeRequest(inputs=[text_input(t)])).results[0].ids) for t in soak_caller.TEXTS}
    mean = sum(weight * tokens for _, weight, _, tokens in rows) / sum(weight for _, weight, _, _ in rows)
    return {"rows": [row[:3] for row in rows], "ids": ids}, mean


def capacity(server):
    """Tokens a second: the fastest of a few calls of 16 rows of 512."""
    rows = [ids_input([i % 200 + 5] * 512) for i in range(16)]
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        server.call("Embed", soak_caller.embed_request(rows))
        seconds.append(time.perf_counter() - started)
    return 16 * 512 / min(seconds)


def slope(samples):
    """Bytes a second: the median of the slopes between pairs (Theil and Sen), which a spike does not move."""
    step = max(1, len(samples) // 200)
    points = samples[::step]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def hold_idle(server, count, known):
    """count connections that say hello and then nothing; calls beside them. What it cost, and how long calls took."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = int(re.search(r"Max open files\s+(\d+)", pathlib.Path(f"/proc/{server.pid}/limits").read_text()).group(1))
    count = min(count, hard - 200, limit - 200)
    host, port = server.grpc.rsplit(":", 1)
    before, connections = server.memory_bytes(), []
    try:
        for _ in range(count):
            connections.append(socket.create_connection((host, int(port)), timeout=harness.HANG_SECONDS))
            connections[-1].sendall(HTTP2_OPENING)
        for connection in connections:
            assert connection.recv(9), "an idle connection was closed"  # the server's SETTINGS: it is served
        taken, ms, wrong = server.memory_bytes() - before, [], 0
        row, _, vector = known["rows"][0]
        for _ in range(50):
            started = time.perf_counter()
            result = server.call("Embed", soak_caller.embed_request([row])).results[0]
            ms.append(1e3 * (time.perf_counter() - started))
            wrong += result.vectors[0].data != vector
    finally:
        for connection in connections:
            connection.close()
    return {"connections": count, "bytes_each": taken // max(1, count), "p50_ms": statistics.median(ms), "max_ms": max(ms), "wrong": wrong}


class Soak:
    def __init__(self, args):
        self.args, self.random = args, random.Random(args.seed)
        self.counts, self.samples, self.short_ms = collections.Counter(), [], []
        self.rss, self.kills, self.reloads = [], 0, 0

    def keep(self, caller):
        self.counts.update(caller.last["counts"])
        self.samples += caller.last["samples"]
        self.short_ms += caller.last.get("short_ms", [])

    def load(self, server, known, rate):
        """The callers, their deaths, the reloads, and memory once a second."""
        seeds = iter(range(self.args.seed * 1000, self.args.seed * 1000 + 1000))
        start = lambda: CallerProcess(server.grpc, known, rate / self.args.callers, next(seeds))  # noqa: E731
        callers = [start() for _ in range(self.args.callers)]
        began = time.monotonic()
        end = began + 60 * self.args.minutes
        next_kill, next_reload = began + self.args.kill_seconds, began + self.args.reload_seconds
        try:
            while (now := time.monotonic()) < end:
                if server.process.poll() is not None:
                    sys.exit("lion-server ended; it said:\n" + "\n".join(server.log[-20:]))
                for caller in callers:
                    assert caller.process.poll() is None, f"a caller ended by itself with {caller.process.returncode}"
                self.rss.append((now - began, server.memory_bytes()))
                if now >= next_kill and self.args.kill_seconds > 0:
                    i = self.random.randrange(len(callers))
                    callers[i].kill()
                    self.keep(callers[i])
                    callers[i] = start()
                    self.kills += 1
                    next_kill = now + self.args.kill_seconds
                if now >= next_reload and self.args.reload_seconds > 0:
                    self.reload(server)
                    next_reload = now + self.args.reload_seconds
                time.sleep(1)
        finally:
            for caller in callers:
                caller.stop()
                self.keep(caller)

    def reload(self, server):
        """Another version with the same vectors."""
        self.reloads += 1
        config = json.loads((server.model / "config.json").read_text())
        new = server.model / "config.json.new"
        new.write_text(json.dumps({**config, "soak": self.reloads}))
        new.rename(server.model / "config.json")
        server.signal(signal.SIGHUP)

    def gauges_left(self, server):
        """Gauges that should be 0 and are not, after the calls that were cut off have had time to be noticed."""
        end = time.monotonic() + harness.HANG_SECONDS
        while True:
            samples = server.metrics()
            left = {k: v for k, v in samples.items() if re.match(r"lion_(rpc_in_flight|queue_sequences|queue_tokens)\b", k) and v != 0}
            if not left or time.monotonic() > end:
                return left, samples
            time.sleep(0.1)

    def run(self):
        work = pathlib.Path(tempfile.mkdtemp(prefix="lion_soak_"))
        try:
            return self.run_in(work)
        finally:
            shutil.rmtree(work)

    def run_in(self, work):
        args = self.args
        flags = [f"--dtype={args.dtype}", "--parallel_max_tokens=256", *args.server_flags]
        model = work / "model"
        shutil.copytree(args.model, model)
        with Server([model], *flags) as server:
            server.model = model
            first_version = server.call("ListModels", pb.ListModelsRequest()).models[0].version
            known, mean_tokens = know(server, args.longest)
            (work / "known").write_bytes(pickle.dumps(known))
            tokens_per_second = capacity(server)
            # A call of 1 to 4 rows; about one in thirteen is a stream of some 20 messages, and one in five ends before it computes.
            rate = args.load * tokens_per_second / (mean_tokens * (0.65 * 2.5 + 0.08 * 1.5 + 0.04 * 30))
            print(f"lion-server, {args.dtype}, {tokens_per_second:,.0f} tokens/s; {args.callers} callers send {rate:.1f} calls/s, {args.load:.0%} of it, "
                  f"for {args.minutes:g} minutes", flush=True)
            self.load(server, work / "known", rate)
            left, samples = self.gauges_left(server)
            counted = self.rss[len(self.rss) // 4 :]
            growth = slope(counted) * (counted[-1][0] - counted[0][0]) if len(counted) > 1 else 0.0
            middle = statistics.median(b for _, b in counted)
            last_version = server.call("ListModels", pb.ListModelsRequest()).models[0].version
            idle = hold_idle(server, args.idle, known) if args.idle else None
            health = server.health()
            server.signal()
            exit_code = server.wait_exit()
        ours = {k: v for k, v in samples.items() if k.startswith("lion_rpc_requests_total") and re.search(r'code="(INTERNAL|UNKNOWN|DATA_LOSS|ABORTED)"', k)}
        short = sorted(self.short_ms)
        found = {
            "minutes": args.minutes, "dtype": args.dtype, "tokens_per_second": tokens_per_second, "calls_per_second": rate, "seed": args.seed,
            "counts": dict(self.counts), "samples": self.samples[:20], "killed_callers": self.kills, "reloads": self.reloads,
            "short_calls_ms": {"p50": short[len(short) // 2], "p99": short[int(0.99 * len(short))], "calls": len(short)} if short else None,
            "memory": {"median_mib": middle / 2**20, "growth_mib": growth / 2**20, "samples": len(counted)},
            "gauges_left": left, "internal_errors": ours, "idle": idle, "health": health, "exit_code": exit_code,
        }
        problems = {
            "no answers": self.counts["rows_right"] == 0,
            "lost": self.counts["lost"], "wrong": self.counts["wrong"], "gauges": left, "internal errors": ours,
            "memory grows": not args.short and growth > max(MAX_GROWTH * middle, MIN_GROWTH_BYTES),  # a minute says nothing
            "wrong beside idle connections": idle and idle["wrong"], "never went over to another version": self.reloads > 0 and last_version == first_version, "not serving at the end": health != "SERVING", "exit code": exit_code,
        }
        found["problems"] = {k: v for k, v in problems.items() if v}
        return found


def show(found):
    c = collections.Counter(found["counts"])
    print(f"sent {c['sent']:,} calls: {c['answered']:,} answered, {c['streams']:,} streams with {c['stream_messages']:,} messages, {c['documents']:,} documents, "
          f"{c['cancelled']:,} cancelled, {c['deadline']:,} past their deadline, {c['refused']:,} refused for lack of room, {c['bad_refused']:,} bad ones refused; {c['left_out']:,} left out")
    print(f"rows with the bits they have alone: {c['rows_right']:,}; wrong: {c['wrong']}; lost: {c['lost']}")
    print(f"callers killed: {found['killed_callers']}; reloads: {found['reloads']}")
    if short := found["short_calls_ms"]:
        print(f"calls of up to 512 tokens: p50 {short['p50']:.0f} ms, p99 {short['p99']:.0f} ms")
    memory = found["memory"]
    print(f"resident memory: median {memory['median_mib']:.0f} MiB, growth {memory['growth_mib']:+.1f} MiB by slope over {memory['samples']} samples")
    if idle := found["idle"]:
        print(f"{idle['connections']:,} idle connections: {idle['bytes_each']:,} bytes each; a call beside them: p50 {idle['p50_ms']:.1f} ms, longest {idle['max_ms']:.1f} ms")
    for sample in found["samples"]:
        print("  " + sample)
    print("soak: " + ("FAILED: " + json.dumps(found["problems"]) if found["problems"] else "ok"))


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--load", type=float, default=0.6, help="share of what the machine computes; above 1 is overload")
    parser.add_argument("--model", type=pathlib.Path, default=DEMO / "model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--longest", type=int, default=32768, help="tokens of a row")
    parser.add_argument("--callers", type=int, default=2, help="processes")
    parser.add_argument("--kill_seconds", type=float, default=15, help="between two callers' deaths; 0 = none")
    parser.add_argument("--reload_seconds", type=float, default=0, help="between two reloads; 0 = none")
    parser.add_argument("--idle", type=int, default=10000, help="connections at the end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bin", type=pathlib.Path, help="the folder of lion-server, if not build/release/bin")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--short", action="store_true", help="one minute, rows of up to 4,096 tokens; memory is not judged")
    parser.add_argument("server_flags", nargs="*", help="for lion-server, after --")
    args = parser.parse_args()
    if args.short:
        args.minutes, args.longest, args.idle = 1, 4096, 1000
    if args.bin:
        harness.BINARY = args.bin / "lion-server"
    found = Soak(args).run()
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
