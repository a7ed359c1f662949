# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every GPU benchmark in one run: the engine, its peers, the service, the precisions. Prints the tables, and what was asked beside what was found.

    python3 bench/run_cuda.py --bin build/release-cuda/bin --out build/bench [--stages engine,service,peers] [--device cuda:0]

Takes about 9 minutes on an H100. --out gets cuda_bench.json: machine, date, versions, command, and every stage's figures;
bench/write_docs.py makes docs/benchmarks.md's tables and plots of it. The peers need what bench/peers/cuda_peers.py names.
Exits 1 if a stage fails, that is if a benchmark found a wrong answer or broke; a figure that misses its aim is told and is no failure.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import report  # noqa: E402

STAGES = ["engine", "service", "quality", "peers", "documents", "engine_others", "kernels", "images"]


def output(*command):
    """The first line that a command prints; empty where it cannot be run."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip().split("\n")[0]
    except OSError:
        return ""


def machine():
    cpu = next((line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    gpus = output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader").split(", ")
    return {"gpu": gpus[0], "driver": gpus[1] if len(gpus) > 1 else "", "cpu": cpu, "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}


class Run:
    """The stages one after the other: each a command or several, its figures read from the JSON that it leaves."""

    def __init__(self, args):
        self.args, self.found, self.failed = args, {}, []

    def command(self, name, *command):
        """Runs it with its output shown; true if it ended well."""
        print(f"\n==> {name}: {shlex.join(map(str, command))}", flush=True)
        started = time.perf_counter()
        status = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL).returncode
        print(f"==> {name}: status {status}, {time.perf_counter() - started:.0f} s", flush=True)
        if status != 0:
            self.failed.append(name)
        return status == 0

    def json_of(self, name, *command):
        """The same for a command that takes --json: what it wrote, or None."""
        path = self.args.out / f"{name}.json"
        path.unlink(missing_ok=True)
        self.command(name, *command, f"--json={path}")
        return json.loads(path.read_text()) if path.exists() else None

    def add_engine_runs(self, name, *flags):
        part = self.json_of(name, self.args.bin / "cuda_engine_bench", *flags, f"--devices={self.args.device}", *(["--short"] if self.args.short else []))
        if part:
            self.found["gpu"] = part["gpu"]
            self.found.setdefault("engine", {"runs": []})["runs"] += part["runs"]
            (self.args.out / "engine.json").write_text(json.dumps(self.found["engine"]))  # what the service is compared with

    def engine(self):
        self.add_engine_runs("engine-s", "--variants=lion-s", "--dtypes=bfloat16,fp8")

    def engine_others(self):
        self.add_engine_runs("engine-d-lit", "--variants=lion-d,lion-lit", "--dtypes=bfloat16", "--rounds=3")
        self.add_engine_runs("engine-other-types", "--variants=lion-s", "--dtypes=float16,float32", "--lengths=128,512,8192", "--rounds=3")

    def kernels(self):
        for name in ("cuda_attention_bench", "cuda_rows_bench"):
            if (self.args.bin / name).exists():
                self.command(name, self.args.bin / name, *(["--short"] if self.args.short else []))

    def peers(self):
        self.found["peers"] = self.json_of("peers", sys.executable, ROOT / "bench/peers/cuda_peers.py", *(["--short"] if self.args.short else []))

    def documents(self):
        short = ["--short"] if self.args.short else []
        if part := self.json_of("documents", self.args.bin / "cuda_document_bench", *short):
            self.found["documents"] = {"date": datetime.date.today().isoformat(), "commit": self.args.commit, **part}
        self.found["length_peers"] = self.json_of("length_peers", sys.executable, ROOT / "bench/peers/cuda_length_peers.py", *short)

    def images(self):
        short = ["--short"] if self.args.short else []
        ours = self.json_of("images", self.args.bin / "image_engine_bench", f"--device={self.args.device.split(',')[0]}", "--dtypes=bfloat16",
                            "--variants=lion-s-natural,lion-lit", "--pixels=224,448,896,1792", "--batch=256", *short)
        if ours:
            self.found["images"] = {"date": datetime.date.today().isoformat(), "commit": self.args.commit, **ours}
        self.found["image_peers"] = self.json_of("image_peers", sys.executable, ROOT / "bench/peers/cuda_image_peers.py", *short)

    def service(self):
        engine = self.args.out / "engine.json"
        self.found["service"] = self.json_of("service", sys.executable, ROOT / "bench/service_bench.py", f"--bin={self.args.bin}", f"--device={self.args.device}",
                                             *([f"--engine_json={engine}"] if engine.exists() else []), *(["--short"] if self.args.short else []))

    def quality(self):
        self.found["quality"] = self.json_of("quality", sys.executable, ROOT / "bench/dtype_quality_bench.py", f"--bin={self.args.bin}",
                                             f"--device={self.args.device.split(',')[0]}", *(["--short"] if self.args.short else []))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release-cuda/bin")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--device", default="cuda:0", help="several, cuda:0,cuda:1: also all of them beside the first alone")
    parser.add_argument("--commit", default=output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"), help="of the programs")
    parser.add_argument("--short", action="store_true", help="small models, few lengths: to see that it runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    run = Run(args)
    run.found.update(machine=machine(), date=datetime.date.today().isoformat(), commit=args.commit, command="bench/run_cuda.py", short=args.short)
    print(json.dumps(run.found))
    for stage in args.stages.split(","):
        getattr(run, stage)()
        # After each stage: what was measured outlives a time limit on the whole.
        run.found["seconds"] = round(time.perf_counter() - started)
        run.found["failed"] = run.failed
        (args.out / "cuda_bench.json").write_text(json.dumps(run.found, indent=1) + "\n")
    print("\n" + report.targets_table(run.found))
    print(f"{run.found['seconds']} s; " + (f"FAILED: {', '.join(run.failed)}" if run.failed else "every answer was right"))
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
