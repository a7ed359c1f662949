# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks cannot rot: each runs shortened (--short), checks its answers, and ends with 0. What it measures is not judged here.

Those that need a GPU are skipped by name where there is none.
"""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCHES = [[str(p)] for p in sorted((ROOT / "build/release/bin").glob("*_bench"))]
BENCHES += [[sys.executable, str(p)] for p in sorted((ROOT / "bench").glob("*_bench.py"))]
BENCHES += [[sys.executable, str(ROOT / "bench/soak.py")]]
CUDA_BENCHES = [[str(ROOT / "build/release-cuda/bin" / p.stem)] for p in sorted((ROOT / "bench").glob("cuda_*_bench.cc"))]
CUDA_BENCHES += [[sys.executable, str(ROOT / "bench/run_cuda.py"), "--stages=peers,service,quality,images", f"--out={ROOT / 'build/bench-short'}"]]


def name(command):
    return pathlib.Path(command[1] if len(command) > 1 else command[0]).name


def run_shortened(command):
    run = subprocess.run([*command, "--short"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("command", BENCHES, ids=name)
def test_shortened(command):
    run_shortened(command)


@pytest.mark.skipif(not pathlib.Path("/dev/nvidia0").exists(), reason="there is no GPU here")
@pytest.mark.parametrize("command", CUDA_BENCHES, ids=name)
def test_shortened_on_a_gpu(command):
    run_shortened(command)


def test_a_cpu_run_makes_its_chapter_and_plots(tmp_path):
    run_shortened([sys.executable, str(ROOT / "bench/run_cpu.py"), "--stages=engine,service,memory", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "cpu_bench.json").read_text())
    assert set(found["stages"]) == {"engine", "service", "memory"}
    sys.path.insert(0, str(ROOT / "bench"))
    import cpu_chapter

    chapter = cpu_chapter.chapter(found)
    assert "of the engine" in chapter and "768 × 12 | peak" in chapter
    figures = cpu_chapter.figures(found)
    assert sorted(figures) == ["cpu-floor.svg", "cpu-latency.svg", "cpu-throughput.svg"]
    assert all("<path" in svg for svg in figures.values()), "a plot has no line"


def test_the_page_is_made_of_the_figures_kept():
    run = subprocess.run([sys.executable, str(ROOT / "bench/write_docs.py"), "--check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
