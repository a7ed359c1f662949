# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the service makes of its engine: latency of one short text and throughput, from clients on the same machine.

    build/venv/bin/python bench/service_bench.py                                          the demo model on this machine's CPU
    python3 bench/service_bench.py --bin build/release-cuda/bin --device cuda --engine_json engine.json --json service.json
    python3 bench/service_bench.py --bin build/release-cuda/bin --device cuda:0,cuda:1    how two GPUs do beside one
    build/venv/bin/python bench/service_bench.py --model DIR --lengths 21,133,8192 --rates 0.2,0.5,0.8      also latency by load, open loop

On a GPU the model is a random LION-S of BERT base's size with the demo's tokenizer. Loads are lion-client bench's, closed loop, over
loopback, from several processes: token ids and texts of 128, 512 and 8,192 tokens. "engine" is what cuda_engine_bench or cpu_engine_bench
measured of the same size without a service (--engine_json). --rates are shares of the closed loop's rows a second. Where a load saturates is told by the cores that server and clients keep busy, and by the
server's own mean times of a request.
Checked: every request of a load is answered and no row fails; one row is answered with the same bits alone and under each load.
Exits 1 otherwise. It judges no speed.
"""

import argparse
import gzip
import json
import pathlib
import os
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import random_model  # noqa: E402
from programs import Client, Server  # noqa: E402

CALL_TOKENS = 8192  # of a call in the loads: as many rows as make these
PROBE_TOKENS = 700


# ---------------------------------------------------------------------------------------------------------------- loads


def write_texts(path, client, tokens, count):
    """A JSONL file of texts of about so many tokens: descriptions of packages, one after the other."""
    with gzip.open(ROOT / "demo/texts/sections_heldout.jsonl.gz", "rt") as file:
        words = " ".join(json.loads(line)["text"] for line in file).split()
    sample = " ".join(words[:2000])
    sample_tokens = len(json.loads(client.output("tokenize", "--format=jsonl", "--quiet", "--", sample))["ids"])
    step = max(1, round(2000 * tokens / sample_tokens))
    with open(path, "w") as out:
        for i in range(count):
            at = i * 37 % max(1, len(words) - step)
            out.write(json.dumps({"text": " ".join(words[at : at + step])}) + "\n")


class Bench:
    def __init__(self, args, work):
        self.args, self.work, self.found = args, work, {"loads": []}
        self.engine = {}
        if args.engine_json:
            engine = json.loads(pathlib.Path(args.engine_json).read_text())
            self.engine = {row["tokens"]: row["tokens_per_second"] for row in engine.get("rows", []) if row["dtype"] == args.dtype}  # the CPU's
            for run in engine.get("runs", []):
                if run["variant"] == "lion-s" and run["dtype"] == args.dtype:
                    self.engine = {entry["length"]: entry.get("tokens_per_second") for entry in run["lengths"]}

    def server(self, model, *flags):
        return Server(self.args.bin / "lion-server", model, f"--device={self.args.device}", f"--dtype={self.args.dtype}", *self.args.server_flags, *flags)

    def report(self, kind, tokens, measured, **more):
        entry = {"kind": kind, "tokens": tokens, **more, **measured}
        line = f"  {kind:34} {tokens:6} tokens  {measured['tokens_per_second'] / 1e6:8.4f} Mtok/s  {measured['rows_per_second']:9.0f} rows/s"
        shares = kind.startswith(("ids, several", "texts, several") if self.args.device == "cpu" else "ids")
        if shares and self.engine.get(tokens):
            entry["share_of_engine"] = measured["tokens_per_second"] / self.engine[tokens]
            line += f"  {100 * entry['share_of_engine']:5.1f} % of the engine"
        mean = measured["server_mean_ms"]
        print(f"{line}  p50 {measured['p50_ms']:.2f} p99 {measured['p99_ms']:.2f} ms (in the server: tokenize {mean['tokenize']:.2f}, queue {mean['queue']:.2f}, "
              f"compute {mean['compute']:.2f})  server {measured['server_cores']:.1f} cores", flush=True)
        self.found["loads"].append(entry)

    def check(self, client, probe, alone):
        assert client.vector(probe) == alone, "a row under load was answered with other bits than alone"

    def latency(self, client):
        duration = f"--duration={2 * self.args.seconds}s"
        tokens = self.args.alone_tokens
        measured = client.load(1, f"--vocab={self.args.vocab}", f"--tokens={tokens}", "--concurrency=1", duration)
        self.found[f"latency_{tokens}"] = {k: measured[k] for k in ("p50_ms", "p99_ms", "server_mean_ms")}
        self.report("ids, one caller, one row a call", tokens, measured)

    def by_load(self, client):
        """Open loop, one row a call: how long an answer takes as more are asked for. Shares of what the closed loop reached."""
        tokens = self.args.alone_tokens
        callers = max(1, self.args.tokens_in_flight // tokens)
        full = client.load(self.args.processes, f"--vocab={self.args.vocab}", f"--tokens={tokens}", f"--concurrency={callers}", f"--duration={self.args.seconds}s")
        self.report("ids, one row a call", tokens, full, rows_per_call=1)
        self.found["by_load"] = []
        for share in self.args.rates:
            rate = max(1, share * full["rows_per_second"])
            measured = client.load(1, f"--vocab={self.args.vocab}", f"--tokens={tokens}", f"--rate={rate:.1f}", f"--duration={self.args.seconds}s")
            self.report(f"open loop, {share:.0%} of the most", tokens, measured, offered_rows_per_second=rate)
            self.found["by_load"].append({"share": share, "rows_per_second": rate, "p50_ms": measured["p50_ms"], "p99_ms": measured["p99_ms"]})

    def ids(self, client, kind="ids, several rows a call"):
        probe = [i * 7919 % self.args.vocab for i in range(PROBE_TOKENS)]
        alone = client.vector(probe)
        for tokens in self.args.lengths:
            rows = max(1, CALL_TOKENS // tokens)
            callers = max(1, self.args.tokens_in_flight // (rows * tokens * self.args.processes))
            measured = client.load(self.args.processes, f"--vocab={self.args.vocab}", f"--tokens={tokens}", f"--rows={rows}", f"--concurrency={callers}",
                                   f"--duration={self.args.seconds}s", during=lambda: self.check(client, probe, alone))
            self.report(kind, tokens, measured, rows_per_call=rows)

    def single_rows(self, client):
        """One row a call: what the wire costs where the engine does not limit."""
        callers = max(1, self.args.tokens_in_flight // (128 * self.args.processes))
        measured = client.load(self.args.processes, f"--vocab={self.args.vocab}", "--tokens=128", f"--concurrency={callers}", f"--duration={self.args.seconds}s")
        self.report("ids, one row a call", 128, measured, rows_per_call=1)

    def texts(self, client, kind):
        for tokens in self.args.lengths:
            path = self.work / f"texts{tokens}.jsonl"
            if not path.exists():
                write_texts(path, client, tokens, max(16, 200_000 // tokens))
            rows = max(1, CALL_TOKENS // tokens)
            callers = max(1, self.args.tokens_in_flight // (rows * tokens * self.args.processes))
            measured = client.load(self.args.processes, f"--file={path}", f"--rows={rows}", f"--concurrency={callers}", f"--duration={self.args.seconds}s")
            self.report(kind, tokens, measured, rows_per_call=rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the folder of lion-server and lion-client")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on the CPU")
    parser.add_argument("--model", type=pathlib.Path, help="default: a random base-size LION-S on a GPU, the demo model on the CPU")
    parser.add_argument("--engine_json", help="what cuda_engine_bench --json wrote")
    parser.add_argument("--json", help="a file for every figure")
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--lengths", help="tokens a row, divided by commas")
    parser.add_argument("--alone_tokens", type=int, default=128, help="of a row alone, and of the open loop's")
    parser.add_argument("--rates", help="open loop: shares of the most, divided by commas")
    parser.add_argument("--short", action="store_true", help="short loads of few lengths: to see that it runs")
    args = parser.parse_args()
    gpu = args.device != "cpu"
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    args.lengths = [int(n) for n in args.lengths.split(",")] if args.lengths else [128, 512, 8192] if gpu else [128, 512]
    args.rates = [float(share) for share in (args.rates or "").split(",") if share]
    args.processes = 4 if gpu else 1
    args.tokens_in_flight = 6 * 65536 * len(args.device.split(",")) if gpu else 16384
    args.server_flags = ["--max_batch_tokens=65536", f"--max_queue_tokens={4 * args.tokens_in_flight}"] if gpu else []
    if args.short:
        args.lengths, args.seconds, args.processes, args.rates = [128], 1, 1, args.rates[:1]

    work = pathlib.Path(tempfile.mkdtemp(prefix="lion_service_bench_"))
    try:
        model = args.model or (random_model.write(work / "base", tokenizer=ROOT / "demo/model/tokenizer.json") if gpu else ROOT / "demo/model")
        args.vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        bench = Bench(args, work)
        print(f"lion-server on {args.device}, {args.dtype}; {args.processes} clients, {args.tokens_in_flight} tokens in flight, {args.seconds} s a load")
        devices = args.device.split(",")
        if len(devices) > 1:
            args.device = devices[0]
            with bench.server(model) as server:
                bench.ids(Client(args.bin / "lion-client", server), "one GPU")
            args.device = ",".join(devices)
        with bench.server(model) as server:
            client = Client(args.bin / "lion-client", server)
            bench.latency(client)
            bench.ids(client)
            if args.rates:
                bench.by_load(client)
            else:
                bench.single_rows(client)
            if (model / "tokenizer.json").exists():
                bench.texts(client, "texts, several rows a call")
        if gpu and not args.short:
            cores = len(os.sched_getaffinity(0))
            with bench.server(model, f"--tokenizer_threads={cores}") as server:
                bench.texts(Client(args.bin / "lion-client", server), f"texts, {cores} tokenizer threads")
        if len(devices) > 1:
            by_kind = {(e["kind"], e["tokens"]): e["tokens_per_second"] for e in bench.found["loads"]}
            bench.found["ratio_to_one_gpu"] = {n: by_kind["ids, several rows a call", n] / by_kind["one GPU", n] for n in args.lengths}
            print(f"{len(devices)} GPUs beside one: " + ", ".join(f"{r:.2f} x at {n}" for n, r in bench.found["ratio_to_one_gpu"].items()))
        bench.found.update(device=args.device, dtype=args.dtype, processes=args.processes, tokens_in_flight=args.tokens_in_flight)
        if args.json:
            pathlib.Path(args.json).write_text(json.dumps(bench.found, indent=1))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
