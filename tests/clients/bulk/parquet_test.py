# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion-client's documents as Parquet: by the two lines that docs/client.md has."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.json
import pyarrow.parquet
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import HANG_SECONDS, Server  # noqa: E402
from servers import MODEL  # noqa: E402


@pytest.mark.parametrize("flags", [["--stride=20"], ["--boundary=sentence", "--with_document"]], ids=["tokens", "sentences"])
def test_documents_become_parquet(tmp_path, flags):
    source, lines = ROOT / "demo/texts/long.txt", tmp_path / "windows.jsonl"
    with Server([MODEL]) as server:
        subprocess.run([ROOT / "build/release/bin/lion-client", "embed", f"--target={server.grpc}", "--document", source, "--window=64", *flags, f"--output={lines}"],
                       check=True, timeout=HANG_SECONDS)
    pyarrow.parquet.write_table(pyarrow.json.read_json(lines), tmp_path / "windows.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "windows.parquet").to_pylist()
    want = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(table) == len(want) > 50
    for row, line in zip(table, want):
        assert {key: value for key, value in row.items() if value is not None} == line
    assert np.array([row["vector"] for row in table], np.float32).shape == (len(want), 384)
