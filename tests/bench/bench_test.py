# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks cannot rot: each runs shortened (--short), checks its answers, and ends with 0. What it measures is not judged here."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCHES = [[str(p)] for p in sorted((ROOT / "build/release/bin").glob("*_bench"))]
BENCHES += [[sys.executable, str(p)] for p in sorted((ROOT / "bench").glob("*_bench.py"))]


@pytest.mark.parametrize("command", BENCHES, ids=[pathlib.Path(c[-1]).name for c in BENCHES])
def test_shortened(command):
    run = subprocess.run([*command, "--short"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
