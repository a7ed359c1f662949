# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Cost per token and memory as a text grows, through the service: linear means that neither rises with length.

    build/venv/bin/python bench/length_cost_bench.py [--short] [--model DIR] [--dtype auto|float32|bfloat16]

Starts lion-server on the model (the demo's LION-S) and sends rows of ids of 512 to 32,768 tokens, one at a time. Prints
processor time a token (all threads of the server; the median and spread of several rounds, lengths interleaved, so that a noisy
neighbour counts little), its ratio to 512, the answer's own Timings.compute and the caller's wall time a token, and the highest
resident memory while a length ran, over that at rest.
Checks its answers: up to 4,096 tokens the vector must equal that of the RECURRENT form (within the precision's rounding).
Exits 1 if a token at the longest costs more than 1.3 times one at 512, or if memory grows faster than length.
"""

import argparse
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/e2e"))

import numpy as np  # noqa: E402
from harness import DEMO, Server, ids_input, pb  # noqa: E402

LIMIT = 1.3


def measure(server, ids, length, mode=pb.COMPUTE_MODE_AUTO, repeat=1):
    """One row, sent repeat times: seconds a row of (processor, compute, wall), and the last answer's vector and mode."""
    processor, started, compute = server.cpu_seconds(), time.perf_counter(), 0
    for _ in range(repeat):
        answer = server.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids[:length])], options=pb.EncodeOptions(mode=mode)))
        compute += answer.timings.compute.ToNanoseconds() / 1e9
    wall, processor = time.perf_counter() - started, server.cpu_seconds() - processor
    result = answer.results[0]
    assert result.token_count == length
    return (processor / repeat, compute / repeat, wall / repeat), np.array(result.vectors[0].values), pb.ComputeMode.Name(result.mode)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=DEMO / "model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--short", action="store_true", help="up to 4,096 tokens, two rounds: checks answers, holds no limit")
    args = parser.parse_args()
    lengths = [512, 1024, 2048, 4096] if args.short else [512, 1024, 2048, 4096, 8192, 16384, 32768]
    rounds = 2 if args.short else 5

    with Server([args.model], f"--dtype={args.dtype}", "--max_batch_tokens=512") as server:  # a warm-up that leaves memory low
        model = server.call("ListModels", pb.ListModelsRequest()).models[0]
        print(f"{model.variant} {model.dtype} on {model.device}, C = {model.chunk_tokens}, PARALLEL up to {model.parallel_max_tokens} tokens")
        ids = np.random.default_rng(1).integers(5, 200, lengths[-1])
        measure(server, ids, 512, repeat=3)
        base, memory, modes = server.memory_bytes(), {}, {}
        for n in lengths:
            server.reset_peak()
            _, vector, modes[n] = measure(server, ids, n)
            memory[n] = server.memory_bytes(peak=True) - base
            if n <= 4096:
                other = measure(server, ids, n, pb.COMPUTE_MODE_RECURRENT)[1]
                tolerance = 1e-4 if model.dtype == "float32" else 2**-6
                assert np.abs(vector - other).max() <= tolerance, f"{n} tokens: forms differ by {np.abs(vector - other).max():.2g}"
        times = {n: [] for n in lengths}
        for _ in range(rounds):
            for n in lengths:  # short rows several at a time
                times[n].append([1e6 * t / n for t in measure(server, ids, n, repeat=max(1, 8192 // n))[0]])

    print("  tokens  form      processor us/token    min..max   of 512   compute us/token   wall us/token   memory, peak   bytes/token")
    cost = {n: statistics.median(t[0] for t in times[n]) for n in lengths}
    for n in lengths:
        processor, compute, wall = zip(*times[n])
        print(f"  {n:6}  {modes[n].removeprefix('COMPUTE_MODE_').lower():<9} {cost[n]:19.1f}  {min(processor):5.1f}..{max(processor):<5.1f} {cost[n] / cost[lengths[0]]:6.2f}"
              f"   {statistics.median(compute):16.1f}   {statistics.median(wall):13.1f}   {memory[n] / 2**20:8.1f} MiB   {memory[n] / n:11.0f}")
    ratio = cost[lengths[-1]] / cost[lengths[0]]
    # From half the longest to the longest, memory may double and no more; the allocator's steps are given 32 MiB.
    linear = memory[lengths[-1]] <= 2 * memory[lengths[-2]] + (32 << 20)
    print(f"a token at {lengths[-1]} costs {ratio:.2f} times one at 512 (limit {LIMIT}); memory grows {'linearly' if linear else 'FASTER than length'}")
    return 0 if args.short or (ratio <= LIMIT and linear) else 1


if __name__ == "__main__":
    sys.exit(main())
