# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""examples/bulk through two servers: every row once, whatever is killed half way."""

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/e2e"), str(ROOT / "tests/clients")]

from harness import HANG_SECONDS, Server  # noqa: E402
from lion_serve import Client  # noqa: E402
from servers import MODEL  # noqa: E402

PROGRAM = ROOT / "examples/bulk/embed_corpus.py"
NUM_ROWS = 6000
TEXTS = [f"a program for {('music', 'mail', 'chess', 'maps')[i % 4]}, number {i}" for i in range(NUM_ROWS)]
PART = re.compile(r"(part-\S+\.parquet) by (\d+): ")


@pytest.fixture(scope="module")
def fleet():
    with Server([MODEL], "--parallel_max_tokens=64") as one, Server([MODEL], "--parallel_max_tokens=64") as two:
        yield one, two


@pytest.fixture(scope="module")
def want(fleet):
    with Client(fleet[0].grpc) as client:
        return client.embed(TEXTS).vectors


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def corpus(request, tmp_path_factory):
    """Two files of 3,500 and 2,500 rows."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, rows in (("a", range(3500)), ("b", range(3500, NUM_ROWS))):
        if request.param == "parquet":
            pq.write_table(pa.table({"key": list(rows), "body": [TEXTS[i] for i in rows]}), folder / f"{name}.parquet", row_group_size=700)
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps({"key": i, "body": TEXTS[i]}) + "\n" for i in rows))
    return folder


def descendants(pid):
    """All that this process has started, and what that has; Ray gives its workers groups and sessions of their own."""
    children = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


class Bulk:
    """The program on a corpus, as a process that can be killed with all that it started."""

    def __init__(self, fleet, corpus, output, *flags):
        command = [sys.executable, "-W", "ignore", str(PROGRAM), f"--target=ipv4:{fleet[0].grpc},{fleet[1].grpc}", f"--input={corpus}", f"--output={output}",
                   "--id=key", "--text=body", "--rows_a_part=400", *flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def parts(self, count):
        """The next so many parts that are done: (name, the worker's process)."""
        for line in self._process.stdout:
            if match := PART.match(line):
                yield match[1], int(match[2])
                count -= 1
                if count == 0:
                    return

    def kill(self):
        """All of it, as when its machine fails, and waits until all has ended: nothing is written from here on."""
        os.kill(self._process.pid, signal.SIGSTOP)  # it starts nothing more
        ending = []
        for pid in descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                ending.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(ending[-1], signal.SIGKILL)
        self._process.kill()
        self._process.communicate(timeout=HANG_SECONDS)
        for pidfd in ending:
            assert select.select([pidfd], [], [], HANG_SECONDS)[0], "a process does not end"
            os.close(pidfd)

    def finish(self, code=0):
        """Its last lines."""
        out, _ = self._process.communicate(timeout=10 * HANG_SECONDS)
        assert self._process.returncode == code, out
        return out.splitlines()


def check_every_row_once(output, want):
    table = pa.concat_tables(pq.read_table(path) for path in sorted(output.glob("part-*.parquet")))
    ids = [int(i) for i in table["id"].to_pylist()]
    assert sorted(ids) == list(range(NUM_ROWS)) and table["error"].null_count == NUM_ROWS
    vectors = np.array(table["embedding"].combine_chunks().flatten(), np.float32).reshape(NUM_ROWS, -1)
    assert (vectors == want[ids]).all()


def test_a_worker_that_is_killed_is_replaced(fleet, corpus, want, tmp_path):
    bulk = Bulk(fleet, corpus, tmp_path / "out", "--workers=2")
    (_, worker), = bulk.parts(1)
    os.kill(worker, signal.SIGKILL)
    lines = bulk.finish()
    assert any(PART.match(line) and int(PART.match(line)[2]) != worker for line in lines)
    assert any(f"{NUM_ROWS} rows embedded, 0 of them failed" in line for line in lines)  # Ray's own words may come after it
    check_every_row_once(tmp_path / "out", want)
    assert all(s.metrics()['lion_rpc_requests_total{code="OK",model="demo",rpc="Embed"}'] > 20 for s in fleet)  # both had their share


def test_a_run_that_is_killed_goes_on(fleet, corpus, want, tmp_path):
    out = tmp_path / "out"
    bulk = Bulk(fleet, corpus, out, "--workers=2")
    assert len(list(bulk.parts(4))) == 4
    bulk.kill()
    there = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 4 <= len(there) < 16
    (out / f".part-00001-0000002400.parquet.{bulk._process.pid}").write_bytes(b"half a part")  # what a killed writer leaves behind
    lines = Bulk(fleet, corpus, out, "--workers=0").finish()  # another engine: the parts are the same
    assert lines[0] == f"16 parts, {len(there)} there already"
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())  # done work is not touched
    check_every_row_once(out, want)
    assert Bulk(fleet, corpus, out).finish()[-1].startswith("0 rows embedded")


def test_a_folder_of_another_corpus_is_refused(fleet, corpus, tmp_path):
    Bulk(fleet, corpus, tmp_path / "out", "--workers=0").finish()
    Bulk(fleet, corpus, tmp_path / "out", "--workers=0", "--rows_a_part=300").finish(code=1)
    Bulk(fleet, corpus, tmp_path / "out", "--workers=0", "--vector_type=int8_bytes").finish(code=1)


def test_a_bad_row_is_told_and_the_rest_goes_on(fleet, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"body": "good"}\n{"body": "half a \\ud800 pair"}\n{"body": "good"}\n')
    lines = Bulk(fleet, tmp_path / "c.jsonl", tmp_path / "out", "--workers=0", "--id=").finish()
    assert "3 rows embedded, 1 of them failed" in lines[-1]
    rows = pq.read_table(tmp_path / "out" / "part-00000-0000000000.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["c.jsonl:0", "c.jsonl:1", "c.jsonl:2"]
    assert [row["embedding"] is None for row in rows] == [False, True, False] and "INVALID_ARGUMENT" in rows[1]["error"]


def test_nobody_there(corpus, tmp_path):
    class Nobody:
        grpc = "127.0.0.1:1"

    Bulk((Nobody, Nobody), corpus, tmp_path / "out").finish(code=1)
