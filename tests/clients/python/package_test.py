# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What people install: the wheel's content, its types, and that it runs beside the oldest and the newest of what it asks for."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

DIST = ROOT / "build/clients/python/dist"
CALL = """
import lion_serve, numpy, sys
with lion_serve.Client(sys.argv[1]) as client:
    client.wait_until_ready(30)
    assert numpy.asarray(client.embed(["a", "b"])).shape == (2, 384)
    assert len(list(client.embed_stream(["a"] * 100))) == 100
    assert client.classify(["a chess game"], top_k=1)[0].label == "games"
"""


@pytest.fixture(scope="module")
def wheel():
    path, = DIST.glob("*.whl")
    return path


def test_content(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"lion_serve/py.typed", "lion_serve/wire.desc", "lion_serve/wire.pyi", "lion_serve/client.py"} <= names
    assert any(n.endswith("licenses/LICENSE") for n in names) and all(n.startswith("lion_serve") for n in names)
    assert len(list(DIST.glob("*.tar.gz"))) == 1  # which that wheel was built from


def test_types(wheel, tmp_path):
    """mypy --strict accepts the package, and code that uses it; it refuses code that uses it wrongly."""
    source, use = tmp_path / "source", tmp_path / "use"
    zipfile.ZipFile(wheel).extractall(source)
    use.mkdir()

    def mypy(where, *args):
        return subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / "build/clients/python/mypy"), *args], cwd=where,
                              capture_output=True, text=True)

    run = mypy(source, "--config-file", str(ROOT / "client/python/pyproject.toml"))
    assert run.returncode == 0, run.stdout
    (use / "use.py").write_text(
        "import lion_serve\n"
        "client = lion_serve.Client()\n"
        "score: float = client.classify(['x', ('a', 'b'), [1, 2]], top_k=1)[0].scores[0].score\n"
        "names: tuple[str, ...] = client.list_models()[0].labels\n"
        "reveal_type(client.embed(['x']).vectors)\n"
        "client.embed(['x'], pooling='max')\n"
        "client.embed([7])\n")
    run = mypy(use, "--strict", "use.py")
    assert re.findall(r"^use.py:(\d+): error", run.stdout, re.M) == ["6", "7"], run.stdout
    assert re.search(r"ndarray.*(?:float32|floating\[.*_32Bit)", run.stdout), run.stdout


@pytest.mark.parametrize("beside", [[], ["grpcio==1.62.3", "grpcio-health-checking==1.62.3", "protobuf==4.25.8", "numpy==1.26.4"]], ids=["newest", "oldest"])
def test_a_fresh_environment(server, wheel, tmp_path, beside):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel), *beside], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run([python, "-c", CALL, server.grpc], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
