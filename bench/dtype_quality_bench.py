# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What each precision costs in quality: error on the oracle models, and the demo model's work through the service.

    build/venv/bin/python bench/dtype_quality_bench.py                                    on this machine's CPU
    python3 bench/dtype_quality_bench.py --bin build/release-cuda/bin --device cuda:0 --json quality.json

Error is that of the last hidden states against the reference implementation (tests/oracle), over all its rows in both forms; recall@1 is
how often a package's synopsis finds its own description among 2,000, section how often the best label is the right one (tests/e2e has the
same two at fp32). Exits 1 if float32 errs by more than 1e-4, or if a precision loses more than 2 points of recall.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import numpy as np  # noqa: E402
from programs import Client, Server  # noqa: E402

GPU_DTYPES = ["float32", "bfloat16", "float16", "fp8"]
CPU_DTYPES = ["float32", "bfloat16", "int8"]


def read(name, count):
    with gzip.open(ROOT / "demo/texts" / name, "rt") as file:
        return [json.loads(line) for line in file][:count]


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def demo_quality(args, work, dtype):
    """recall@1 and the share of right sections."""
    pairs = read("retrieval.jsonl.gz", args.count)
    packages = read("sections_heldout.jsonl.gz", args.count)
    with Server(args.bin / "lion-server", ROOT / "demo/model", f"--device={args.device}", f"--dtype={dtype}", "--parallel_max_tokens=128") as server:
        client = Client(args.bin / "lion-client", server)
        vectors = {}
        for part in ("synopsis", "description"):
            texts = write_texts(work / f"{part}.jsonl", [pair[part] for pair in pairs])
            client.output("embed", f"--file={texts}", f"--output={work / part}.npy", "--quiet")
            vectors[part] = np.load(work / f"{part}.npy")
            assert vectors[part].shape[0] == len(pairs) and np.isfinite(vectors[part]).all(), f"{dtype}: not every text has a vector"
        texts = write_texts(work / "packages.jsonl", [package["text"] for package in packages])
        answers = client.output("classify", f"--file={texts}", "--top_k=1", "--format=jsonl", "--quiet").splitlines()
    recall = np.mean((vectors["synopsis"] @ vectors["description"].T).argmax(axis=1) == np.arange(len(pairs)))
    right = [json.loads(line)["scores"][0]["label"] == package["section"] for line, package in zip(answers, packages, strict=True)]
    return {"recall_at_1": float(recall), "section_accuracy": float(np.mean(right))}


def oracle_errors(args, dtypes):
    models = sorted(str(p.parent) for p in (ROOT / "tests/oracle").glob("text-*/model.safetensors"))
    run = subprocess.run([args.bin / "oracle_error", f"--device={args.device}", "--dtypes=" + ",".join(dtypes), *models], stdout=subprocess.PIPE, text=True,
                         check=True)
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the folder of lion-server, lion-client and oracle_error")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--dtypes", help="default: all of the device's")
    parser.add_argument("--json", help="a file for every figure")
    parser.add_argument("--short", action="store_true", help="300 texts: to see that it runs")
    args = parser.parse_args()
    args.count = 300 if args.short else 2000
    dtypes = args.dtypes.split(",") if args.dtypes else CPU_DTYPES if args.device == "cpu" else GPU_DTYPES

    errors = oracle_errors(args, dtypes)
    names = sorted({e["model"] for e in errors})
    print(f"{args.device}; oracle error rms / max of", ", ".join(names) + "; recall@1, section")
    found, failed = {"device": args.device, "models": names, "dtypes": {}}, False
    with tempfile.TemporaryDirectory(prefix="lion_quality_") as work:
        for dtype in dtypes:
            entry = {"oracle": {e["model"]: {"rms": e["rms"], "max": e["max"]} for e in errors if e["dtype"] == dtype}}
            entry.update(demo_quality(args, pathlib.Path(work), dtype))
            found["dtypes"][dtype] = entry
            print(f"  {dtype:9}" + "".join(f"  {entry['oracle'][n]['rms']:.1e} / {entry['oracle'][n]['max']:.1e}" for n in names)
                  + f"  {entry['recall_at_1']:.4f}  {entry['section_accuracy']:.4f}", flush=True)
            failed |= dtype == "float32" and not all(e["max"] <= 1e-4 for e in entry["oracle"].values())
            failed |= entry["recall_at_1"] < found["dtypes"][dtypes[0]]["recall_at_1"] - 0.02
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(found, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
