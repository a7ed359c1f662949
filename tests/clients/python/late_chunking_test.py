# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""examples/late-chunking as a reader runs it, on two manual pages of its own and the demo model."""

import gzip
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/late-chunking/late_chunking.py"
PAGES = {"packit": ("pack files into one archive", "archive"), "chessd": ("play chess over the network", "chess board")}


def write_page(folder, name, purpose, subject):
    body = "\n".join(f"The {subject} has a part number {i}, which is described in its own words here." for i in range(130))
    status = "\n".join(f"It is {i} if part {i} of the {subject} was not made." for i in range(1, 30))
    source = f""".TH {name.upper()} 1
.SH NAME
{name} \\- {purpose}
.SH DESCRIPTION
{body}
.SH EXIT STATUS
It is 0 if the {subject} was made.
{status}
"""
    (folder / f"{name}.1.gz").write_bytes(gzip.compress(source.encode()))


def run(*args):
    return subprocess.run([sys.executable, EXAMPLE, *map(str, args)], capture_output=True, text=True, timeout=120, check=False)


def test_finds_sections_in_four_ways(server, tmp_path):
    folder = tmp_path / "man1"
    folder.mkdir()
    for name, (purpose, subject) in PAGES.items():
        write_page(folder, name, purpose, subject)
    ended = run("--target", server.grpc, "--manuals", tmp_path, "--learned", "--window", 64, "--k", 5)
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"2 pages, [\d,]+ tokens, \d+ passages of 64 tokens; one pass", ended.stdout)
    assert "2 questions" in ended.stdout
    shares = re.findall(r"^  (.+?) +([01]\.\d{3})  ([01]\.\d{3})$", ended.stdout, re.M)
    assert [way for way, _, _ in shares] == ["windows of one pass", "each passage alone", "alone, the page's purpose put before it",
                                             "sum of window and alone"]
    # Two pages of different subjects: whatever the way, the right page's passages come first.
    assert all(float(right_page) == 1 for _, _, right_page in shares)
    assert re.search(r"^right by windows and not by passages alone: \d questions; the other way round: \d$", ended.stdout, re.M)


def test_says_how_far_heads_remember():
    ended = run("--memory", ROOT / "demo/long_model")
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"^.*layer\.\d+: [\d, ]+ tokens$", ended.stdout, re.M)) == 4


def test_pages_that_the_model_learned_are_left_out(server, tmp_path):
    folder = tmp_path / "man1"
    folder.mkdir()
    write_page(folder, "make", "build programs", "program")  # of a family that is held out
    write_page(folder, "chessd", *PAGES["chessd"])
    ended = run("--target", server.grpc, "--manuals", tmp_path)
    assert ended.returncode == 0 and ended.stdout.startswith("1 pages, ")
    (folder / "make.1.gz").unlink()
    ended = run("--target", server.grpc, "--manuals", tmp_path)
    assert ended.returncode == 1 and "that are held out" in ended.stderr


def test_says_where_there_are_no_pages(server, tmp_path):
    ended = run("--target", server.grpc, "--manuals", tmp_path)
    assert ended.returncode == 1
    assert "no manual pages" in ended.stderr
