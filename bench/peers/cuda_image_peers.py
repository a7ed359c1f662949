# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What image_engine_bench is compared with, on the same GPU: timm's ViT-B/16 of random weights, bfloat16, at growing resolutions.

    python3 bench/peers/cuda_image_peers.py --json peers.json [--pixels 224,448,896,1792] [--batch-tokens 4096,16384,65536] [--short]

Eager, scaled-dot-product attention as timm calls it, the position table resized to the resolution. For each: pictures a second of the
best of several batch sizes, and the memory that one picture alone adds at its peak. Every figure is the median of 5 runs. Checked: the
vectors of one picture against fp32. Needs torch with CUDA and timm; no network. Exits 1 if bfloat16 errs by more than it explains.
"""

import argparse
import json
import statistics
import sys

import timm
import torch

PATCH = 16
RELATIVE_ERROR = 2**-5  # rms over rms, after 12 layers: a rounding of bfloat16 is 2^-9
REPEATS = 5


def milliseconds(run):
    """The median time that run takes on the GPU."""
    for _ in range(2):
        run()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(model, pixels, batch_tokens):
    """The figures at one resolution; None where not even one picture fits."""
    tokens = 1 + (pixels // PATCH) ** 2
    found = {"pixels": pixels, "tokens": tokens, "pictures_per_second": 0.0}
    for budget in batch_tokens:
        rows = max(1, budget // tokens)
        try:
            batch = torch.randn(rows, 3, pixels, pixels, device="cuda", dtype=torch.bfloat16)
            rate = rows / milliseconds(lambda: model(batch)) * 1e3
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        if rate > found["pictures_per_second"]:
            found.update(pictures_per_second=rate, rows=rows, tokens_per_second=rate * tokens)
    if not found["pictures_per_second"]:
        return None
    one = torch.randn(1, 3, pixels, pixels, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(one)
    found["row_bytes"] = torch.cuda.max_memory_allocated() - before
    return found


def build(pixels, dtype):
    """ViT-B/16 for a resolution, the same weights whatever it is."""
    torch.manual_seed(1)
    model = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)
    model.set_input_size(img_size=(pixels, pixels))
    return model.eval().to("cuda", dtype)


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--pixels", type=numbers, default=[224, 448, 896, 1792])
    parser.add_argument("--batch-tokens", type=numbers, default=[4096, 16384, 65536])
    parser.add_argument("--short", action="store_true", help="224 pixels and one small batch: that it runs")
    args = parser.parse_args()
    if args.short:
        args.pixels, args.batch_tokens = [224], [1024]
    with torch.inference_mode():
        picture = torch.randn(1, 3, 224, 224, device="cuda")
        expected = build(224, torch.float32)(picture).double()
        actual = build(224, torch.bfloat16)(picture.bfloat16()).double()
        error = ((actual - expected).norm() / expected.norm()).item()
        good = error <= RELATIVE_ERROR
        print(f"check: relative error {error:.2g}, allowed {RELATIVE_ERROR:.2g}{'' if good else ' FAILED'}", flush=True)
        rows = []
        for pixels in args.pixels:
            found = measure(build(pixels, torch.bfloat16), pixels, args.batch_tokens)
            if found is None:
                print(f"{pixels} pixels: out of memory", flush=True)
                continue
            rows.append(found)
            print(f"{pixels} pixels: {found['pictures_per_second']:.1f} pictures/s in batches of {found['rows']}, a picture alone "
                  f"{found['row_bytes'] / 2**20:.0f} MiB", flush=True)
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump({"gpu": torch.cuda.get_device_name(), "timm": timm.__version__, "torch": torch.__version__, "rows": rows,
                   "relative_error": error}, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
