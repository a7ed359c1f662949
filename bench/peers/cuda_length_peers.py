# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Softmax attention's time and memory by length, for the plot beside LION's: one row through BERT base, bfloat16, torch's fused sdpa.

    python3 bench/peers/cuda_length_peers.py --json length_peers.json [--limit_s 10] [--short]

A layer is written out in plain torch operations with F.scaled_dot_product_attention, random weights: no library but torch. Lengths
double from 1,024 on until a row would take more than --limit_s seconds, by four times the last one's, or memory ends; what was not
run is named. Checked: the fused attention against the plain one in fp32 at 1,024.
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F

LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576]
RELATIVE_ERROR = 2**-6  # rms over rms, of bfloat16 against fp32: a rounding is 2^-9


class Layer:
    def __init__(self, width, heads, device, dtype):
        def weight(rows, columns):
            return torch.randn(rows, columns, device=device, dtype=torch.float32).mul_(0.02).to(dtype)

        self.heads, self.width = heads, width
        self.qkv, self.out, self.up, self.down = weight(3 * width, width), weight(width, width), weight(4 * width, width), weight(width, 4 * width)

    def __call__(self, x, plain=False):
        length = x.shape[0]
        q, k, v = F.linear(x, self.qkv).view(length, 3, self.heads, -1).permute(1, 2, 0, 3)[:, None]
        if plain:
            y = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = F.layer_norm(x + F.linear(y[0].transpose(0, 1).reshape(length, self.width), self.out), (self.width,))
        return F.layer_norm(x + F.linear(F.gelu(F.linear(x, self.up)), self.down), (self.width,))


def milliseconds(layers, x):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for layer in layers:
        x = layer(x)
    x.float().mean(0).cpu()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--limit_s", type=float, default=10)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    device, width, heads, depth = "cuda", 768, 12, 2 if args.short else 12
    found = {"torch": torch.__version__, "lengths": [], "not_run": []}
    with torch.no_grad():
        layer = Layer(width, heads, device, torch.bfloat16)
        wide = Layer(width, heads, device, torch.float32)
        for name in ("qkv", "out", "up", "down"):
            setattr(wide, name, getattr(layer, name).float())
        x = torch.randn(1024, width, device=device).to(torch.bfloat16)
        expected = wide(x.float(), plain=True)
        error = ((layer(x).float() - expected).norm() / expected.norm()).item()
        found["relative_error"] = error
        print(f"  softmax at 1024: relative error {error:.2g}, allowed {RELATIVE_ERROR:.2g}", flush=True)
        layers = [Layer(width, heads, device, torch.bfloat16) for _ in range(depth)]
        last = 0
        for length in LENGTHS[:3] if args.short else LENGTHS:
            if 4 * last > 1e3 * args.limit_s:
                found["not_run"].append(length)
                continue
            try:
                x = torch.randn(length, width, device=device).to(torch.bfloat16)
                if last < 1e3:
                    milliseconds(layers, x)
                torch.cuda.reset_peak_memory_stats()
                taken = sorted(milliseconds(layers, x) for _ in range(3 if last < 1e3 else 1))
                last = taken[len(taken) // 2]
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                found["not_run"].append(length)
                last = float("inf")
                continue
            peak = torch.cuda.max_memory_allocated()
            found["lengths"].append({"length": length, "ms": last, "tokens_per_second": length / last * 1e3, "device_bytes": peak})
            print(f"  softmax {length:8}: {last:10.2f} ms, {length / last / 1e3:.3f} Mtok/s, {peak / 1e9:.2f} GB", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    return 0 if error <= RELATIVE_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
