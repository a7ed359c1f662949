# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""mypy --strict on the package where its adapters' libraries, and so their types, are at hand."""

import subprocess
import sys
import zipfile

from conftest import ROOT


def test_types(tmp_path):
    wheel, = (ROOT / "build/clients/python/dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / "build/clients/adapters/mypy"), "--config-file", str(ROOT / "client/python/pyproject.toml")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
