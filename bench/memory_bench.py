# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What memory lion-server takes on the CPU: beside the weights and the activations of its largest batch, and over very many calls.

    build/venv/bin/python bench/memory_bench.py [--short] [--json FILE]

Peak: the highest resident memory of a server on a random LION-S of BERT base's size, after full batches of short rows and one row of 8,192
tokens, over that of a server whose model has almost no weights: what programs and libraries take themselves. It is compared with
1.3 x weights + activations, the weights being those of the precision (word embeddings stay mapped as they are on disk) and the activations
what model/cpu_encoder.h says a batch takes. Growth: resident memory after 10,000 calls, and after 100,000 more.
Exits 1 if a call fails, or if memory grew by more than 4 MiB over the calls (not judged by --short).
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import random_model  # noqa: E402
from programs import Client, Server  # noqa: E402

MIB = 2**20
LONG = 8192
WORKER_TOKENS = 1024  # of a worker's buffers
VOCAB = 30522


def resident(server, field):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024


def weights_bytes(size, dtype):
    E, FF, layers = size["width"], size["inner"], size["layers"]
    a_value = {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]
    return layers * (4 * E * E + 2 * E * FF) * a_value + VOCAB * E * 4


def activation_bytes(size, dtype, workers):
    E, FF, H = size["width"], size["inner"], size["heads"]
    value = 4 if dtype == "float32" else 2
    row = LONG * (4 * E + 3 * E * value + 4 * H)
    worker = WORKER_TOKENS * (3 * 4 * E + (3 * E + 2 * FF + 2 * E) * value)
    return row + workers * worker


def peak(args, work, size, dtype):
    flags = ("--device=cpu", f"--dtype={dtype}", f"--compute_threads={args.threads}")
    tiny = random_model.write(work / "tiny", layers=1, width=32, heads=1, inner=64, vocab=100)
    model = random_model.write(work / "model", **size, vocab=VOCAB)
    peaks = []
    for directory, vocab in ((tiny, 100), (model, VOCAB)):
        with Server(args.bin / "lion-server", directory, *flags) as server:
            client = Client(args.bin / "lion-client", server)
            client.load(1, f"--vocab={vocab}", "--tokens=128", "--rows=32", "--concurrency=4", f"--requests={args.batches}")
            client.load(1, f"--vocab={vocab}", f"--tokens={LONG}", "--concurrency=1", "--requests=1")
            peaks.append(resident(server, "VmHWM"))
    weights, activations = weights_bytes(size, dtype), activation_bytes(size, dtype, args.threads)
    found = {"dtype": dtype, "peak_bytes": peaks[1], "program_bytes": peaks[0], "model_bytes": peaks[1] - peaks[0], "weights_bytes": weights,
             "activation_bytes": activations}
    found["share"] = found["model_bytes"] / (weights + activations)
    print(f"  {dtype:9} peak {peaks[1] / MIB:7.0f} MiB, of which program {peaks[0] / MIB:.0f}; weights {weights / MIB:.0f} + activations {activations / MIB:.0f} MiB: "
          f"the model's part is {found['share']:.2f} times these", flush=True)
    return found


def growth(args, work):
    model = random_model.write(work / "small", layers=2, width=64, heads=2, inner=128, vocab=100)
    with Server(args.bin / "lion-server", model, "--device=cpu", f"--compute_threads={args.threads}") as server:
        client = Client(args.bin / "lion-client", server)
        sizes = []
        for calls in (args.calls // 10, args.calls):
            client.load(1, "--vocab=100", "--tokens=2-40", "--concurrency=32", f"--requests={calls}", "--duration=20m")
            sizes.append(resident(server, "VmRSS"))
    print(f"  resident after {args.calls // 10:,} calls {sizes[0] / MIB:.1f} MiB, after {args.calls:,} more {sizes[1] / MIB:.1f} MiB", flush=True)
    return {"calls": args.calls, "before_bytes": sizes[0], "after_bytes": sizes[1]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the folder of lion-server and lion-client")
    parser.add_argument("--threads", type=int, default=2, help="compute threads")
    parser.add_argument("--json", type=pathlib.Path, help="a file for every figure")
    parser.add_argument("--short", action="store_true", help="a small model and few calls: to see that it runs")
    args = parser.parse_args()
    args.calls = 500 if args.short else 100_000
    args.batches = 2 if args.short else 16
    size = dict(layers=2, width=96, heads=3, inner=384) if args.short else dict(layers=12, width=768, heads=12, inner=3072)
    with tempfile.TemporaryDirectory(prefix="lion_memory_") as work:
        work = pathlib.Path(work)
        found = {"peaks": [peak(args, work, size, dtype) for dtype in ("float32", "bfloat16", "int8")], "growth": growth(args, work)}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 1 if not args.short and found["growth"]["after_bytes"] > found["growth"]["before_bytes"] + 4 * MIB else 0


if __name__ == "__main__":
    sys.exit(main())
