# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""How callers share a server: short requests beside a long document, and more asked for than it can do.

    build/venv/bin/python bench/sharing_bench.py                                       the demo model on this machine's CPU
    build/venv/bin/python bench/sharing_bench.py --document_tokens=1000000 --json=sharing.json
    python3 bench/sharing_bench.py --bin build/release-cuda/bin --device cuda          a random LION-S of BERT base's size

1. Short rows, open loop at a share of what the server can do (--rate_share), alone and then while documents of --document_tokens run one
   after the other: their p50 and p99, and the document's tokens a second beside its own alone. A document has at least half of the device;
   its loss is what the short rows took.
2. Overload: calls of several rows, open loop at 1 x and at 2 x of the closed loop's rate, with a queue of a second's work: rows answered a
   second (goodput), and how long a refusal takes, which no call was retried for.
Loads are lion-client bench's, from processes of their own on the same machine; where client and server share few cores, that is in the
figures. Checked: all short rows and documents are answered; under overload every call is answered or refused with RESOURCE_EXHAUSTED or
DEADLINE_EXCEEDED. Exits 1 otherwise. It judges no speed.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import random_model  # noqa: E402
from programs import HANG_SECONDS, Client, Server  # noqa: E402

REFUSALS = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


class Bench:
    def __init__(self, args, model):
        self.args, self.model, self.found = args, model, {}

    def server(self, *flags):
        return Server(self.args.bin / "lion-server", self.model, f"--device={self.args.device}", f"--dtype={self.args.dtype}", *flags)

    def start(self, client, *flags):
        return client._run("bench", "--json", f"--vocab={self.args.vocab}", *flags)

    def finish(self, process, seconds=HANG_SECONDS):
        out, error = process.communicate(timeout=seconds)
        assert process.returncode == 0 or out, error
        return json.loads(out)

    def run(self, client, *flags):
        return self.finish(self.start(client, *flags), self.args.document_seconds + HANG_SECONDS)

    def beside_documents(self, client):
        args = self.args
        short = (f"--tokens={args.short_tokens}", "--rows=1")
        full = self.run(client, *short, "--concurrency=64", f"--duration={args.seconds}s")
        rate = f"--rate={max(1, args.rate_share * full['requests_per_second']):.2f}"
        load = (*short, rate, f"--duration={2 * args.seconds}s")
        document = ("--rows=1", f"--tokens={args.document_tokens}", "--concurrency=1", f"--deadline={args.document_seconds}s")
        long_alone = self.run(client, *document, "--requests=2", f"--duration={args.document_seconds}s")
        alone = self.run(client, *load)
        documents = self.start(client, *document, f"--duration={4 * args.seconds}s")
        time.sleep(args.seconds / 2)  # until the first document runs
        beside = self.run(client, *load)
        long_beside = self.finish(documents, args.document_seconds + HANG_SECONDS)
        for report in (full, alone, beside, long_alone, long_beside):
            assert report["ok"] == report["requests"] > 0 and report["failed_rows"] == 0, report
        ms = lambda report, p: 1e3 * report["latency_seconds"][p]  # noqa: E731
        self.found["beside_documents"] = {
            "short_tokens": args.short_tokens, "rate": alone["requests_per_second"], "document_tokens": args.document_tokens,
            "p50_ms": [ms(alone, "p50"), ms(beside, "p50")], "p99_ms": [ms(alone, "p99"), ms(beside, "p99")],
            "document_tokens_per_second": [long_alone["tokens_per_second"], long_beside["tokens_per_second"]]}
        print(f"short rows of {args.short_tokens} tokens, {alone['requests_per_second']:.0f}/s: p50 {ms(alone, 'p50'):.2f} ms, p99 {ms(alone, 'p99'):.2f} ms alone;"
              f" {ms(beside, 'p50'):.2f}, {ms(beside, 'p99'):.2f} ms beside documents: p99 x {ms(beside, 'p99') / ms(alone, 'p99'):.2f}")
        print(f"documents of {args.document_tokens} tokens: {long_alone['tokens_per_second']:.0f} tokens/s alone, {long_beside['tokens_per_second']:.0f} beside"
              f" short rows ({long_beside['tokens_per_second'] / long_alone['tokens_per_second']:.2f})", flush=True)

    def overload(self):
        args = self.args
        call = (f"--tokens={args.call_row_tokens}", f"--rows={args.call_rows}")
        with self.server() as server:
            full = self.run(Client(args.bin / "lion-client", server), *call, "--concurrency=16", f"--duration={args.seconds}s")
        queue = max(131072, round(full["tokens_per_second"]))
        with self.server(f"--max_queue_tokens={queue}") as server:
            client = Client(args.bin / "lion-client", server)
            for times in (1, 2):
                # Two processes: two callers, who share.
                flags = (*call, f"--rate={times * full['requests_per_second'] / 2:.2f}", f"--duration={2 * args.seconds}s")
                reports = [self.finish(p) for p in [self.start(client, *flags, f"--seed={seed}") for seed in (1, 2)]]
                for report in reports:
                    assert set(report["errors"]) <= REFUSALS and report["not_sent"] == 0, report
                refused = [r["failure_latency_seconds"]["p99"] for r in reports if r["requests"] > r["ok"]]
                found = {"goodput_rows_per_second": sum(r["rows_per_second"] for r in reports), "rows_per_second_of_each": [r["rows_per_second"] for r in reports],
                         "refused": sum(r["refused"] for r in reports), "requests": sum(r["requests"] for r in reports),
                         "refusal_p99_ms": 1e3 * max(refused) if refused else None,
                         "p99_ms": 1e3 * max(r["latency_seconds"]["p99"] for r in reports)}
                self.found[f"load_{times}x"] = found
                p99 = "none" if found["refusal_p99_ms"] is None else f"p99 {found['refusal_p99_ms']:.2f} ms"
                print(f"{times} x capacity: {found['goodput_rows_per_second']:.0f} rows/s answered (p99 {found['p99_ms']:.0f} ms), "
                      f"{found['refused']} of {found['requests']} calls refused, refusals {p99}", flush=True)
        ratio = self.found["load_2x"]["goodput_rows_per_second"] / self.found["load_1x"]["goodput_rows_per_second"]
        self.found["goodput_2x_over_1x"] = ratio
        print(f"goodput at 2 x over that at 1 x: {ratio:.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the folder of lion-server and lion-client")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on the CPU")
    parser.add_argument("--model", type=pathlib.Path, help="default: a random base-size LION-S on a GPU, the demo model on the CPU")
    parser.add_argument("--document_tokens", type=int, default=100_000)
    parser.add_argument("--document_seconds", type=int, default=600, help="a document's deadline")
    parser.add_argument("--short_tokens", type=int, default=32)
    parser.add_argument("--rate_share", type=float, default=0.2, help="of short rows, of what a closed loop reaches")
    parser.add_argument("--call_rows", type=int, default=8, help="of the overload's calls")
    parser.add_argument("--call_row_tokens", type=int, default=128)
    parser.add_argument("--seconds", type=int, default=10, help="of each load; some take twice or four times as long")
    parser.add_argument("--json", help="a file for every figure")
    parser.add_argument("--short", action="store_true", help="a short run: to see that it runs")
    args = parser.parse_args()
    gpu = args.device != "cpu"
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    if args.short:
        args.seconds, args.document_tokens = 1, 10_000
    work = pathlib.Path(tempfile.mkdtemp(prefix="lion_sharing_bench_"))
    try:
        model = args.model or (random_model.write(work / "base", tokenizer=ROOT / "demo/model/tokenizer.json") if gpu else ROOT / "demo/model")
        args.vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        bench = Bench(args, model)
        with bench.server(f"--max_sequence_tokens={max(131072, args.document_tokens)}") as server:
            bench.beside_documents(Client(args.bin / "lion-client", server))
        bench.overload()
        if args.json:
            pathlib.Path(args.json).write_text(json.dumps(bench.found, indent=1))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
