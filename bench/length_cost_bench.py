# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Cost per token and memory as a text grows, through the service: linear means that neither rises with length.

    build/venv/bin/python bench/length_cost_bench.py [--short] [--model DIR]

Starts lion-server on the model (the demo's LION-S), sends rows of ids of 512 to 32,768 tokens one at a time, and prints
microseconds of compute a token (the median and spread of several rounds, lengths interleaved so that a noisy minute hits all),
the ratio to 512, and the resident memory that a length added. Compute time is the answer's own Timings.compute; wall time, with
everything between the caller and the device, stands beside it.
Checks its answers: each row's vector must equal that of the same row in RECURRENT form (bf16: within its rounding).
Exits 1 if cost at the longest is more than 1.3 times that at 512, or if memory grows faster than length.
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


def measure(server, ids, length, mode=pb.COMPUTE_MODE_AUTO):
    started = time.perf_counter()
    answer = server.call("Embed", pb.EmbedRequest(inputs=[ids_input(ids[:length])], options=pb.EncodeOptions(mode=mode)))
    wall = time.perf_counter() - started
    result = answer.results[0]
    assert result.token_count == length
    return answer.timings.compute.ToNanoseconds() / 1e9, wall, np.array(result.vectors[0].values), pb.ComputeMode.Name(result.mode)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=DEMO / "model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--short", action="store_true", help="up to 4,096 tokens, two rounds, prints and checks but holds no limit")
    args = parser.parse_args()
    lengths = [512, 1024, 2048, 4096] if args.short else [512, 1024, 2048, 4096, 8192, 16384, 32768]
    rounds = 2 if args.short else 5

    with Server([args.model], f"--dtype={args.dtype}", "--max_batch_tokens=512") as server:  # so that warm-up takes no memory for long rows
        model = server.call("ListModels", pb.ListModelsRequest()).models[0]
        print(f"{model.variant} {model.dtype} on {model.device}, C = {model.chunk_tokens}, PARALLEL up to {model.parallel_max_tokens} tokens")
        ids = np.random.default_rng(1).integers(5, 200, lengths[-1])
        for _ in range(3):
            measure(server, ids, 512)
        compute, wall, memory = {n: [] for n in lengths}, {n: [] for n in lengths}, {}
        base = server.rss_bytes()
        mode = {}
        for n in lengths:  # growing, so that what a length adds is seen
            _, _, vector, mode[n] = measure(server, ids, n)
            memory[n] = server.rss_bytes() - base
            if n <= 4096:
                other = measure(server, ids, n, pb.COMPUTE_MODE_RECURRENT)[2]
                tolerance = 1e-4 if model.dtype == "float32" else 2**-6
                assert np.abs(vector - other).max() <= tolerance, f"{n} tokens: forms differ by {np.abs(vector - other).max():.2g}"
        for _ in range(rounds):
            for n in lengths:
                repeat = max(1, 4096 // n)  # short rows are timed several at a time
                samples = [measure(server, ids, n)[:2] for _ in range(repeat)]
                compute[n].append(sum(s[0] for s in samples) / repeat / n)
                wall[n].append(sum(s[1] for s in samples) / repeat / n)

    print("  tokens  form                       us/token  min..max        of 512   wall us/token   memory added  bytes/token")
    base_cost = statistics.median(compute[lengths[0]])
    for n in lengths:
        cost = statistics.median(compute[n])
        print(f"  {n:6}  {mode[n]:<26} {cost * 1e6:8.2f}  {min(compute[n]) * 1e6:6.2f}..{max(compute[n]) * 1e6:<7.2f} {cost / base_cost:6.2f}   "
              f"{statistics.median(wall[n]) * 1e6:13.2f}   {memory[n] / 2**20:8.1f} MiB  {memory[n] / n:11.0f}")
    ratio = statistics.median(compute[lengths[-1]]) / base_cost
    # From half the longest to the longest, memory may double and no more; the allocator's steps are given 32 MiB.
    linear = memory[lengths[-1]] <= 2 * max(memory[lengths[-2]], 0) + (32 << 20)
    print(f"cost a token at {lengths[-1]} is {ratio:.2f} times that at 512 (limit {LIMIT}); memory grows {'linearly' if linear else 'FASTER than length'}")
    return 0 if args.short or (ratio <= LIMIT and linear) else 1


if __name__ == "__main__":
    sys.exit(main())
