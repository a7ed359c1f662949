# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion-client's Parquet, read by pyarrow: row for row and bit for bit what its JSON lines say."""

import json
import subprocess

import numpy as np
import pyarrow.parquet
import pytest

from harness import DEMO, HANG_SECONDS, ROOT, Server

CLIENT = ROOT / "build/release/bin/lion-client"


@pytest.fixture(scope="module")
def demo():
    with Server([f"demo={DEMO / 'model'}"], "--dtype=float32", "--parallel_max_tokens=64") as running:
        yield running


def both(server, tmp_path, *args, code=0):
    """(rows of the Parquet file, lines of the JSON lines file, the Parquet file) of the same command."""
    table, lines = tmp_path / "rows.parquet", tmp_path / "rows.jsonl"
    for output in (table, lines):
        run = subprocess.run([CLIENT, f"--target={server.grpc}", *map(str, args), f"--output={output}"], capture_output=True, timeout=HANG_SECONDS)
        assert (run.returncode, run.stdout) == (code, b""), run.stderr.decode()
    assert not (tmp_path / "rows.parquet.partial").exists()
    file = pyarrow.parquet.ParquetFile(table)
    rows = [{name: value for name, value in row.items() if value is not None} for row in file.read().to_pylist()]
    return rows, [json.loads(line) for line in lines.read_text().splitlines()], file


def with_bits(row):
    """The row with its vector's values as the bits of a float32: -0 is not 0, and what is equal is the same."""
    return row | {"vector": np.array(row["vector"], np.float32).view(np.uint32).tolist()} if "vector" in row else row


@pytest.mark.parametrize("flags", [["--stride=20"], ["--boundary=sentence", "--with_document"], ["--vector_type=int8_bytes"]],
                         ids=["tokens", "sentences", "int8"])
def test_documents(demo, tmp_path, flags):
    (tmp_path / "short é.txt").write_text("A lion sleeps. The other one — naïve — does not.\n")
    (tmp_path / "none.txt").write_bytes(b"no \xff UTF-8")
    files = [DEMO / "texts/long.txt", tmp_path / "none.txt", tmp_path / "short é.txt"]
    rows, lines, file = both(demo, tmp_path, "embed", "--document", *files, "--window=64", *flags, code=1)
    assert [with_bits(row) for row in rows] == [with_bits(line) for line in lines]
    assert [row["error"]["code"] for row in rows if row["index"] == 1] == ["INVALID_ARGUMENT"]
    assert file.schema_arrow.names == ["index", "source", "number", "whole", "tokens", "bytes", "vector", "error"]
    text = (tmp_path / "short é.txt").read_bytes()
    begin, end = next(row["bytes"] for row in rows if row["index"] == 2 and row["number"] == 0)
    assert text[begin:end].decode().startswith("A lion sleeps.")


def test_inputs(demo, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "the lion"}\n{"text": ""}\n{oops\n{"text": "Serving é日本語"}\n' + '{"text": "many"}\n' * 500)
    rows, lines, file = both(demo, tmp_path, "embed", f"--file={tmp_path / 'texts.jsonl'}", code=1)
    assert [with_bits(row) for row in rows] == [with_bits(line) for line in lines]
    assert file.schema_arrow.names == ["index", "source", "token_count", "mode", "truncated", "vector", "error"]
    assert file.metadata.num_row_groups == 1


def test_several_vectors_an_input(demo, tmp_path):
    """A JSON line has an input's vectors together, a Parquet row one of them."""
    rows, lines, _ = both(demo, tmp_path, "embed", "--pooling=tokens", "the lion sleeps", "é")
    flat = [{**{name: value for name, value in line.items() if name != "vectors"}, "number": number, **vector}
            for line in lines for number, vector in enumerate(line["vectors"])]
    assert [with_bits(row) for row in rows] == [with_bits(line) for line in flat]
