# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every CPU benchmark in one run: the engine against its floor, its kernels, the service, how callers share it, its memory, the precisions, the peers.

    build/venv/bin/python bench/run_cpu.py [--stages engine,service,...] [--out build/bench/cpu] [--short]         (./dev bench is this)

Takes about 25 minutes on two quiet cores. Each stage leaves STAGE.json in --out, and cpu_bench.json is made of those that are there: a
stage can be run again by itself. bench/write_docs.py makes docs/benchmarks.md's CPU tables and plots of cpu_bench.json. The peers stage needs
what bench/peers/cpu_install.sh installs, and is left out by --short where that is missing.
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

import cpu_report  # noqa: E402

STAGES = ["engine", "service", "peers", "memory", "sharing", "quality", "kernels", "others"]
OTHERS = ["length_cost_bench.py"]  # that print their figures and leave none
DOCUMENTS = {"cpu_document_bench": ["--lengths=8192,65536,262144,1048576", "--rounds=2"], "tokenize_bench": ["--megabytes=50"]}  # as well
DTYPES = ["float32", "bfloat16", "int8"]
SERVICE_LENGTHS = "21,133,8192"


def output(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()


def machine():
    info = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    info = {key.strip(): value.strip() for key, value in info.items()}
    flags = info.get("flags", "").split()
    memory = next(line for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {"cpu": info.get("model name", ""), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(int(memory.split()[1]) / 2**20),
            "features": [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if f in flags], "system": platform.platform()}


class Run:
    """The stages: each a command or several, whose figures are read from the JSON that they leave."""

    def __init__(self, args):
        self.args, self.failed = args, []
        self.short = ["--short"] if args.short else []

    def command(self, *command):
        """Runs it with its output shown; false if it ended badly."""
        print(f"\n==> {shlex.join(map(str, command))}", flush=True)
        started = time.perf_counter()
        status = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL).returncode
        print(f"==> status {status}, {time.perf_counter() - started:.0f} s", flush=True)
        return status == 0

    def json_of(self, name, *command):
        """The same for a command that takes --json: what it wrote. One that found something wrong has failed, its figures are kept; throws if there are none."""
        path = self.args.out / "parts" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if not self.command(*command, f"--json={path}"):
            self.failed.append(name)
        if not path.exists():
            raise RuntimeError(f"{name} left no figures")
        return json.loads(path.read_text())

    def script(self, name, *flags):
        return self.json_of(name, sys.executable, ROOT / "bench" / f"{name}.py", f"--bin={self.args.bin}", *flags, *self.short)

    def engine_rows(self, name, *flags):
        return self.json_of(name, self.args.bin / "cpu_engine_bench", *flags, *self.short)

    def engine(self):
        parts = [self.engine_rows("engine-small", "--sizes=384x6")]
        if not self.short:
            parts.append(self.engine_rows("engine-base", "--sizes=768x12", "--lengths=16,133,2048", "--batch_tokens=2048", "--alone=128"))
            parts.append(self.engine_rows("engine-others", "--sizes=384x6", "--variants=lion-d,lion-lit", "--lengths=21,133,8192", "--alone=0"))
        return {"threads": parts[0]["threads"], "rows": [row for part in parts for row in part["rows"]], "alone": [row for part in parts for row in part["alone"]]}

    def service(self):
        """Against the engine of the same size, measured just before."""
        import random_model

        model = random_model.write(self.args.out / "lion-small", layers=6, width=384, inner=1536, tokenizer=ROOT / "demo/model/tokenizer.json")
        found = {"dtypes": {}}
        for dtype in DTYPES[: 1 if self.short else None]:
            engine = self.engine_rows(f"service-engine-{dtype}", "--sizes=384x6", f"--dtypes={dtype}", f"--lengths={SERVICE_LENGTHS}")
            part = self.script("service_bench", f"--model={model}", f"--dtype={dtype}", f"--lengths={SERVICE_LENGTHS}", "--alone_tokens=21",
                               "--rates=0.1,0.25,0.5,0.7,0.8,0.9,0.95", f"--engine_json={self.args.out / 'parts' / f'service-engine-{dtype}.json'}")
            part["engine_alone"] = engine["alone"]
            found["dtypes"][dtype] = part
        return found

    def peers(self):
        return self.json_of("peers", sys.executable, ROOT / "bench/peers/cpu_peers.py", f"--bin={self.args.bin}", *self.short)

    def memory(self):
        return self.script("memory_bench")

    def sharing(self):
        return self.script("sharing_bench")

    def quality(self):
        return self.script("dtype_quality_bench")

    def kernels(self):
        if not self.command(self.args.bin / "cpu_kernel_bench", *(self.short or ["--benchmark_min_time=0.1"])):
            self.failed.append("cpu_kernel_bench")
        return {}

    def others(self):
        for name in OTHERS:
            if not self.command(sys.executable, ROOT / "bench" / name, *self.short):
                self.failed.append(name)
        for name, flags in DOCUMENTS.items():
            if not self.command(self.args.bin / name, *(self.short or flags)):
                self.failed.append(name)
        return {}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--stages", help=f"of {','.join(STAGES)}; default all")
    parser.add_argument("--commit", default=output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"), help="of the programs")
    parser.add_argument("--short", action="store_true", help="small models, few lengths: to see that it runs")
    args = parser.parse_args()
    args.out = args.out or ROOT / ("build/bench/cpu-short" if args.short else "build/bench/cpu")
    stages = args.stages.split(",") if args.stages else list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"--stages: {', '.join(sorted(unknown))} is none of {', '.join(STAGES)}")
    if args.short and not args.stages and not (ROOT / "build/peers/onnx/installed.txt").exists():
        print("the peers are not installed: left out")
        stages.remove("peers")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    for stage in stages:
        started = time.perf_counter()
        path = args.out / f"{stage}.json"
        path.unlink(missing_ok=True)
        try:
            found = getattr(run, stage)()
        except (RuntimeError, OSError) as error:
            print(f"==> {stage} FAILED: {error}", flush=True)
            run.failed.append(stage)
            continue
        # What every stage's figures are worth depends on when, where and of what they were measured.
        found |= {"date": datetime.date.today().isoformat(), "commit": args.commit, "seconds": round(time.perf_counter() - started)}
        path.write_text(json.dumps(found, indent=1) + "\n")
    found = {"kind": "cpu", "machine": machine(), "command": "./dev bench", "short": args.short,
             "stages": {stage: json.loads((args.out / f"{stage}.json").read_text()) for stage in STAGES if (args.out / f"{stage}.json").exists()}}
    (args.out / "cpu_bench.json").write_text(json.dumps(found, indent=1) + "\n")
    if not args.short:  # whose models are of other sizes
        print("\n" + cpu_report.targets_table(found))
    print(f"{args.out / 'cpu_bench.json'}; " + (f"FAILED: {', '.join(run.failed)}" if run.failed else "every answer was right"))
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
